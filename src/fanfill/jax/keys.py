"""From a JAX key to a seed. The two words of a threefry key are its halves: ``jax.random.key(5)`` is 5."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from fanfill.messages import shown

__all__ = ["assert_words", "seed_of", "staged", "words_of"]


def words_of(key: Any) -> Any:
    """The uint32 words of one key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`), traced or not.

    Raises
    ------
    TypeError
        Something that is no key.
    ValueError
        Several keys: all of them would be hashed into one seed.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"key: expected a key; got {shown(key)}; make one with jax.random.key(seed)")
    words = jax.random.key_data(key) if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else key
    assert_words(words)
    return words if words is not key else staged(words)


def staged(words: Any) -> Any:
    """The same words, but traced if they are known while `jax.jit` traces.

    So what is drawn of them is drawn when the program runs, and is no constant in it.
    """
    return words if isinstance(words, jax.core.Tracer) else jax.lax.bitwise_or(words, np.uint32(0))


def assert_words(words: Any) -> None:
    """Raise unless these are the words of one key: TypeError for another dtype, ValueError for other axes."""
    if words.dtype != np.uint32:
        raise TypeError(
            f"key: expected a typed key, or a raw one, whose words are uint32; got an array of "
            f"{words.dtype}; make one with jax.random.key(seed)"
        )
    if words.ndim != 1 or not words.size:
        raise ValueError(
            f"key: expected one key; got an array of them, of shape {words.shape[:-1]}; map over it with "
            "jax.vmap"
        )


def seed_of(words: Any) -> int:
    """The seed that known key words stand for.

    Two words, those of threefry, are the seed, the high one first. Any other number of words (rbg has four)
    is hashed: the 8 bytes of their BLAKE2b, both little-endian.
    """
    words = np.asarray(words, np.uint32)
    if words.size == 2:
        return int(words[0]) << 32 | int(words[1])
    return int.from_bytes(hashlib.blake2b(words.astype("<u4").tobytes(), digest_size=8).digest(), "little")
