"""The loops that fill contiguous memory, compiled once for each form and dtype by ``cpu.py``.

A tile of words goes into a scratch in L1, a second loop turns it into values: a loop of pure Philox and a
loop of pure arithmetic both vectorise at full width, one loop over both does not (measured: the words at a
seventh of the rate).

``STEPS`` and ``halves`` (a block holds 4 words of 32 bits or 2 of 64), ``value``, ``pair``, ``arguments``,
``prepare`` and ``store`` are bound when a loop is compiled.
"""

from typing import Any

from fanfill_kernels.lanes import halves, i64, least, loop, scratch, u64, unpack
from fanfill_kernels.philox import HALF, MASK, philox_pairs

TILE = 512  # blocks: 8 KiB of words, a quarter of the smallest L1 in use
STEPS = 4


def value(w: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's function of one word
    raise NotImplementedError


def pair(
    w0: Any, w1: Any, params: Any
) -> Any:  # pragma: no cover - stands for the form's function of two words
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


def make_first(j: Any, out: Any, words: Any, params: Any) -> None:
    """Write element 2j alone."""
    out[j] = store(pair(words[2 * j], words[2 * j + 1], params)[0])


def make_second(j: Any, out: Any, words: Any, params: Any) -> None:
    """Write element 2j + 1 alone."""
    out[j] = store(pair(words[2 * j], words[2 * j + 1], params)[1])


def arguments(pair_of_words: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's own
    raise NotImplementedError


def make_argument(i: Any, pairs: Any, params: Any) -> None:
    """Replace word pair i: 64-bit lanes, where the words were made."""
    pairs[i] = arguments(pairs[i], params)


def keep_words(i: Any, pairs: Any, params: Any) -> None:
    """Take the words as they are: for forms without arguments."""


def prepare(i: Any, pairs: Any, params: Any) -> None:  # pragma: no cover - stands for one of the two above
    raise NotImplementedError


def singles(arguments: Any) -> None:
    """(out, start, key, params): fill ``out`` with elements ``start``, ``start + 1``, ... of a form that
    takes one word for one value.

    Within one tile the block index' upper half and the substream are fixed, so that a third of the first
    three rounds leaves the loop.
    """
    out, start, key, params = unpack(arguments)
    pairs = scratch(2 * TILE)
    words = halves(pairs)
    block = u64(start) // u64(STEPS)
    head = i64(u64(start) % u64(STEPS))
    done = 0
    while done < out.size:
        blocks = least(TILE, (head + out.size - done + STEPS - 1) // STEPS)
        blocks = least(blocks, i64(MASK - (block & MASK)) + 1)
        loop(blocks, make_block, (pairs, block & MASK, block >> HALF, key))
        loop(2 * blocks, prepare, (pairs, params))
        count = least(STEPS * blocks - head, out.size - done)
        loop(count, make_value, (out[done : done + count], words[head : head + count], params))
        done += count
        block += u64(blocks)
        head = 0


def twins(arguments: Any) -> None:
    """(out, start, key, params): fill ``out`` with elements ``start``, ... of a form that makes elements 2j
    and 2j + 1 of words 2j and 2j + 1.
    """
    out, start, key, params = unpack(arguments)
    pairs = scratch(2 * TILE)
    words = halves(pairs)
    block = u64(start) // u64(STEPS)
    head = i64(u64(start) % u64(STEPS))
    done = 0
    while done < out.size:
        blocks = least(TILE, (head + out.size - done + STEPS - 1) // STEPS)
        blocks = least(blocks, i64(MASK - (block & MASK)) + 1)
        loop(blocks, make_block, (pairs, block & MASK, block >> HALF, key))
        count = least(STEPS * blocks - head, out.size - done)
        o = out[done : done + count]
        w = words[head - head % 2 : head + count + (head + count) % 2]
        if head % 2:
            loop(1, make_second, (o, w, params))
            o = o[1:]
            w = w[2:]
        loop(o.size // 2, make_twins, (o, w, params))
        if o.size % 2:
            loop(1, make_first, (o[o.size - 1 :], w[w.size - 2 :], params))
        done += count
        block += u64(blocks)
        head = 0
