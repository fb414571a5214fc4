"""The loops that fill contiguous memory with a box of a tensor, whose indices are not all consecutive.

Whatever the box, a tile is a list of the Philox blocks that its elements touch, in order, with no two
neighbours equal. All of a tile's values are made group by group, as in ``loops.py``, however short the runs
of consecutive elements are; then the required ones are copied out. So a run of any length costs its blocks,
the copy from L1, and about 15 cycles.

A column has one element per block, and values from the other words would be thrown away. So the words that an
element needs are picked before the arithmetic.

``STEPS``, ``GROUP``, ``WIDTH``, ``words``, ``write``, ``picked``, ``element``, ``value``, ``pair`` and
``store`` are bound when a loop is compiled, as in ``loops.py``.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from fanfill_kernels.compile.loops import GROUP, STEPS, WIDTH, pair, store, value, words, write
from fanfill_kernels.lanes import (
    i64,
    least,
    loop,
    put,
    scratch,
    scratch_of,
    select,
    u32,
    u64,
    unpack,
    vectors,
)
from fanfill_kernels.philox import HALF
from fanfill_kernels.process import stacks

TILE = 512  # blocks: 8 KiB of values, 4 KiB of block numbers
LISTED = 8  # block numbers listed at once, a vector or two
SPAN = 16  # values copied at once
NO_BLOCK = np.uint64(2**64 - 1)
ODD = np.uint64(1)
UPPER = np.uint64(2)


def make_listed_group(i: Any, out: Any, blocks: Any, key: Any, params: Any) -> None:
    """Write the values of ``GROUP`` blocks of the list."""
    block = vectors(blocks, i * GROUP, GROUP, WIDTH)
    first, second = words(block, block >> HALF, key, params)
    write(out, i * (GROUP * STEPS), first, second, params, False)


def picked(index: Any, word: Any) -> Any:  # pragma: no cover - stands for one of the two below
    raise NotImplementedError


def element(
    odd: Any, first: Any, second: Any, params: Any
) -> Any:  # pragma: no cover - stands for one of the two below
    raise NotImplementedError


def one_half(index: Any, word: Any) -> Any:
    """From the two words in a lane, the one that belongs to the element's half of the block."""
    lane = word.view(np.uint64)
    return u32(select((index & UPPER) != u64(0), lane >> HALF, lane))


def whole(index: Any, word: Any) -> Any:
    """The word itself, if a block holds two."""
    return word


def single(odd: Any, first: Any, second: Any, params: Any) -> Any:
    """An element's value when one word makes one value."""
    return store(value(select(odd, second, first), params))


def twin(odd: Any, first: Any, second: Any, params: Any) -> Any:
    """The same when two words make two values."""
    a, b = pair(first, second, params)
    return store(select(odd, b, a))


def make_elements(i: Any, out: Any, elements: Any, key: Any, params: Any) -> None:
    """Write the values of ``GROUP`` elements of the list, each from a separate block."""
    index = vectors(elements, i * GROUP, GROUP, WIDTH)
    block = index // u64(STEPS)
    first, second = words(block, block >> HALF, key, params)
    odd = (index & ODD) != u64(0)
    put(out, i * GROUP, element(odd, picked(index, first), picked(index, second), params))


def list_span(blocks: Any, at: Any, block: Any) -> None:
    """List ``LISTED`` blocks from ``block`` on."""
    for k in range(LISTED):
        blocks[at + k] = block + u64(k)


def copy_span(out: Any, at: Any, values: Any, source: Any) -> None:
    """Copy ``SPAN`` values."""
    out[at : at + SPAN] = values[source : source + SPAN]


def advance(index: Any, place: Any, counts: Any, pitch: Any, steps: Any) -> Any:
    """Move ``steps`` along the last axis, which has that many left, and carry; return the new index."""
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


