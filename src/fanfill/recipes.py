"""From a distribution's parameters and a dtype to the numbers that a kernel gets: sections 6 and 7 of the
number contract.

Requirements this module answers:

* it makes every scalar that a kernel gets, exactly or in single float64 operations;
* it refuses all that the contract refuses, before anything is written;
* no kernel gets a subnormal number, and none can arise in one, so flush-to-zero modes change nothing.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fanfill.cdf import central_constants, interval, tail_constants
from fanfill.dtypes import STORAGES, bits, round_down, round_nearest, round_up
from fanfill_kernels.formats import Format

__all__ = [
    "Recipe",
    "assert_not_tiny",
    "assert_within",
    "constant",
    "ends",
    "half_open_uniform",
    "lattice",
    "normal",
    "truncated_normal",
    "uniform",
]


class Recipe(NamedTuple):
    """What a kernel gets: which kernel (`form`), for which storage type, and its parameters.

    With C the compute type, s the signed unit and z the normal value of section 3:

    constant
        (bits: int), the storage pattern.
    uniform
        (bound: C,): s * bound. Not for the narrow types.
    uniform_clamped
        (bound, low, high: C): s * bound, clamped to [low, high]. For the narrow types, and for intervals
        without their upper end.
    uniform_range
        (origin, width, shift: u64, unit, low, high: C): a lattice point in fixed point, rounded once, clamped
        to [low, high]. In float64 the origin is two u64. See `lattice`.
    normal
        (std, mean: C): z * std + mean.
    truncated_central
        (origin, width: u64, lower, upper, std, mean, low, high: C): both cuts within two sigma. See
        `fanfill.cdf.central_constants`.
    truncated
        (width, low_tail, high_tail: u64, unit, lower, upper, std, mean, low, high: C). In float64 each tail
        is two u64, the upper half first. `unit` is the weight of one in a 64-bit line, or in the upper half
        of a 128-bit line. See `fanfill.cdf.tail_constants`.

    diagonals, sparse, orthonormal
        One record each, which `fanfill.structures` describes: these are forms of whole matrices.

    `lower` and `upper` clamp z, `low` and `high` clamp the value: storage values, in C, inside the exact
    interval.
    """

    form: str
    dtype: str
    params: tuple[Any, ...]


class _Limits(NamedTuple):
    """Where section 5 draws its lines for a compute type.

    Attributes
    ----------
    least : float
        Of a nonzero std, bound, half-width or mean.
    reach : Fraction
        How many std a normal may lie from its mean, by the contract.
    cut_reach : float
        The same for a truncated normal, whose tail may start far out. The least tail probability is that of
        half a word of the least mass, 2^-57 (float32) or 2^-89 (float64); Phi(-8.6) and Phi(-10.9) are below
        it.
    least_cut : float
        Of a nonzero cut, so that z * std cannot be subnormal where a cut clamps z: 2^-46 * 2^-80 = 2^-126 and
        2^-122 * 2^-900 = 2^-1022. (The least |z| of an uncut normal is no smaller either.)
    tiny : float
        The smallest normal number of the compute type.
    """

    least: float
    least_name: str
    reach: Fraction
    cut_reach: float
    least_cut: float
    least_cut_name: str
    tiny: float


_LIMITS: dict[type, _Limits] = {
    np.float32: _Limits(2.0**-80, "2^-80", Fraction("6.77"), 8.6, 2.0**-46, "2^-46", 2.0**-126),
    np.float64: _Limits(2.0**-900, "2^-900", Fraction("9.5"), 10.9, 2.0**-122, "2^-122", 2.0**-1022),
}


# The bits of 1.5 * 2^52 and 2^52: a float64 that holds an integer in its last bits.
_WHOLE, _PART = 0x4338000000000000, 0x4330000000000000


def ends(mean: float, std: float, lower: float, upper: float) -> tuple[Fraction | float, Fraction | float]:
    """mean + lower * std and mean + upper * std, exactly; infinite where the cut is and std is not zero."""
    low, high = (
        cut if math.isinf(cut) and std else Fraction(mean) + (Fraction(std) * Fraction(cut) if std else 0)
        for cut in (lower, upper)
    )
    return low, high


def constant(s: Format, value: float) -> Recipe:
    """The recipe of one value, rounded to nearest even."""
    assert_within("a constant", value, s)
    return Recipe("constant", s.name, (bits(round_nearest(value, s), s),))


def uniform(s: Format, low: float, high: float) -> Recipe:
    """The recipe of the closed interval [low, high]."""
    return _uniform(s, low, high, endpoint=True)


def half_open_uniform(s: Format, low: float, high: float) -> Recipe:
    """The recipe of [low, high), low < high."""
    return _uniform(s, low, high, endpoint=False)


def _uniform(s: Format, low: float, high: float, *, endpoint: bool) -> Recipe:
    compute, c = s.compute, STORAGES[s.compute.__name__]
    assert_within("a lower bound", low, s)
    assert_within("an upper bound", high, s)
    if low == high:
        # A point is an interval like any other: it must be a value of the dtype, and is not rounded to one.
        _inside(low, high, s)
        return constant(s, low)
    least, greatest = _inside(low, high, s, endpoint)
    if low == -high:
        assert_not_tiny("a bound", high, s)
        bound = compute(round_down(high, c))
        if endpoint and s is c:
            return Recipe("uniform", s.name, (bound,))
        # If the dtype holds nothing but zero inside, negative values become -0 and positive ones +0.
        return Recipe("uniform_clamped", s.name, (bound, -compute(round_down(high, s)), greatest))
    assert_not_tiny("a half-width", high / 2 - low / 2 or math.ulp(0.0), s)
    line = lattice(low, high, compute)
    constants = map(np.uint64, (*line.origin, line.width, line.shift))
    return Recipe("uniform_range", s.name, (*constants, compute(line.unit), least, greatest))


class Lattice(NamedTuple):
    """The points that an asymmetric uniform rounds: of word w it is ``origin + (width * w >> shift)`` units.

    Attributes
    ----------
    origin : tuple of int
        Whole units, as the bits of the float64 1.5 * 2^52 plus their number. For float64 also the rest, as
        the bits of 2^52 plus their number of 2^-51 units.
    width : int
        Below 2^32 (float64: 2^64, of which the product's upper 64 bits count).
    shift : int
        At most 63.
    unit : float
        A power of two: 2^-45 (float64: 2^-51) of the least one that neither end exceeds in magnitude.
    """

    origin: tuple[int, ...]
    width: int
    shift: int
    unit: float


def lattice(low: float, high: float, compute: type[np.float32] | type[np.float64]) -> Lattice:
    """2^32 (float64: 2^63 at least) evenly spaced points inside [low, high], low < high, half a step from the
    ends.

    The width has as many bits as possible, so that the last point is within a unit of where it should be,
    however narrow the interval is compared to its ends.
    """
    single = compute is np.float32
    word, whole = (32, 45) if single else (64, 51)
    mantissa, exponent = math.frexp(max(abs(low), abs(high)))
    unit = exponent - (mantissa == 0.5) - whole
    first, last = Fraction(low) / Fraction(2) ** unit, Fraction(high) / Fraction(2) ** unit
    # What the width measures: the step of one word, or of a word's 64 bits as a fraction of one.
    reach = (last - first) / (2**32 if single else 1)
    # The largest shift that keeps the width below 2^word.
    shift = min(63, (math.ceil(2**word / reach) - 1).bit_length() - 1)
    width = math.floor(reach * 2**shift)
    if single:
        end = width * (2**word - 1) >> shift
        origin = math.floor((first + last - end) / 2)
        return Lattice((_WHOLE + origin,), width, shift, 2.0**unit)
    step = width * (2**word - 1) >> word
    end = ((step >> shift) << 51) + ((step << 64 - shift) % 2**64 >> 13)
    origin = math.floor(((first + last) * 2**51 - end) / 2)
    return Lattice((_WHOLE + (origin >> 51), _PART + origin % 2**51), width, shift, 2.0**unit)


def normal(s: Format, mean: float, std: float) -> Recipe:
    """The recipe of N(mean, std^2)."""
    assert_not_tiny("a mean", mean, s)
    assert_not_tiny("a std", std, s)
    reach = _LIMITS[s.compute].reach
    assert_within(f"|mean| + {float(reach)} std", abs(Fraction(mean)) + reach * Fraction(std), s)
    if std == 0.0:
        return constant(s, mean)
    return Recipe("normal", s.name, (s.compute(std), s.compute(mean)))


def truncated_normal(s: Format, mean: float, std: float, lower: float, upper: float) -> Recipe:
    """The recipe of N(mean, std^2) within the cuts, which are in units of std."""
    plain = normal(s, mean, std)
    if std == 0.0:
        return plain
    compute, c, limits = s.compute, STORAGES[s.compute.__name__], _LIMITS[s.compute]
    for cut in (lower, upper):
        if cut and abs(cut) < limits.least_cut:
            raise ValueError(
                f"expected cuts that are 0 or at least {limits.least_cut_name} sigma from it for {s.name}; "
                f"got {cut!r}; use 0"
            )
    cuts = interval(lower, upper)
    reach = min(max(abs(lower), abs(upper)), limits.cut_reach)
    if reach > limits.reach:
        assert_within(f"|mean| + {reach} std", abs(Fraction(mean)) + Fraction(reach) * Fraction(std), s)
    # A mass of 2^-24 spans more than one float32 wherever it lies, so the cuts cannot cross here. But there
    # may be no storage value inside the interval.
    clamps = (
        compute(round_up(lower, c) if lower > -math.inf else lower),
        compute(round_down(upper, c) if upper < math.inf else upper),
        compute(std),
        compute(mean),
        *_inside(*ends(mean, std, lower, upper), s),
    )
    u64 = np.uint64
    narrow = compute is np.float32
    if abs(lower) <= 2 and abs(upper) <= 2:
        origin, width = central_constants(cuts, 31 if narrow else 63)
        return Recipe("truncated_central", s.name, (u64(origin), u64(width), *clamps))
    width, low, high, scale = tail_constants(lower, upper, 32 if narrow else 64)
    if narrow:
        lines = (u64(width), u64(low), u64(high))
        return Recipe("truncated", s.name, (*lines, compute(2.0**-scale), *clamps))
    halves = [u64(part) for line in (low, high) for part in divmod(line, 2**64)]
    return Recipe("truncated", s.name, (u64(width), *halves, compute(2.0 ** (64 - scale)), *clamps))


def _inside(
    low: Fraction | float, high: Fraction | float, s: Format, endpoint: bool = True
) -> tuple[Any, Any]:
    """The least and the greatest value of the storage type inside [low, high], or inside [low, high) if not
    ``endpoint``, in the compute type.

    Values that are subnormal in the *compute* type are replaced by the next ones inside: zero or the smallest
    normal number. (A subnormal of float16 or of an 8-bit type is a normal float32.) An infinite end
    does not clamp, and is infinite in the compute type whether or not the storage type has an infinity.
    """
    tiny = _LIMITS[s.compute].tiny
    least = low if low == -math.inf else _normal_up(round_up(low, s), tiny)
    if not endpoint:
        high = Fraction(high) - Fraction(1, 2**1100)  # less than the distance of any two values
    greatest = high if high == math.inf else 0.0 - _normal_up(-round_down(high, s), tiny)
    if least > greatest:
        raise ValueError(
            f"expected an interval that holds a value of {s.name}; got [{float(low)!r}, {float(high)!r}"
            f"{']' if endpoint else ')'}, between two of them; widen it or use a wider dtype"
        )
    return s.compute(least), s.compute(greatest)


def _normal_up(x: float, tiny: float) -> float:
    """The least number >= x that is zero or not below `tiny` in magnitude."""
    return x if abs(x) >= tiny else tiny if x > 0 else 0.0


def assert_within(what: str, value: float | Fraction, s: Format) -> None:
    """Raise ValueError unless the storage type holds a value of this magnitude."""
    if value > s.largest or value < -s.largest:
        raise ValueError(
            f"expected {what} within {s.largest!r}, the largest finite value of {s.name}; "
            f"got {_shown(value)}; make it smaller or use a wider dtype"
        )


def _shown(value: float | Fraction) -> str:
    try:
        return repr(float(value))
    except OverflowError:
        return "a number beyond float64"


def assert_not_tiny(what: str, value: float, s: Format) -> None:
    """Raise ValueError if a value is so small that what is made of it could be subnormal."""
    limits = _LIMITS[s.compute]
    if value and abs(value) < limits.least:
        raise ValueError(
            f"expected {what} of 0 or at least {limits.least_name} in magnitude for {s.name}; "
            f"got {value!r}; use 0, or scale the tensor afterwards"
        )
