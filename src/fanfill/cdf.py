"""The normal distribution function, the same everywhere.

This module meets two requirements:

* `Phi` determines the fixed-point constants of the truncated normal, which are part of the number contract.
  So neither libm nor the caller's decimal context may influence it: every operation is a `decimal` one,
  correctly rounded to a stated number of digits in this module's own context.
* Tails keep their relative precision: 70 digits of the smallest one that is not taken as zero.
"""

from __future__ import annotations

import math
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    localcontext,
)
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "FAR",
    "LEAST_MASS",
    "Interval",
    "central_constants",
    "interval",
    "lower_tail",
    "moments",
    "tail_constants",
    "upper_tail",
]

# Phi(-16) is below 2^-189. The finest unit of the fixed-point constants is 2^-150 (a mass of 2^-24 in 126
# bits), so a tail beyond 16 sigma would round to zero anyway.
FAR = 16.0
LEAST_MASS = Fraction(1, 2**24)

# The tail at 16 sigma is a difference of numbers near 1/2 and has 58 leading zeros: 70 digits of it remain.
_DIGITS = 130
_CONTEXT = Context(
    prec=_DIGITS,
    rounding=ROUND_HALF_EVEN,
    Emin=MIN_EMIN,
    Emax=MAX_EMAX,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[InvalidOperation, DivisionByZero],
)
_TAU = Decimal(
    "6.28318530717958647692528676655900576839433879875021164194988918461563281257241799725606965"
    "06842341359642961730265646132941876892191011644634507188162569622349005682054038770422111192892458979"
)


class Interval(NamedTuple):
    """What N(0, 1) holds below, within and above [a, b], each exact to 2^-189 and to 70 digits."""

    below: Fraction
    mass: Fraction
    above: Fraction


def lower_tail(x: float) -> Fraction:
    """Phi(x), the probability of a standard normal value below `x`; `x` may be infinite.

    The series ``Phi(x) - 1/2 = phi(x) (x + x^3/3 + x^5/(3 5) + x^7/(3 5 7) + ...)`` (Abramowitz and Stegun
    26.2.11) has terms of one sign, so nothing cancels except in the final subtraction from 1/2, for which
    there are digits to spare. Zero below -16, one above 16.
    """
    if x > 0:
        return 1 - lower_tail(-x)
    if x < -FAR:
        return Fraction(0)
    with localcontext(_CONTEXT):
        t = -Decimal(x)
        square = t * t
        total, term, odd = Decimal(0), t, 1
        while total != (total := total + term):
            odd += 2
            term = term * square / odd
        return Fraction(Decimal("0.5") - total * _density(square))


def upper_tail(x: float) -> Fraction:
    """1 - Phi(x), the probability of a standard normal value above `x`, to full relative precision."""
    return lower_tail(-x)


@lru_cache(maxsize=1024)
def interval(lower: float, upper: float) -> Interval:
    """The probabilities below, within and above [lower, upper].

    Raises
    ------
    ValueError
        If the mass of the interval is below 2^-24: the words of a float32 could not resolve it.
    """
    below, above = lower_tail(lower), upper_tail(upper)
    # The difference of the tails on the interval's own side keeps the relative precision of a far interval.
    mass = upper_tail(lower) - above if lower > 0 else lower_tail(upper) - below
    if mass < LEAST_MASS:
        raise ValueError(
            f"expected cuts that hold at least 2^-24 of the normal distribution; got [{lower!r}, {upper!r}], "
            f"which holds {float(mass):.3g}; move the cuts (units of std) nearer to 0 or further apart"
        )
    return Interval(below, mass, above)


@lru_cache(maxsize=256)
def moments(lower: float, upper: float) -> tuple[float, float]:
    """Mean and standard deviation of N(0, 1) cut to [lower, upper].

    With ``m = (phi(a) - phi(b)) / mass`` the mean is m and the variance is
    ``1 + (a phi(a) - b phi(b)) / mass - m^2`` (Johnson, Kotz, Balakrishnan 1994, section 13.10.1). For narrow
    intervals 15 of the 130 digits cancel.

    Raises
    ------
    ValueError
        As for `interval`.
    """
    exact = interval(lower, upper).mass
    with localcontext(_CONTEXT):
        mass = Decimal(exact.numerator) / Decimal(exact.denominator)
        # A cut beyond 16 sigma weighs nothing, finite or not: its term is left out, as its tail is.
        ends = [(Decimal(x), sign) for x, sign in ((lower, 1), (upper, -1)) if abs(x) <= FAR]
        mean = sum((sign * _density(x * x) for x, sign in ends), Decimal(0)) / mass
        second = 1 + sum((sign * x * _density(x * x) for x, sign in ends), Decimal(0)) / mass
        return float(mean), math.sqrt(float(second - mean * mean))


def central_constants(cuts: Interval, width_bits: int) -> tuple[int, int]:
    """(origin, width) of the integer line ``Q = origin + width * w`` for Phi(z) - 1/2 in units of 2^-63.

    `width_bits` is 31 if the word has 32 bits; the origin then includes the half word of
    ``u = (w + 1/2) / 2^32``. It is 63 if the word has 64 bits and the product is cut to its upper half: the
    half word is then less than half a unit. The origin is a u64, two's complement.
    """
    width = round(cuts.mass * 2**width_bits)
    origin = round((cuts.below - Fraction(1, 2)) * 2**63) + (width // 2 if width_bits == 31 else 0)
    return origin % 2**64, width


def tail_constants(lower: float, upper: float, word_bits: int) -> tuple[int, int, int, int]:
    """(width, low, high, s) of the two integer lines that give a value's distances from both tails::

        D_low = low + width * w,    D_high = high - width * w,    0 <= w < 2^word_bits

    in units of 2^-s: Phi(z) and 1 - Phi(z) at ``u = (w + 1/2) / 2^word_bits``. Both stay inside [0, 2^n) for
    every w, with n = 2 * word_bits: 64-bit lines for a float32's word, 128-bit lines for a float64's.

    If [lower, upper] lies entirely beyond two sigma on one side, only the tail on that side matters, and the
    unit is the finest that keeps it below a quarter of the range. The other line is then set so that it is
    always the larger one. Otherwise the two lines add up to half the range (except for the rounding of the
    width), and the smaller one decides.

    A width is rounded to nearest, so the lines are off by up to half a unit a word. That is at most 2^-24.9
    of the smaller line for float32 (a one-sided cut just inside two sigma, at the last word), 2^-56.9 for
    float64.
    """
    cuts = interval(lower, upper)
    half = 2 * word_bits - 1
    words = 1 << word_bits
    one_sided = lower >= 2 or upper <= -2
    s = half
    if one_sided:
        nearest = cuts.mass + (cuts.above if lower >= 2 else cuts.below)
        # The largest s with nearest * 2^s < 2^(half - 1), found from the exponents of an exact fraction.
        s = half - 1 + nearest.denominator.bit_length() - nearest.numerator.bit_length() + 1
        while nearest * 2**s >= 2 ** (half - 1):
            s -= 1
    width = round(cuts.mass * Fraction(2) ** (s - word_bits))
    low = round(cuts.below * 2**s) + width // 2
    high = round(cuts.above * 2**s) + width * (words - 1) + width // 2
    if one_sided and lower >= 2:
        low = 1 << half
    elif one_sided:
        high = (1 << half) + width * words
    return width, low, high, s


def _density(square: Decimal) -> Decimal:
    """phi(x), given x^2, in the current context."""
    return (-square / 2).exp() / _TAU.sqrt()
