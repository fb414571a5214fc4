"""Which of many buffers differ from one that has been checked in memory and name alone.

Ten thousand tensors of a model have a few shapes. The first of a kind meets every check. The others are asked
what may differ between two tensors of one type, shape, dtype and device: where they lie, and whether that
memory is whole, in C order and their own. They are asked all at once, a question at a time: a loop over the
tensors takes twice as long. Only exactly a `torch.Tensor`, a `torch.nn.Parameter` or a `cupy.ndarray` has a
kind: a subclass may mean something else.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.cuda.buffers import Target
    from fanfill.fill import Plan
    from fanfill.initializers import Initializer
    from fanfill.recipes import Recipe
    from fanfill.regions import Region

__all__ = ["Alike", "Library", "Seen", "libraries"]


class Alike(NamedTuple):
    """Fills of one initializer, shape and dtype, of whole tensors in C order, which differ in name and memory
    alone: small ones in host memory, by their plan, and those on a device.

    Attributes
    ----------
    size
        Bytes of each.
    numbers
        Theirs among a job's items.
    addresses
        Where they begin; None if that is asked for all at once.
    plan
        Of those in host memory.
    is_torch
        Whether they are torch's, to be told that they change.
    on_device
        Of those on a device: one of them, and what it draws.
    """

    law: Initializer
    dtype: str
    shape: tuple[int, ...]
    size: int
    numbers: list[int]
    addresses: list[int] | None
    plan: Plan | None
    is_torch: bool = False
    on_device: tuple[Target, Region, Recipe] | None = None


Key = tuple[Any, Any, Any]  # shape, the library's dtype, its device


class Seen(NamedTuple):
    """What is known of buffers of one library.

    Attributes
    ----------
    places
        By the identity of their initializer, and by shape, dtype and device.
    addresses
        Where they begin.
    whole
        Whether they are in C order and hold their own values.
    room
        Bytes of their memory from its beginning, and elements until they begin; None if an array's memory
        is always its own.
    """

    places: dict[tuple[int, Key], list[int]]
    addresses: NDArray[np.uint64]
    whole: NDArray[np.bool_]
    room: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    def usable(self, key: Key, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which of those at some places, all of this key, are in C order, in memory that is theirs and begins
        where a kernel may write it.
        """
        from fanfill_kernels.cuda.geometry import STORE

        shape, dtype, device = key
        alignment = dtype.itemsize if getattr(device, "type", None) == "cpu" else STORE
        found = self.whole[at] & (self.addresses[at] % np.uint64(alignment) == 0)
        if self.room is not None:
            held, before = self.room
            found &= held[at] >= dtype.itemsize * (prod(shape) + before[at])
        usable: NDArray[np.intp] = at[found]
        return usable


Library = Callable[[Sequence[Any], Sequence["Initializer"]], Seen]
_key = operator.attrgetter("shape", "dtype", "device")


def libraries() -> dict[type, Library]:
    """The types that have kinds, of the libraries that are imported, and what sees many of them."""
    found: dict[type, Library] = {}
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    for kind in (getattr(torch, "Tensor", None), getattr(getattr(torch, "nn", None), "Parameter", None)):
        if kind is not None:
            found[kind] = _of_torch
    array = getattr(cupy, "ndarray", None)
    if array is not None:
        found[array] = _of_cupy
    return found


def grouped(keys: Iterable[tuple[int, Key]]) -> dict[tuple[int, Key], list[int]]:
    """The places of equal keys, of which many follow one another."""
    found: dict[tuple[int, Key], list[int]] = {}
    last: object = found  # equal to none
    places: list[int] = []
    for place, key in enumerate(keys):
        if key != last:
            places, last = found.setdefault(key, []), key
        places.append(place)
    return found


def _of_torch(tensors: Sequence[Any], laws: Sequence[Initializer]) -> Seen:
    """Not of one that is lazily negated, nor of one whose memory was freed or shrunk: that has no room."""
    torch = sys.modules["torch"]
    of, count = torch.Tensor, len(tensors)
    # One key after another, none kept: the garbage collector goes through whatever is.
    places = grouped(zip(map(id, laws), map(_key, tensors), strict=True))
    whole = np.fromiter(map(of.is_contiguous, tensors), np.bool_, count)
    whole &= ~np.fromiter(map(of.is_neg, tensors), np.bool_, count)
    held = np.fromiter(map(torch.UntypedStorage.nbytes, map(of.untyped_storage, tensors)), np.int64, count)
    before = np.fromiter(map(of.storage_offset, tensors), np.int64, count)
    return Seen(places, np.fromiter(map(of.data_ptr, tensors), np.uint64, count), whole, (held, before))


def _of_cupy(arrays: Sequence[Any], laws: Sequence[Initializer]) -> Seen:
    count = len(arrays)
    keys = ((array.shape, array.dtype, array.data.device_id) for array in arrays)
    places = grouped(zip(map(id, laws), keys, strict=True))
    whole = np.fromiter((array.flags.c_contiguous for array in arrays), np.bool_, count)
    return Seen(places, np.fromiter((array.data.ptr for array in arrays), np.uint64, count), whole, None)
