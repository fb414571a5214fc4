"""One rounding from float32 to a 16-bit or 8-bit type, to nearest even, in integer arithmetic.

Hardware conversions exist for some of these types on some machines; integers agree on all of them. The caller
has clamped ``x`` to the type's finite range. Let u be the least positive value (2^-24 for float16): below the
least normal value the sum ``|x| + 2^23 u`` is rounded by the adder at multiples of u, above it the surplus
mantissa bits are rounded away.
"""

from typing import Any

import numpy as np

from fanfill_kernels.lanes import bits32, float_of_bits32, i32, select

ONE = np.int32(1)
MAGNITUDE = np.int32(2**31 - 1)


def keep(x: Any) -> Any:
    """The value itself: float32 and float64 are stored as they were computed."""
    return x


def rounded(
    x: Any, surplus: Any, rebias: Any, least_normal: Any, magic: Any, magic_bits: Any, sign_shift: Any
) -> Any:
    """Bits of ``x`` in a type with ``surplus`` fewer mantissa bits and the exponent bias less by
    ``rebias``.
    """
    b = bits32(x)
    magnitude = i32(b & MAGNITUDE)
    half = i32(i32(ONE << i32(surplus - ONE)) - ONE)
    even = i32(i32(magnitude >> surplus) & ONE)
    normal = i32(i32(i32(i32(magnitude + half) + even) >> surplus) - rebias)
    subnormal = i32(bits32(float_of_bits32(magnitude) + magic) - magic_bits)
    sign = i32(i32(b ^ magnitude) >> sign_shift)
    return i32(select(magnitude < least_normal, subnormal, normal) | sign)


F16 = (np.int32(13), np.int32(112 << 10), np.int32(113 << 23), np.float32(0.5), np.int32(126 << 23))
E4M3 = (np.int32(20), np.int32(120 << 3), np.int32(121 << 23), np.float32(2.0**14), np.int32(141 << 23))
E5M2 = (np.int32(21), np.int32(112 << 2), np.int32(113 << 23), np.float32(2.0**7), np.int32(134 << 23))
TO_16 = np.int32(16)
TO_8 = np.int32(24)
HALF_BF16 = np.int32(2**15 - 1)


def to_float16(x: Any) -> Any:
    """float16 bits of ``x``; the sign fills the bits above bit 15, which the 16-bit store drops."""
    return rounded(x, F16[0], F16[1], F16[2], F16[3], F16[4], TO_16)


def to_bfloat16(x: Any) -> Any:
    """bfloat16 bits of ``x``: float32's own exponent, so nothing is subnormal."""
    b = bits32(x)
    return i32(i32(i32(b + HALF_BF16) + i32(i32(b >> TO_16) & ONE)) >> TO_16)


def to_float8_e4m3fn(x: Any) -> Any:
    """float8_e4m3fn bits of ``x``."""
    return rounded(x, E4M3[0], E4M3[1], E4M3[2], E4M3[3], E4M3[4], TO_8)


def to_float8_e5m2(x: Any) -> Any:
    """float8_e5m2 bits of ``x``."""
    return rounded(x, E5M2[0], E5M2[1], E5M2[2], E5M2[3], E5M2[4], TO_8)
