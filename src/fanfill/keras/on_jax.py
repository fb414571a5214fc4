"""Keras' JAX backend: arrays on memory that JAX takes over, sharded by a layout, or drawn inside of jit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fanfill.initializers import Initializer
from fanfill.jax.drawing import draw_words
from fanfill.jax.memory import draw_shards
from fanfill.keras.drawing import Task
from fanfill.keras.seeds import words_of

__all__ = ["draw", "fill"]


def draw(law: Initializer, shape: tuple[int, ...], dtype: str, seed: Any, layout: Any) -> jax.Array:
    """An array; a traced one where Keras infers shapes, or jits the initializer for a large sharded variable.

    A layout is a `keras.distribution.TensorLayout` or a `NamedSharding`, which may have an abstract mesh.
    """
    layout = getattr(layout, "backend_layout", layout)
    return draw_words(law, shape, dtype, words_of(seed), out_sharding=layout)


def fill(tasks: Sequence[Task], seed: int) -> None:
    """Assign new arrays, sharded as the old ones: each process draws its own shards."""
    for name, variable, law in tasks:
        old = variable.value
        variable.assign(draw_shards(law, seed, name, tuple(old.shape), np.dtype(old.dtype), old.sharding))
