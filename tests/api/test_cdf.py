"""The normal distribution function and the fixed-point constants made of it."""

import decimal
import functools
import math
import random
from fractions import Fraction
from itertools import product

import mpmath
import pytest

from fanfill.cdf import (
    FAR,
    Interval,
    central_constants,
    interval,
    lower_tail,
    moments,
    tail_constants,
    upper_tail,
)

INF = math.inf
CENTRAL = [(-2.0, 2.0), (-2.0, -1.5), (0.0, 2.0), (-0.3, 0.9), (1.0, 1.0000003), (-1e-6, 1e-6)]
SPANNING = [
    (-INF, INF),
    (-INF, 0.0),
    (0.0, INF),
    (-3.0, 3.0),
    (-2.5, 0.1),
    (1.9999999, 2.1),
    (math.nextafter(2, 0), INF),
    (-INF, math.nextafter(-2, 0)),
    (1.99, 5.0),
    (-12.0, 1.0),
    (-40.0, 1e300),
]
ONE_SIDED = [
    (2.0, INF),
    (-INF, -2.0),
    (2.0, 2.00001),
    (3.0, 5.0),
    (-5.0, -3.0),
    (5.29, INF),
    (-INF, -5.29),
    (4.0, 4.001),
    (5.0, 40.0),
]


def random_cuts(count: int, seed: int) -> list[tuple[float, float]]:
    """Cuts of every kind whose mass is accepted: one-sided, far, narrow ones with a mass near 2^-24."""
    rng = random.Random(seed)
    cuts: list[tuple[float, float]] = []
    while len(cuts) < count:
        a = rng.uniform(-5.4, 5.4)
        b = rng.choice([INF, a + rng.expovariate(1.0), a + 2.0 ** -rng.uniform(2, 23)])
        a, b = rng.choice([(a, b), (-b, -a)])
        try:
            interval(a, b)
        except ValueError:
            continue
        cuts.append((a, b))
    return cuts


def as_fraction(x: mpmath.mpf) -> Fraction:
    sign, mantissa, exponent, _ = x._mpf_
    return (-1) ** sign * Fraction(mantissa) * Fraction(2) ** exponent


