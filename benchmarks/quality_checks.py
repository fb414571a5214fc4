"""From counts to p-values: every statistic of a stream, held against its exact distribution.

A p-value is two-sided: a fit that is too good counts as bad. The statistics of counts are exact (Poisson or
binomial), the others are asymptotic, for 10^6 draws and more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numba as nb
import numpy as np
import quality_passes as passes
from quality_laws import Array, Law
from quality_sources import BETWEEN
from quality_tally import Tally
from scipy import special, stats

LEVEL = 1e-6  # a stream with a p-value below departs from its law
LEAST_BIN, COARSE_BIN = 2.0**-17, 2.0**-10  # probabilities
LEAST_EXPECTED = 20.0  # in a bin that is a run of cells
THIN = 5.0  # bins in which less is expected are taken together


class Check(NamedTuple):
    """One statistic: its group, its name, its p-value, and what was found and expected in words."""

    group: str
    name: str
    p: float
    found: str

    @property
    def failed(self) -> bool:
        return not self.p >= LEVEL


def checks(law: Law, tally: Tally) -> list[Check]:
    """All statistics that were counted."""
    made = {
        "moments": (moments,),
        "levels": (levels,),
        "cells": (bins, pairs, small),
        "last": (last_bits,),
        "lags": (lags,),
        "neighbours": (neighbours,),
    }
    return [
        check
        for part, functions in made.items()
        if part in tally.done
        for f in functions
        for check in f(law, tally)
    ]


def scored(group: str, name: str, score: float) -> Check:
    """A statistic that is a standard normal variable."""
    return Check(
        group, name, float(special.erfc(abs(score) * math.sqrt(0.5))), f"{score:+.1f} standard errors"
    )


def counted(group: str, name: str, count: int, n: int, p: float) -> Check:
    """A count of events of probability p among n draws: binomial."""
    expected = n * p
    if p <= 0.0:
        return Check(group, name, float(count == 0), f"{count:,}, none expected")
    law = stats.binom(n, p) if p > 1e-3 else stats.poisson(expected)
    low, high = float(law.cdf(count)), float(law.sf(count - 1))
    return Check(group, name, min(1.0, 2 * min(low, high)), f"{count:,}, expected {expected:,.4g}")


def chi_square(group: str, name: str, counts: Array, expected: Array) -> Check:
    """Pearson's statistic. Bins of which too little is expected are taken together; a value in a bin that the
    law leaves empty fails at once.
    """
    impossible = int(counts[expected <= 0].sum())
    if impossible:
        return Check(group, name, 0.0, f"{impossible:,} values where none can be")
    counts, expected = thick(counts, expected)
    if counts.size < 2:
        raise ValueError(f"{name}: expected enough draws for two bins of {THIN:g}; take more")
    return pearson(group, name, float(((counts - expected) ** 2 / expected).sum()), counts.size - 1)


def thick(counts: Array, expected: Array) -> tuple[Array, Array]:
    """The bins in which enough is expected, and the others taken together, if that is enough."""
    thin = expected < THIN
    rest = float(expected[thin].sum())
    counts, expected = (np.append(a[~thin], a[thin].sum()) for a in (counts, expected))
    return (counts[:-1], expected[:-1]) if rest < THIN else (counts, expected)


def pearson(group: str, name: str, statistic: float, degrees: int) -> Check:
    """A statistic that is a chi-square variable."""
    p = 2 * min(float(special.chdtrc(degrees, statistic)), float(special.chdtr(degrees, statistic)))
    return Check(group, name, min(1.0, p), f"{statistic:,.0f} of {degrees:,} degrees of freedom")


@nb.njit
def _runs(probabilities: Array, least: float) -> Array:
    """Numbers of bins: runs of cells that reach the least probability."""
    number, found, total = np.empty(probabilities.size, np.int64), 0, 0.0
    for i in range(probabilities.size):
        number[i] = found
        total += probabilities[i]
        if total >= least:
            found, total = found + 1, 0.0
    return number


def bins(law: Law, tally: Tally) -> Iterator[Check]:
    """Chi-square over nearly equal bins, and the largest distance from the exact CDF at the cells' edges."""
    n, ordered = tally.values, law.ordered
    counts = np.concatenate((tally.cells[: law.cells - 1 : -1], tally.cells[: law.cells]))
    for least in (LEAST_BIN, COARSE_BIN):
        number = _runs(ordered, max(least, LEAST_EXPECTED / n))
        found = np.bincount(number, counts)
        yield chi_square("chi-square", f"{found.size:,} bins", found, n * np.bincount(number, ordered))
    stray = int(counts[ordered <= 0].sum())
    yield Check("chi-square", "cells that the law leaves empty", float(stray == 0), f"{stray:,} values")
    distance = float(np.abs(np.cumsum(counts) / n - np.cumsum(ordered)).max())
    p_value = float(special.kolmogorov(math.sqrt(n) * distance))
    yield Check("KS", f"{ordered.size:,} edges", p_value, f"distance {distance:.2g}")


