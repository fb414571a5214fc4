"""From 64-bit words to float64 values: the functions of ``arithmetic.py`` in double precision, under the same
names.

Element e takes ``word(2e) + 2^32 word(2e + 1)`` as one 64-bit word.
"""

from typing import Any

import numpy as np

from fanfill_kernels.arithmetic import clamp, horner, scaled
from fanfill_kernels.lanes import bits64, f64, float_of_bits64, i64, select, sqrt


def constants(*hexadecimal: str) -> tuple[np.float64, ...]:
    """float64 constants, written as C hex floats, highest power first where they are a polynomial's."""
    return tuple(np.float64(float.fromhex(c)) for c in hexadecimal)


UNIT = np.float64(2.0**-63)
HALF = np.float64(0.5)
FOURTH = np.float64(0.25)
ONE = np.float64(1.0)
TWO = np.float64(2.0)
FOUR = np.float64(4.0)
ZERO = np.float64(0.0)
NONE = np.int64(0)
ODD = np.int64(1)
SIGN = np.int64(-(2**63))
EIGHTH = np.int64(2**61)
QUARTER = np.int64(2**62)
FINE = np.int64(2**11 - 1)
COARSE = np.int64(2**62 - 2**11)
THREE_UNITS = np.float64(3 * 2.0**-63)
MANTISSA = np.int64(2**52 - 1)
MANTISSA_WIDTH = np.int64(52)
ONE_BITS = np.int64(0x3FF0000000000000)
LOG = constants(
    "0x1.5c4155187bbd4p-2",
    "0x1.55ede2ed2f4edp-3",
    "0x1.efca2b3749e5p-3",
    "0x1.1068adb72e6c8p-2",
    "0x1.3b1dc948c13bdp-2",
    "0x1.745cb4e2d886cp-2",
    "0x1.c71c74159de66p-2",
    "0x1.249249209bc66p-1",
    "0x1.99999999a051p-1",
    "0x1.5555555555536p+0",
)
MINUS_2_LN_2 = np.float64(float.fromhex("-0x1.62e42fefa39efp+0"))
LOW_UNIT = np.float64(2.0**-64)
WORD_BIAS = np.int64(1086)
SIN = constants(
    "0x1.e3f782a93097ap-12",
    "-0x1.e3007be6acc34p-8",
    "0x1.50782fe23a52cp-4",
    "-0x1.32d2cce2e80ecp-1",
    "0x1.466bc6775876fp+1",
    "-0x1.4abbce625be4p+2",
    "0x1.21fb54442d184p-3",
)
COS = constants(
    "-0x1.b053b084e591cp-14",
    "0x1.f9c5097f33d12p-10",
    "-0x1.a6d1e29e45eeep-6",
    "0x1.e1f506761a0d8p-3",
    "-0x1.55d3c7e3c015fp+0",
    "0x1.03c1f081b5a53p+2",
    "-0x1.3bd3cc9be45dep+2",
)
CENTRE_P = constants(
    "0x1p+0",
    "0x1.cd94d074e1558p+1",
    "0x1.762767114a048p+1",
    "0x1.9c2b8d8e49e3fp-1",
    "0x1.64d39a0c96dabp-4",
    "0x1.f725e16813455p-9",
    "0x1.133a927c1f4b3p-14",
    "0x1.8b278237514ecp-22",
    "0x1.cd0737a7cb77cp-32",
)
CENTRE_Q = constants(
    "0x1.091d6ec6aad08p-4",
    "0x1.1fe95156c03fdp+0",
    "0x1.1f4ad0a9fd57bp+1",
    "0x1.4a8c7d2f02bb3p+0",
    "0x1.1d043e20867b6p-2",
    "0x1.962a6ab601f15p-6",
    "0x1.e4792290983a9p-11",
    "0x1.c5d0265001c12p-17",
    "0x1.159ca589de9cp-24",
    "0x1.07bb4c3ed5a16p-34",
)
TAIL_P = constants(
    "0x1p+0",
    "0x1.0a0c2c2995832p+6",
    "0x1.0fe233748fe3p+10",
    "0x1.5f6bdf658f50cp+12",
    "0x1.24fa9b79fb6b2p+13",
    "0x1.b47ce9888c392p+11",
    "-0x1.30d2241af7eeep+13",
    "-0x1.1df59568129f7p+14",
    "-0x1.17f53ebf159e5p+12",
)
TAIL_Q = constants(
    "0x1.fffd957fc7712p-1",
    "0x1.0a1365a9309b6p+6",
    "0x1.1165afe572206p+10",
    "0x1.717775dfae7d9p+12",
    "0x1.9088478c54c8fp+13",
    "0x1.fcccd658abc9ep+13",
    "0x1.3de458c4023e1p+13",
    "0x1.509578db59deep+10",
)
TAIL = np.float64(float.fromhex("0x1.74bd03d285476p-6"))
# The float64 whose bits are those of POINT plus an integer n, |n| <= 2^51, is POINT + n, exactly; so it is
# with PART and an n in [0, 2^52).
POINT = np.float64(1.5 * 2.0**52)
PART = np.float64(2.0**52)
PART_UNIT = np.float64(2.0**-51)
PART_SHIFT = np.uint64(13)
WORD = np.uint64(64)
LOW_HALF = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)
MIDDLE = np.uint64(2**62)
TOP_BIT = np.uint64(63)
PROBABILITY_BIAS = np.int64(1022)


def signed_unit_bits(w: Any) -> Any:
    """The odd integer s of the signed unit s / 2^63."""
    return i64(i64(w) | ODD)


