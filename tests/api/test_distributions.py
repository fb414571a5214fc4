"""The values follow their distributions. Every statistic has a control: a flaw that the same code rejects."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from cases import assert_covers
from scipy import special, stats

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill_kernels import arithmetic, philox
from fanfill_kernels.compile import cpu
from fanfill_kernels.compile.rebinding import rebind

COUNT = 2**21
# A z-score of 4.4 and a P-value of 1e-5 are one level. Seeds are fixed: what passes once passes for ever.
SIGMAS = 4.4
LEVEL = 1e-5

DTYPES = {name: np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name)) for name in STORAGES}


class Law(NamedTuple):
    """An initializer with its exact distribution: in SciPy's terms, and as a CDF that is fast."""

    initializer: init.Initializer
    exact: Any
    cdf: Callable[[np.ndarray], np.ndarray]


def cut(lower: float, upper: float) -> Law:
    below, above = special.ndtr((lower, upper))
    return Law(
        init.truncated_normal(0.0, 1.0, lower, upper),
        stats.truncnorm(lower, upper),
        lambda x: np.clip((special.ndtr(x) - below) / (above - below), 0, 1),
    )


def flat(low: float, high: float) -> Law:
    return Law(
        init.uniform(low, high),
        stats.uniform(low, high - low),
        lambda x: np.clip((x - low) / (high - low), 0, 1),
    )


LAWS = {
    "uniform": flat(-1.0, 1.0),
    "uniform_range": flat(-0.25, 1.5),
    "normal": Law(init.normal(), stats.norm(), special.ndtr),
    "truncated": cut(-2.0, 2.0),
    "one-sided": cut(0.5, math.inf),
}
SEEDS = {name: number for number, name in enumerate(LAWS)}

each_law = pytest.mark.parametrize("law", LAWS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])


@functools.cache
def sample(law: str, dtype: str) -> np.ndarray:
    """COUNT values as float64; read-only, since tests share them."""
    made = recipe(LAWS[law].initializer, (1,), dtype)
    out = np.empty(COUNT, STORAGES[dtype].lanes)
    cpu.kernels(made.form, dtype).run(out, 0, (20260, SEEDS[law], 7, 0), made.params)
    values = out.view(DTYPES[dtype]).astype(np.float64)
    values.flags.writeable = False
    return values


@functools.cache
def moment(law: str, power: int) -> float:
    """E Z^power of the standardised variable, by quadrature."""
    exact = LAWS[law].exact
    mean, std = exact.stats("mv")[0], math.sqrt(exact.stats("mv")[1])
    return float(exact.expect(lambda x: ((x - mean) / std) ** power))


def standardised(law: str, values: np.ndarray) -> np.ndarray:
    mean, variance = (float(m) for m in LAWS[law].exact.stats("mv"))
    return np.asarray((values - mean) / math.sqrt(variance))


def assert_moment(law: str, values: np.ndarray, *powers: int) -> None:
    """The mean of Z^power within its exact standard error: mean, variance, skewness, kurtosis for 1 to 4."""
    z = standardised(law, values)
    for power in powers:
        raised = functools.reduce(np.multiply, [z] * power)  # z**3 takes ten times as long
        error = math.sqrt((moment(law, 2 * power) - moment(law, power) ** 2) / values.size)
        score = (float(np.mean(raised)) - moment(law, power)) / error
        assert abs(score) < SIGMAS, f"moment {power}: {score:.1f} standard errors"


def upper_edges(values: np.ndarray, dtype: str) -> np.ndarray:
    """Up to where real numbers round to each of these values of the dtype, or below."""
    if dtype != "bfloat16":
        return values
    narrow = values.astype(ml_dtypes.bfloat16)
    after = np.nextafter(narrow, ml_dtypes.bfloat16(np.inf)).astype(np.float64)
    return np.asarray((values + after) / 2)


class Tally(NamedTuple):
    """The values that occur, in order, and how many values are at most each."""

    found: np.ndarray
    up_to: np.ndarray

    @property
    def size(self) -> int:
        return int(self.up_to[-1])


