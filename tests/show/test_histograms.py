"""A fill beside its law: counts within sampling error of each distribution, and a control that is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fanfill as ff
from fanfill import show
from fanfill.distributions import DISTRIBUTIONS

LAWS = [
    ff.Initializer(kind, parameters)
    for kind, record in DISTRIBUTIONS.items()
    if kind != "constant"
    for parameters in record.golden.values()
] + [ff.he_normal(), ff.he_uniform(), ff.xavier_normal(truncated=True)]


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_counts_are_those_that_the_law_expects(law: ff.Initializer) -> None:
    found = show.histogram(law, (200, 500), bins=30, seed=3)
    assert sum(found.counts) + found.outside == found.values == 100_000
    assert max(map(abs, found.departures)) < 5
    assert sum(found.expected) + found.outside == pytest.approx(100_000, abs=5 * (found.outside + 9) ** 0.5)
    assert len(found.edges) == 31


def test_a_law_that_lies_one_bin_further_is_noticed() -> None:
    found = show.histogram(ff.normal(0.0, 1.0), (200, 500))
    moved = show.Histogram(**{**vars(found), "expected": (*found.expected[1:], found.expected[0])})
    assert max(map(abs, moved.departures)) > 5


@pytest.mark.parametrize(("kind", "record"), DISTRIBUTIONS.items())
def test_below_is_the_distribution_function(kind: str, record: Any) -> None:
    for parameters in record.golden.values():
        law = ff.Initializer(kind, parameters)
        low, high = law.bounds(())
        assert record.below(-math.inf, *parameters) == 0
        assert record.below(math.inf, *parameters) == pytest.approx(1, abs=1e-15)
        if kind == "constant":
            assert record.below(parameters[0], *parameters) == 1
            continue
        mean, std = law.mean(()), law.std(())
        x = np.linspace(max(low, mean - 25 * std), min(high, mean + 25 * std), 20_001)
        middle = (x[1:] + x[:-1]) / 2
        mass = np.diff([record.below(float(each), *parameters) for each in x])
        assert np.all(mass >= 0)
        assert mass @ middle == pytest.approx(mean, abs=1e-4 * std)
        assert math.sqrt(mass @ (middle - mean) ** 2) == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("uniform", (2.0, 2.0)), ("normal", (2.0, 0.0)), ("truncated_normal", (2.0, 0.0, -1.0, 1.0))],
)
def test_below_of_a_single_value_is_a_step(kind: str, parameters: tuple[float, ...]) -> None:
    below = DISTRIBUTIONS[kind].below
    assert (below(1.999, *parameters), below(2.0, *parameters)) == (0, 1)


@pytest.mark.parametrize(
    ("law", "shape", "message"),
    [
        (ff.constant(2), (3,), r"expected an initializer that draws; got constant\(2\.0\)"),
        (ff.normal(), (0, 3), r"expected a shape that holds values; got \(0, 3\)"),
    ],
)
def test_what_has_no_histogram_is_refused(law: ff.Initializer, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.histogram(law, shape)


def test_a_single_bin_departs_by_nothing() -> None:
    found = show.histogram(ff.uniform(0, 1), 10, bins=1)
    assert (found.counts, found.departures) == ((10,), (0.0,))
    with pytest.raises(ValueError, match=r"bins: expected an integer in \[1, 10000\]; got 0"):
        show.histogram(ff.uniform(0, 1), 10, bins=0)
