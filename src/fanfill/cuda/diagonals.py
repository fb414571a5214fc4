"""The form ``diagonals`` on a device: all is zeroed, and then the places are written, both by constants."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from fanfill.recipes import Recipe
from fanfill.regions import Region, corner_of, flat, region
from fanfill.structures import Diagonals, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanfill.cuda.buffers import Target

__all__ = ["constants"]


def constants(target: Target, where: Region, recipe: Recipe) -> list[tuple[Target, Region, Recipe]]:
    """Fills by constants that together make a part of a matrix, if they are done in this order."""
    (found,) = recipe.params
    made = [(target, where, Recipe("constant", recipe.dtype, (0,)))]
    value = Recipe("constant", recipe.dtype, (found.bits,))
    if flat(where):
        (stride,) = target.strides
        entries: Iterator[tuple[int, tuple[int, int], tuple[int, int]]] = (
            (place * stride, (groups, count), (pitch * stride, found.progression()[1] * stride))
            for place, count, groups, pitch in places(found, where.start, target.shape[0])
        )
    else:
        entries = _in_box(target, where, found)
    for place, shape, strides in entries:
        part = target._replace(pointer=target.pointer + place, shape=shape, strides=strides)
        made.append((part, region(shape), value))
    return made


def _in_box(
    target: Target, where: Region, found: Diagonals
) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Bytes from the first element, lengths and strides of the places; one entry for groups cut alike."""
    corner = corner_of(where)
    kernel = [axis for axis in range(len(corner)) if axis not in (found.out, found.into)]
    inside = all(0 <= found.centre[k] - corner[k] < target.shape[k] for k in kernel)
    if not inside or not prod(target.shape):
        return
    first, inputs = corner[found.out], corner[found.into]
    last, end = first + target.shape[found.out], inputs + target.shape[found.into]
    output, into = target.strides[found.out], target.strides[found.into]
    begin = sum((found.centre[k] - corner[k]) * target.strides[k] for k in kernel)
    size = found.group
    entries: list[tuple[int, int, int, int]] = []  # group, d, how many d, how many groups
    for group in range(first // size, -(-last // size)):
        low = max(inputs, first - group * size)
        high = min(end, last - group * size, size)
        if low >= high:
            continue
        if entries and entries[-1][1:3] == (low, high - low) and sum(entries[-1][::3]) == group:
            entries[-1] = (*entries[-1][:3], entries[-1][3] + 1)
        else:
            entries.append((group, low, high - low, 1))
    for group, low, count, groups in entries:
        place = begin + (group * size + low - first) * output + (low - inputs) * into
        yield place, (groups, count), (size * output, output + into)
