"""Whether a job's items may be filled together: no two that share memory, nor values under one name."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill import regions
from fanfill.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.initializers import Initializer
    from fanfill.regions import Region

__all__ = ["Memory", "Part", "assert_parts"]

_SEARCH = 10_000  # of NumPy's search for a byte that two items share: a refusal is the safe answer


class Part(NamedTuple):
    """Which part of which tensor an item is (region None: the whole), and how an error names it."""

    label: str
    name: Any
    law: Initializer
    dtype: Any
    shape: tuple[int, ...]
    region: Region | None

    def __str__(self) -> str:
        return self.label


class Memory(NamedTuple):
    """Where an item lies: the address of its first element, as `ndarray` has it."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def ends(self) -> tuple[int, int]:
        """The first byte and the one behind the last; equal if there is none."""
        if 0 in self.shape:
            return self.address, self.address
        steps = [step * (n - 1) for step, n in zip(self.strides, self.shape, strict=True)]
        first = self.address + sum(min(0, step) for step in steps)
        return first, first + sum(map(abs, steps)) + self.itemsize

    @property
    def has_gaps(self) -> bool:
        first, end = self.ends
        return end - first > prod(self.shape) * self.itemsize

    def meets(self, other: Memory) -> bool:
        """Whether they share a byte; True if finding out takes too long."""
        try:
            return bool(np.shares_memory(self._seen(), other._seen(), max_work=_SEARCH))  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            return True

    def _seen(self) -> NDArray[Any]:
        """An array there, of which only the place is looked at: it may be a device's memory."""
        interface = {"data": (self.address, True), "shape": self.shape, "strides": self.strides}
        typestr = f"|V{self.itemsize}"
        return np.asarray(SimpleNamespace(__array_interface__=interface | {"typestr": typestr, "version": 3}))


def assert_parts(parts: list[Part]) -> None:
    """Raise ValueError unless items of one name are parts of one tensor that do not overlap."""
    first = parts[0]
    for part in parts[1:]:
        same = (part.law, str(part.dtype)) == (first.law, str(first.dtype))
        if not (same and part.region and first.region and part.region.shape == first.region.shape):
            raise ValueError(
                f"items: expected a name for each tensor; got {shown(part.name)} for {first} and {part}, "
                "which would hold the same values; give them different names, or, for parts of one tensor, "
                "pass its global_shape and each part's offset"
            )
    boxes = [(part, _box(part.shape, part.region)) for part in parts if part.region is not None]
    for number, (part, box) in enumerate(boxes):
        for other, other_box in boxes[:number]:
            if _overlap(box, other_box):
                raise ValueError(
                    f"items: expected parts of {shown(part.name)} that do not overlap; got {other} and "
                    f"{part}, which do; correct an offset, or leave one out"
                )


def _box(shape: tuple[int, ...], region: Region) -> tuple[tuple[int, int], ...]:
    """First and last coordinate, plus one, on each axis; of a flat range its indices alone."""
    if regions.flat(region):
        return ((region.start, region.start + shape[0]),)
    return tuple((low, low + n) for low, n in zip(regions.corner_of(region), shape, strict=True))


def _overlap(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    """Whether two boxes of one tensor have an element in common; ranges and boxes are taken to have one."""
    if any(low == high for low, high in (*one, *other)):
        return False
    if len(one) != len(other):
        return True
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))
