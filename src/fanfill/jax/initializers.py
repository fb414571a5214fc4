"""The functions of `jax.nn.initializers`, with their names and arguments, drawn by fanfill.

The laws are JAX's: its normals of the fans are cut at two standard deviations, and `uniform` does not reach
its upper end. Complex dtypes are JAX's own affair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import numpy as np

# By name, now: whoever puts these functions in the place of JAX's must not get ours calling themselves.
from jax.nn.initializers import constant, ones, zeros
from jax.nn.initializers import delta_orthogonal as jax_delta_orthogonal
from jax.nn.initializers import normal as jax_normal
from jax.nn.initializers import orthogonal as jax_orthogonal
from jax.nn.initializers import uniform as jax_uniform
from jax.nn.initializers import variance_scaling as jax_variance_scaling

from fanfill import initializers, matrices, scaled
from fanfill.arguments import shape_of
from fanfill.fans import Axes
from fanfill.initializers import Initializer
from fanfill.jax.drawing import draw_staged
from fanfill.jax.keys import words_of
from fanfill.messages import shown
from fanfill.named import initializer_of

if TYPE_CHECKING:
    from fanfill.literals import Mode, ScaledName

__all__ = [
    "JaxInitializer",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


class JaxInitializer:
    """A `jax.nn.initializers.Initializer` that draws a fanfill initializer.

    Immutable, hashable and picklable; two are equal if their laws and dtypes are. So it may be a static
    argument, and a field of a module.

    Parameters
    ----------
    law
        What is drawn: of any `fanfill.Initializer`.
    dtype
        Of calls that name none; None: JAX's default, float32.
    theirs
        Makes JAX's own initializer of the same law, which draws complex dtypes; None: they are refused.
    """

    __slots__ = ("dtype", "law", "theirs")

    law: Initializer
    dtype: Any
    theirs: Any  # a callable without arguments, or None

    def __init__(
        self, law: Initializer | str, dtype: Any = None, theirs: Callable[[], Any] | None = None
    ) -> None:
        put = object.__setattr__
        put(self, "law", initializer_of(law))
        put(self, "dtype", None if dtype is None else np.dtype(dtype))
        put(self, "theirs", theirs)

    def __call__(self, key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        """Draw a tensor: the values of ``fanfill.draw(shape, law, seed=s)`` for ``jax.random.key(s)``.

        Parameters
        ----------
        key
            Typed or raw, of any implementation; known, or traced by jit, vmap, grad and the like.
        shape
            The whole tensor's.
        dtype
            One that fanfill draws; None: the initializer's.
        out_sharding
            None, a `PartitionSpec` or a `NamedSharding`: see `fanfill.jax.drawing.draw_words`.

        Raises
        ------
        ValueError, TypeError
            If fanfill refuses an argument; at once, also while tracing.
        """
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(_first_given(dtype, self.dtype, float)))
        if dtype.kind == "c" and self.theirs is not None:
            drawn: jax.Array = self.theirs()(key, shape, dtype, out_sharding)
            return drawn
        words, shape = words_of(key), shape_of(shape, "shape")
        if self.law.default_axes and len(shape) < 2 and self.theirs is not None:
            jax.eval_shape(lambda key: self.theirs()(key, shape, dtype), key)  # raises JAX's own error
        return draw_staged(self.law, shape, dtype, words, 0, out_sharding)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"expected no assignment to a JaxInitializer, which is immutable; got {name!r}; make another"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JaxInitializer):
            return NotImplemented
        return self.law == other.law and bool(self.dtype == other.dtype)

    def __hash__(self) -> int:
        return hash((self.law, self.dtype))

    def __reduce__(self) -> tuple[type[JaxInitializer], tuple[Any, ...]]:
        return JaxInitializer, (self.law, self.dtype, self.theirs)

    def __repr__(self) -> str:
        return f"JaxInitializer({self.law!r}{'' if self.dtype is None else f', {self.dtype.name!r}'})"


def uniform(scale: Any = 1e-2, dtype: Any = None) -> JaxInitializer:
    """Uniform on [0, scale), scale >= 0; zero gives zeros."""
    number = _number("scale", scale)
    if number < 0:
        raise ValueError(f"expected a scale >= 0; got {shown(number)}; draw by its magnitude, and negate")
    law = initializers.uniform(0.0, number, endpoint=False) if number else initializers.constant(0.0)
    return JaxInitializer(law, dtype, functools.partial(jax_uniform, scale))


def normal(stddev: Any = 1e-2, dtype: Any = None) -> JaxInitializer:
    """N(0, stddev^2)."""
    law = initializers.normal(0.0, _number("stddev", stddev))
    return JaxInitializer(law, dtype, functools.partial(jax_normal, stddev))


def truncated_normal(
    stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0
) -> JaxInitializer:
    """N(0, stddev^2) between lower * stddev and upper * stddev; nothing makes up for the cut."""
    cuts = _number("lower", lower), _number("upper", upper)
    law = initializers.truncated_normal(0.0, _number("stddev", stddev), *cuts)
    return JaxInitializer(law, dtype)


def orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> JaxInitializer:
    """`scale`, which is >= 0, times a random matrix of orthonormal columns or rows: `fanfill.orthogonal`.

    All axes but `column_axis` are the matrix's rows. The host draws it, for devices of any kind.
    """
    law = matrices.orthogonal(_number("scale", scale), out_axis=column_axis)
    return JaxInitializer(law, dtype, functools.partial(jax_orthogonal, scale, column_axis))


def delta_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> JaxInitializer:
    """`orthogonal` at the centre of a convolution's kernel of three to five axes, zero elsewhere."""
    law = matrices.delta_orthogonal(_number("scale", scale))
    return JaxInitializer(law, dtype, functools.partial(jax_delta_orthogonal, scale, column_axis))


