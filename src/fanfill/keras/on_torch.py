"""Keras' torch backend: tensors are filled where they lie, on the CPU or a GPU, and kept by the variables."""

from __future__ import annotations

from typing import Any

import torch
from keras.src.backend.torch.core import get_device, to_torch_dtype  # private: Keras has no public name

from fanfill.initializers import Initializer
from fanfill.keras.on_numpy import fill
from fanfill.keras.seeds import number_of
from fanfill.torch.tensors import assert_fillable, fill_memory

__all__ = ["draw", "fill"]


def draw(law: Initializer, shape: tuple[int, ...], dtype: str, seed: Any, layout: Any) -> torch.Tensor:
    """A tensor on Keras' device; without values on the meta device, where Keras infers shapes."""
    out = torch.empty(shape, dtype=to_torch_dtype(dtype), device=get_device())
    if not out.is_meta:
        assert_fillable(out)
        fill_memory(out, law, number_of(seed), 0)
    return out
