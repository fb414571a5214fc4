"""Where a buffer lies in its global tensor, and how its filling is cut into pieces.

A value depends on its element's C-order index in the global tensor; memory has strides of its own. So an axis
of a buffer has three numbers: its length, its *pitch* (how far the global index moves for one step) and its
*stride* (how many bytes the address moves). Axes that continue each other in both are merged; what is left is
cut into tiles, any of which is found from its number alone, so that threads take them from one shared
counter.

All index arithmetic is on Python integers: global tensors pass 2^32 elements as a matter of course.
"""

from __future__ import annotations

import functools
import operator
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from fanfill.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LARGEST_TENSOR = 2**63

# NumPy's and torch's limit. An iterable without an end is told from a shape by it.
_MOST_AXES = 64

# A contiguous stretch of this many values is drawn where it lies; shorter ones cost less through a scratch in
# the cache than as calls of their own (a call costs some 5 us from Python; 16 Ki normals 10 to 18 us, copying
# them from L2 a third of that).
IN_PLACE = 16_384

# Tiles cut from one axis are a multiple of this, so that most begin on a Philox block and, of any dtype, on a
# cache line, if the first does.
_GRAIN = 64


class Region(NamedTuple):
    """The part of a global tensor that a buffer is: element c is its ``start + sum(c_k * pitches_k)``."""

    shape: tuple[int, ...]
    start: int
    pitches: tuple[int, ...]


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
    """One tile: slices of the axes, and its elements' indices as the fewest axes. One of pitch 1 is a run."""

    where: tuple[slice, ...]
    start: int
    shape: tuple[int, ...]
    pitches: tuple[int, ...]