def tally(values: np.ndarray) -> Tally:
    found, counts = np.unique(values, return_counts=True)
    return Tally(found, np.cumsum(counts))


def assert_kolmogorov_smirnov(law: str, values: Tally, dtype: str) -> None:
    """The largest distance from the exact CDF, times sqrt(n), is one that chance explains.

    A rounded value stands for its cell, so the step function is compared where cells end; in float32 and
    float64 that is everywhere.
    """
    steps = values.up_to / values.size
    exact = LAWS[law].cdf(upper_edges(values.found, dtype))
    distance = np.abs(steps - exact).max()
    if dtype != "bfloat16":
        distance = max(distance, np.abs(exact - np.concatenate(([0.0], steps[:-1]))).max())
    p = special.kolmogorov(math.sqrt(values.size) * distance)
    assert p > LEVEL, f"distance {distance:.2g}, P {p:.1g}"


def assert_bins(law: str, values: Tally, dtype: str, bins: int = 256) -> None:
    """Chi-square over bins of equal probability (in bfloat16 nearly equal: whole cells), both tails of it."""
    inner = LAWS[law].exact.ppf(np.arange(1, bins) / bins)
    if dtype == "bfloat16":
        inner = upper_edges(inner.astype(ml_dtypes.bfloat16).astype(np.float64), dtype)
    inner = np.unique(inner)
    expected = np.diff(LAWS[law].cdf(inner), prepend=0.0, append=1.0) * values.size
    assert expected.min() > 100
    below = np.concatenate(([0], values.up_to))[np.searchsorted(values.found, inner)]
    counts = np.diff(below, prepend=0, append=values.size)
    p = stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), expected.size - 1)
    assert LEVEL < p < 1 - LEVEL, f"P {p:.1g}"


def assert_uncorrelated(law: str, values: np.ndarray) -> None:
    """Values up to four apart, and their squares, which show a radius that two angles share."""
    z = standardised(law, values)
    squares = (z * z - 1) / math.sqrt(moment(law, 4) - 1)
    for name, x in (("values", z), ("squares", squares)):
        for lag in (1, 2, 3, 4):
            score = float(np.dot(x[lag:], x[:-lag])) / math.sqrt(x.size - lag)
            assert abs(score) < SIGMAS, f"{name} {lag} apart: {score:.1f} standard errors"


