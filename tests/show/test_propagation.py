"""Signals through a deep network: by He's and Glorot's conditions, with a control that breaks them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fanfill as ff
from fanfill import show
from fanfill.show.propagation import ACTIVATIONS, growth

WIDTH, DEPTH = 256, 12
# Of the logarithm of a layer's second moment over the one before: sqrt(5 / width) with ReLU (He et al. 2015's
# condition holds in expectation), sqrt(2 / width) without; gradients are scaled likewise.
SPREAD = {"relu": 5.0, "linear": 2.0}


def run(law: Any, activation: str, **sizes: int) -> show.Propagation:
    return show.propagation(law, activation, **{"width": WIDTH, "depth": DEPTH, "batch": 64} | sizes)


def assert_kept(found: show.Propagation, expected_per_layer: float = 1.0) -> None:
    """The second moment grows by a factor a layer, forward and backward, within five standard deviations."""
    sigma = math.sqrt(SPREAD[found.activation] / WIDTH)
    forward = [m * m + v for m, v in zip(found.mean, found.variance, strict=True)]
    for moments in (forward, found.gradient_variance[::-1]):
        logs = np.log(moments)
        wanted = math.log(expected_per_layer)
        assert np.all(np.abs(np.diff(logs) - wanted) < 5 * sigma)
        assert abs(logs[-1] - logs[0] - (DEPTH - 1) * wanted) < 5 * sigma * math.sqrt(DEPTH - 1)


@pytest.mark.parametrize(
    ("law", "activation"),
    [
        ("he_normal", "relu"),
        ("he_uniform", "relu"),
        (ff.he_normal(truncated=True), "relu"),
        ("xavier_normal", "linear"),
        ("lecun_uniform", "linear"),
    ],
)
def test_the_initializer_made_for_an_activation_keeps_the_variance(law: Any, activation: str) -> None:
    found = run(law, activation)
    assert_kept(found)
    assert np.all(np.abs(found.mean) / np.sqrt(found.variance) < 0.35)
    assert found.forward == found.variance[-1] / found.variance[0]
    assert found.backward == found.gradient_variance[0] / found.gradient_variance[-1]


@pytest.mark.parametrize(
    ("law", "activation", "factor"),
    [
        (ff.normal(std=2 * math.sqrt(2 / WIDTH)), "relu", 4.0),  # He's standard deviation, doubled
        ("xavier_normal", "relu", 0.5),
        ("he_normal", "linear", 2.0),
    ],
)
def test_another_one_makes_it_explode_or_vanish_by_its_factor(
    law: Any, activation: str, factor: float
) -> None:
    found = run(law, activation)
    assert_kept(found, factor)
    with pytest.raises(AssertionError):
        assert_kept(found)


def test_glorot_with_tanh_follows_the_recursion_of_its_variance() -> None:
    found = run("xavier_normal", "tanh")
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    variance = 1.0
    for layer in range(DEPTH):
        assert math.log(found.variance[layer] / variance) == pytest.approx(0, abs=0.2), layer
        variance = float(weights @ np.tanh(math.sqrt(variance) * nodes) ** 2)


def test_the_same_arguments_give_the_same_figures_and_another_seed_gives_others() -> None:
    one, same, other = (run("he_normal", "relu", depth=2, width=32, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.variance != other.variance
    assert (one.depth, one.width, one.batch, one.seed) == (2, 32, 64, 1)
    assert len(one.mean) == len(one.activation_mean) == len(one.gradient_variance) == 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_slope_of_an_activation_is_its_derivative(name: str) -> None:
    value, slope = ACTIVATIONS[name]
    z = np.linspace(-3, 3, 60)  # without 0, where some have none
    step = 1e-6
    np.testing.assert_allclose(slope(z), (value(z + step) - value(z - step)) / (2 * step), atol=1e-6)


def test_what_is_beyond_float64_is_no_ratio() -> None:
    assert math.isnan(growth(1.0, math.inf))
    assert math.isnan(growth(0.0, 1.0))
    found = run(ff.normal(std=1e30), "linear", width=4, batch=1)
    assert math.isnan(found.forward)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("he_normal", "step"), ValueError, r"activation: expected one of linear, relu.*; got 'step'"),
        (("he_normal", 3), ValueError, r"activation: expected one of .*; got 3"),
        (("he", "relu"), ValueError, r"expected the name of an initializer; got 'he'"),
        ((3, "relu"), TypeError, r"initializer: expected an Initializer"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        show.propagation(*arguments)


@pytest.mark.parametrize("what", ["width", "depth", "batch"])
def test_bad_sizes_are_refused(what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what}: expected an integer in \[1, 1048576\]; got 0"):
        show.propagation("he_normal", **{what: 0})
