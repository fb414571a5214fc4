"""From a JAX key to a seed. The two words of a threefry key are its halves: ``jax.random.key(5)`` is 5."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fanfill.messages import shown

__all__ = ["assert_words", "seed_of", "staged", "two_words", "words_of"]

_HALF = 32

# BLAKE2b (RFC 7693): its initial vector, and which words of the message each of its rounds takes.
_VECTOR = (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
_ORDERS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_ROUNDS, _BLOCK = 12, 32  # the message is one block of so many uint32 at most


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


def two_words(words: Any) -> Any:
    """Traced key words as the two words of the same seed: what `seed_of` does, by JAX's own integers.

    The host cannot hash what lies in a device's memory. An rbg key takes a loop of 12 turns on 4 columns.
    """
    if words.shape[-1] == 2:
        return words
    if words.shape[-1] > _BLOCK:
        raise ValueError(f"key: expected at most {_BLOCK} words of a key on a device; got {words.shape[-1]}")
    message = jnp.zeros(_BLOCK, jnp.uint32).at[: words.shape[-1]].set(words)
    low, high = message[0::2], message[1::2]
    orders = jnp.array([_ORDERS[r % len(_ORDERS)] for r in range(_ROUNDS)], jnp.int32)
    # A digest of 8 bytes, no key; the length of the message, and that its last block is this one.
    begin = list(_VECTOR)
    begin[0] ^= 0x01010000 ^ 8
    mixed = [*begin, *_VECTOR]
    mixed[12] ^= 4 * words.shape[-1]
    mixed[14] ^= 2**64 - 1
    rows = tuple(_pair(mixed[4 * k : 4 * k + 4]) for k in range(4))

    def turn(number: Any, rows: Any) -> Any:
        order = orders[number]
        taken = [(low[order[k::2]], high[order[k::2]]) for k in (0, 1)]
        rows = _columns(*rows, *((x[:4], y[:4]) for x, y in taken))
        a, *rest = rows
        turned = [_rolled(row, -k) for k, row in enumerate(rest, 1)]
        a, *rest = _columns(a, *turned, *((x[4:], y[4:]) for x, y in taken))
        return (a, *(_rolled(row, k) for k, row in enumerate(rest, 1)))

    (a_low, a_high), _, (c_low, c_high), _ = jax.lax.fori_loop(0, _ROUNDS, turn, rows)
    first = _pair([begin[0]])
    return jnp.stack([first[1][0] ^ a_high[0] ^ c_high[0], first[0][0] ^ a_low[0] ^ c_low[0]])


def _pair(numbers: list[int]) -> tuple[Any, Any]:
    """Numbers of 64 bits as their lower and upper halves: JAX has none of 64 by default."""
    return (
        jnp.array([n & 0xFFFFFFFF for n in numbers], jnp.uint32),
        jnp.array([n >> _HALF for n in numbers], jnp.uint32),
    )


def _columns(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """BLAKE2b's mixing function, on four columns."""
    for message, first, second in ((x, 32, 24), (y, 16, 63)):
        a = _sum(_sum(a, b), message)
        d = _turned(_xor(d, a), first)
        c = _sum(c, d)
        b = _turned(_xor(b, c), second)
    return a, b, c, d


def _sum(x: Any, y: Any) -> tuple[Any, Any]:
    low = x[0] + y[0]
    return low, x[1] + y[1] + (low < x[0]).astype(jnp.uint32)


def _xor(x: Any, y: Any) -> tuple[Any, Any]:
    return x[0] ^ y[0], x[1] ^ y[1]


def _turned(x: Any, bits: int) -> tuple[Any, Any]:
    """Rotated to the right."""
    low, high = x if bits < _HALF else x[::-1]
    bits %= _HALF
    if not bits:
        return low, high
    return low >> bits | high << (_HALF - bits), high >> bits | low << (_HALF - bits)


def _rolled(x: Any, places: int) -> tuple[Any, Any]:
    return jnp.roll(x[0], places), jnp.roll(x[1], places)
