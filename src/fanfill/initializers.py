"""What an initializer is, and those that draw a distribution as it is given.

An `Initializer` is an immutable value: a distribution with its parameters, or with the rule by which fans
scale it. It is hashed on every fill, to find its recipe, so the hash is computed once.

Those that scale with the fans stand in `fanfill.scaled`, those of whole matrices in `fanfill.matrices`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fanfill.arguments import at_least_zero, extended, real
from fanfill.distributions import DISTRIBUTIONS, record_of
from fanfill.distributions import distribution as distribution_named
from fanfill.dtypes import storage_named
from fanfill.fans import Scaling, fans, shape_of
from fanfill.hints import hinted
from fanfill.messages import shown
from fanfill.structures import STRUCTURES

if TYPE_CHECKING:
    import numpy as np

    from fanfill.literals import DtypeName

__all__ = [
    "Initializer",
    "Law",
    "constant",
    "normal",
    "ones",
    "truncated_normal",
    "uniform",
    "zeros",
]

# What a scale and a mode are called, for `repr`; a family's other modes and gains go by the primitive's name.
_FAMILIES = {
    (1.0, "fan_avg"): "xavier",
    (2.0, "fan_in"): "he",
    (2.0, "fan_out"): "he",
    (1.0, "fan_in"): "lecun",
}


class Law(NamedTuple):
    """A distribution with its parameters for one tensor, in float64, before any dtype comes into play.

    ``uniform (low, high)``, ``half_open_uniform (low, high)``, ``normal (mean, std)``,
    ``truncated_normal (mean, std, lower, upper)`` with the cuts in units of std, ``constant (value,)``. Those
    of whole matrices are laws by themselves: ``identity (gain,)``, ``dirac (groups, in_axis, out_axis)``,
    ``sparse (sparsity, std)``, ``orthogonal (gain, out_axis)``, ``delta_orthogonal (gain, in_axis,
    out_axis)``.
    """

    distribution: str
    params: tuple[float, ...]


class Initializer:
    """How to fill a tensor: a distribution and, if it is scaled by fans, the rule for its variance.

    Immutable, hashable and picklable; two are equal if their distributions and parameters are; `eval` of its
    `repr` gives it back. Made by `variance_scaling` and the names built on it, `uniform`, `normal`,
    `truncated_normal`, `constant`, `identity`, `dirac`, `sparse`, `orthogonal` and `delta_orthogonal`.

    Attributes
    ----------
    distribution : str
        ``"uniform"``, ``"half_open_uniform"`` (without its upper end), ``"normal"``, ``"truncated_normal"``,
        ``"constant"``, or the function's name of one of whole matrices.
    params : tuple of float
        The parameters of a fixed distribution; empty for a fan-scaled one.
    scaling : Scaling or None
        The rule of a fan-scaled one.
    default_axes : bool
        It has axes, and those of inputs and outputs are left at (-2, -1), the layout of Keras and JAX. On a
        torch tensor, laid out (out, in, \\*k), these would be the wrong ones.
    structured : bool
        Its values follow from their places in a matrix: ``"identity"``, ``"dirac"``, ``"sparse"``,
        ``"orthogonal"`` and ``"delta_orthogonal"``.
    """

    __slots__ = ("_hash", "_key", "default_axes", "distribution", "params", "scaling", "structured")

    distribution: str
    params: tuple[float, ...]
    scaling: Scaling | None
    default_axes: bool
    structured: bool
    _key: tuple[object, ...]
    _hash: int

    def __init__(self, distribution: str, params: tuple[float, ...], scaling: Scaling | None = None) -> None:
        record = record_of(distribution)
        structure = STRUCTURES.get(distribution)
        names = record.parameters
        if scaling is not None and getattr(record, "scaled", None) is None:
            scaled = ", ".join(name for name, other in DISTRIBUTIONS.items() if other.scaled)
            raise ValueError(
                f"expected a distribution that fans can scale, one of {scaled}; got {distribution!r}; leave "
                "the scaling out"
            )
        if len(params) != (len(names) if scaling is None else 0):
            raise ValueError(
                f"expected the parameters {', '.join(names)} for {distribution}, or none and a scaling; got "
                f"{shown(params)}; call the function of that name, or variance_scaling"
            )
        # The sign of a constant zero is drawn, and 0.0 == -0.0: so the key holds the signs as well.
        key = (distribution, params, scaling, tuple(math.copysign(1.0, x) for x in params))
        put = object.__setattr__
        put(self, "distribution", distribution)
        put(self, "params", params)
        put(self, "scaling", scaling)
        left = scaling is not None and (scaling.in_axis, scaling.out_axis) == (-2, -1)
        put(self, "default_axes", structure.default_axes(params) if structure is not None else left)
        put(self, "structured", structure is not None)
        put(self, "_key", key)
        put(self, "_hash", hash(key))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"expected no assignment to an Initializer, which is immutable; got {name!r}; make another"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"expected no deletion from an Initializer, which is immutable; got {name!r}; make another"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return bool(self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Initializer], tuple[str, tuple[float, ...], Scaling | None]]:
        return Initializer, (self.distribution, self.params, self.scaling)

    def __repr__(self) -> str:
        structure = STRUCTURES.get(self.distribution)
        if structure is not None:
            return f"{self.distribution}({structure.text(*self.params)})"
        if self.scaling is None:
            literals = ", ".join(map(_literal, self.params))
            if self.distribution == "half_open_uniform":
                return f"uniform({literals}, endpoint=False)"
            return f"{self.distribution}({literals})"
        scale, mode, in_axis, out_axis, batch_axis = self.scaling
        axes = [
            f"{name}={axis!r}"
            for name, axis, default in (
                ("in_axis", in_axis, -2),
                ("out_axis", out_axis, -1),
                ("batch_axis", batch_axis, ()),
            )
            if axis != default
        ]
        family = _FAMILIES.get((scale, mode))
        if family is None:
            words = [repr(scale), repr(mode), repr(self.distribution), *axes]
            return f"variance_scaling({', '.join(words)})"
        kind = self.distribution.removeprefix("truncated_")
        cut = ["truncated=True"] if kind != self.distribution else []
        words = [*(["'fan_out'"] if mode == "fan_out" else []), *cut, *axes]
        return f"{family}_{kind}({', '.join(words)})"

    def fans(self, shape: Sequence[int]) -> tuple[int, int]:
        """fan_in and fan_out of a tensor of that shape, by this initializer's axes, or the default ones if it
        has none.

        Raises
        ------
        ValueError, TypeError
            As `fanfill.fans`.
        """
        if self.scaling is None:
            return fans(shape)
        return self.scaling.fans(shape)

    def mean(self, shape: Sequence[int]) -> float:
        """The mean of the distribution for a tensor of that shape, in float64.

        For an initializer of whole matrices it is that of all values together, and so are `std` and `bounds`.
        """
        structure = STRUCTURES.get(self.distribution)
        if structure is not None:
            return structure.mean(shape_of(shape), *self.params)
        name, params = self.law(shape)
        return distribution_named(name).mean(*params)

    def std(self, shape: Sequence[int]) -> float:
        """The standard deviation of the distribution for a tensor of that shape, in float64.

        For `truncated_normal` it is less than the parameter ``std``, which is that of the normal before the
        cut.

        Raises
        ------
        ValueError
            No fans for this shape (see `fanfill.fans`), or cuts that hold less than 2^-24 of the
            distribution.
        """
        structure = STRUCTURES.get(self.distribution)
        if structure is not None:
            return structure.std(shape_of(shape), *self.params)
        if self.scaling is not None:
            return math.sqrt(self.scaling.variance(shape))
        return distribution_named(self.distribution).std(*self.params)

    def bounds(
        self, shape: Sequence[int], dtype: DtypeName | type | np.dtype[Any] = "float64"
    ) -> tuple[float, float]:
        """The closed interval in which the values of a tensor of that shape and dtype lie.

        Infinite for normals, rounded outward to float64 for truncated ones. The dtype matters only for a
        constant (or a normal of std 0): its value is rounded to what the dtype stores. All other values are
        rounded into the interval, whatever the dtype.

        Raises
        ------
        ValueError
            No fans for this shape (see `fanfill.fans`), or a constant beyond the dtype's largest value.
        TypeError
            A dtype that no tensor is filled with.
        """
        structure = STRUCTURES.get(self.distribution)
        if structure is not None:
            return structure.bounds(storage_named(dtype), shape_of(shape), *self.params)
        name, params = self.law(shape)
        return distribution_named(name).bounds(storage_named(dtype), *params)

    def law(self, shape: Sequence[int]) -> Law:
        """The distribution for a tensor of that shape, by section 4 of the number contract."""
        scaling = self.scaling
        scaled = None if scaling is None else distribution_named(self.distribution).scaled
        if scaling is None or scaled is None:
            return Law(self.distribution, self.params)
        return Law(self.distribution, scaled(lambda times: scaling.variance(shape, times=times)))


@hinted
def uniform(low: float, high: float, *, endpoint: bool = True) -> Initializer:
    """Uniform on the closed interval [low, high], or on [low, high) without its endpoint; any shape.

    A value is the point ``low + (high - low) (w + 1/2) / 2^32`` of its word w, rounded once into the dtype
    (in an interval symmetric about 0 the signed unit is rounded first). So an end is drawn where rounding
    leads to it: 1 once in 2^25 float32 draws of ``uniform(0, 1)``, once in 2^9 of bfloat16.

    Parameters
    ----------
    low, high
        The ends.
    endpoint
        Whether ``high`` may be drawn. If not, the greatest value of the dtype below it is drawn instead, as
        torch, NumPy, JAX and Keras promise. All other values are the same.

    Raises
    ------
    ValueError, TypeError
        An end that is not finite or no real number; low > high, or low = high without the endpoint; an
        endpoint that is neither True nor False.
    """
    low, high = real("low", low), real("high", high)
    if not isinstance(endpoint, bool):
        raise TypeError(f"endpoint: expected True or False; got {endpoint!r} ({type(endpoint).__name__})")
    if low > high:
        raise ValueError(f"expected low <= high; got low={low!r}, high={high!r}; swap them")
    if endpoint:
        return Initializer("uniform", (low, high))
    if low == high:
        raise ValueError(
            f"expected low < high, since without its endpoint [low, low) holds nothing; got low={low!r}, "
            f"high={high!r}; leave endpoint out, or use constant({low!r})"
        )
    return Initializer("half_open_uniform", (low, high))


@hinted
def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """N(mean, std^2); any shape. The naive N(0, 1) * 0.01 of old texts is ``normal(std=0.01)``.

    Parameters
    ----------
    mean : float
        Finite.
    std : float
        Finite, >= 0. Zero gives the constant ``mean``.

    Raises
    ------
    ValueError, TypeError
        A parameter that is not finite or no real number; a negative std.
    """
    return Initializer("normal", (real("mean", mean), at_least_zero("std", std)))


@hinted
def truncated_normal(
    mean: float = 0.0,
    std: float = 1.0,
    lower: float = -2.0,
    upper: float = 2.0,
    *,
    absolute: bool = False,
) -> Initializer:
    """N(mean, std^2) given that the value lies in [mean + lower * std, mean + upper * std]; any shape.

    The cuts are in units of std, as in JAX, and either may be infinite. With ``absolute=True`` they are
    values, as torch's trunc_normal_ takes them: ``truncated_normal(0, 0.02, -2, 2, absolute=True)`` cuts at
    100 sigma. Nothing is corrected: after the cut at +-2 sigma the standard deviation is 0.8796 std
    (`Initializer.std` tells).

    Parameters
    ----------
    mean, std : float
        Of the normal before the cut; finite, std >= 0.
    lower, upper : float
        The cuts, lower < upper: in units of std from the mean, or values if ``absolute``.
    absolute : bool

    Raises
    ------
    ValueError, TypeError
        A mean or std that is not finite; a negative std; lower >= upper; a parameter that is nan or no real
        number.
    """
    mean, std = real("mean", mean), at_least_zero("std", std)
    lower, upper = extended("lower", lower), extended("upper", upper)
    if not isinstance(absolute, bool):
        raise TypeError(f"expected True or False as absolute; got {shown(absolute)}; give a bool")
    if lower >= upper:
        where = "values" if absolute else "in units of std from the mean"
        raise ValueError(
            f"expected lower < upper; got lower={lower!r}, upper={upper!r}; the cuts are {where}"
        )
    if absolute:
        if not std:
            raise ValueError(
                f"expected a std > 0 with absolute cuts; got std={std!r}; write constant({mean!r})"
            )
        lower, upper = (lower - mean) / std, (upper - mean) / std
    return Initializer("truncated_normal", (mean, std, lower, upper))


@hinted
def constant(value: float) -> Initializer:
    """One value, rounded once to nearest even into the buffer's dtype; any shape. The sign of a zero is kept.

    Parameters
    ----------
    value : float
        Finite.

    Raises
    ------
    ValueError, TypeError
        A value that is not finite or no real number.
    """
    number = real("value", value)
    return Initializer("constant", (number or math.copysign(0.0, value),))


@hinted
def zeros() -> Initializer:
    """``constant(0.0)``; any shape."""
    return constant(0.0)


@hinted
def ones() -> Initializer:
    """``constant(1.0)``; any shape."""
    return constant(1.0)


def _literal(x: float) -> str:
    return repr(x) if math.isfinite(x) else f"float({str(x)!r})"
