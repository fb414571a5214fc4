"""The copy from a contiguous tile to where its values belong: memory of any strides.

Memory is read and written in cache lines, so the tile is turned in squares of ``SIDE`` by ``SIDE``, whose
rows are a line of 4-byte values: each line is read once and written once, whatever the distance between
lines. So distances that are a power of two, which make lines evict each other, do no harm.

Compiled once for each size of item, on unsigned integers. Offsets and strides count items.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fanfill_kernels.lanes import least, u64, unpack

SIDE = 16
BATCH = 8  # values moved one by one, but without a loop
STRETCH = 64  # columns done at a time where a tile has few rows: the lines that the rows share stay in L1


def reverse_line(memory: Any, at: Any, values: Any, source: Any) -> None:
    """Copy ``SIDE`` consecutive values, the first of them to ``at``, the others before it."""
    memory[at - SIDE + 1 : at + 1] = values[source : source + SIDE][::-1]


def turn_block(memory: Any, at: Any, offsets: Any, first: Any, values: Any, source: Any, pitch: Any) -> None:
    """Copy ``SIDE`` lines, ``pitch`` apart in ``values``, to as many in memory: column k of them becomes the
    line at ``at + offsets[first + k]``.
    """
    for k in range(SIDE):
        place = at + offsets[first + k]
        memory[place : place + SIDE] = values[source + k :: pitch][:SIDE]


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
        if count >= SIDE:  # some of them again
            reverse_line(memory, at + base - count + SIDE, values, source + count - SIDE)
        else:
            move_row(memory, at + base, -1, values, source, 1, count)
        source += count


def turn(arguments: Any) -> None:
    """(memory, at, bases, offsets, values, rows, step): copy tiles of ``rows`` lines to memory, ``step`` from
    row to row, and the columns at ``offsets``.
    """
    memory, at, bases, offsets, values, rows, step = unpack(arguments)
    columns = offsets.size
    whole = rows - rows % SIDE if step == 1 else 0
    turned = columns - columns % SIDE
    source = 0
    for base in bases:
        for column in range(0, turned, SIDE):
            for row in range(0, whole, SIDE):
                line = source + row * columns + column
                turn_block(memory, at + base + row, offsets, column, values, line, columns)
        for row in range(0, rows, SIDE):
            count = least(SIDE, rows - row)
            for column in range(turned if row < whole else 0, columns):
                place = at + base + offsets[column] + row * step
                move_row(memory, place, step, values, source + row * columns + column, columns, count)
        source += rows * columns


def weave(arguments: Any) -> None:
    """(memory, at, bases, offsets, values, rows, step, columns, stride): do the same for few rows, in
    stretches of ``columns``, ``stride`` apart, that begin at ``offsets``.
    """
    memory, at, bases, offsets, values, rows, step, columns, stride = unpack(arguments)
    pitch = offsets.size * columns
    source = 0
    for base in bases:
        for offset in offsets:
            for column in range(0, columns, STRETCH):
                count = least(STRETCH, columns - column)
                for row in range(rows):
                    place = at + base + offset + row * step + column * stride
                    move_row(memory, place, stride, values, source + row * pitch + column, 1, count)
            source += columns
        source += (rows - 1) * pitch


ARGUMENTS = {
    "reverse": ("memory", "at", "bases", "values", "count"),
    "turn": ("memory", "at", "bases", "offsets", "values", "rows", "step"),
    "weave": ("memory", "at", "bases", "offsets", "values", "rows", "step", "columns", "stride"),
}


def offsets_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """The offsets of all places, in C order."""
    offsets = np.zeros(1, np.int64)
    for n, stride in zip(shape, strides, strict=True):
        offsets = (offsets[:, None] + np.arange(n, dtype=np.int64) * stride).reshape(-1)
    return offsets


def scatter_by(
    kernel: Callable[[Any], Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> Callable[[Any, int, Any], None]:
    """Choose how to copy tiles of one shape.

    Parameters
    ----------
    kernel
        Compiles one of the three loops above.
    shape, strides
        The tile's lengths, and its strides in items.

    Returns
    -------
    scatter
        ``scatter(memory, at, values)`` copies contiguous ``values``, in C order over ``shape``, to memory:
        that of place c to ``at + sum(c_k * strides_k)``.
    """
    last = len(shape) - 1
    store = min(range(len(shape)), key=lambda k: (shape[k] == 1, abs(strides[k]), -k))
    rows, step = shape[store], strides[store]
    bases = offsets_of(shape[:store], strides[:store])
    if store == last and step == -1:
        function = kernel(reverse)

        def scatter(memory: Any, at: int, values: Any) -> None:
            function(memory, at, bases, values, rows)

    elif store < last and rows < BATCH:
        offsets = offsets_of(shape[store + 1 : last], strides[store + 1 : last])
        function, columns, stride = kernel(weave), shape[last], strides[last]

        def scatter(memory: Any, at: int, values: Any) -> None:
            function(memory, at, bases, offsets, values, rows, step, columns, stride)

    else:
        offsets = offsets_of(shape[store + 1 :], strides[store + 1 :])
        function = kernel(turn)

        def scatter(memory: Any, at: int, values: Any) -> None:
            function(memory, at, bases, offsets, values, rows, step)

    return scatter
