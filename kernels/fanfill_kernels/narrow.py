"""One rounding from float32 to a 16-bit or 8-bit type, to nearest even, in integer arithmetic.

Hardware conversions exist for some of these types on some machines; integers agree on all of them. The caller
has clamped ``x`` to the type's finite range. Let u be the least positive value (2^-24 for float16): below the
least normal value the sum ``|x| + 2^23 u`` is rounded by the adder at multiples of u, above it the surplus
mantissa bits are rounded away.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fanfill_kernels.formats import FORMATS, Format
from fanfill_kernels.lanes import bits32, float_of_bits32, i32, select

ONE = np.int32(1)
MAGNITUDE = np.int32(2**31 - 1)
TO_16 = np.int32(16)
TO_8 = np.int32(24)
HALF_BF16 = np.int32(2**15 - 1)


class Rounding(NamedTuple):
    """What `rounded` needs to know of a format.

    Attributes
    ----------
    surplus
        How many mantissa bits fewer than float32's it has.
    rebias
        By how much its exponent's bias is less, in units of the last exponent bit.
    least_normal
        float32's bits of its least normal value.
    magic, magic_bits
        2^23 times its least positive value, and float32's bits of that.
    sign_shift
        How far its sign bit is below float32's.
    """

    surplus: np.int32
    rebias: np.int32
    least_normal: np.int32
    magic: np.float32
    magic_bits: np.int32
    sign_shift: np.int32


def keep(x: Any) -> Any:
    """The value itself: float32 and float64 are stored as they were computed."""
    return x


def rounding_of(f: Format) -> Rounding:
    """The numbers of a format, from its table entry."""
    exponent = f.least + f.precision - 1 + 127  # float32's biased exponent of the least normal value
    return Rounding(
        np.int32(24 - f.precision),
        np.int32((exponent - 1) << (f.precision - 1)),
        np.int32(exponent << 23),
        np.float32(2.0 ** (f.least + 23)),
        np.int32((f.least + 23 + 127) << 23),
        {2: TO_16, 1: TO_8}[f.itemsize],
    )


def rounded(x: Any, to: Rounding) -> tuple[Any, Any]:
    """Bits of ``|x|`` in a format, and the sign in its place; it fills the bits above, too, which the store
    drops.
    """
    b = bits32(x)
    magnitude = i32(b & MAGNITUDE)
    half = i32(i32(ONE << i32(to.surplus - ONE)) - ONE)
    even = i32(i32(magnitude >> to.surplus) & ONE)
    normal = i32(i32(i32(i32(magnitude + half) + even) >> to.surplus) - to.rebias)
    subnormal = i32(bits32(float_of_bits32(magnitude) + to.magic) - to.magic_bits)
    sign = i32(i32(b ^ magnitude) >> to.sign_shift)
    return select(magnitude < to.least_normal, subnormal, normal), sign


def to_bfloat16(x: Any) -> Any:
    """bfloat16 bits of ``x``: float32's own exponent, so nothing is subnormal."""
    b = bits32(x)
    return i32(i32(i32(b + HALF_BF16) + i32(i32(b >> TO_16) & ONE)) >> TO_16)


@cache
def store_of(dtype: str) -> Callable[[Any], Any]:
    """What turns a value into what is stored of it: a function on lanes."""
    f = FORMATS[dtype]
    if f.itemsize == np.dtype(f.compute).itemsize:
        return keep
    to = rounding_of(f)
    if to.rebias == 0:
        return to_bfloat16

    def signed(x: Any) -> Any:
        """Bits of ``x``."""
        bits, sign = rounded(x, to)
        return i32(bits | sign)

    def unsigned_zero(x: Any) -> Any:
        """Bits of ``x``, of a zero without its sign."""
        bits, sign = rounded(x, to)
        return select(bits < ONE, bits, i32(bits | sign))

    return signed if f.signed_zero else unsigned_zero
