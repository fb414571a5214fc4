"""From 32-bit words to float32 values: signed unit, log, sine and cosine, Box-Muller, inverse normal CDF.

Written once, on lanes (see ``lanes.py``). Every operation is one IEEE operation in the order written, without
fused multiply-add; the coefficients are minimax fits by ``benchmarks/fit_polynomials.py``. ``docs/stream.md``
is the contract. No step can produce a subnormal: the parameters that could make one are refused before a
kernel runs.
"""

from typing import Any

import numpy as np

from fanfill_kernels.lanes import (
    bits32,
    bits64,
    f32,
    float_of_bits32,
    float_of_bits64,
    i32,
    i64,
    magnitude,
    select,
    sqrt,
    u64,
)


def constants(*hexadecimal: str) -> tuple[np.float32, ...]:
    """float32 constants, written as C hex floats, highest power first where they are a polynomial's."""
    return tuple(np.float32(float.fromhex(c)) for c in hexadecimal)


UNIT = np.float32(2.0**-31)
HALF = np.float32(0.5)
ONE = np.float32(1.0)
TWO = np.float32(2.0)
ZERO = np.float32(0.0)
NONE = np.int32(0)
ODD = np.int32(1)
SIGN = np.int32(-(2**31))
EIGHTH = np.int32(2**29)
QUARTER = np.int32(2**30)
FINE = np.int32(2**8 - 1)
COARSE = np.int32(2**30 - 2**8)
THREE_UNITS = np.float32(3 * 2.0**-31)
FINE_UNITS = np.float32(3 * (1 + 2.0**-14) * 2.0**-31)
MANTISSA = np.int32(2**23 - 1)
MANTISSA_WIDTH = np.int32(23)
ONE_BITS = np.int32(0x3F800000)

# The float64 whose bits are those of POINT plus an integer n, |n| <= 2^51, is POINT + n, exactly.
POINT = np.float64(1.5 * 2.0**52)
# The bits of a float64 that a float32 has no place for.
REST = np.int64(2**29 - 1)
KEPT = np.int64(-(2**29))

# (-2 log(1 - g/2) - g) / g^2 on (0, 1]: the log's leading term is g itself, exactly. Relative error of the
# log 2^-25.3.
LOG = constants(
    "0x1.6a0cf8p-8",
    "-0x1.a39486p-7",
    "0x1.354c26p-6",
    "-0x1.721b7ap-8",
    "0x1.0df55p-6",
    "0x1.f3143ep-6",
    "0x1.55a382p-4",
    "0x1.fffecp-3",
)
MINUS_2_LN_2 = np.float32(float.fromhex("-0x1.62e43p+0"))
WORD_BIAS = np.int32(158)

# sin(pi t) / t - 3 and (cos(pi t) - 1) / t^2 in t^2 on |t| <= 1/4.
SIN = constants(
    "-0x1.2dc3bap-1",
    "0x1.465fep+1",
    "-0x1.4abbbep+2",
    "0x1.21fb54p-3",
)
COS = constants(
    "0x1.d4f6p-3",
    "-0x1.55b2b4p+0",
    "0x1.03c1bp+2",
    "-0x1.3bd3ccp+2",
)

# The inverse normal CDF by one division: 3 q + q P(y) / Q(y) in q = p - 1/2 and y = p (1 - p) for |z| <= 2,
# P(r) / Q(r) in r = sqrt(-2 ln d) beyond, d the probability of the nearer tail.
CENTRE_P = constants(
    "-0x1.5d706ap+16",
    "-0x1.285966p+15",
    "0x1.4415e4p+11",
    "0x1.70b0a8p+8",
    "0x1.9d1a78p+1",
)
CENTRE_Q = constants(
    "0x1.4699b2p+15",
    "0x1.60a47p+15",
    "0x1.cc376ep+12",
    "0x1.cfe3cp+7",
    "0x1p+0",
)
TAIL_P = constants(
    "0x1p+0",
    "0x1.46e7dap+2",
    "-0x1.355f18p-1",
    "-0x1.feb3p+2",
)
TAIL_Q = constants(
    "0x1.ff8d9cp-1",
    "0x1.4a9428p+2",
    "0x1.9223ap+1",
)
TAIL = np.float32(float.fromhex("0x1.74bd04p-6"))
HALF_LINE = np.int32(2**30)
ODD_PAIR = np.uint64(2**32 + 1)
UNFINE = np.int32(-(2**8))
HALF_WORD = np.uint64(32)
HIGH_WORD = np.uint64(0xFFFFFFFF00000000)
LOW_WORD = np.uint64(0xFFFFFFFF)
MIDDLE = np.uint64(2**62)
HALF_SHIFT = np.int64(32)
PROBABILITY_BIAS = np.int32(126)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """``x`` moved to the nearer end where it lies outside [low, high], ``low <= high``, by selects, so that
    every machine agrees; each is one instruction where a processor's minimum and maximum choose so.
    """
    below = select(x > high, high, x)
    return select(below < low, low, below)


