"""Signals through a deep fully connected network, forward and backward: what Glorot and He asked for.

Layer l computes ``z = x W`` and hands ``f(z)`` to the next one. Forward, an initializer shall keep the
variance of z from layer to layer at mean 0; backward, that of the gradient. Nothing is trained and there is
no bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from fanfill.arguments import integer
from fanfill.fill import draw
from fanfill.initializers import Initializer, normal
from fanfill.messages import shown
from fanfill.named import initializer_of

__all__ = ["ACTIVATIONS", "Activation", "Propagation", "growth", "propagation"]

Array = np.ndarray[Any, Any]

_LARGEST = 2**20  # of width, depth and batch: beyond it no matrix fits memory
_SLOPE = 0.01  # of the leaky ReLU, torch's default
# Klambauer et al. 2017.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_GELU = math.sqrt(2.0 / math.pi)


class Activation(NamedTuple):
    """A function and its derivative, both of the layer's sums z."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _gelu_inner(z: Array) -> Array:
    return np.tanh(_GELU * (z + 0.044715 * z**3))


def _gelu_slope(z: Array) -> Array:
    inner = _gelu_inner(z)
    return 0.5 * (1.0 + inner) + 0.5 * z * (1.0 - inner**2) * _GELU * (1.0 + 3 * 0.044715 * z**2)


def _silu_slope(z: Array) -> Array:
    share = _sigmoid(z)
    return share * (1.0 + z * (1.0 - share))


def _selu(z: Array) -> Array:
    return _SELU_SCALE * np.where(z > 0, z, _SELU_ALPHA * np.expm1(np.minimum(z, 0.0)))


def _selu_slope(z: Array) -> Array:
    return _SELU_SCALE * np.where(z > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(z, 0.0)))


ACTIVATIONS: Final[dict[str, Activation]] = {
    "linear": Activation(lambda z: z, np.ones_like),
    "relu": Activation(lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(z.dtype)),
    "leaky_relu": Activation(
        lambda z: np.where(z > 0, z, _SLOPE * z), lambda z: np.where(z > 0, 1.0, _SLOPE)
    ),
    "tanh": Activation(np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
    "sigmoid": Activation(_sigmoid, lambda z: _sigmoid(z) * (1.0 - _sigmoid(z))),
    # By tanh, as JAX's default: NumPy has no error function.
    "gelu": Activation(lambda z: 0.5 * z * (1.0 + _gelu_inner(z)), _gelu_slope),
    "silu": Activation(lambda z: z * _sigmoid(z), _silu_slope),
    "elu": Activation(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0.0))),
        lambda z: np.where(z > 0, 1.0, np.exp(np.minimum(z, 0.0))),
    ),
    "selu": Activation(_selu, _selu_slope),
}


@dataclass(frozen=True)
class Propagation:
    """Moments of a signal in each layer of a network, from the input's side on.

    Attributes
    ----------
    initializer, activation : str
    width, depth, batch, seed : int
    mean, variance : tuple of float
        Of the sums z of each layer, over units and samples.
    activation_mean, activation_variance : tuple of float
        Of f(z).
    gradient_variance : tuple of float
        Of the gradient with respect to each layer's input, for one of variance 1 at the network's output.
    """

    initializer: str
    activation: str
    width: int
    depth: int
    batch: int
    seed: int
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    activation_mean: tuple[float, ...]
    activation_variance: tuple[float, ...]
    gradient_variance: tuple[float, ...]

    @property
    def forward(self) -> float:
        """The last layer's variance over the first one's."""
        return growth(self.variance[0], self.variance[-1])

    @property
    def backward(self) -> float:
        """The gradient's variance at the first layer over that at the last one."""
        return growth(self.gradient_variance[-1], self.gradient_variance[0])


def growth(first: float, last: float) -> float:
    """The ratio of two variances; nan if the first is zero or either is beyond float64."""
    return last / first if first and math.isfinite(first) and math.isfinite(last) else math.nan


def propagation(
    initializer: Initializer | str,
    activation: str = "relu",
    *,
    width: int = 512,
    depth: int = 50,
    batch: int = 64,
    seed: int = 0,
) -> Propagation:
    """Send standard normal samples through a network of equal layers, and a standard normal gradient back.

    Parameters
    ----------
    initializer : Initializer or str
        Of each layer's (width, width) matrix, laid out (in, out).
    activation : str
        A key of `ACTIVATIONS`.
    width, depth, batch : int
        Units of a layer, layers, and samples; each at least 1.
    seed : int
        Of samples, gradient and weights: the same arguments give the same figures.

    Raises
    ------
    ValueError, TypeError
        An unknown activation or initializer; a size that is not an integer in [1, 2^20]; a bad seed.

    Notes
    -----
    Weights are float32, the arithmetic is in float64. In expectation `he_normal` with relu keeps the variance
    of z in every layer. One network of finite width wanders: the logarithm of its last variance has a
    standard deviation of about ``sqrt(5 * depth / width)``, 0.7 by default (linear: 2 in place of 5).
    """
    law = initializer_of(initializer)
    given: object = activation
    function = ACTIVATIONS.get(given) if isinstance(given, str) else None
    if function is None:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {shown(activation)}")
    sizes = {"width": width, "depth": depth, "batch": batch}
    for what, size in sizes.items():
        integer(size, what, 1, _LARGEST + 1, f"[1, {_LARGEST}]")

    def weights(layer: int) -> Array:
        return np.asarray(draw((width, width), law, seed=seed, name=f"layers.{layer}"), np.float64)

    def standard(name: str) -> Array:
        return np.asarray(draw((batch, width), normal(), seed=seed, name=name), np.float64)

    signal = standard("input")
    sums: list[Array] = []
    activations: list[tuple[float, float]] = []
    # What overflows is the finding; it is shown as infinite, and needs no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in range(depth):
            sums.append(signal @ weights(layer))
            signal = function.value(sums[-1])
            activations.append(_moments(signal))
        gradient = standard("gradient")
        gradients: list[float] = []
        # Drawn once more, not kept: the same name gives the same matrix.
        for layer in reversed(range(depth)):
            gradient = (gradient * function.slope(sums[layer])) @ weights(layer).T
            gradients.append(_moments(gradient)[1])
        forward = [_moments(z) for z in sums]
    return Propagation(
        initializer=repr(law),
        activation=activation,
        **sizes,
        seed=seed,
        mean=tuple(mean for mean, _ in forward),
        variance=tuple(variance for _, variance in forward),
        activation_mean=tuple(mean for mean, _ in activations),
        activation_variance=tuple(variance for _, variance in activations),
        gradient_variance=tuple(reversed(gradients)),
    )


def _moments(values: Array) -> tuple[float, float]:
    """Mean and variance over all entries."""
    return float(values.mean()), float(values.var())
