"""Turns the arguments of torch's functions into initializers, with torch's own errors for what torch refuses.

torch checks its arguments inside its kernels. So torch's method is called on an empty tensor of the same
dtype, where it raises what it would raise on the real one. Arguments that torch accepts and fanfill does not
(an infinite std, say) are refused when the initializer or its recipe is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch.nn import init

from fanfill import initializers, scaled
from fanfill.dtypes import STORAGES, round_down, round_up
from fanfill.initializers import Initializer
from fanfill.literals import FanMode, ScaledName
from fanfill.torch.tensors import STORAGE_NAMES
from fanfill_kernels.formats import Format

__all__ = ["PLAIN", "kaiming", "normal", "torch_trunc_normal", "trunc_normal", "uniform", "xavier"]

Law = TypeVar("Law", bound=Callable[..., Initializer])

# torch's own, before `accelerated` replaces it.
torch_trunc_normal = getattr(init, "_no_grad_trunc_normal_", init.trunc_normal_)

TORCH_AXES = {"in_axis": 1, "out_axis": 0}

# The types of arguments whose calls may be remembered.
PLAIN = {float, int, bool, str, torch.dtype, tuple, type(None)}

# torch does not draw these. Its own checks are then made as for float32, the others by the recipe.
_OURS_ALONE = tuple(dtype for dtype, name in STORAGE_NAMES.items() if STORAGES[name].itemsize == 1)


def _kept(make: Law) -> Law:
    """Cache the laws of calls with plain numbers: a check by torch takes longer than a small fill."""
    cached = functools.lru_cache(maxsize=1024, typed=True)(make)

    @functools.wraps(make)
    def call(*args: Any) -> Initializer:
        for each in args:
            if type(each) not in PLAIN:
                return make(*args)
        return cached(*args)

    return call  # type: ignore[return-value]


@_kept
def uniform(a: float, b: float, dtype: torch.dtype) -> Initializer:
    """U[a, b); if both are equal, a constant, rounded as such."""
    with torch._C.DisableTorchFunction():
        _empty(dtype).uniform_(a, b, generator=torch.Generator())
    low, high = float(a), float(b)
    return initializers.constant(low) if low == high else initializers.uniform(low, high, endpoint=False)


@_kept
def normal(mean: float, std: float, dtype: torch.dtype) -> Initializer:
    """N(mean, std^2)."""
    with torch._C.DisableTorchFunction():
        _empty(dtype).normal_(mean, std, generator=torch.Generator())
    return initializers.normal(float(mean), float(std))


def trunc_normal(mean: float, std: float, a: float, b: float, dtype: torch.dtype) -> Initializer:
    """N(mean, std^2) within the absolute bounds [a, b]; warns as torch does if the mean is far outside."""
    if {type(mean), type(std)} <= PLAIN and a - 2 * std <= mean <= b + 2 * std:
        return _kept_trunc_normal(mean, std, a, b, dtype)
    return _trunc_normal(mean, std, a, b, dtype)


def _trunc_normal(mean: float, std: float, a: float, b: float, dtype: torch.dtype) -> Initializer:
    with torch._C.DisableTorchFunction():
        torch_trunc_normal(_empty(dtype), mean, std, a, b, generator=torch.Generator())
    mean, std, low, high = float(mean), abs(float(std)), float(a), float(b)  # torch's density is even in std
    if low == high:
        return initializers.constant(low)
    if not (math.isfinite(mean) and math.isfinite(std)):
        return initializers.truncated_normal(mean, std)  # raises
    storage = STORAGES[STORAGE_NAMES.get(dtype, "float64")]
    lower, upper = _cut(low, mean, std, 1, storage), _cut(high, mean, std, -1, storage)
    return initializers.truncated_normal(mean, std, lower, upper)


_kept_trunc_normal = _kept(_trunc_normal)


@_kept
def xavier(gain: float, distribution: str, shape: tuple[int, ...], dtype: torch.dtype) -> Initializer:
    """Variance gain^2 * 2 / (fan_in + fan_out)."""
    fan_in, fan_out = fans(shape)
    std = gain * math.sqrt(2.0 / float(fan_in + fan_out))
    _check_scaled(std, distribution, dtype)
    make = scaled.xavier_uniform if distribution == "uniform" else scaled.xavier_normal
    return make(float(gain), **TORCH_AXES)


@_kept
def kaiming(
    a: float | None,
    mode: str,
    nonlinearity: str,
    distribution: ScaledName,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Initializer:
    """Variance gain^2 / fan, with the nonlinearity's gain."""
    chosen = mode.lower()
    if chosen not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {chosen} not supported, please use one of {['fan_in', 'fan_out']}")
    fan: FanMode = "fan_in" if chosen == "fan_in" else "fan_out"
    fan_in, fan_out = fans(shape)
    gain = init.calculate_gain(nonlinearity, a)
    std = gain / math.sqrt(fan_in if chosen == "fan_in" else fan_out)
    _check_scaled(std, distribution, dtype)
    if std == 0.0:  # an infinite slope
        return initializers.constant(0.0)
    if nonlinearity in ("relu", "leaky_relu"):
        # Exactly 2 / (1 + slope^2): the square of torch's rounded gain would be off by an ulp.
        slope = 0.0 if nonlinearity == "relu" else 0.01 if a is None else float(a)
        make = scaled.he_uniform if distribution == "uniform" else scaled.he_normal
        return make(fan, slope, **TORCH_AXES)
    return scaled.variance_scaling(gain * gain, fan, distribution, **TORCH_AXES)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """torch's fan_in and fan_out of (out, in, \\*k)."""
    if len(shape) < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    return math.prod(shape[1:]), math.prod((shape[0], *shape[2:]))


def _check_scaled(std: float, distribution: str, dtype: torch.dtype) -> None:
    """Let torch check what its function would pass to its random method."""
    with torch._C.DisableTorchFunction():
        if distribution == "uniform":
            bound = math.sqrt(3.0) * std
            _empty(dtype).uniform_(-bound, bound, generator=torch.Generator())
        else:
            _empty(dtype).normal_(0, std, generator=torch.Generator())


def _empty(dtype: torch.dtype) -> torch.Tensor:
    # torch refuses some dtypes only if the tensor has an element.
    count = 0 if dtype in STORAGE_NAMES else 1
    return torch.empty(count, dtype=torch.float32 if dtype in _OURS_ALONE else dtype, device="cpu")


def _cut(bound: float, mean: float, std: float, inward: int, storage: Format) -> float:
    """The cut in units of std that corresponds to an absolute bound: no value of the storage type passes the
    bound, and the bound itself, if it is such a value, is not cut off.

    ``mean + cut * std`` is rarely the exact bound. So the cut is moved outward to the bound, and then inward
    only as far as values require: a float64 cut just inside the bound would cost a float8 the last of its
    eight bits.
    """
    if math.isinf(bound) or std == 0.0:
        return bound
    cut = (bound - mean) / std
    if not math.isfinite(cut):
        return cut
    exact = Fraction(mean), Fraction(std), Fraction(bound)

    def beyond(cut: float) -> Fraction:
        """How far outside the bound the cut lies; negative inside."""
        return (exact[2] - exact[0] - Fraction(cut) * exact[1]) * inward

    def lets_pass(cut: float) -> bool:
        end = exact[0] + Fraction(cut) * exact[1]
        return round_up(end, storage) < bound if inward > 0 else round_down(end, storage) > bound

    while beyond(cut) < 0:
        cut = math.nextafter(cut, -inward * math.inf)
    while lets_pass(cut):
        cut = math.nextafter(cut, inward * math.inf)
    return cut
