"""The copy from a contiguous tile to where its values belong: memory of any strides.

Memory is read and written in cache lines, so the tile is transposed in squares of ``SIDE`` by ``SIDE``, whose
rows are a line of 4-byte values: each line is read once and written once, whatever the distance between
lines. So distances that are a power of two, which make lines evict each other, do no harm. If all columns
begin at the same distance from a cache line, squares can begin with lines, too. In large memory, such squares
are written past the caches, without being read first: the copy then takes 0.7 to 0.8 times as long with
4-byte values, 0.55 to 0.7 with 8-byte ones (measured alternately, 8192 x 8192 and 4096 x 4096).

A tile with many axes is copied by lists of its places. The lists are kept short, since a place takes eight
bytes and a value may take only one.

The loops are compiled once for each item size, on unsigned integers. Offsets and strides count items.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from fanfill_kernels.compile.loops import LINE
from fanfill_kernels.lanes import lead, least, publish, u64, unpack

SIDE = 16
BATCH = 8  # values moved one by one, but without a loop
NONTEMPORAL = False  # whether squares are written past the caches; bound to True for the kernels that do so
LISTED = 16_384  # places listed at most, 128 KiB; a call of a few us copies at least half as many values
STRETCH = 64  # columns done at a time when a tile has few rows: the lines that the rows share stay in L1


def reverse_line(memory: Any, at: Any, values: Any, source: Any) -> None:
    """Copy ``SIDE`` consecutive values in reverse: the first goes to ``at``, the others before it."""
    memory[at - SIDE + 1 : at + 1] = values[source : source + SIDE][::-1]


def transpose_block(
    memory: Any, at: Any, offsets: Any, first: Any, values: Any, source: Any, pitch: Any
) -> None:
    """Copy ``SIDE`` lines, ``pitch`` apart in ``values``, to as many lines in memory: their column k becomes
    the line at ``at + offsets[first + k]``.
    """
    for k in range(SIDE):
        place = at + offsets[first + k]
        memory[place : place + SIDE] = values[source + k :: pitch][:SIDE]


def transpose_block_nontemporal(
    memory: Any, at: Any, offsets: Any, first: Any, values: Any, source: Any, pitch: Any
) -> None:
    """Do the same past the caches, to lines in memory that are whole cache lines."""
    transpose_block(memory, at, offsets, first, values, source, pitch)


def move_group(memory: Any, at: Any, step: Any, values: Any, source: Any, pitch: Any) -> None:
    """Copy ``BATCH`` values, ``pitch`` apart, to memory ``step`` apart."""
    for k in range(BATCH):
        memory[at + k * step] = values[source + k * pitch]


def move_row(memory: Any, at: Any, step: Any, values: Any, source: Any, pitch: Any, count: Any) -> None:
    """Copy values ``pitch`` apart to memory ``step`` apart."""
    whole = count - count % BATCH
    for k in range(0, whole, BATCH):
        move_group(memory, at + k * step, step, values, source + k * pitch, pitch)
    for k in range(whole, count):
        memory[u64(at + k * step)] = values[u64(source + k * pitch)]


def reverse(arguments: Any) -> None:
    """(memory, at, bases, values, count): copy rows of ``count`` values to memory, each backwards from ``at``
    plus its base.
    """
    memory, at, bases, values, count = unpack(arguments)
    source = 0
    for base in bases:
        for k in range(0, count - SIDE + 1, SIDE):
            reverse_line(memory, at + base - k, values, source + k)
        if count >= SIDE:  # copies some values a second time
            reverse_line(memory, at + base - count + SIDE, values, source + count - SIDE)
        else:
            move_row(memory, at + base, -1, values, source, 1, count)
        source += count


def move_rows(
    memory: Any, at: Any, offsets: Any, first: Any, step: Any, values: Any, source: Any, pitch: Any, rows: Any
) -> None:
    """Copy some rows of a tile, from column ``first`` on, value by value."""
    for row in range(0, rows, SIDE):
        count = least(SIDE, rows - row)
        for column in range(first, offsets.size):
            place = at + offsets[column] + row * step
            move_row(memory, place, step, values, source + row * pitch + column, pitch, count)


def transpose(arguments: Any) -> None:
    """(memory, at, bases, offsets, values, pitch, rows, step, lead): copy tiles of ``rows`` lines, ``pitch``
    apart in ``values``, to memory, where rows are ``step`` apart and columns lie at ``offsets``; from row
    ``lead`` on in squares.
    """
    memory, at, bases, offsets, values, pitch, rows, step, lead = unpack(arguments)
    columns = offsets.size
    transposed = columns - columns % SIDE
    last = rows - (rows - lead) % SIDE
    source = 0
    for base in bases:
        if step == 1 and lead < last:
            for column in range(0, transposed, SIDE):
                for row in range(lead, last, SIDE):
                    line = source + row * pitch + column
                    if NONTEMPORAL:
                        transpose_block_nontemporal(
                            memory, at + base + row, offsets, column, values, line, pitch
                        )
                    else:
                        transpose_block(memory, at + base + row, offsets, column, values, line, pitch)
            below, rest = source + lead * pitch, source + last * pitch
            move_rows(memory, at + base, offsets, 0, 1, values, source, pitch, lead)
            move_rows(memory, at + base + lead, offsets, transposed, 1, values, below, pitch, last - lead)
            move_rows(memory, at + base + last, offsets, 0, 1, values, rest, pitch, rows - last)
        else:
            move_rows(memory, at + base, offsets, 0, step, values, source, pitch, rows)
        source += rows * pitch
    if NONTEMPORAL:
        publish()


def interleave(arguments: Any) -> None:
    """(memory, at, bases, offsets, values, pitch, rows, step, columns, stride): do the same for few rows, in
    stretches that begin at ``offsets`` and hold ``columns`` values, ``stride`` apart.
    """
    memory, at, bases, offsets, values, pitch, rows, step, columns, stride = unpack(arguments)
    first = 0
    for base in bases:
        source = first
        for offset in offsets:
            for column in range(0, columns, STRETCH):
                count = least(STRETCH, columns - column)
                for row in range(rows):
                    place = at + base + offset + row * step + column * stride
                    move_row(memory, place, stride, values, source + row * pitch + column, 1, count)
            source += columns
        first += rows * pitch


ARGUMENTS = {
    "reverse": ("memory", "at", "bases", "values", "count"),
    "transpose": ("memory", "at", "bases", "offsets", "values", "pitch", "rows", "step", "lead"),
    "interleave": (
        "memory",
        "at",
        "bases",
        "offsets",
        "values",
        "pitch",
        "rows",
        "step",
        "columns",
        "stride",
    ),
}


def offsets_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """The offsets of all places, in C order."""
    offsets = np.zeros(1, np.int64)
    for n, stride in zip(shape, strides, strict=True):
        steps = np.arange(n, dtype=np.int64)
        steps *= stride
        offsets = np.add.outer(offsets, steps).reshape(-1)
    return offsets


def listed(shape: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[tuple[int, int, Any]]:
    """The offsets of all places, in C order, in lists of at most ``LISTED``. Yields (how many places come
    before the list, what to add to each offset, the list). Every list is the first one or a prefix of it.
    """
    inner, axis = 1, len(shape)
    while axis and inner * shape[axis - 1] <= LISTED:
        axis -= 1
        inner *= shape[axis]
    if not axis:
        yield 0, 0, offsets_of(shape, strides)
        return
    axis -= 1  # only a part of this axis fits
    n, stride = shape[axis], strides[axis]
    part = -(-n // -(-n // (LISTED // inner)))  # the fewest parts, all but the last alike
    offsets = offsets_of((part, *shape[axis + 1 :]), strides[axis:])
    before = 0
    for outer in np.ndindex(*shape[:axis]):
        base = sum(place * step for place, step in zip(outer, strides[:axis], strict=True))
        for first in range(0, n, part):
            count = min(part, n - first) * inner
            yield before, base + first * stride, offsets[:count]
            before += count


def scatter_by(
    kernel: Callable[..., Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    itemsize: int,
    nontemporal: bool,
) -> Callable[[Any, int, Any], None]:
    """Choose how to copy tiles of one shape.

    Parameters
    ----------
    kernel
        Compiles one of the three loops above; if True is passed too, one that writes past the caches.
    shape, strides, itemsize
        The tile's lengths, its strides in items, and an item's bytes.
    nontemporal
        Whether to write whole lines past the caches, since no cache holds all that will be written.

    Returns
    -------
    scatter
        ``scatter(memory, at, values)`` copies contiguous ``values``, in C order over ``shape``, to memory:
        the value of place c to ``at + sum(c_k * strides_k)``.
    """
    last = len(shape) - 1
    store = min(range(len(shape)), key=lambda k: (shape[k] == 1, abs(strides[k]), -k))
    rows, step = shape[store], strides[store]
    bases = tuple(listed(shape[:store], strides[:store]))
    if store == last and step == -1:
        function = kernel(reverse)

        def scatter(memory: Any, at: int, values: Any) -> None:
            for before, base, places in bases:
                function(memory, at + base, places, values[before * rows :], rows)

        return scatter

    interleaves = store < last and rows < BATCH
    inner = slice(store + 1, last if interleaves else None)
    columns, stride = (shape[last], strides[last]) if interleaves else (1, 0)
    pitch = prod(shape[store + 1 :])
    lists = tuple(
        (base + offset, before * rows * pitch + column * columns, places, offsets)
        for before, base, places in bases
        for column, offset, offsets in listed(shape[inner], strides[inner])
    )
    if interleaves:
        function = kernel(interleave)

        def scatter(memory: Any, at: int, values: Any) -> None:
            for ahead, source, places, offsets in lists:
                part = values[source:]
                function(memory, at + ahead, places, offsets, part, pitch, rows, step, columns, stride)

    else:
        others = [stride for k, stride in enumerate(strides) if k != store and shape[k] > 1]
        lines = step == 1 and itemsize >= 4 and not any(stride * itemsize % LINE for stride in others)
        function = kernel(transpose, nontemporal and lines)

        def scatter(memory: Any, at: int, values: Any) -> None:
            before = min(lead(memory[at:], LINE), rows) if lines else 0
            for ahead, source, places, offsets in lists:
                function(memory, at + ahead, places, offsets, values[source:], pitch, rows, step, before)

    return scatter
