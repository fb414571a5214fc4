"""Which of many buffers differ from one that has been checked in memory and name alone.

Ten thousand tensors of a model have a few shapes. The first of a kind meets every check. The others are asked
what may differ between two tensors of one type, shape, dtype and device: where they lie, and whether that
memory is whole, in C order and their own. They are asked all at once, a question at a time: a loop over the
tensors takes twice as long. Only exactly a `torch.Tensor`, a `torch.nn.Parameter` or a `cupy.ndarray` has a
kind: a subclass may mean something else.
"""

from __future__ import annotations

import itertools
import operator
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        Theirs among a job's items: int64, which NumPy reads as they are.
    addresses
        Where they begin, as uint64; None if that is asked for all at once.
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
    numbers: array[int]
    addresses: array[int] | None
    plan: Plan | None
    is_torch: bool = False
    on_device: tuple[Target, Region, Recipe] | None = None


class Seen(NamedTuple):
    """What is known of buffers of one library, a row each.

    Attributes
    ----------
    kinds
        Those of one number have one initializer, shape, dtype and device.
    addresses
        Where they begin.
    usable
        Whether they are in C order, in memory that is theirs and begins where a kernel may write it.
    """

    kinds: NDArray[np.int64]
    addresses: NDArray[np.uint64]
    usable: NDArray[np.bool_]

    def together(self) -> Iterator[NDArray[np.int64]]:
        """The places of those that are usable, a kind at a time; none of a kind that has one alone."""
        usable = np.flatnonzero(self.usable)
        order = usable[np.argsort(self.kinds[usable], kind="stable")]
        ends = np.flatnonzero(np.diff(self.kinds[order], append=-1)) + 1
        firsts = ends - np.diff(ends, prepend=0)
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            if end - first > 1:
                yield order[first:end]


Library = Callable[[Sequence[Any], Sequence["Initializer"]], Seen]
Kind = tuple[int, tuple[int, ...], Any, Any]  # initializer's identity, shape, the library's dtype, its device

_shape, _dtype, _device = map(operator.attrgetter, ("shape", "dtype", "device"))


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


def _numbered(kinds: Iterable[Kind], count: int) -> tuple[list[Kind], NDArray[np.int64]]:
    """All kinds there are, and the number of each one's. No more of them are kept: the garbage collector goes
    through whatever is.
    """
    known: defaultdict[Kind, int] = defaultdict(itertools.count().__next__)
    numbers = np.fromiter(map(known.__getitem__, kinds), np.int64, count)
    return list(known), numbers


def _of_torch(tensors: Sequence[Any], laws: Sequence[Initializer]) -> Seen:
    """Not of one that is lazily negated, nor of one whose memory was freed or shrunk: that has no room."""
    torch = sys.modules["torch"]
    of, count = torch.Tensor, len(tensors)
    asked = zip(map(id, laws), map(_shape, tensors), map(_dtype, tensors), map(_device, tensors), strict=True)
    known, kinds = _numbered(asked, count)
    usable = np.fromiter(map(of.is_contiguous, tensors), np.bool_, count)
    usable &= ~np.fromiter(map(of.is_neg, tensors), np.bool_, count)
    addresses = np.fromiter(map(of.data_ptr, tensors), np.uint64, count)
    held = np.fromiter(map(torch.UntypedStorage.nbytes, map(of.untyped_storage, tensors)), np.int64, count)
    before = np.fromiter(map(of.storage_offset, tensors), np.int64, count)
    sizes = np.array([dtype.itemsize for _, _, dtype, _ in known], np.int64)[kinds]
    values = np.array([prod(shape) for _, shape, _, _ in known], np.int64)[kinds]
    usable &= held >= sizes * (values + before)
    begins = np.array([_begin(dtype, device.type == "cpu") for _, _, dtype, device in known], np.uint64)
    return Seen(kinds, addresses, usable & (addresses % begins[kinds] == 0))


def _of_cupy(arrays: Sequence[Any], laws: Sequence[Initializer]) -> Seen:
    count = len(arrays)
    asked = ((id(law), a.shape, a.dtype, a.data.device_id) for a, law in zip(arrays, laws, strict=True))
    _, kinds = _numbered(asked, count)
    usable = np.fromiter((array.flags.c_contiguous for array in arrays), np.bool_, count)
    addresses = np.fromiter((array.data.ptr for array in arrays), np.uint64, count)
    return Seen(kinds, addresses, usable & (addresses % np.uint64(_begin(None, False)) == 0))


def _begin(dtype: Any, on_host: bool) -> int:
    """A multiple of how many bytes memory begins at, for the kernels that write many tensors."""
    from fanfill_kernels.cuda.geometry import STORE

    return int(dtype.itemsize) if on_host else STORE