def uniform(w: Any, params: Any) -> Any:
    """``s * bound`` with the signed unit s in [-1, 1]."""
    return f64(signed_unit_bits(w)) * (UNIT * params[0])


def uniform_clamped(w: Any, params: Any) -> Any:
    """``uniform`` inside [low, high], for intervals without their upper end."""
    return clamp(uniform(w, params), params[1], params[2])


def uniform_range(w: Any, params: Any) -> Any:
    """A lattice point rounded once inside [low, high]: ``origin + (width * w / 2^64) / 2^shift`` in units of
    a power of two.

    A point is an integer and a part of 51 bits, or of 52 where it carries. Both are exact as float64, so that
    their sum is the only rounding. (The origin's two parameters are its integer plus the bits of POINT, and
    its part plus those of PART.)
    """
    step, _ = product(params[2], w)
    whole = params[0] + (step >> params[3])
    part = params[1] + ((step << (WORD - params[3])) >> PART_SHIFT)
    high = float_of_bits64(i64(whole)) - POINT
    low = float_of_bits64(i64(part)) - PART
    return clamp((high + low * PART_UNIT) * params[4], params[5], params[6])


def minus_two_log(g: Any, e: Any) -> Any:
    """-2 ln(2^e (1 - g/2)) for g in (0, 1] and an integer e <= 0 as a float.

    Through s = g / (4 - g), the argument of the inverse hyperbolic tangent: a division saves ten terms of the
    direct series.
    """
    s = g / (FOUR - g)
    z = s * s
    return (e * MINUS_2_LN_2 + g) + s * (g + z * horner(z, LOG))


def radius(w: Any) -> Any:
    """sqrt(-2 ln u), u = (w + 1/2) / 2^64, from the integer complement where u > 1/2."""
    v = f64(i64(w)) + HALF
    b = bits64(v)
    upper = b < NONE
    g = select(upper, v * -UNIT, TWO - float_of_bits64((b & MANTISSA) | ONE_BITS))
    e = select(upper, ZERO, f64((b >> MANTISSA_WIDTH) - WORD_BIAS))
    return sqrt(minus_two_log(g, e))


def box_muller(w0: Any, w1: Any, params: Any) -> Any:
    """Two normals from two words: q cos(pi s) + mean, q sin(pi s) + mean, q = radius * std."""
    a = i64(w1) + EIGHTH
    coarse = f64((a & COARSE) - EIGHTH)
    fine = f64((a | ODD) & FINE)
    t = (coarse + fine) * UNIT
    z = t * t
    s = coarse * THREE_UNITS + (fine * THREE_UNITS + horner(z, SIN) * t)
    c = horner(z, COS) * z + ONE
    q = radius(w0) * params[0]
    q = float_of_bits64(bits64(q) ^ (a & SIGN))
    quarter = (a & QUARTER) != NONE
    minus_s = float_of_bits64(bits64(s) ^ SIGN)
    return q * select(quarter, minus_s, c) + params[1], q * select(quarter, c, s) + params[1]


def product(a: Any, b: Any) -> Any:
    """High and low word of the 128-bit product of two uint64."""
    a0, a1 = a & LOW_HALF, a >> HALF_WORD
    b0, b1 = b & LOW_HALF, b >> HALF_WORD
    low = a0 * b0
    middle = a1 * b0 + (low >> HALF_WORD)
    cross = a0 * b1 + (middle & LOW_HALF)
    return a1 * b1 + (middle >> HALF_WORD) + (cross >> HALF_WORD), (cross << HALF_WORD) | (low & LOW_HALF)


def truncated_central(w: Any, params: Any) -> Any:
    """A normal cut within two sigma: q = p - 1/2 = (origin + width * w) in units of 2^-63."""
    high, _ = product(params[1], w)
    q = f64(i64(params[0] + high)) * UNIT
    y = FOURTH - q * q
    z = q * horner(y, CENTRE_P) / horner(y, CENTRE_Q)
    return scaled(z, params[2], params[3], params[4], params[5], params[6], params[7])


def carry(a: Any, b: Any, total: Any) -> Any:
    """The carry out of ``total = a + b`` in uint64; a borrow is the carry of the complements.

    Not ``total < b``: LLVM makes that an addition with overflow flag, which it does not vectorise.
    """
    return ((a & b) | ((a | b) & ~total)) >> TOP_BIT


def truncated(w: Any, params: Any) -> Any:
    """A normal cut anywhere, from the probability of the nearer tail in 128-bit fixed point."""
    high, low = product(params[0], w)
    below_low = params[2] + low
    below_high = params[1] + high + carry(params[2], low, below_low)
    above_low = params[4] - low
    above_high = params[3] - high - carry(~params[4], low, ~above_low)
    lower = below_high < above_high
    nearer = select(lower, below_high, above_high)
    rest = select(lower, below_low, above_low)
    d = (f64(nearer) + f64(rest) * LOW_UNIT) * params[5]
    b = bits64(d)
    g = TWO - float_of_bits64((b & MANTISSA) | ONE_BITS)
    r = sqrt(minus_two_log(g, f64((b >> MANTISSA_WIDTH) - PROBABILITY_BIAS)))
    q = f64(i64(MIDDLE - nearer)) * UNIT
    y = FOURTH - q * q
    tail = d < TAIL
    z = select(tail, horner(r, TAIL_P), q * horner(y, CENTRE_P)) / select(
        tail, horner(r, TAIL_Q), horner(y, CENTRE_Q)
    )
    z = select(lower, -z, z)
    return scaled(z, params[6], params[7], params[8], params[9], params[10], params[11])
