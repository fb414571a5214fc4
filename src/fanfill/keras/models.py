"""init_model: draws every random weight of a model by its name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import keras

from fanfill.distributions import recipe
from fanfill.initializers import Initializer
from fanfill.keras.drawing import Task, fill_variables
from fanfill.keras.initializers import axes_of, law_of
from fanfill.keras.names import Named, named_variables
from fanfill.messages import shown
from fanfill.scaled import variance_scaling
from fanfill.streams import key_of

__all__ = ["init_model"]

Model = TypeVar("Model")
Rules = Mapping[Any, Any]

# What a layer calls the initializer of a variable, where that is not <name>_initializer.
_CALLED = {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise", "recurrent_kernel": "recurrent"}


def init_model(model: Model, seed: int, rules: Rules | None = None, on_missing: str = "error") -> Model:
    """Draw every random weight of a Keras model anew, each by its own name, and return the model.

    A value depends on the seed, the weight's name, the element's index in the whole tensor, the initializer
    and the dtype: not on the backend, the order of the layers, or how often the process has built the model.
    A name is the variable's path with steps such as ``dense_7`` numbered anew among their siblings, as
    ``encoder/dense_1/kernel``. A layer with a name of its own keeps its values when others come and go.

    Without ``rules``, a weight is drawn from the distribution of the layer's own initializer. Zeros, ones,
    constants and identities are left as they are, and so is state that no initializer argument is for
    (counts, statistics of a Normalization).

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        Built: its weights must be there.
    seed : int
        In [0, 2^64).
    rules : mapping, optional
        Which weights get which initializer. The first key that fits a weight is used; the layers' own
        initializers come last. A key is

        * a string: the weight's name, with ``*``, ``?`` and ``[...]`` as in `fnmatch`; slashes are not
          special;
        * a compiled regular expression that matches the whole name;
        * a type of layer: the weights of two axes and more (kernels and tables) of each layer of that type,
          and of the layers in it.

        A value is an initializer of `fanfill.keras` or Keras, or the name of one; a `fanfill.Initializer`; or
        None, which leaves the weight as it is. For a type it may also be a mapping from weights' last names,
        as ``{"kernel": "he_normal", "bias": "zeros"}``. A seed within an initializer has no effect. An
        EinsumDense gives initializers with default axes its own.
    on_missing : {"error", "leave"}
        What to do about a random weight for which there is no law, as Orthogonal's: raise a ValueError that
        names it, or leave it as it is.

    Raises
    ------
    ValueError
        If a weight has no law, or one that cannot fill it; if a rule fits nothing; if the model is not built,
        or two of its weights have one name; if the seed is out of range.
    TypeError
        If an argument is none of the above; if a weight has a dtype that is not drawn.

    Errors are raised before any weight is written.

    Examples
    --------
    >>> import keras, fanfill as ff
    >>> layers = keras.layers.Dense(4), keras.layers.Dense(2, name="head")
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> model = init_model(model, seed=0, rules={"head/kernel": ff.normal(std=0.02), "*/bias": "zeros"})
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model: expected a keras.Model or a layer; got {shown(model)}")
    key_of(seed, 0)  # refuses what is no seed
    if on_missing not in ("error", "leave"):
        raise ValueError(f"on_missing: expected 'error' or 'leave'; got {shown(on_missing)}")
    book = _Book({} if rules is None else rules)
    if not model.weights:
        raise ValueError(
            f"model: expected one that has weights; got {shown(model.name)} without any; build it first, by "
            "model.build(input_shape) or a call"
        )
    tasks: list[Task] = []
    missing: list[str] = []
    for named in named_variables(model):
        has_rule, made = book.value(named)
        if not has_rule:
            made = _own(named)
            if made is None or isinstance(made, _LEFT):
                continue
        elif made is None:
            continue
        task = _task(named, made)
        if task is not None:
            tasks.append(task)
        elif has_rule:
            raise ValueError(
                f"rules: expected an initializer that has a law for {named.name!r}; got {shown(made)}; give "
                "it to the layer, and None here, which leaves the weight as it is"
            )
        else:
            missing.append(named.name if made is _UNKNOWN else f"{named.name} ({type(made).__name__})")
    if missing and on_missing == "error":
        raise ValueError(
            "expected an initializer that has a law for every random weight; got none for "
            f"{', '.join(missing)}; name them in rules= (None leaves one as it is), or pass "
            "on_missing='leave'"
        )
    book.assert_used()
    fill_variables(tasks, seed)
    return model


_LEFT = (
    keras.initializers.Zeros,
    keras.initializers.Ones,
    keras.initializers.Constant,
    keras.initializers.Identity,
)

# What a layer draws by its own code, without an argument for it.
_UNKNOWN = object()


def _own(named: Named) -> Any:
    """The initializer by which the layer has made its weight; None for state that it has no argument for."""
    layer, name = named.around[0], named.variable.name
    called = _CALLED.get(name, name)
    if name == "kernel" and not hasattr(layer, "kernel_initializer"):  # DepthwiseConv's
        called = "depthwise"
    made = getattr(layer, f"{called}_initializer", None)
    if made is None and any(named.variable is own for own in layer._trainable_variables):
        return _UNKNOWN
    return made