def moments(law: Law, tally: Tally) -> Iterator[Check]:
    """The means of the first eight powers, by their exact standard errors."""
    exact, n = law.moments, tally.values
    for k in range(1, 9):
        error = math.sqrt((exact[2 * k] - exact[k] ** 2) / n)
        yield scored("moments", f"moment {k}", (tally.sums[k - 1] / n - exact[k]) / error)


def levels(law: Law, tally: Tally) -> Iterator[Check]:
    """Counts beyond levels, exact zeros, what is not a number, and the largest magnitude."""
    n = tally.values
    ends = law.cut < math.inf
    for (name, bits), count in zip(law.levels, tally.levels.tolist(), strict=False):
        group = "tails" if not ends or name.startswith((">=", "within")) else "bounds"
        yield counted(group, name, count, n, float(law.reaching(bits).sum()))
    least = law.number.real(2.0**law.storage.least).view(law.number.bits)
    yield counted("zeros", "exact zeros", int(tally.levels[6]), n, float(1.0 - law.reaching(least).sum()))
    yield counted("finite", "infinite or NaN", int(tally.levels[7]), n, 0.0)
    if not ends:
        bits = tally.levels[8:9]
        largest = float(bits.astype(law.number.bits).view(law.number.real)[0]) / law.scale
        # P(none beyond the largest), and P(none that reaches it): a narrow dtype has both far apart.
        above, reach = (float(law.reaching(bits + s).sum()) for s in (law.step, 0))
        low, high = math.exp(-n * above), -math.expm1(-n * reach)
        yield Check("tails", "largest", min(1.0, 2 * min(low, high)), f"{largest:.3f} sigma")


def pairs(law: Law, tally: Tally) -> Iterator[Check]:
    """Chi-square over the 256 x 256 classes of consecutive values."""
    p = law.octets[1]
    expected = np.outer(p, p) * float(tally.pairs.sum())
    yield chi_square("pairs", "256 x 256 cells", tally.pairs.ravel(), expected.ravel())


def small(law: Law, tally: Tally) -> Iterator[Check]:
    """Chi-square over the octaves next to zero: a coarse lattice has none of the small values."""
    number, p = law.octaves
    counts = np.bincount(number, tally.small, p.size)
    expected = tally.values * p
    # The lowest octaves together, until they hold enough: a lattice leaves the low ones empty.
    cut = int(np.searchsorted(np.cumsum(expected), LEAST_EXPECTED))
    if cut + 1 < p.size:
        found, wanted = (np.append(a[: cut + 1].sum(), a[cut + 1 :]) for a in (counts, expected))
        # The octaves are a part of all draws, the rest being one bin more.
        found, wanted = (np.append(a, tally.values - a.sum()) for a in (found, wanted))
        yield chi_square("small", "octaves near zero", found, wanted)


def last_bits(law: Law, tally: Tally) -> Iterator[Check]:
    """How often the last bit is one, and chi-square over the values of the last bits in each binade.

    Where every value is a fixed function of few points (``Law.lattice``), their noise is that of a tossed
    function beside that of the draws.
    """
    counts, shares = tally.last, law.last_shares
    totals = counts.sum(1)
    tossed = 1.0 + tally.values / law.lattice
    ones = expected = variance = statistic = 0.0
    drawn = degrees = 0
    for k in np.nonzero((totals >= LEAST_EXPECTED * shares.shape[1]) & shares.any(1))[0]:
        share = shares[k, 1::2].sum()
        drawn += totals[k]
        ones += counts[k, 1::2].sum()
        expected += totals[k] * share
        variance += totals[k] * share * (1.0 - share) * tossed
        found, wanted = thick(counts[k], totals[k] * shares[k])
        statistic += ((found - wanted) ** 2 / wanted).sum() / tossed
        degrees += found.size - 1
    if not degrees:
        return
    score = (ones - expected) / math.sqrt(variance)
    check = scored("last bits", "one", score)
    yield check._replace(found=f"{ones / drawn:.4%} for {expected / drawn:.4%}, {check.found}")
    yield pearson("last bits", f"the last {shares.shape[1].bit_length() - 1} by binade", statistic, degrees)


def lags(law: Law, tally: Tally) -> Iterator[Check]:
    """Correlations of values, and of their squares, at distances."""
    for kind, sums in (("values", tally.lags), ("squares", tally.square_lags)):
        for lag, total, count in zip(passes.LAGS, sums, tally.apart, strict=True):
            yield scored("lags", f"{kind} {lag} apart", float(total) / math.sqrt(count))


def neighbours(law: Law, tally: Tally) -> Iterator[Check]:
    """Correlations with the streams beside it."""
    for name, sums in zip(BETWEEN, tally.crossed, strict=False):
        for kind, total in zip(("values", "squares"), sums, strict=True):
            yield scored("neighbours", f"{kind}, {name}", float(total) / math.sqrt(tally.beside))
