"""What a caller meant: other libraries' names for initializers and their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, ParamSpec, TypeVar

__all__ = ["arguments_error", "arguments_of", "hinted", "spelling_hint"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Of Keras, JAX, torch, NumPy, SciPy and TensorFlow; the first that a function has is meant.
_MEANT: dict[str, tuple[str, ...]] = {
    "stddev": ("std",),
    "stdev": ("std",),
    "sigma": ("std",),
    "scale": ("std", "gain"),
    "loc": ("mean",),
    "mu": ("mean",),
    "minval": ("low",),
    "maxval": ("high",),
    "min": ("low", "lower"),
    "max": ("high", "upper"),
    "a": ("low", "lower", "negative_slope"),
    "b": ("high", "upper"),
    "a_min": ("lower",),
    "val": ("value",),
    "fan_mode": ("mode",),
    "slope": ("negative_slope",),
    "alpha": ("negative_slope",),
    "leaky_slope": ("negative_slope",),
}
_ELSEWHERE = {
    "seed": "pass it to fill or draw",
    "dtype": "pass it to draw, or fill a buffer that has it",
    "nonlinearity": "a leaky ReLU's slope is negative_slope; for others pass gain(...) to xavier_*",
}


def hinted(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Say, if an argument has the name that another library gives it, what it is called here."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except TypeError:
            known, _ = arguments_of(call)
            if kwargs.keys() <= set(known):
                raise
            error = arguments_error(call.__name__, known, kwargs)
        raise error

    return call


def arguments_of(call: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the arguments that a `hinted` function has, and of those that it needs."""
    function = call.__wrapped__  # type: ignore[attr-defined]
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return known, known[: code.co_argcount - len(function.__defaults__ or ())]


def arguments_error(
    name: str, known: Collection[str], given: Collection[str], missing: Collection[str] = ()
) -> TypeError:
    """The error of arguments that a function does not have, or lacks."""
    remedies = []
    for unknown in sorted(set(given) - set(known)):
        meant = [other for other in _MEANT.get(unknown, ()) if other in known]
        if meant:
            remedies.append(f"write {meant[0]} for {unknown}")
        elif unknown in _ELSEWHERE:
            remedies.append(f"leave out {unknown}: {_ELSEWHERE[unknown]}")
        else:
            remedies.append(f"leave out {unknown}")
    if missing:
        remedies.append(f"add {', '.join(sorted(missing))}")
    return TypeError(
        f"expected {'' if missing else 'some of '}the arguments {', '.join(known)} for {name}; "
        f"got {', '.join(sorted(given)) or 'none'}; {'; '.join(remedies)}"
    )


# What other libraries call initializers, without their marks; and families, whose members are meant.
_OTHERS: dict[str, tuple[str, ...]] = {
    "full": ("constant",),
    "gaussian": ("normal",),
    "trunc_normal": ("truncated_normal",),
    **{
        family: (f"{family}_uniform", f"{family}_normal")
        for family in ("glorot", "he", "kaiming", "lecun", "xavier")
    },
}


# What another library has, and fanfill has not.
_NOWHERE = {"stft": "Keras' Fourier kernels are not drawn: copy their values"}


def spelling_hint(name: object, known: Iterable[str]) -> str:
    """Which initializer was meant, if one is near: Keras writes HeNormal, torch kaiming_normal_."""
    if not isinstance(name, str):
        return ""
    import re  # only ever wanted on the way to an error
    from difflib import get_close_matches

    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    spelled = re.sub(r"[^a-z0-9]+", "_", words).strip("_").removeprefix("random_")
    spelled = spelled.removesuffix("_initializer")
    if spelled in _NOWHERE:
        return f" ({_NOWHERE[spelled]})"
    # A name is nearest to itself.
    meant = _OTHERS.get(spelled) or get_close_matches(spelled, list(known), n=1)
    return f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""