def _task(named: Named, made: Any) -> Task | None:
    """Check everything that could fail, with the weight's name in the error; None: there is no law."""
    shape = tuple(named.variable.shape)
    layer = named.around[0]
    try:
        if isinstance(made, Initializer):
            law: Initializer | None = _with_axes(made, layer, named.variable.name)
        else:
            law = law_of(_with_einsum(made, layer, named.variable.name), shape)
        if law is None:
            return None
        recipe(law, shape, keras.backend.standardize_dtype(named.variable.dtype))
        # By its parameters: to a torch tensor, default axes would be an error.
        return Task(named.name, named.variable, Initializer(*law.law(shape)))
    except (TypeError, ValueError) as error:
        raise type(error)(f"weight {named.name!r}: {error}") from error


def _einsum_axes(layer: Any, name: str) -> tuple[list[int], list[int]] | None:
    """Input and output axes of an EinsumDense's kernel, as its equation gives them; None for others."""
    if name != "kernel" or not isinstance(layer, keras.layers.EinsumDense):
        return None
    _, weight, out = re.split(",|->", layer.equation.replace(" ", ""))
    axes: tuple[list[int], list[int]] = [], []
    for axis, letter in enumerate(weight):
        axes[letter in out].append(axis)
    return axes


def _with_axes(law: Initializer, layer: Any, name: str) -> Initializer:
    axes = _einsum_axes(layer, name)
    if axes is None or not law.default_axes or law.scaling is None:
        return law
    scale, mode, _, _, batch = law.scaling
    distribution: Any = law.distribution
    return variance_scaling(scale, mode, distribution, in_axis=axes[0], out_axis=axes[1], batch_axis=batch)


def _with_einsum(made: Any, layer: Any, name: str) -> Any:
    """An initializer with the axes that EinsumDense.build gives it: Keras 3.14 and newer."""
    axes = _einsum_axes(layer, name)
    scaled = isinstance(made, keras.initializers.VarianceScaling) and hasattr(made, "input_axes")
    if axes is None or not scaled or None not in axes_of(made):
        return made
    return type(made).from_config({**made.get_config(), "input_axes": axes[0], "output_axes": axes[1]})


class _Book:
    """The rules in order, and which of them have fitted a weight."""

    def __init__(self, rules: Rules) -> None:
        if not isinstance(rules, Mapping):
            raise TypeError(
                f"rules: expected a mapping from names or types of layers to initializers; got {shown(rules)}"
            )
        self.rules: list[tuple[Any, Any]] = []
        for key, value in rules.items():
            of_type = isinstance(key, type) and issubclass(key, keras.layers.Layer)
            if not (of_type or isinstance(key, str | re.Pattern)):
                raise TypeError(
                    "rules: expected a name, a compiled regular expression or a type of layer; got "
                    f"{shown(key)}"
                )
            if isinstance(value, Mapping):
                if not of_type:
                    raise TypeError(
                        f"rules: expected one initializer for the name {shown(key)}; got {shown(value)}"
                    )
                self.rules.append((key, {name: _made(key, made) for name, made in value.items()}))
            else:
                self.rules.append((key, _made(key, value)))
        self.used = [False] * len(self.rules)

    def value(self, named: Named) -> tuple[bool, Any]:
        """Whether a rule fits a weight, and its value."""
        for number, (key, value) in enumerate(self.rules):
            if isinstance(key, str):
                fits = fnmatch.fnmatchcase(named.name, key)
            elif isinstance(key, re.Pattern):
                fits = key.fullmatch(named.name) is not None
            else:
                fits = any(isinstance(layer, key) for layer in named.around) and (
                    named.variable.name in value if isinstance(value, dict) else len(named.variable.shape) > 1
                )
            if fits:
                self.used[number] = True
                return True, value[named.variable.name] if isinstance(value, dict) else value
        return False, None

    def assert_used(self) -> None:
        """Raise an error for an unused key: a misspelt pattern would give a model that does not train."""
        for used, (key, _) in zip(self.used, self.rules, strict=True):
            if not used:
                raise ValueError(
                    f"rules: expected each key to fit a weight that no key before it fits; got {shown(key)}, "
                    "which fits none; correct it, or leave it out"
                )


def _made(key: Any, value: Any) -> Any:
    """A rule's value: an initializer of Keras' kind, a law, or None."""
    if value is None or isinstance(value, Initializer | keras.initializers.Initializer):
        return value
    if isinstance(value, str):
        try:
            made = keras.initializers.get(value)
        except ValueError as error:
            raise ValueError(
                f"rules: expected the name of an initializer of Keras for {shown(key)}; got {shown(value)}"
            ) from error
        return made
    raise TypeError(
        f"rules: expected an initializer, the name of one or None for {shown(key)}; got {shown(value)}"
    )
