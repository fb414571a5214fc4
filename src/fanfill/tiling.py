"""How a fill is cut into tiles that threads can draw independently.

Besides its *pitch* (`fanfill.regions`), an axis of a buffer has a *stride*: how many bytes the address moves
for one step. Axes that continue each other in both are merged. The rest is cut into tiles, and each tile is
found from its number alone, so that threads take them from one shared counter.
"""

from __future__ import annotations

import functools
from math import prod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


# A contiguous stretch of at least this many values is drawn in place. Shorter ones cost less through a
# scratch in the cache than as separate calls (a call from Python costs about 5 us, 16 Ki normals 10 to 18 us,
# copying them from L2 a third of that).
IN_PLACE = 16_384

# Tiles cut from one axis are a multiple of this, so that most begin on a Philox block and, of any dtype, on a
# cache line, if the first does.
_GRAIN = 64


class Axis(NamedTuple):
    """One axis: length, step of the global index, step of the address in bytes."""

    n: int
    pitch: int
    stride: int


class Tiling(NamedTuple):
    """A region cut into tiles of at most ``extents``; ``in_place``: each is contiguous in memory."""

    start: int
    axes: tuple[Axis, ...]
    extents: tuple[int, ...]
    counts: tuple[int, ...]
    tiles: int
    in_place: bool


class Piece(NamedTuple):
    """One tile: slices of the axes, and the fewest axes with its elements' indices; one of pitch 1 is a
    run."""

    where: tuple[slice, ...]
    start: int
    shape: tuple[int, ...]
    pitches: tuple[int, ...]


def merge(shape: Sequence[int], pitches: Sequence[int], strides: Sequence[int]) -> tuple[Axis, ...]:
    """Return the fewest axes that address the same elements: drop unit axes, join those that continue."""
    axes: list[Axis] = []
    for n, pitch, stride in zip(shape, pitches, strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1].pitch == pitch * n and axes[-1].stride == stride * n:
            axes[-1] = Axis(axes[-1].n * n, pitch, stride)
        else:
            axes.append(Axis(n, pitch, stride))
    return tuple(axes)


def tiling(start: int, axes: tuple[Axis, ...], itemsize: int, aligned: bool, chunk: int, tile: int) -> Tiling:
    """Cut a region into tiles.

    If the last axes are packed in memory for long enough, a tile is a contiguous stretch of at most ``chunk``
    values and is drawn in place. Otherwise a tile has at most ``tile`` values, which are drawn into a scratch
    and copied out. It is long both along the last axis, which draws fast, and along the axis of smallest
    stride, so that memory is written in whole cache lines.

    Parameters
    ----------
    start
        Global index of the first element.
    axes
        What `merge` returned, no axis empty.
    itemsize
        Bytes of an element.
    aligned
        Whether elements lie on multiples of their size; if not, nothing is drawn in place.
    chunk, tile
        The most values of a tile that is drawn in place, and of one that is not.
    """
    axes = axes or (Axis(1, 1, itemsize),)
    packed, first = itemsize, len(axes)
    while first and axes[first - 1].stride == packed:
        first -= 1
        packed *= axes[first].n
    in_place = aligned and (first == 0 or packed // itemsize >= IN_PLACE)
    extents = _stretch(axes, first, chunk) if in_place else _block(axes, tile)
    counts = tuple(-(-axis.n // extent) for axis, extent in zip(axes, extents, strict=True))
    return Tiling(start, axes, extents, counts, prod(counts), in_place)


def piece(plan: Tiling, number: int) -> Piece:
    """Return tile ``number`` of a tiling, 0 <= number < plan.tiles, in C order."""
    where: list[slice] = []
    start = plan.start
    for axis, extent, count in zip(
        reversed(plan.axes), reversed(plan.extents), reversed(plan.counts), strict=True
    ):
        number, place = divmod(number, count)
        low = place * extent
        where.append(slice(low, min(low + extent, axis.n)))
        start += low * axis.pitch
    where.reverse()
    lengths = tuple([part.stop - part.start for part in where])
    return Piece(tuple(where), start, *_indices(lengths, tuple([axis.pitch for axis in plan.axes])))


@functools.lru_cache(maxsize=256)
def _indices(lengths: tuple[int, ...], pitches: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The fewest axes, as lengths and pitches, with the same indices; whole tiles share one answer."""
    axes = merge(lengths, pitches, pitches) or (Axis(1, 1, 1),)
    return tuple(axis.n for axis in axes), tuple(axis.pitch for axis in axes)


def _stretch(axes: tuple[Axis, ...], first: int, budget: int) -> tuple[int, ...]:
    """Extents of a contiguous stretch: whole axes from the last on, a part of one, single steps before."""
    extents = [1] * len(axes)
    for k in reversed(range(first, len(axes))):
        extents[k] = _even(axes[k].n, budget)
        budget //= extents[k]
        if extents[k] < axes[k].n:
            break
    return tuple(extents)


def _block(axes: tuple[Axis, ...], budget: int) -> tuple[int, ...]:
    """Extents of a block: store axis and last axis share the budget, the others get the rest."""
    extents = [1] * len(axes)
    last = len(axes) - 1
    store = min(range(len(axes)), key=lambda k: (abs(axes[k].stride), -k))
    if store != last:
        # Whole pages if they fit, since each costs a walk of the page tables: copying 1024 by 128 float32
        # took 0.38 to 0.43 ns a value, 512 by 128 took 0.51 (AMD EPYC, 4096 x 4096; memcpy: 0.33).
        side = 2 << (budget.bit_length() // 2)
        extents[store] = _even(axes[store].n, min(budget, max(side, budget // axes[last].n)))
    for k in (last, *reversed(range(last))):
        extents[k] = _even(axes[k].n, max(extents[k], budget // (prod(extents) // extents[k])))
    return tuple(extents)


def _even(n: int, most: int) -> int:
    """Return the size that cuts n into the fewest parts of at most ``most``; only the last may be smaller."""
    if n <= most:
        return n
    part = -(-n // -(-n // max(most, 1)))
    rounded = -(-part // _GRAIN) * _GRAIN
    return rounded if rounded <= most else part
