"""Fifty dense layers of width 512: which initial weights carry a signal through, and which do not.

The second moment of the activations (forward) and of the gradient (backward) is followed layer by layer, as a
ratio to what went in. The weights are never held together: each layer's are drawn twice, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fanfill as ff

WIDTH, DEPTH, BATCH = 512, 50, 16
Array = np.ndarray[Any, Any]


class Activation(NamedTuple):
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


LINEAR = Activation(lambda z: z, np.ones_like)
RELU = Activation(lambda z: np.maximum(z, 0.0), lambda z: np.where(z > 0.0, 1.0, 0.0))
TANH = Activation(np.tanh, lambda z: 1.0 - np.tanh(z) ** 2)


def weights(initializer: ff.Initializer, layer: int, backend: str | None) -> Array:
    """A layer's weights, (in, out). In float64, where a signal may grow by 512 a layer without overflow."""
    drawn = ff.draw((WIDTH, WIDTH), initializer, seed=2, name=f"layer.{layer}", device="cpu", backend=backend)
    return drawn.astype(np.float64)


def second_moments(
    initializer: ff.Initializer, activation: Activation, *, inputs: float = 1.0, backend: str | None = None
) -> tuple[Array, Array]:
    """Second moments behind each layer as ratios to what went in: of the signal, and of the gradient."""
    signal = inputs * np.random.default_rng(0).standard_normal((BATCH, WIDTH))
    start, slopes, forward = np.mean(signal**2), [], []
    for layer in range(DEPTH):
        z = signal @ weights(initializer, layer, backend)
        signal = activation.value(z)
        slopes.append(activation.slope(z))
        forward.append(np.mean(signal**2) / start)
    gradient = np.random.default_rng(1).standard_normal((BATCH, WIDTH))
    start, backward = np.mean(gradient**2), []
    for layer in reversed(range(DEPTH)):
        gradient = (gradient * slopes[layer]) @ weights(initializer, layer, backend).T
        backward.append(np.mean(gradient**2) / start)
    return np.array(forward), np.array(backward)


def assert_kept(ratios: Array) -> None:
    assert ratios.min() > 1 / 4, f"fell to {ratios.min():.3g}"
    assert ratios.max() < 4, f"rose to {ratios.max():.3g}"


@pytest.mark.parametrize("backend", [None, pytest.param("numpy", marks=pytest.mark.slow)])
def test_he_keeps_the_signal_of_relu_layers_in_both_directions(backend: str | None) -> None:
    forward, backward = second_moments(ff.he_normal(), RELU, backend=backend)
    assert_kept(forward)
    assert_kept(backward)


@pytest.mark.parametrize("initializer", [ff.he_uniform(), ff.he_normal("fan_out", truncated=True)], ids=repr)
def test_the_other_he_draws_keep_it_too(initializer: ff.Initializer) -> None:
    forward, backward = second_moments(initializer, RELU)
    assert_kept(forward)
    assert_kept(backward)


@pytest.mark.parametrize("initializer", [ff.xavier_normal(), ff.xavier_uniform()], ids=repr)
def test_xavier_keeps_the_signal_of_linear_layers_in_both_directions(initializer: ff.Initializer) -> None:
    forward, backward = second_moments(initializer, LINEAR)
    assert_kept(forward)
    assert_kept(backward)


def test_xavier_with_the_gain_of_tanh_keeps_the_forward_signal_and_lets_the_gradient_grow_slowly() -> None:
    forward, backward = second_moments(ff.xavier_normal(gain=ff.gain("tanh")), TANH)
    assert_kept(forward)
    # No gain keeps both: see docs/initializers.md. What mean-field theory says the gradient gains in a layer:
    nodes, quadrature = np.polynomial.hermite_e.hermegauss(64)
    quadrature /= quadrature.sum()
    settled = 0.5
    for _ in range(100):
        z = ff.gain("tanh") * np.sqrt(settled) * nodes
        settled = np.sum(quadrature * np.tanh(z) ** 2)
    expected = ff.gain("tanh") ** 2 * np.sum(quadrature * TANH.slope(z) ** 2)
    assert forward[-1] == pytest.approx(settled, rel=0.1)
    assert backward[-1] ** (1 / DEPTH) == pytest.approx(expected, rel=0.02)
    assert 1.15 < expected < 1.25


def test_xavier_keeps_a_small_signal_of_tanh_layers_in_both_directions() -> None:
    forward, backward = second_moments(ff.xavier_normal(), TANH, inputs=0.1)
    assert_kept(forward)
    assert_kept(backward)


@pytest.mark.parametrize("activation", [LINEAR, RELU, TANH], ids=["linear", "relu", "tanh"])
def test_the_naive_small_normal_vanishes_in_both_directions(activation: Activation) -> None:
    forward, backward = second_moments(ff.normal(std=0.01), activation)
    assert forward[-1] < 1e-40
    assert backward[-1] < 1e-40


@pytest.mark.parametrize("activation", [LINEAR, RELU], ids=["linear", "relu"])
def test_the_naive_standard_normal_explodes_in_both_directions(activation: Activation) -> None:
    forward, backward = second_moments(ff.normal(), activation)
    assert forward[-1] > 1e100
    assert backward[-1] > 1e100


def test_the_naive_standard_normal_saturates_tanh_and_explodes_backward() -> None:
    forward, backward = second_moments(ff.normal(), TANH)
    assert forward.min() > 0.95
    assert backward[-1] > 1e40