def integer(value: object, what: str, low: int, limit: int, interval: str) -> int:
    """Return ``value`` as a Python int in [low, limit), or raise. Booleans are not integers here."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{what}: expected an integer in {interval}; got {shown(value)} ({type(value).__name__})"
        ) from None
    if not low <= number < limit:
        raise ValueError(f"{what}: expected an integer in {interval}; got {shown(number)}")
    return number


def entries_of(value: int | Iterable[int], what: str) -> tuple[object, ...] | None:
    """Return the entries of an iterable, unchecked; None for what has none, such as an integer.

    Raises
    ------
    TypeError
        If they are characters or bytes, or come in no order.
    ValueError
        If there are more than any tensor has axes.
    """
    if isinstance(value, str | bytes | bytearray | set | frozenset | dict):
        raise TypeError(
            f"{what}: expected an integer or a tuple of them; got {shown(value)} ({type(value).__name__})"
        )
    try:
        entries = iter(value)  # type: ignore[arg-type]
    except TypeError:  # arrays without axes are among these
        return None
    found: tuple[object, ...] = tuple(islice(entries, _MOST_AXES + 1))
    if len(found) > _MOST_AXES:
        raise ValueError(
            f"{what}: expected at most {_MOST_AXES} axes; got more: {shown(found[:3])} and so on"
        )
    return found


def shape_of(value: int | Iterable[int], what: str) -> tuple[int, ...]:
    """Return a shape as a tuple of Python ints; a single integer is a shape of rank 1.

    Raises
    ------
    TypeError, ValueError
        If an entry is not an integer, is negative, or the product passes 2^63; as `entries_of`.
    """
    entries = entries_of(value, what)
    shape = tuple(
        integer(entry, what, 0, LARGEST_TENSOR + 1, "[0, 2**63]")
        for entry in ((value,) if entries is None else entries)
    )
    if prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"{what}: expected at most 2**63 elements; got shape {shown(shape)}")
    return shape


def region(
    shape: tuple[int, ...],
    global_shape: int | Iterable[int] | None = None,
    offset: int | Iterable[int] | None = None,
) -> Region:
    """Locate a buffer of ``shape`` in its global tensor.

    Parameters
    ----------
    shape
        The buffer's shape.
    global_shape
        The whole tensor's shape; None: the buffer is the whole tensor.
    offset
        A tuple, or another iterable of integers: the coordinates of the buffer's first element, the buffer
        being a box of the tensor (None: the origin). An int: the buffer is 1-D and holds the flat C-order
        range of the tensor that begins there.

    Raises
    ------
    TypeError, ValueError
        If the ranks differ, the tensor does not contain the buffer, or has more than 2^63 elements.
    """
    if global_shape is None:
        if offset is not None:
            raise ValueError(
                f"offset: expected global_shape beside it; got offset={shown(offset)} alone; pass the whole "
                "tensor's shape"
            )
        return Region(shape, 0, _pitches(shape))
    whole = shape_of(global_shape, "global_shape")
    corner = (0,) * len(shape) if offset is None else entries_of(offset, "offset")
    if corner is None:
        return Region(whole, _flat(offset, shape, whole), (1,))
    if len(whole) != len(shape):
        raise ValueError(
            f"global_shape: expected {len(shape)} axes, as the buffer of shape {shape} has; got "
            f"{shown(whole)}; a flat range of a tensor is a 1-D buffer with an int as offset"
        )
    if len(corner) != len(shape):
        raise ValueError(
            f"offset: expected {len(shape)} integers, one for each axis of {whole}; got {shown(corner)}"
        )
    first = tuple(integer(entry, "offset", 0, LARGEST_TENSOR, "[0, 2**63)") for entry in corner)
    for axis, (low, n, most) in enumerate(zip(first, shape, whole, strict=True)):
        if low + n > most:
            raise ValueError(
                f"offset: expected a box inside global_shape {whole}; got one of shape {shape} at {first}, "
                f"which reaches {low + n} of {most} on axis {axis}"
            )
    pitches = _pitches(whole)
    return Region(whole, sum(map(operator.mul, first, pitches)), pitches)


def merge(shape: Sequence[int], pitches: Sequence[int], strides: Sequence[int]) -> tuple[Axis, ...]:
    """Return the fewest axes that address the same elements: unit axes go, continued ones are joined."""
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

    Where the last axes are packed in memory for long enough, a tile is a contiguous stretch of at most
    ``chunk`` values and is drawn in place. Elsewhere a tile has at most ``tile`` values, drawn into a scratch
    and copied out; it is long both along the last axis, which draws fast, and along the axis of smallest
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


def _pitches(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))


def _flat(offset: object, shape: tuple[int, ...], whole: tuple[int, ...]) -> int:
    """Return the first index of a flat range, once it is known to lie inside the tensor."""
    try:
        if isinstance(offset, bool):
            raise TypeError
        flat = operator.index(offset)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"offset: expected an int or a tuple of them; got {shown(offset)} ({type(offset).__name__})"
        ) from None
    if len(shape) != 1:
        raise ValueError(
            f"offset: expected a tuple of {len(shape)} integers; got {shown(flat)}; an int places a 1-D "
            f"buffer, and this one has shape {shape}"
        )
    if flat < 0 or flat + shape[0] > prod(whole):
        raise ValueError(
            f"offset: expected a range inside the {prod(whole)} elements of global_shape {shown(whole)}; "
            f"got elements {shown(flat)} to {shown(flat + shape[0])}"
        )
    return flat


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
        # Whole pages where they fit, for each costs a walk of the page tables: 1024 by 128 float32 were
        # copied in 0.38 to 0.43 ns a value, 512 by 128 in 0.51 (AMD EPYC, 4096 x 4096; memcpy: 0.33).
        side = 2 << (budget.bit_length() // 2)
        extents[store] = _even(axes[store].n, min(budget, max(side, budget // axes[last].n)))
    for k in (last, *reversed(range(last))):
        extents[k] = _even(axes[k].n, max(extents[k], budget // (prod(extents) // extents[k])))
    return tuple(extents)


def _even(n: int, most: int) -> int:
    """Return the part size that cuts n into the fewest parts of at most ``most``, all but the last alike."""
    if n <= most:
        return n
    part = -(-n // -(-n // max(most, 1)))
    rounded = -(-part // _GRAIN) * _GRAIN
    return rounded if rounded <= most else part
