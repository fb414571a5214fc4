"""What an initializer is: an immutable value, the law that it draws from, and what can be asked of it.

A value is hashed on every fill, to find its recipe, so the hash is computed once. The float64 expressions of
the number contract's host scalars stand in `Initializer.law`, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from fanfill.cdf import moments
from fanfill.dtypes import STORAGES, round_down, round_nearest, round_up, storage_named
from fanfill.fans import Scaling, fans
from fanfill.messages import shown
from fanfill.recipes import ends

if TYPE_CHECKING:
    import numpy as np

# The standard deviation of N(0, 1) cut at 2 sigma, 0.87962566103423975..., to the nearest float64.
STD_OF_CUT_NORMAL: Final = float.fromhex("0x1.c25e4b6dba981p-1")
_UNIFORMS = ("uniform", "half_open_uniform")

# The distributions that there are, and the parameters of the fixed ones.
_PARAMETERS: Final = {
    "uniform": ("low", "high"),
    "half_open_uniform": ("low", "high"),
    "normal": ("mean", "std"),
    "truncated_normal": ("mean", "std", "lower", "upper"),
    "constant": ("value",),
}


class Law(NamedTuple):
    """A distribution with its parameters for one tensor, in float64, before any dtype comes into play.

    ``uniform (low, high)``, ``half_open_uniform (low, high)``, ``normal (mean, std)``,
    ``truncated_normal (mean, std, lower, upper)`` with the cuts in units of std, ``constant (value,)``.
    """

    distribution: str
    params: tuple[float, ...]


class Initializer:
    """How to fill a tensor: a distribution, and where it is fan-scaled, the rule for its variance.

    Immutable; equal where distribution and parameters are; hashable; picklable; its `repr` evaluates back.
    Made by `variance_scaling`, `uniform`, `normal`, `truncated_normal`, `constant` and the names built on the
    first.

    Attributes
    ----------
    distribution : str
        ``"uniform"``, ``"half_open_uniform"`` (without its upper end), ``"normal"``, ``"truncated_normal"``
        or ``"constant"``.
    params : tuple of float
        The parameters of a fixed distribution; empty for a fan-scaled one.
    scaling : Scaling or None
        The rule of a fan-scaled one.
    default_axes : bool
        Fan-scaled, with the input and output axes left at (-2, -1), the layout of Keras and JAX. On a torch
        tensor, laid out (out, in, \\*k), these would be the wrong fans.
    """

    __slots__ = ("_hash", "_key", "default_axes", "distribution", "params", "scaling")

    distribution: str
    params: tuple[float, ...]
    scaling: Scaling | None
    default_axes: bool
    _key: tuple[object, ...]
    _hash: int

    def __init__(self, distribution: str, params: tuple[float, ...], scaling: Scaling | None = None) -> None:
        kind: object = distribution
        names = _PARAMETERS.get(kind) if isinstance(kind, str) else None
        if names is None or (scaling is not None and distribution in ("constant", "half_open_uniform")):
            raise _unknown(distribution)
        if len(params) != (len(names) if scaling is None else 0):
            raise ValueError(
                f"expected of {distribution} the parameters {', '.join(names)}, or none but a scaling; got "
                f"{shown(params)}; call the function of that name, or variance_scaling"
            )
        # The sign of a constant zero is drawn, and 0.0 == -0.0: so the key holds the signs beside the values.
        key = (distribution, params, scaling, tuple(math.copysign(1.0, x) for x in params))
        put = object.__setattr__
        put(self, "distribution", distribution)
        put(self, "params", params)
        put(self, "scaling", scaling)
        put(self, "default_axes", scaling is not None and (scaling.in_axis, scaling.out_axis) == (-2, -1))
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
        if self.scaling is None:
            literals = ", ".join(map(_literal, self.params))
            if self.distribution == "half_open_uniform":
                return f"uniform({literals}, endpoint=False)"
            return f"{self.distribution}({literals})"
        scale, mode, in_axis, out_axis, batch_axis = self.scaling
        axes = "".join(
            f", {name}={axis!r}"
            for name, axis, default in (
                ("in_axis", in_axis, -2),
                ("out_axis", out_axis, -1),
                ("batch_axis", batch_axis, ()),
            )
            if axis != default
        )
        return f"variance_scaling({scale!r}, {mode!r}, {self.distribution!r}{axes})"

    def fans(self, shape: Sequence[int]) -> tuple[int, int]:
        """fan_in and fan_out of a tensor of that shape, by this initializer's axes (the default ones if it
        has none).

        Raises
        ------
        ValueError, TypeError
            As `fanfill.fans`.
        """
        if self.scaling is None:
            return fans(shape)
        return self.scaling.fans(shape)

    def mean(self, shape: Sequence[int]) -> float:
        """The mean of the distribution for a tensor of that shape, in float64."""
        distribution, params = self.law(shape)
        if distribution in _UNIFORMS:
            return params[0] / 2 + params[1] / 2
        if distribution == "truncated_normal":
            mean, std, lower, upper = params
            # Symmetric cuts keep the mean, exactly.
            return mean if std == 0.0 or lower == -upper else mean + std * moments(lower, upper)[0]
        if distribution in ("normal", "constant"):
            return params[0]
        raise _unknown(distribution)

    def std(self, shape: Sequence[int]) -> float:
        """The standard deviation of the distribution for a tensor of that shape, in float64.

        For `truncated_normal` that is less than its ``std``, which it states before the cut.

        Raises
        ------
        ValueError
            No fans for this shape (see `fanfill.fans`), or cuts that hold less than 2^-24 of the
            distribution.
        """
        if self.scaling is not None:
            return math.sqrt(self.scaling.variance(shape))
        if self.distribution in _UNIFORMS:
            low, high = self.params
            return (high / 2 - low / 2) / math.sqrt(3.0)
        if self.distribution == "normal":
            return self.params[1]
        if self.distribution == "truncated_normal":
            _, std, lower, upper = self.params
            return std * moments(lower, upper)[1] if std else 0.0
        if self.distribution == "constant":
            return 0.0
        raise _unknown(self.distribution)

    def bounds(
        self, shape: Sequence[int], dtype: str | type | np.dtype[Any] = "float64"
    ) -> tuple[float, float]:
        """The closed interval in which the values of a tensor of that shape and dtype lie.

        Infinite for normals, rounded outward to float64 for truncated ones. The dtype matters to a constant
        alone, also one that is a normal of std 0: its value is rounded to what the dtype stores. All other
        values are rounded into the interval, whatever the dtype.

        Raises
        ------
        ValueError
            No fans for this shape (see `fanfill.fans`), or a constant beyond the dtype's largest value.
        TypeError
            A dtype that no tensor is filled with.
        """
        distribution, params = self.law(shape)
        storage = storage_named(dtype)
        if distribution == "uniform":
            return params[0], params[1]
        if distribution == "half_open_uniform":
            return params[0], math.nextafter(params[1], -math.inf)
        if distribution == "constant" or (distribution in ("normal", "truncated_normal") and not params[1]):
            value = round_nearest(params[0], storage)
            return value, value
        if distribution == "normal":
            return -math.inf, math.inf
        if distribution == "truncated_normal":
            double = STORAGES["float64"]
            low, high = ends(*params)
            return round_down(low, double), round_up(high, double)
        raise _unknown(distribution)

    def law(self, shape: Sequence[int]) -> Law:
        """The distribution for a tensor of that shape, by section 4 of the number contract."""
        if self.scaling is None:
            return Law(self.distribution, self.params)
        if self.distribution == "uniform":
            bound = math.sqrt(self.scaling.variance(shape, times=3))
            return Law("uniform", (0.0 - bound, bound))
        std = math.sqrt(self.scaling.variance(shape))
        if self.distribution == "normal":
            return Law("normal", (0.0, std))
        if self.distribution == "truncated_normal":
            return Law("truncated_normal", (0.0, std / STD_OF_CUT_NORMAL, -2.0, 2.0))
        raise _unknown(self.distribution)


def _unknown(distribution: object) -> ValueError:
    return ValueError(
        f"expected a distribution out of {', '.join(_PARAMETERS)}, of which uniform, normal and "
        f"truncated_normal may be scaled by fans; got {shown(distribution)}; choose one of these"
    )


def _literal(x: float) -> str:
    return repr(x) if math.isfinite(x) else f"float({str(x)!r})"
