"""The loops that fill contiguous memory, compiled once for each form and dtype by ``cpu.py``.

A tile of words goes into a scratch in L1, a second loop turns it into values: a loop of pure Philox and a
loop of pure arithmetic both vectorise at full width, one loop over both does not (measured: the words at a
seventh of the rate).

``STEPS`` and ``halves`` (a block holds 4 words of 32 bits or 2 of 64), ``value``, ``pair``, ``prepare`` and
``store`` are bound when a loop is compiled.
"""

from typing import Any

import numpy as np

from fanfill_kernels.lanes import halves, i64, loop, u64
from fanfill_kernels.philox import HALF, MASK, philox_pairs

TILE = 512  # blocks: 8 KiB of words, a quarter of the smallest L1 in use
STEPS = 4


def value(w: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's function of one word
    raise NotImplementedError


def pair(
    w0: Any, w1: Any, params: Any
) -> Any:  # pragma: no cover - stands for the form's function of two words
    raise NotImplementedError


def prepare(
    pairs: Any, params: Any
) -> None:  # pragma: no cover - stands for the form's pass over 64-bit word pairs
    raise NotImplementedError


def store(x: Any) -> Any:  # pragma: no cover - stands for the dtype's rounding
    raise NotImplementedError


def make_block(i: Any, pairs: Any, low: Any, high: Any, key: Any) -> None:
    """Write block ``low + i`` of those with the upper half ``high``."""
    pairs[2 * i], pairs[2 * i + 1] = philox_pairs(
        low + u64(i), high, u64(key[2]), u64(key[3]), u64(key[0]), u64(key[1])
    )


def make_value(i: Any, out: Any, words: Any, params: Any) -> None:
    """Write element i of a form that takes one word for one value."""
    out[i] = store(value(words[i], params))


def make_twins(j: Any, out: Any, words: Any, params: Any) -> None:
    """Write elements 2j and 2j + 1 of a form that makes two values of two words."""
    a, b = pair(words[2 * j], words[2 * j + 1], params)
    out[2 * j] = store(a)
    out[2 * j + 1] = store(b)


def blocks_into(pairs: Any, block: Any, key: Any) -> Any:
    """Write consecutive Philox blocks, as word pairs; they must not cross a multiple of 2^32 blocks.

    With the block index' upper half and the substream fixed, a third of the first three rounds is the same
    for all of them and leaves the loop.
    """
    loop(pairs.size // 2, make_block, (pairs, block & MASK, block >> HALF, key))


def singles(out: Any, start: Any, key: Any, params: Any, pairs: Any) -> None:
    """Fill ``out`` with elements ``start``, ``start + 1``, ... of a form that takes one word for one
    value.
    """
    words = halves(pairs)
    block = u64(start) // u64(STEPS)
    head = i64(u64(start) % u64(STEPS))
    done = 0
    while done < out.size:
        blocks = min(TILE, (head + out.size - done + STEPS - 1) // STEPS, i64(MASK - (block & MASK)) + 1)
        blocks_into(pairs[: 2 * blocks], block, key)
        prepare(pairs[: 2 * blocks], params)
        count = min(STEPS * blocks - head, out.size - done)
        o = out[done : done + count]
        w = words[head : head + count]
        loop(count, make_value, (o, w, params))
        done += count
        block += u64(blocks)
        head = 0


def twins(out: Any, start: Any, key: Any, params: Any, pairs: Any) -> None:
    """Fill ``out`` with elements ``start``, ... of a form that makes elements 2j and 2j + 1 of words 2j
    and 2j + 1.
    """
    words = halves(pairs)
    block = u64(start) // u64(STEPS)
    head = i64(u64(start) % u64(STEPS))
    done = 0
    while done < out.size:
        blocks = min(TILE, (head + out.size - done + STEPS - 1) // STEPS, i64(MASK - (block & MASK)) + 1)
        blocks_into(pairs[: 2 * blocks], block, key)
        count = min(STEPS * blocks - head, out.size - done)
        o = out[done : done + count]
        w = words[head - head % 2 : head + count + (head + count) % 2]
        if head % 2:
            o[0] = store(pair(w[0], w[1], params)[1])
            o = o[1:]
            w = w[2:]
        loop(o.size // 2, make_twins, (o, w, params))
        if o.size % 2:
            o[o.size - 1] = store(pair(w[w.size - 2], w[w.size - 1], params)[0])
        done += count
        block += u64(blocks)
        head = 0


def no_preparation(pairs: Any, params: Any) -> None:
    """The words are taken as they are."""


def arguments(pair_of_words: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's own
    raise NotImplementedError


def make_argument(i: Any, pairs: Any, params: Any) -> None:
    """Replace word pair i."""
    pairs[i] = arguments(pairs[i], params)


def replace_words(pairs: Any, params: Any) -> None:
    """Replace the words by the form's arguments, two at a time: 64-bit lanes, where the words were made."""
    loop(pairs.size, make_argument, (pairs, params))


def body(
    out: Any, start: Any, key: Any, params: Any, pairs: Any
) -> None:  # pragma: no cover - stands for a loop above
    raise NotImplementedError


def run(out: Any, start: Any, key: Any, params: Any) -> None:
    """Fill contiguous ``out`` with elements ``start``, ``start + 1``, ..."""
    body(out, start, key, params, np.empty(2 * TILE, np.uint64))
