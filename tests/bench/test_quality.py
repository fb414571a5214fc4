"""The statistics of benchmarks/quality.py: their counts, their expectations, and what they must reject."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest
import quality
import quality_passes as passes
import quality_sources
from quality_checks import Check, checks, chi_square, counted
from quality_controls import CONTROLS, Control, altered
from quality_laws import Law
from quality_sources import FanfillSource, fanfill_stream
from quality_tally import BLOCK, tallied
from scipy import stats

from fanfill.distributions import DISTRIBUTIONS
from fanfill.dtypes import round_down, round_up

NORMAL = Law("normal", 1.0, "float32")
SMALL = 2**21  # ci/quality.sh draws more


def named(law: Law) -> str:
    return f"{law.label} {law.dtype}"


def failed(found: list[Check]) -> set[str]:
    """The groups of the statistics that reject."""
    return {check.group for check in found if check.failed}


def assert_follows(law: Law, draws: int) -> None:
    stream = fanfill_stream(law)
    found = checks(law, tallied(law, stream.source, draws, stream.neighbours))
    assert len(found) > 40
    assert not failed(found), [check for check in found if check.failed]


def test_every_distribution_is_counted_here() -> None:
    # A half-open uniform has the words and the rounding of the closed one; it only leaves out the upper end.
    elsewhere = {"constant", "half_open_uniform"}
    counted = {law.initializer.law((1,))[0] for law in quality.LAWS}
    assert counted | elsewhere == set(DISTRIBUTIONS)


@pytest.mark.parametrize("law", quality.LAWS, ids=named)
def test_fanfills_streams_follow_their_laws(law: Law) -> None:
    assert_follows(law, SMALL)


# Flaws that take 10^8 draws and more to show; and the same, larger, which fewer show.
FINE = {control.name: control for control in CONTROLS if control.draws > 2**26}
UNIFORM = Law("uniform", 1.0, "float32")
COARSE = [
    FINE["uniform of 23 bits"]._replace(
        name="uniform of 17 bits",
        source=altered(UNIFORM, lambda out: np.multiply(np.floor(out * 2.0**16), 2.0**-16, out=out)),
        draws=2**21,
    ),
    FINE["uniform of 23 bits, never 0"]._replace(
        name="uniform of 21 bits, never 0",  # octaves begin at 2^-20
        source=altered(
            UNIFORM,
            lambda out: np.multiply(np.floor(out * 2.0**20) + np.float32(0.5), 2.0**-20, out=out),
        ),
        draws=2**26,
    ),
    FINE["tails cut at 5.77 sigma"]._replace(
        name="tails cut at 4.5 sigma",
        source=altered(NORMAL, lambda out: np.clip(out, -4.5, 4.5, out=out)),
        draws=2**24,
    ),
    FINE["std wrong by 10^-4"]._replace(
        name="std wrong by 10^-3",
        source=altered(NORMAL, lambda out: np.multiply(out, 1.001, out=out)),
        draws=2**25,
    ),
]


def test_the_fine_flaws_have_a_coarse_one_each() -> None:
    assert [control.fails for control in COARSE] == [control.fails for control in FINE.values()]
    for coarse, fine in zip(COARSE, FINE.values(), strict=True):
        assert coarse.draws <= fine.draws / 4


@pytest.mark.parametrize(
    "control",
    [
        *COARSE,
        *(
            pytest.param(control, marks=pytest.mark.slow if control.name in FINE else ())
            for control in CONTROLS
        ),
    ],
    ids=lambda control: control.name,
)
def test_the_statistics_reject(control: Control) -> None:
    assert control.fails <= failed(control.checks())


# What is counted


def block_of(law: Law, number: int) -> np.ndarray:
    """One block as float64."""
    out = np.empty(BLOCK, law.storage.lanes)
    FanfillSource(law)()(number, out)
    return out.view(dtype_of(law)).astype(np.float64)


def dtype_of(law: Law) -> np.dtype:
    """NumPy's, or ml_dtypes': another decoder than the statistics have."""
    return np.dtype(getattr(ml_dtypes, law.dtype, law.dtype))


def edges_of(law: Law) -> np.ndarray:
    """Where the cells of positive values begin, the first at zero."""
    return np.concatenate(([0.0], law.values[1:]))


@pytest.mark.parametrize("law", quality.LAWS, ids=named)
def test_the_counts_are_those_of_numpy(law: Law) -> None:
    x = np.concatenate([block_of(law, number) for number in range(2)])
    found = tallied(law, FanfillSource(law), 2 * BLOCK, threads=1)
    assert found.values == x.size

    cell = np.searchsorted(edges_of(law), np.abs(x), side="right") - 1 + law.cells * np.signbit(x)
    assert np.array_equal(found.cells, np.bincount(cell, minlength=2 * law.cells))
    octets, _, down = law.octets
    octet = octets[cell >> down].astype(int)
    pairs = np.bincount(256 * octet[0::2] + octet[1::2], minlength=65536)
    assert np.array_equal(found.pairs.reshape(-1), pairs)
    low = np.abs(x) < law.values[1]
    assert found.small.sum() == low.sum()
    exponents = np.where(x[low] == 0, 0, np.frexp(x[low])[1] - 1 + law.number.exponent_bias)
    assert np.array_equal(np.nonzero(found.small)[0], np.unique(exponents))

    raw = np.abs(x).astype(dtype_of(law)).view(f"u{law.storage.itemsize}").astype(np.uint64)
    fields, classes = law.last_shape
    field = raw >> np.uint64(law.storage.precision - 1)
    last = field * np.uint64(classes) + raw % np.uint64(classes)
    assert np.array_equal(found.last.reshape(-1), np.bincount(last.astype(int), minlength=fields * classes))

    magnitudes = [np.array([bits], law.number.bits).view(law.number.real)[0] for _, bits in law.levels]
    assert found.levels[: len(magnitudes)].tolist() == [(np.abs(x) >= m).sum() for m in magnitudes]
    assert found.levels[8] == law.number.real(np.abs(x).max()).view(law.number.bits)

    z = (x - law.middle) / (law.scale * law.std)
    assert found.sums == pytest.approx([(z**k).sum() for k in range(1, 9)], rel=1e-9, abs=1e-6)
    square = (z * z - 1) / math.sqrt(law.moments[4] - 1)
    for values, sums in ((z, found.lags), (square, found.square_lags)):
        blocks = values.reshape(2, BLOCK)
        expected = [(blocks[:, lag:] * blocks[:, :-lag]).sum() for lag in passes.LAGS]
        assert sums == pytest.approx(expected, abs=0.05)  # sums of float32 products; their noise is 500


def test_a_tally_does_not_depend_on_the_number_of_threads() -> None:
    stream = fanfill_stream(NORMAL)
    one, three = (tallied(NORMAL, stream.source, 20 * BLOCK, stream.neighbours, threads=n) for n in (1, 3))
    for name in ("values", "cells", "pairs", "small", "levels", "apart", "beside"):
        assert np.array_equal(getattr(one, name), getattr(three, name)), name
    for name in ("sums", "lags", "square_lags", "crossed"):
        assert getattr(one, name) == pytest.approx(getattr(three, name), rel=1e-6, abs=0.05), name


def test_neighbouring_streams_are_multiplied() -> None:
    stream = fanfill_stream(NORMAL)
    found = tallied(NORMAL, stream.source, BLOCK, stream.neighbours)
    values = {}
    for seed, name in ((0, 1000), (1, 1000), (0, 1001), (0, "layer.0"), (0, "layer.1")):
        out = np.empty(BLOCK, np.float32)
        FanfillSource(NORMAL, quality_sources.SEED + seed, name)()(0, out)
        values[seed, name] = out.astype(np.float64)
    own = values[0, 1000]
    pairs = [(own, values[1, 1000]), (own, values[0, 1001]), (values[0, "layer.0"], values[0, "layer.1"])]
    assert found.crossed[:, 0] == pytest.approx([a @ b for a, b in pairs], abs=0.05)
    assert found.beside == BLOCK


# What is expected


def exact_beyond(law: Law, x: Any, sign: int) -> Any:
    """P(sign * X > x), for x >= 0 in units of the scale, in 40 digits."""
    if law.kind == "uniform":
        above = (1 - x + sign * mpmath.mpf(law.middle) / law.scale) / 2
        return min(mpmath.mpf(1), max(mpmath.mpf(0), above))
    root = mpmath.sqrt(2)
    far = mpmath.erfc(law.cut / root) if law.cut < math.inf else mpmath.mpf(0)
    return max(mpmath.mpf(0), (mpmath.erfc(x / root) - far) / (1 - far)) / 2


@pytest.mark.parametrize("law", quality.LAWS, ids=named)
def test_the_probabilities_of_cells_are_exact(law: Law) -> None:
    assert law.probabilities.sum() == pytest.approx(1.0, abs=1e-14)
    octets, octet_p, _ = law.octets
    assert octet_p.sum() == pytest.approx(1.0, abs=1e-14)
    assert octets.dtype == np.uint8
    bits = ((np.arange(law.cells + 1) + law.base) << law.shift).astype(law.number.bits)
    starts = bits.view(law.number.real)
    # Half way between the least value of the dtype in the cell and the one before, as exact fractions.
    for cell in np.linspace(1, law.cells - 2, 40).astype(int).tolist():
        for row, sign in enumerate((1, -1)):
            with mpmath.workdps(40):
                edges = []
                for k in (cell, cell + 1):
                    first = round_up(float(starts[k]), law.storage)
                    before = round_down(Fraction(first) * (1 - Fraction(1, 2**60)), law.storage)
                    middle = (mpmath.mpf(first) + mpmath.mpf(before)) / 2
                    edges.append(middle / mpmath.mpf(law.scale) if first <= law.limit else mpmath.inf)
                exact = exact_beyond(law, edges[0], sign) - exact_beyond(law, edges[1], sign)
            # The difference of two float64 of the size of the tail beyond the cell.
            assert law.probabilities[row, cell] == pytest.approx(float(exact), rel=1e-9, abs=4e-16)


@pytest.mark.parametrize(
    ("law", "exact"),
    [
        (Law("uniform", 0.5, "float32"), stats.uniform(-0.5, 1.0)),
        (Law("uniform", 0.5, "float32", 1.5), stats.uniform(-0.5, 1.0)),
        (Law("normal", 2.0, "float64"), stats.norm(0, 2)),
        (Law("truncated", 0.02, "float32"), stats.truncnorm(-2, 2, scale=0.02)),
    ],
)
def test_the_moments_are_scipys(law: Law, exact: Any) -> None:
    std = exact.std()
    assert law.std * law.scale == pytest.approx(std, rel=1e-12)
    for k in (2, 4, 6, 8):
        assert law.moments[k] == pytest.approx(exact.moment(k) / std**k, rel=1e-6)
    assert not law.moments[1::2].any()


def test_the_octaves_near_zero_and_the_first_cells_are_the_same_values() -> None:
    for law in quality.LAWS:
        assert law.octaves[1].sum() == pytest.approx(law.probabilities[:, 0].sum(), rel=1e-9, abs=1e-14)


def test_a_p_value_is_small_on_both_sides() -> None:
    assert counted("", "", 1000, 10**6, 1e-3).p == pytest.approx(1.0, abs=0.02)
    assert counted("", "", 800, 10**6, 1e-3).failed
    assert counted("", "", 1200, 10**6, 1e-3).failed
    assert counted("", "", 500_000, 10**6, 0.5).p > 0.9
    assert counted("", "", 497_000, 10**6, 0.5).failed
    assert counted("", "", 1, 10**6, 0.0).failed
    expected = np.full(1000, 100.0)
    noise = np.random.default_rng(0).poisson(expected)
    assert not chi_square("", "", noise, expected).failed
    assert chi_square("", "", expected, expected).failed  # too good
    assert chi_square("", "", noise + 15 * (np.arange(1000) % 2), expected).failed
    assert chi_square("", "", np.array([100, 100, 1]), np.array([100.0, 100.0, 0.0])).p == 0.0


def test_p_values_of_ideal_streams_are_uniform() -> None:
    found = []
    for seed in range(24):
        stream = fanfill_stream(NORMAL, seed)
        found += checks(NORMAL, tallied(NORMAL, stream.source, 2**20, stream.neighbours))
    smooth = [
        check.p for check in found if check.group in ("chi-square", "moments", "lags", "pairs", "neighbours")
    ]
    smooth = [p for p in smooth if p < 1.0]
    assert len(smooth) > 800
    # Moments of one stream hang together, and so this is a check of the p-values' scale, not a sharp test.
    assert stats.kstest(smooth, "uniform").statistic < 0.06


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected enough draws for two bins of 5; take more"):
        chi_square("pairs", "cells", np.ones(10), np.full(10, 0.1))
