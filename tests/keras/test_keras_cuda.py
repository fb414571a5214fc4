"""Keras' torch backend on a real CUDA device: ``pytest -m cuda``. Skipped where there is none."""

from __future__ import annotations

from typing import Any

import optional
import pytest

import fanfill as ff
from fanfill.backends import get

optional.needs("torch", "keras")
torch, keras, fk = map(optional.Lazy, ("torch", "keras", "fanfill.keras"))

REASON = get("cuda").unusable() or (None if torch.cuda.is_available() else "this torch sees no CUDA device")
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(REASON is not None, reason=f"no CUDA device: {REASON}")]


def bits(value: Any) -> bytes:
    return bytes(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_drawn_where_it_lies(dtype: str) -> None:
    made = fk.HeNormal(seed=5)((300, 303), dtype=dtype)
    assert made.is_cuda
    law = ff.he_normal(truncated=True)
    assert bits(made) == ff.draw((300, 303), law, seed=5, dtype=dtype).tobytes()

    layer = keras.layers.Dense(300, kernel_initializer="fanfill>HeNormal", dtype=dtype)
    model = fk.init_model(keras.Sequential([keras.Input((500,)), layer]), 3)
    kernel = model.weights[0].value
    assert kernel.is_cuda
    assert bits(kernel) == ff.draw((500, 300), law, seed=3, name="dense/kernel", dtype=dtype).tobytes()