@functools.lru_cache(maxsize=1)  # the words of an interval come one after the other
def beyond(lower: float, upper: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The probabilities on both sides of an interval."""
    with mpmath.workdps(160):
        ends = (min(-mpmath.mpf(lower), 60), min(mpmath.mpf(upper), 60))  # mpmath fails far out
        below, above = (mpmath.erfc(x / mpmath.sqrt(2)) / 2 for x in ends)
    return below, above


def exact_tails(lower: float, upper: float, word: int, bits: int) -> tuple[Fraction, Fraction]:
    """(Phi, 1 - Phi) of the value that a word stands for, by mpmath."""
    below, above = beyond(lower, upper)
    with mpmath.workdps(160):
        u = (mpmath.mpf(word) + 0.5) / 2**bits
        mass = 1 - below - above
        return as_fraction(below + u * mass), as_fraction(above + (1 - u) * mass)


def words(bits: int) -> list[int]:
    return [0, 1, 2, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 2, 2**bits - 1]


@pytest.mark.parametrize(
    "x", [0.0, 2.0**-46, 1e-300, 0.5, 1.0, 1.9999, 2.0, 3.7, 6.77, 8.6, 10.9, 14.0, 16.0]
)
def test_both_tails_are_exact_to_thirty_digits(x: float) -> None:
    with mpmath.workdps(300):
        small = as_fraction(mpmath.erfc(mpmath.mpf(x) / mpmath.sqrt(2)) / 2)
    for got, want in (
        (lower_tail(-x), small),
        (upper_tail(x), small),
        (lower_tail(x), 1 - small),
        (upper_tail(-x), 1 - small),
    ):
        assert abs(got / want - 1) < Fraction(1, 10**60)
        assert abs(got - want) < Fraction(1, 2**180)


def test_beyond_sixteen_sigma_a_tail_is_zero() -> None:
    for x in (math.nextafter(FAR, INF), 1e300, INF):
        assert lower_tail(-x) == upper_tail(x) == 0
        assert lower_tail(x) == upper_tail(-x) == 1
    assert 0 < lower_tail(-FAR) < Fraction(1, 2**189)


def test_the_callers_decimal_context_has_no_say() -> None:
    want = lower_tail(-1.2345), moments.__wrapped__(-1.0, 2.5)
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP, Emax=9, Emin=-9)) as context:
        for signal in context.traps:
            context.traps[signal] = True
        assert (lower_tail(-1.2345), moments.__wrapped__(-1.0, 2.5)) == want
        assert not any(context.flags.values())
        assert context.prec == 3


def test_an_interval_below_the_least_mass_is_refused() -> None:
    edge = 5.294704084854598  # Phi(-5.2947...) = 2^-24
    assert interval(5.2947, INF).mass > Fraction(1, 2**24)
    assert float(interval(5.2947, INF).mass * 2**24) == pytest.approx(1.0, rel=1e-4)
    for cuts in ((edge + 1e-4, INF), (-INF, -edge - 1e-4), (0.0, 1.49e-7), (20.0, 30.0)):
        with pytest.raises(ValueError, match=r"expected cuts that hold at least 2\^-24 .* got \["):
            interval(*cuts)
    assert interval(0.0, 1.5e-7).mass > Fraction(1, 2**24)


@pytest.mark.parametrize("cuts", [*CENTRAL, *SPANNING, *ONE_SIDED])
def test_moments_are_those_of_the_cut_normal(cuts: tuple[float, float]) -> None:
    a, b = (max(min(x, 30.0), -30.0) for x in cuts)
    with mpmath.workdps(40):
        # Substituting the middle keeps narrow intervals exact.
        density = functools.cache(mpmath.npdf)  # the three integrals have their points in common
        points = mpmath.linspace(mpmath.mpf(a), mpmath.mpf(b), 9)
        mass = mpmath.quad(density, points)
        mean = mpmath.quad(lambda x: x * density(x), points) / mass
        variance = mpmath.quad(lambda x: (x - mean) ** 2 * density(x), points) / mass
        got = moments(*cuts)
        assert got[0] == pytest.approx(float(mean), rel=1e-13, abs=1e-13)
        assert got[1] == pytest.approx(float(mpmath.sqrt(variance)), rel=1e-13)


def test_the_std_of_the_normal_cut_at_two_is_the_pinned_constant() -> None:
    assert moments(-2.0, 2.0) == (0.0, float.fromhex("0x1.c25e4b6dba981p-1"))


def test_central_lines_hit_the_probability_and_never_wrap() -> None:
    drawn = [c for c in random_cuts(300, 1) if max(map(abs, c)) <= 2]
    for cuts, (bits, width_bits) in product(CENTRAL + drawn, ((32, 31), (64, 63))):
        origin, width = central_constants(interval(*cuts), width_bits)
        assert 0 <= origin < 2**64
        assert 0 < width < 2**64
        signed = origin - 2**64 * (origin >> 63)
        for w in words(bits):
            line = signed + (width * w if bits == 32 else width * w >> 64)
            assert -(2**62) < line < 2**62
            want = exact_tails(*cuts, w, bits)[0] - Fraction(1, 2)
            error = abs(Fraction(line, 2**63) - want)
            # half a unit of the width a word and of the origin; for 64 bits also the half cut off by the
            # upper half
            assert error <= (Fraction(1, 2**31) if bits == 32 else Fraction(4, 2**63)), cuts


def assert_tail_lines(cuts: tuple[float, float], bits: int, shift: int = 0) -> Fraction:
    """The lines stay in range and the smaller one is the nearer tail's probability; the worst error."""
    width, low, high, s = tail_constants(*cuts, bits)
    low += shift
    size = 2 ** (2 * bits)
    assert 0 < width < 2**64
    worst = Fraction(0)
    for w in words(bits):
        d_low, d_high = low + width * w, high - width * w
        assert 0 < d_low < size
        assert 0 < d_high < size
        below, above = exact_tails(*cuts, w, bits)
        nearest = min(below, above)
        worst = max(worst, abs(Fraction(min(d_low, d_high)) / Fraction(2) ** s / nearest - 1))
        if abs(below - above) > Fraction(1, 2**20):
            assert (d_low < d_high) == (below < above)
    assert worst < (Fraction(1, 2**24) if bits == 32 else Fraction(1, 2**50)), float(worst)
    return worst


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("cuts", SPANNING + ONE_SIDED)
def test_tail_lines_keep_the_relative_precision_of_the_nearer_tail(
    cuts: tuple[float, float], bits: int
) -> None:
    assert_tail_lines(cuts, bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_tail_lines_keep_their_precision_for_random_cuts(bits: int) -> None:
    for cuts in random_cuts(400, 2):
        if max(map(abs, cuts)) > 2:
            assert_tail_lines(cuts, bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_tail_line_that_is_off_is_noticed(bits: int) -> None:
    with pytest.raises(AssertionError):
        assert_tail_lines((-INF, 1.0), bits, shift=2 ** (bits - 24))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("cuts", ONE_SIDED)
def test_a_one_sided_interval_uses_the_finest_unit(cuts: tuple[float, float], bits: int) -> None:
    s = tail_constants(*cuts, bits)[3]
    near = upper_tail(cuts[0]) if cuts[0] > 0 else lower_tail(cuts[1])
    assert 2 ** (2 * bits - 3) <= near * 2**s < 2 ** (2 * bits - 2)


def test_the_whole_line_has_the_exact_word_as_its_probability() -> None:
    assert interval(-INF, INF) == Interval(Fraction(0), Fraction(1), Fraction(0))
    assert tail_constants(-INF, INF, 32) == (2**31, 2**30, 2**31 * (2**32 - 1) + 2**30, 63)
    assert tail_constants(-INF, INF, 64) == (2**63, 2**62, 2**63 * (2**64 - 1) + 2**62, 127)
