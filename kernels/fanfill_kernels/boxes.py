"""The loops that fill contiguous memory with a box of a tensor, whose indices are not all consecutive.

Whatever the box, a tile is a list of Philox blocks: those that its elements touch, in order, no two
neighbours alike. All of a tile's words are made by one vectorised loop over the list, however short the runs
of consecutive elements are, and all of its values by a second one; then the values that were asked for are
copied out. So a run of any length costs its blocks, the copy from L1, and some 15 cycles.

A column has one element a block, and values from the other words would be thrown away: there the pair of
words that an element needs is picked before the arithmetic.

``STEPS``, ``WORDS``, ``EACH``, ``prepare`` and ``make_values`` are bound when a loop is compiled, as in
``loops.py``.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from fanfill_kernels.lanes import halves, i64, least, loop, scratch, scratch_of, select, u64, unpack
from fanfill_kernels.loops import prepare
from fanfill_kernels.philox import HALF, philox_pairs

TILE = 512  # blocks: 8 KiB of words, as much of values, 4 KiB of block numbers
STEPS = 4
WORDS = 2  # in a pair
EACH = 1  # words, and values, that one step of make_values takes and makes
GROUP = 8  # block numbers listed at once, a vector or two
SPAN = 16  # values copied at once
NO_BLOCK = np.uint64(2**64 - 1)
ODD = np.uint64(1)
SECOND = np.uint64(2)


def make_listed_block(i: Any, pairs: Any, blocks: Any, key: Any) -> None:
    """Write the block that stands at place i of the list."""
    pairs[2 * i], pairs[2 * i + 1] = philox_pairs(
        blocks[i], blocks[i] >> HALF, u64(key[2]), u64(key[3]), u64(key[0]), u64(key[1])
    )


def make_values(
    j: Any, values: Any, words: Any, params: Any
) -> None:  # pragma: no cover - stands for make_value or make_twins of loops.py
    raise NotImplementedError


def list_span(blocks: Any, at: Any, block: Any) -> None:
    """List ``GROUP`` blocks from ``block`` on."""
    for k in range(GROUP):
        blocks[at + k] = block + u64(k)


def copy_span(out: Any, at: Any, values: Any, source: Any) -> None:
    """Copy ``SPAN`` values."""
    out[at : at + SPAN] = values[source : source + SPAN]


def advance(index: Any, place: Any, counts: Any, pitch: Any, steps: Any) -> Any:
    """Move ``steps`` along the last axis, which has as many left, and carry; return the index there."""
    axis = place.size - 1
    place[axis] += steps
    index += steps * pitch[axis]
    while axis > 0 and place[axis] == counts[axis]:
        index -= counts[axis] * pitch[axis]
        place[axis] = 0
        axis -= 1
        place[axis] += 1
        index += pitch[axis]
    return index


def fill_runs(arguments: Any) -> None:
    """(out, index, length, counts, pitch, key, params): fill ``out`` with runs of ``length`` consecutive
    elements, one at each place of the axes ``counts``.
    """
    out, index, length, counts, pitch, key, params = unpack(arguments)
    blocks = scratch(TILE + GROUP)
    pairs = scratch(2 * TILE)
    values = scratch_of(out, 4 * TILE + SPAN)
    sources = scratch_of(counts, TILE)
    lengths = scratch_of(counts, TILE)
    place = scratch_of(counts, counts.size)
    place[:] = 0
    inner = counts.size - 1
    step = u64(pitch[inner])
    within = 0
    done = 0
    while done < out.size:
        listed = 0
        runs = 0
        taken = 0
        newest = NO_BLOCK
        while done + taken < out.size:
            part = least(length - within, STEPS * (TILE - 1))
            repeats = least((TILE - listed) // ((part + 2 * STEPS - 2) // STEPS), TILE - runs)
            if repeats == 0:
                break
            repeats = least(repeats, counts[inner] - place[inner]) if part == length else 1
            first = u64(index + within)
            for r in range(runs, runs + repeats):
                block = first // u64(STEPS)
                final = (first + u64(part - 1)) // u64(STEPS)
                listed -= i64(block == newest)  # the run before ends in this run's first block
                sources[u64(r)] = STEPS * listed + i64(first % u64(STEPS))
                lengths[u64(r)] = part
                list_span(blocks, listed, block)
                for k in range(GROUP, i64(final - block) + 1, GROUP):
                    list_span(blocks, listed + k, block + u64(k))
                listed += i64(final - block) + 1
                newest = final
                first += step
            runs += repeats
            taken += repeats * part
            within += part
            if within == length:
                within = 0
                index = advance(index, place, counts, pitch, repeats)
        loop(listed, make_listed_block, (pairs, blocks, key))
        loop(2 * listed, prepare, (pairs, params))
        loop(2 * listed * WORDS // EACH, make_values, (values, halves(pairs), params))
        for r in range(runs):
            source = sources[r]
            part = lengths[r]
            if done + part + SPAN <= out.size:
                copy_span(out, done, values, source)
                for k in range(SPAN, part, SPAN):
                    copy_span(out, done + k, values, source + k)
            else:
                for k in range(part):
                    out[done + k] = values[source + k]
            done += part


def list_element(i: Any, elements: Any, taken: Any, first: Any, step: Any) -> None:
    """List the element ``i`` steps after the first."""
    elements[u64(taken + i)] = first + u64(i) * step


def list_block(i: Any, blocks: Any, elements: Any) -> None:
    """Note the block of element i."""
    blocks[i] = elements[i] // u64(STEPS)


def pick_pair(i: Any, picked: Any, pairs: Any, elements: Any) -> None:
    """Keep the pair of words that element i needs, of the two in its block."""
    picked[i] = select((elements[i] & SECOND) != u64(0), pairs[2 * i + 1], pairs[2 * i])


def pick_value(i: Any, out: Any, done: Any, values: Any, elements: Any) -> None:
    """Keep the value of element i, of the two that its pair gave."""
    out[u64(done + i)] = select((elements[i] & ODD) != u64(0), values[2 * i + 1], values[2 * i])


def fill_elements(arguments: Any) -> None:
    """(out, index, counts, pitch, key, params): fill ``out`` with one element at each place of the axes
    ``counts``, from a block of its own.
    """
    out, index, counts, pitch, key, params = unpack(arguments)
    blocks = scratch(TILE)
    pairs = scratch(2 * TILE)
    values = scratch_of(out, 4 * TILE)
    elements = scratch(TILE)
    picked = scratch(TILE) if STEPS == 4 else pairs
    place = scratch_of(counts, counts.size)
    place[:] = 0
    inner = counts.size - 1
    for done in range(0, out.size, TILE):
        count = least(TILE, out.size - done)
        taken = 0
        while taken < count:
            more = least(count - taken, counts[inner] - place[inner])
            loop(more, list_element, (elements, taken, u64(index), u64(pitch[inner])))
            taken += more
            index = advance(index, place, counts, pitch, more)
        loop(count, list_block, (blocks, elements))
        loop(count, make_listed_block, (pairs, blocks, key))
        if STEPS == 4:
            loop(count, pick_pair, (picked, pairs, elements))
        needed = count if STEPS == 4 else 2 * count
        loop(needed, prepare, (picked, params))
        loop(needed * WORDS // EACH, make_values, (values, halves(picked), params))
        loop(count, pick_value, (out, done, values, elements))


@lru_cache(maxsize=256)
def run_and_axes(shape: tuple[int, ...], pitch: tuple[int, ...]) -> tuple[int, Any, Any]:
    """Length of a box' runs, and lengths and pitches of its other axes: at least one, none of one place."""
    axes = [(int(n), int(p)) for n, p in zip(shape, pitch, strict=True) if n != 1]
    length = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    counts, steps = zip(*axes or [(1, 0)], strict=True)
    return length, np.array(counts, np.int64), np.array(steps, np.int64)


def box_by(fill_runs: Any, fill_elements: Any) -> Callable[..., None]:
    """The kernel ``box`` of a form and dtype, from its two loops; each is compiled when first used."""

    def box(out: Any, start: int, shape: Any, pitch: Any, key: Any, params: Any) -> None:
        """Fill contiguous ``out``, in C order over ``shape``, with elements ``start + sum(coordinate *
        pitch)``.
        """
        length, counts, steps = run_and_axes(tuple(shape), tuple(pitch))
        if length > 1:
            fill_runs(out, start, length, counts, steps, key, params)
        else:
            fill_elements(out, start, counts, steps, key, params)

    return box