def signed_unit_bits(w: Any) -> Any:
    """The odd integer s of the signed unit s / 2^31: symmetric about 0 and never 0."""
    return i32(i32(w) | ODD)


def uniform(w: Any, params: Any) -> Any:
    """``s * bound`` with the signed unit s in [-1, 1]: one multiply, since scaling by 2^-31 is exact."""
    return f32(signed_unit_bits(w)) * (UNIT * params[0])


def uniform_clamped(w: Any, params: Any) -> Any:
    """``uniform`` inside [low, high]: for types whose rounding could step over the bound, and for intervals
    without their upper end.
    """
    return clamp(uniform(w, params), params[1], params[2])


def lattice_point(w: Any, params: Any) -> Any:
    """The integer ``origin + (width * w >> shift)``, at most 2^45 in magnitude, as a float64, exactly. (The
    parameter is the origin plus the bits of POINT.)

    It is what an asymmetric uniform rounds, in units of a power of two. ``s * half + mid`` would round twice,
    and the ties that the first rounding leaves would go to even: the bit 2^-24 of ``uniform(0, 1)`` would be
    set in two values of five.
    """
    n = params[0] + ((params[1] * u64(w)) >> params[2])
    return float_of_bits64(i64(n)) - POINT


def uniform_range(w: Any, params: Any) -> Any:
    """A lattice point rounded once, to float32, inside [low, high]; the unit is a power of two."""
    return clamp(f32(lattice_point(w, params)) * params[3], params[4], params[5])


def uniform_range_to_odd(w: Any, params: Any) -> Any:
    """The same for types that will round it: cut to float32, and its last bit set if that cut anything.

    The narrow type's rounding then sees on which side of a tie the point lies, so that it is rounded once in
    all (Boldo and Melquiond 2008: rounding to odd).
    """
    b = bits64(lattice_point(w, params))
    odd = (b | ((b & REST) + REST)) & KEPT
    return clamp(f32(float_of_bits64(odd)) * params[3], params[4], params[5])


def horner(x: Any, coefficients: Any) -> Any:
    """The polynomial with the given coefficients, highest power first, by Horner's rule."""
    p = coefficients[0]
    for c in coefficients[1:]:
        p = p * x + c
    return p


def minus_two_log(g: Any, e: Any) -> Any:
    """-2 ln(2^e (1 - g/2)) for g in (0, 1] and an integer e <= 0 as a float: the small part first, then
    the exponent's.
    """
    return e * MINUS_2_LN_2 + (g + horner(g, LOG) * g * g)


def radius(w: Any) -> Any:
    """sqrt(-2 ln u), u = (w + 1/2) / 2^32, with full relative precision at both ends.

    One signed conversion serves both: for a word below 2^31 it gives 2^32 u, otherwise -2^32 (1 - u), the
    integer complement. There u is near 1 and g = 2 (1 - u) is that complement, scaled; elsewhere u = 2^e m
    with m in [1/2, 1), g = 2 - 2m.
    """
    v = f32(i32(w)) + HALF
    b = bits32(v)
    upper = b < NONE
    g = select(upper, v * -UNIT, TWO - float_of_bits32(i32(i32(b & MANTISSA) | ONE_BITS)))
    e = select(upper, ZERO, f32(i32(i32(b >> MANTISSA_WIDTH) - WORD_BIAS)))
    return sqrt(minus_two_log(g, e))


