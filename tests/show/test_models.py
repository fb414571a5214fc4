"""Mean and variance through the layers of torch's, Keras' and flax's models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# As tests/keras: Keras reads them once.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", str(Path(os.devnull) / "keras"))

import fanfill as ff
from fanfill import show

# NumPy's, of how Keras' torch backend makes arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTH = 128


def torch_model() -> tuple[Any, dict[str, Any]]:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    inner = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), inner, torch.nn.Dropout(0.5)
    ), {}


def keras_model() -> tuple[Any, dict[str, Any]]:
    pytest.importorskip("torch", reason="torch is not installed")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layers = keras.layers
    inner = keras.Sequential([layers.Dense(WIDTH), layers.ReLU()])
    return (
        keras.Sequential(
            [keras.Input((WIDTH,)), layers.Dense(WIDTH), layers.ReLU(), inner, layers.Dropout(0.5)]
        ),
        {},
    )


def linen_model() -> tuple[Any, dict[str, Any]]:
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Inner(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.relu(linen.Dense(WIDTH)(x))

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return Inner()(linen.relu(linen.Dense(WIDTH)(x)))

    return Model(), {"shape": (WIDTH,)}


def nnx_model() -> tuple[Any, dict[str, Any]]:
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Inner(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return nnx.relu(self.dense(x))

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.inner = Inner(rngs)

        def __call__(self, x: Any) -> Any:
            return self.inner(nnx.relu(self.dense(x)))

    return Model(nnx.Rngs(0)), {}


MODELS = [torch_model, keras_model, linen_model, nnx_model]


@pytest.mark.parametrize("build", MODELS)
def test_each_layer_of_a_model_has_the_moments_that_its_initializer_leads_to(
    build: Callable[[], tuple[Any, dict[str, Any]]],
) -> None:
    model, options = build()
    found = show.propagation_of(model, initializer=ff.he_normal(), seed=1, **options)
    dense = [layer for layer in found if layer.kind in ("Linear", "Dense")]
    assert len(dense) == 2
    assert len({layer.name for layer in found}) == len(found)
    for layer in dense:  # within five of sqrt(2 / width), and sqrt(5 / width) once more for the ReLU
        assert layer.variance == pytest.approx(2, rel=0.6)
        assert abs(layer.mean) < 0.6
    again = show.propagation_of(model, seed=1, **options)
    if build is linen_model:  # which holds no variables: they are its own now
        assert again != found
    else:
        assert again == found
    doubled = ff.normal(std=2 * (2 / WIDTH) ** 0.5)
    loud = show.propagation_of(model, initializer=doubled, seed=1, **options)
    louder = [layer for layer in loud if layer.kind in ("Linear", "Dense")]
    assert louder[0].variance == pytest.approx(8, rel=0.6)
    assert louder[1].variance == pytest.approx(32, rel=0.9)


def test_a_torch_model_is_put_back_as_it_was_and_takes_a_batch_of_its_users() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.BatchNorm1d(4), torch.nn.Flatten())
    model[1].eval()
    found = show.propagation_of(model, torch.arange(8).reshape(2, 4))
    assert [layer.kind for layer in found] == ["Embedding", "BatchNorm1d", "Flatten"]
    assert [layer.training for layer in model] == [True, False, True]
    assert not any(layer._forward_hooks for layer in model)
    weight = model[0].weight.detach()[:8].numpy()
    assert found[0].variance == pytest.approx(weight.var(), rel=1e-5)
    assert model[1].num_batches_tracked == 0


def test_a_keras_layer_calls_its_own_code_again_afterwards() -> None:
    model, _ = keras_model()
    show.propagation_of(model)
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_linen_module_comes_with_its_variables() -> None:
    model, options = linen_model()
    jax = pytest.importorskip("jax")
    zeros = jax.tree.map(np.zeros_like, model.init(jax.random.key(0), np.zeros((1, WIDTH), np.float32)))
    found = show.propagation_of((model, zeros), **options)
    assert [(layer.mean, layer.variance) for layer in found] == [(0, 0)] * 2
    assert [layer.name for layer in found] == ["Dense_0", "Inner_0/Dense_0"]


def test_what_is_no_model_or_says_no_shape_is_refused() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(
        TypeError, match=r"model: expected a model of one of the types keras\.Model.*; got a int"
    ):
        show.propagation_of(3)
    with pytest.raises(
        ValueError, match=r"shape: expected the shape of one sample, which a .*ReLU does not say"
    ):
        show.propagation_of(torch.nn.ReLU())
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    words = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"which a .*Sequential does not say"):
        show.propagation_of(words)
    assert len(show.propagation_of(words, shape=(5, 3))) == 1
