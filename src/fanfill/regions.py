"""Where a buffer lies in its global tensor.

A value depends on its element's C-order index in the global tensor. An axis of a buffer has a *pitch* there:
how far that index moves for one step. All index arithmetic is on Python integers, since global tensors often
have more than 2^32 elements.
"""

from __future__ import annotations

import operator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from fanfill.arguments import LARGEST_TENSOR, entries_of, integer, integer_of, shape_of
from fanfill.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable


class Region(NamedTuple):
    """The part of a global tensor that a buffer is: element c is its ``start + sum(c_k * pitches_k)``."""

    shape: tuple[int, ...]
    start: int
    pitches: tuple[int, ...]


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
        If the ranks differ, or if the tensor does not contain the buffer or has more than 2^63 elements.
    """
    if global_shape is None:
        if offset is not None:
            raise ValueError(
                f"offset: expected global_shape with it; got offset={shown(offset)} alone; pass the whole "
                "tensor's shape"
            )
        return Region(shape, 0, _pitches(shape))
    whole = shape_of(global_shape, "global_shape")
    corner = (0,) * len(shape) if offset is None else entries_of(offset, "offset")
    if corner is None:
        return Region(whole, _flat(offset, shape, whole), (1,))
    if len(whole) != len(shape):
        raise ValueError(
            f"global_shape: expected {len(shape)} axes, like the buffer of shape {shape}; got "
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


def flat(where: Region) -> bool:
    """Whether a region is a flat range of a tensor of several axes."""
    return where.pitches == (1,) and len(where.shape) != 1


def corner_of(where: Region) -> tuple[int, ...]:
    """The coordinates of a box's first element."""
    rest, corner = where.start, []
    for pitch in where.pitches:
        place, rest = divmod(rest, pitch) if pitch else (0, rest)
        corner.append(place)
    return tuple(corner)


def _flat(offset: object, shape: tuple[int, ...], whole: tuple[int, ...]) -> int:
    """Return the first index of a flat range, once it is known to lie inside the tensor."""
    flat = integer_of(offset)
    if flat is None:
        raise TypeError(
            f"offset: expected an int or a tuple of them; got {shown(offset)} ({type(offset).__name__})"
        )
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


def _pitches(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))
