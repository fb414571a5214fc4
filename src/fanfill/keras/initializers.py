"""Keras' random initializers with another ``__call__``: their constructors, configs and laws, our values.

They are subclasses, because EinsumDense, and so attention, gives input and output axes only to a
VarianceScaling of Keras'. They have the same class names, because a file then opens without fanfill as well:
Keras looks for a class of that name among its own if it knows no ``fanfill>HeNormal``.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.initializers import Constant, Identity, Ones, Orthogonal, Zeros

from fanfill import initializers, scaled
from fanfill.initializers import Initializer
from fanfill.keras.drawing import drawn
from fanfill.literals import ScaledName

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "axes_of",
    "law_of",
]

_KINDS: dict[str, ScaledName] = {
    "truncated_normal": "truncated_normal",
    "untruncated_normal": "normal",
    "uniform": "uniform",
}


def law_of(made: Any, shape: tuple[int, ...]) -> Initializer | None:
    """The law of an initializer of Keras, or one of ours, for a tensor; None if it has none.

    Zeros, ones and constants are laws too. A subclass that draws by itself has none.
    """
    if isinstance(made, _Drawn):
        return made.law(shape) if type(made).__call__ is _Drawn.__call__ else None
    law = _LAWS.get(type(made))
    return None if law is None else law(made, shape)


def _scaled(made: Any, shape: tuple[int, ...]) -> Initializer:
    scale, mode, kind = _number(made.scale), made.mode, _KINDS[made.distribution]
    into, out = axes_of(made)
    rank = len(shape)
    if into is not None and out is not None:  # all other axes count for nothing
        into, out = [axis % rank for axis in into], [axis % rank for axis in out]
        rest = [axis for axis in range(rank) if axis not in (*into, *out)]
        return scaled.variance_scaling(scale, mode, kind, in_axis=into, out_axis=out, batch_axis=rest)
    law = scaled.variance_scaling(scale, mode, kind)
    if rank >= 2:
        return law
    # Keras: both fans of a vector are its length, those of a scalar 1.
    return Initializer(*law.law((shape[0], shape[0]) if rank else (1, 1)))


def axes_of(made: Any) -> tuple[Any, Any]:
    """Input and output axes of a VarianceScaling; those of before Keras 3.14 have none."""
    return getattr(made, "input_axes", None), getattr(made, "output_axes", None)


def _normal(made: Any, shape: tuple[int, ...]) -> Initializer:
    return initializers.normal(_number(made.mean), _number(made.stddev))


def _truncated_normal(made: Any, shape: tuple[int, ...]) -> Initializer:
    return initializers.truncated_normal(_number(made.mean), _number(made.stddev))


def _uniform(made: Any, shape: tuple[int, ...]) -> Initializer:
    low, high = _number(made.minval), _number(made.maxval)
    return initializers.constant(low) if low == high else initializers.uniform(low, high, endpoint=False)


def _constant(made: Any, shape: tuple[int, ...]) -> Initializer | None:
    value = _number(made.value)
    return initializers.constant(value) if isinstance(value, int | float) else None


def _number(value: Any) -> Any:
    """A parameter; those that are scalar tensors of the backend as a number."""
    return (
        keras.ops.convert_to_numpy(value).item() if keras.ops.is_tensor(value) and not value.shape else value
    )


_theirs = keras.initializers
_SCALED = (
    _theirs.VarianceScaling,
    _theirs.GlorotNormal,
    _theirs.GlorotUniform,
    _theirs.HeNormal,
    _theirs.HeUniform,
    _theirs.LecunNormal,
    _theirs.LecunUniform,
)
_LAWS: dict[type, Any] = {
    **dict.fromkeys(_SCALED, _scaled),
    _theirs.RandomNormal: _normal,
    _theirs.TruncatedNormal: _truncated_normal,
    _theirs.RandomUniform: _uniform,
    _theirs.Constant: _constant,
    _theirs.Zeros: lambda made, shape: initializers.constant(0.0),
    _theirs.Ones: lambda made, shape: initializers.constant(1.0),
}


class _Drawn:
    """What stands before a class of Keras in ours."""

    seed: Any
    _base: type

    def law(self, shape: Any) -> Initializer:
        """The fanfill initializer that is drawn for a tensor of that shape.

        Raises
        ------
        TypeError, ValueError
            A parameter that is not finite; a standard deviation below zero; ``minval > maxval``.
        """
        law: Initializer = _LAWS[self._base](self, tuple(shape))
        return law

    def __call__(self, shape: Any, dtype: Any = None, layout: Any = None) -> Any:
        """A tensor of Keras' backend, with the values of ``fanfill.draw(shape, self.law(shape), seed=seed)``.

        Parameters
        ----------
        shape : tuple of int
        dtype : str, optional
            One that fanfill draws; None: ``keras.config.floatx()``.
        layout : TensorLayout or jax.sharding.NamedSharding, optional
            How to distribute the tensor, on JAX. Each device draws what it holds.

        Raises
        ------
        TypeError, ValueError
            A dtype that is not drawn; see `law`.
        """
        sizes = tuple(int(n) for n in shape)
        return drawn(self.law(sizes), sizes, dtype, self.seed, layout)


def _registered(base: type) -> Any:
    """Our class for one of Keras', known to Keras as ``fanfill>HeNormal`` and ``fanfill>he_normal``."""
    members = {"__doc__": base.__doc__, "__module__": __name__, "_base": base}
    made = type(base.__name__, (_Drawn, base), members)
    keras.saving.register_keras_serializable(package="fanfill")(made)
    # A second entry, for code that spells names so. What is saved is the first.
    keras.saving.get_custom_objects()[f"fanfill>{_snake(base.__name__)}"] = made
    return made


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


VarianceScaling = _registered(_theirs.VarianceScaling)
GlorotNormal = _registered(_theirs.GlorotNormal)
GlorotUniform = _registered(_theirs.GlorotUniform)
HeNormal = _registered(_theirs.HeNormal)
HeUniform = _registered(_theirs.HeUniform)
LecunNormal = _registered(_theirs.LecunNormal)
LecunUniform = _registered(_theirs.LecunUniform)
RandomNormal = _registered(_theirs.RandomNormal)
RandomUniform = _registered(_theirs.RandomUniform)
TruncatedNormal = _registered(_theirs.TruncatedNormal)