def assert_resolution(values: np.ndarray) -> None:
    """As many equal pairs among float32 uniforms on [-1, 1] as their 32-bit lattice, rounded, has to give.

    A value in +-[2^-k-1, 2^-k) has probability 2^-25-k, so two are equal with sum_k 2^-26-2k = 2^-26 4/3.
    """
    counts = np.unique(values, return_counts=True)[1]
    pairs = float((counts * (counts - 1) // 2).sum())
    expected = values.size * (values.size - 1) / 2 * 2.0**-26 * 4 / 3
    assert abs(pairs - expected) < SIGMAS * math.sqrt(expected), (
        f"{pairs:.0f} equal pairs, not {expected:.0f}"
    )


def test_every_distribution_is_drawn_here() -> None:
    # Half-open uniforms are those of the closed interval but for its end, which has no weight.
    assert_covers([law.initializer for law in LAWS.values()], "half_open_uniform", "constant")


@each_dtype
@each_law
def test_the_first_four_moments_are_exact(law: str, dtype: str) -> None:
    assert_moment(law, sample(law, dtype), 1, 2, 3, 4)


@each_dtype
@each_law
def test_the_empirical_distribution_is_the_exact_one(law: str, dtype: str) -> None:
    values = tally(sample(law, dtype))
    assert_kolmogorov_smirnov(law, values, dtype)
    assert_bins(law, values, dtype)


@each_dtype
@each_law
def test_neighbours_are_uncorrelated(law: str, dtype: str) -> None:
    assert_uncorrelated(law, sample(law, dtype))


def test_float32_uniforms_have_the_resolution_of_their_words() -> None:
    assert_resolution(sample("uniform", "float32"))


@pytest.mark.parametrize(
    ("power", "flaw"),
    [
        (1, lambda z: z + 0.005),
        (2, lambda z: z * 1.005),
        (3, lambda z: z + 0.01 * (z * z - 1)),
        (4, lambda z: np.where(np.arange(z.size) % 2, 1.08 * z, math.sqrt(2 - 1.08**2) * z)),
    ],
    ids=["a shifted mean", "a std wrong by 0.5 %", "a little skew", "a mixture of two stds"],
)
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_the_moments_see(law: str, power: int, flaw: Callable[[np.ndarray], np.ndarray]) -> None:
    values = sample(law, "float32")
    mean, variance = (float(m) for m in LAWS[law].exact.stats("mv"))
    wrong = flaw(standardised(law, values)) * math.sqrt(variance) + mean
    with pytest.raises(AssertionError, match=f"moment {power}: "):
        assert_moment(law, wrong, power)


FLAWS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "a std wrong by 1 %": ("normal", lambda x: x * 1.01),
    "a bound wrong by 0.5 %": ("uniform", lambda x: x * 0.995),
    "half of a cut ignored": ("truncated", lambda x: np.where((x > 1.9) & (x < 1.95), 1.8, x)),
    "a rejected tail piled up on its cut": ("one-sided", lambda x: np.where(x < 0.52, 0.5, x)),
}


@each_dtype
@pytest.mark.parametrize("flaw", FLAWS)
def test_the_tests_of_the_distribution_see(flaw: str, dtype: str) -> None:
    law, damage = FLAWS[flaw]
    wrong = tally(damage(sample(law, dtype)).astype(DTYPES[dtype]).astype(np.float64))
    with pytest.raises(AssertionError, match="distance"):
        assert_kolmogorov_smirnov(law, wrong, dtype)
    with pytest.raises(AssertionError, match="P "):
        assert_bins(law, wrong, dtype)


@pytest.mark.parametrize("lag", [1, 2, 4])
@each_law
def test_the_correlations_see_a_word_that_is_used_twice(law: str, lag: int) -> None:
    values = sample(law, "float32").copy()
    values[lag :: 8 * lag] = values[: -lag : 8 * lag]
    with pytest.raises(AssertionError, match=f"values {lag} apart"):
        assert_uncorrelated(law, values)


def test_the_correlations_see_one_radius_for_two_pairs() -> None:
    words = np.random.default_rng(5).integers(0, 2**32, (3, COUNT // 4), np.uint32)
    params = (np.float32(1), np.float32(0))
    with np.errstate(all="ignore"):
        pairs = [
            *arithmetic.box_muller(words[0], words[1], params),
            *arithmetic.box_muller(words[0], words[2], params),
        ]
    with pytest.raises(AssertionError, match="squares"):
        assert_uncorrelated("normal", np.stack(pairs, 1).reshape(-1).astype(np.float64))


def test_the_resolution_sees_a_uniform_of_23_bits() -> None:
    values = sample("uniform", "float32")
    with pytest.raises(AssertionError, match="equal pairs"):
        assert_resolution(np.floor(values * 2**22) / 2**22)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_tests_see_a_philox_of_few_rounds(rounds: int) -> None:
    weak = rebind(philox.philox_pairs, {philox.last_round: rebind(philox.last_round, {}, ROUNDS=rounds)})
    counter, zero = np.arange(COUNT // 4, dtype=np.uint64), np.uint64(0)
    pairs = weak(counter, zero, zero, zero, np.uint64(20260), zero)
    with np.errstate(all="ignore"):
        words = np.stack([np.broadcast_to(p, counter.shape) for p in pairs], 1).reshape(-1).view(np.uint32)
        values = arithmetic.uniform(words, (np.float32(1),)).astype(np.float64)
    with pytest.raises(AssertionError):
        assert_uncorrelated("uniform", values)
    with pytest.raises(AssertionError):
        assert_bins("uniform", tally(values), "float32")