def box_muller(w0: Any, w1: Any, params: Any) -> Any:
    """Two normals from two words: q cos(pi s) + mean, q sin(pi s) + mean, q = radius * std.

    The angle s in (-1, 1) is reduced exactly, in integers, to the nearest quarter: s = k/2 + t, |t| <= 1/4.
    A half turn (k >= 2) flips q, a quarter turn swaps (cos, sin) for (-sin, cos).

    t has up to 30 bits. Rounding it first would cost the sine one of the four ulp that a normal may be wrong
    by, so it is kept as coarse + fine, both exact; so is 3 * coarse, and what is left of pi t is small.
    """
    a = i32(i32(w1) + EIGHTH)
    coarse = f32(i32(i32(a & COARSE) - EIGHTH))
    fine = f32(i32(i32(a | ODD) & FINE))
    t = (coarse + fine) * UNIT
    z = t * t
    s = coarse * THREE_UNITS + (fine * THREE_UNITS + horner(z, SIN) * t)
    c = horner(z, COS) * z + ONE
    q = radius(w0) * params[0]
    q = float_of_bits32(i32(bits32(q) ^ i32(a & SIGN)))
    quarter = i32(a & QUARTER) != NONE
    minus_s = float_of_bits32(i32(bits32(s) ^ SIGN))
    return q * select(quarter, minus_s, c) + params[1], q * select(quarter, c, s) + params[1]


def scaled(z: Any, lower: Any, upper: Any, std: Any, mean: Any, low: Any, high: Any) -> Any:
    """A truncated normal's value: z inside its cuts, scaled, inside the cuts' values."""
    return clamp(clamp(z, lower, upper) * std + mean, low, high)


def central_arguments(pair: Any, params: Any) -> Any:
    """Two words, as one uint64, to two signed fixed-point arguments p - 1/2 in units of 2^-31, in the same
    places. They are made odd: z is never exactly 0.
    """
    origin = params[0]
    width = params[1]
    first = (origin + width * (pair & LOW_WORD)) >> HALF_WORD
    second = (origin + width * (pair >> HALF_WORD)) & HIGH_WORD
    return first | second | ODD_PAIR


def central(n: Any, ratio: Any) -> Any:
    """z = 3 q + q ratio, q = n / 2^31, with the ratio P / Q of ``y = p (1 - p)``.

    q has up to 30 bits, and rounding it first would cost four steps of z near two sigma. So it is kept as
    coarse + fine, both exact; so are 3 coarse and 3 fine, and what the ratio, about 1 at most, adds is small.

    The last bit of z is fair. What the ratio adds ends only 1 to 3 bits below z's last place, so that a sum
    with 3 coarse is often a tie, which goes to even. But fine comes last, and spreads over three last places
    or more, evenly. Its factor is a little over 3, since 3 fine would be half a last place, a tie, for
    2^-7 <= |z| < 2^-6; the product is exact all the same. Below that it is a whole number of last places, and
    there the odd last bit of the other addend prevents ties.
    """
    coarse = f32(i32(n & UNFINE))
    fine = f32(i32(n & FINE))
    rest = float_of_bits32(i32(bits32((coarse + fine) * UNIT * ratio) | ODD))
    return fine * FINE_UNITS + (coarse * THREE_UNITS + rest)


def truncated_central(w: Any, params: Any) -> Any:
    """A normal cut within two sigma, from a word that ``central_arguments`` has made p - 1/2."""
    n = i32(w)
    d = f32(i32(HALF_LINE - magnitude(n))) * UNIT
    y = d - d * d
    z = central(n, horner(y, CENTRE_P) / horner(y, CENTRE_Q))
    return scaled(z, params[2], params[3], params[4], params[5], params[6], params[7])


def truncated(w: Any, params: Any) -> Any:
    """A normal cut anywhere, from the probability of the nearer tail in 64-bit fixed point.

    Each tail is anchored at its own cut, D = tail(cut) + width * w as a sum of positive integers, so that no
    precision is lost by a subtraction from 1 whatever the cuts.
    """
    step = params[0] * u64(w)
    below = params[1] + step
    above = params[2] - step
    lower = below < above
    nearer = select(lower, below, above)
    d = f32(nearer) * params[3]
    b = bits32(d)
    g = TWO - float_of_bits32(i32(i32(b & MANTISSA) | ONE_BITS))
    r = sqrt(minus_two_log(g, f32(i32(i32(b >> MANTISSA_WIDTH) - PROBABILITY_BIAS))))
    y = d - d * d
    tail = d < TAIL
    ratio = select(tail, horner(r, TAIL_P), horner(y, CENTRE_P)) / select(
        tail, horner(r, TAIL_Q), horner(y, CENTRE_Q)
    )
    # Half a word is enough here, and no smaller: a z of 2^-62 times the least std would be subnormal.
    z = select(tail, ratio, central(i32(i32(i64(MIDDLE - nearer) >> HALF_SHIFT) | ODD), ratio))
    z = select(lower, -z, z)
    return scaled(z, params[4], params[5], params[6], params[7], params[8], params[9])


def word(w: Any, params: Any) -> Any:
    """The word itself."""
    return w
