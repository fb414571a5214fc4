"""What a Keras seed is as a seed of fanfill.

An integer, negative ones too, is taken modulo 2^64. The state of a `SeedGenerator`, two words, is a seed with
the first word high; each draw moves its counter by one, as each of Keras' own does.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np

__all__ = ["number_of", "words_of"]

_WORD = 2**32 - 1


def words_of(seed: int | keras.random.SeedGenerator) -> Any:
    """A seed as two uint32, the high one first: an ndarray, or a traced jax.Array inside of ``jax.jit``."""
    if not isinstance(seed, keras.random.SeedGenerator):
        return np.array([seed >> 32 & _WORD, seed & _WORD], np.uint32)
    if keras.config.backend() != "jax":
        return _unsigned(keras.ops.convert_to_numpy(seed.next()))
    state = seed.state.value
    if isinstance(state, sys.modules["jax"].core.Tracer):
        return seed.next().astype(np.uint32)
    # What next() does, on the host: its own addition fails under the mesh that Keras sets for a layout.
    known = np.asarray(state)
    seed.state.assign(np.array([known[0], known[1] + 1], known.dtype))
    return _unsigned(known)


def number_of(seed: int | keras.random.SeedGenerator) -> int:
    """A seed as an integer in [0, 2^64)."""
    high, low = words_of(seed)
    return int(high) << 32 | int(low)


def _unsigned(state: Any) -> Any:
    return np.asarray(state).astype(np.int64).astype(np.uint32)
