"""Which of many buffers differ from one that has been checked in memory and name alone.

Ten thousand tensors of a model have a few shapes. The first of a kind meets every check. Those that follow
are asked what may differ between two tensors of one type, shape, dtype and device: where they lie, and
whether that memory is whole, in C order and their own. Only exactly a `torch.Tensor`, a
`torch.nn.Parameter` or a `cupy.ndarray` has a kind: a subclass may mean something else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from fanfill.cuda.buffers import torch_stream

if TYPE_CHECKING:
    from fanfill.cuda.buffers import Target
    from fanfill.fill import Plan
    from fanfill.initializers import Initializer
    from fanfill.recipes import Recipe
    from fanfill.regions import Region

__all__ = ["Alike", "Kind", "Kinds", "Library", "kind_of", "libraries"]


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


class Kind(NamedTuple):
    """What the others of a kind are asked for.

    Attributes
    ----------
    alike
        Those that have been found.
    size, itemsize
        Bytes of the buffer and of an element.
    alignment
        Of its address: of an element in host memory, of the widest store on a device.
    stream, number, current
        A torch tensor's stream, which is the library's current one; what returns that by the device's number.
    """

    alike: Alike
    size: int
    itemsize: int
    alignment: int
    stream: int | None = None
    number: int = -1
    current: Callable[[int], int] | None = None


Key = tuple[Any, Any, Any]  # shape, the library's dtype, its device
Kinds = dict[Key, Kind]  # of one initializer
Found = tuple[Kind, int]  # and the address
Library = tuple[Callable[[Any], Key], Callable[[Any, Kinds], Found | None]]


def libraries() -> dict[type, Library]:
    """The types that have kinds, of the libraries that are imported: what makes a key, what finds a kind."""
    found: dict[type, Library] = {}
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    for kind in (getattr(torch, "Tensor", None), getattr(getattr(torch, "nn", None), "Parameter", None)):
        if kind is not None:
            found[kind] = _key_of_torch, _of_torch
    array = getattr(cupy, "ndarray", None)
    if array is not None:
        found[array] = _key_of_cupy, _of_cupy
    return found


def kind_of(alike: Alike, itemsize: int, target: Target | None = None) -> Kind:
    """The kind of a buffer that has been checked, of a ``target`` if it lies on a device."""
    if target is None:
        return Kind(alike, alike.size, itemsize, itemsize)
    from fanfill_kernels.cuda.geometry import STORE

    kind = Kind(alike, alike.size, itemsize, STORE)
    if target.stream is None or target.device is None:
        return kind
    current = torch_stream(sys.modules["torch"])
    return kind._replace(stream=target.stream, number=target.device, current=current)


def _key_of_torch(tensor: Any) -> Key:
    return tensor.shape, tensor.dtype, tensor.device


def _of_torch(tensor: Any, kinds: Kinds) -> Found | None:
    """The kind of a tensor, and its address; None if anything else has to be asked.

    Not of one that is lazily negated, nor of one whose memory was freed or shrunk. What has no storage of its
    own (sparse, nested, wrapped by a transform) raises when it is asked for it.
    """
    try:
        kind = kinds.get((tensor.shape, tensor.dtype, tensor.device))
        if kind is None or not tensor.is_contiguous() or tensor.is_neg():
            return None
        _, size, itemsize, alignment, stream, number, current = kind
        if tensor.untyped_storage().nbytes() < size + itemsize * tensor.storage_offset():
            return None
        address: int = tensor.data_ptr()
    except RuntimeError:
        return None
    if address % alignment or (current is not None and current(number) != stream):
        return None
    return kind, address


def _key_of_cupy(array: Any) -> Key:
    return array.shape, array.dtype, array.data.device_id


def _of_cupy(array: Any, kinds: Kinds) -> Found | None:
    memory = array.data
    kind = kinds.get((array.shape, array.dtype, memory.device_id))
    if kind is None or not array.flags.c_contiguous or memory.ptr % kind.alignment:
        return None
    return kind, memory.ptr