def list_runs(
    blocks: Any,
    sources: Any,
    lengths: Any,
    place: Any,
    counts: Any,
    pitch: Any,
    length: Any,
    index: Any,
    within: Any,
    size: Any,
) -> Any:
    """List the blocks of the next ``size`` elements, or of as many as the lists take.

    They begin ``within`` elements into the run at ``index``. Where each run lies among the values of these
    blocks goes to ``sources``, its length to ``lengths``. Returns the number of blocks and that of runs, and
    the run and the place within it that come next.
    """
    inner = counts.size - 1
    step = u64(pitch[inner])
    listed = 0
    runs = 0
    taken = 0
    newest = NO_BLOCK
    while taken < size:
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
            for k in range(LISTED, i64(final - block) + 1, LISTED):
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
    return listed, runs, index, within


def copy_runs(out: Any, done: Any, values: Any, sources: Any, lengths: Any, runs: Any) -> Any:
    """Copy the listed runs to ``out``, from ``done`` on; return where the last one ends."""
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
    return done


def fill_runs(arguments: Any) -> None:
    """(out, index, length, counts, pitch, key, params): fill ``out`` with runs of ``length`` consecutive
    elements, one run at each place of the axes ``counts``.
    """
    out, index, length, counts, pitch, key, params = unpack(arguments)
    blocks = scratch(TILE + LISTED + GROUP)
    made = scratch_of(out, STEPS * (TILE + GROUP) + SPAN)
    sources = scratch_of(counts, TILE)
    lengths = scratch_of(counts, TILE)
    place = scratch_of(counts, counts.size)
    place[:] = 0
    within = 0
    done = 0
    while done < out.size:
        listed, runs, index, within = list_runs(
            blocks, sources, lengths, place, counts, pitch, length, index, within, out.size - done
        )
        # The last group may extend beyond the list: the values made from what is there are not used.
        loop((listed + GROUP - 1) // GROUP, make_listed_group, (made, blocks, key, params))
        done = copy_runs(out, done, made, sources, lengths, runs)


def list_element(i: Any, elements: Any, taken: Any, first: Any, step: Any) -> None:
    """List the element ``i`` steps after the first."""
    elements[u64(taken + i)] = first + u64(i) * step


def fill_elements(arguments: Any) -> None:
    """(out, index, counts, pitch, key, params): fill ``out`` with one element at each place of the axes
    ``counts``, each from a separate block.
    """
    out, index, counts, pitch, key, params = unpack(arguments)
    elements = scratch(TILE + GROUP)
    made = scratch_of(out, TILE + GROUP)
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
        loop((count + GROUP - 1) // GROUP, make_elements, (made, elements, key, params))
        for k in range(count):
            out[u64(done + k)] = made[u64(k)]


@lru_cache(maxsize=256)
def run_and_axes(shape: tuple[int, ...], pitch: tuple[int, ...]) -> tuple[int, Any, Any]:
    """The length of a box's runs, and the lengths and pitches of its other axes: at least one axis, and none
    of length 1 unless it is the only one.
    """
    axes = [(int(n), int(p)) for n, p in zip(shape, pitch, strict=True) if n != 1]
    length = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    counts, steps = zip(*axes or [(1, 0)], strict=True)
    return length, np.array(counts, np.int64), np.array(steps, np.int64)


def box_by(fill_runs: Any, fill_elements: Any) -> Callable[..., None]:
    """The kernel ``box`` of a form and dtype, made from its two loops; each is compiled at its first use."""

    def box(out: Any, start: int, shape: Any, pitch: Any, key: Any, params: Any) -> None:
        """Fill contiguous ``out``, in C order over ``shape``, with elements ``start + sum(coordinate *
        pitch)``.
        """
        length, counts, steps = run_and_axes(tuple(shape), tuple(pitch))
        if length > 1:
            fill = partial(fill_runs, out, start, length, counts, steps, key, params)
        else:
            fill = partial(fill_elements, out, start, counts, steps, key, params)
        if stacks.size() < stacks.KERNEL:  # for the scratch
            stacks.aside(fill, stacks.KERNEL)
        else:
            fill()

    return box
