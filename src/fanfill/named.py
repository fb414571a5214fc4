"""Initializers by name: what the command line, rules and strings in place of initializers lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fanfill.hints import arguments_error, arguments_of, spelling_hint
from fanfill.initializers import Initializer, constant, normal, ones, truncated_normal, uniform, zeros
from fanfill.matrices import delta_orthogonal, dirac, eye, identity, orthogonal, sparse
from fanfill.messages import shown
from fanfill.scaled import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)

__all__ = ["CONSTANTS", "NAMED", "NAMES", "initializer", "initializer_of"]

NAMED: Final[dict[str, Callable[..., Initializer]]] = {
    "constant": constant,
    "delta_orthogonal": delta_orthogonal,
    "dirac": dirac,
    "eye": eye,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "identity": identity,
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "normal": normal,
    "ones": ones,
    "orthogonal": orthogonal,
    "sparse": sparse,
    "truncated_normal": truncated_normal,
    "uniform": uniform,
    "variance_scaling": variance_scaling,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "zeros": zeros,
}

NAMES: Final = tuple(NAMED)

# Made once: half of a model's tensors hold them.
CONSTANTS: Final = {"zeros": zeros(), "ones": ones()}


def initializer(name: str, **kwargs: Any) -> Initializer:
    """The initializer of that name, with the keyword arguments that its function takes.

    Raises
    ------
    ValueError
        An unknown name: the message lists the known ones. Whatever the function refuses.
    TypeError
        An argument that the function does not have, or lacks.

    Examples
    --------
    >>> initializer("he_normal", mode="fan_out")
    he_normal('fan_out')
    """
    given: object = name
    function = NAMED.get(given) if isinstance(given, str) else None
    if function is None:
        raise ValueError(
            f"expected the name of an initializer; got {shown(name)}{spelling_hint(name, NAMED)}; "
            f"the names are {', '.join(NAMED)}"
        )
    known, required = arguments_of(function)
    if not set(required) <= set(kwargs) <= set(known):
        raise arguments_error(name, known, kwargs, set(required) - set(kwargs))
    return function(**kwargs)


def initializer_of(given: object) -> Initializer:
    """An initializer, or the one of a name."""
    if isinstance(given, Initializer):
        return given
    if isinstance(given, str):
        return initializer(given)
    raise TypeError(
        f"initializer: expected an Initializer, such as he_normal(), or its name; got {shown(given)}"
    )