def variance_scaling(
    scale: Any,
    mode: Mode,
    distribution: ScaledName,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
) -> JaxInitializer:
    """Mean 0 and variance scale / fan.

    `mode` is "fan_in", "fan_out", "fan_avg" or "fan_geo_avg"; `distribution` is "truncated_normal", "normal"
    or "uniform". An axis may have one role only: flax's default for embeddings, whose in_axis is also its
    out_axis, is ``in_axis=-1, out_axis=-2`` here.
    """
    law = scaled.variance_scaling(
        _number("scale", scale), mode, distribution, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )
    theirs = functools.partial(jax_variance_scaling, scale, mode, distribution, in_axis, out_axis, batch_axis)
    return JaxInitializer(law, dtype, theirs)


def glorot_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Uniform of variance 2 / (fan_in + fan_out); also `xavier_uniform`."""
    return variance_scaling(1.0, "fan_avg", "uniform", in_axis, out_axis, batch_axis, dtype)


def glorot_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Normal of variance 2 / (fan_in + fan_out), cut at two standard deviations; also `xavier_normal`."""
    return variance_scaling(1.0, "fan_avg", "truncated_normal", in_axis, out_axis, batch_axis, dtype)


def lecun_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Uniform of variance 1 / fan_in."""
    return variance_scaling(1.0, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype)


def lecun_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Normal of variance 1 / fan_in, cut at two standard deviations."""
    return variance_scaling(1.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis, dtype)


def he_uniform(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Uniform of variance 2 / fan_in; also `kaiming_uniform`."""
    return variance_scaling(2.0, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype)


def he_normal(
    in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: Any = None
) -> JaxInitializer:
    """Normal of variance 2 / fan_in, cut at two standard deviations; also `kaiming_normal`."""
    return variance_scaling(2.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis, dtype)


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal


def _number(what: str, value: Any) -> Any:
    """A parameter, also one that is an array without axes; it is checked by whoever makes the law."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{what}: expected a number that is known while tracing; got {shown(value)}; draw with 1.0 and "
            "multiply the result"
        )
    return value.item() if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 else value


def _first_given(*given: Any) -> Any:
    return next(dtype for dtype in given if dtype is not None)
