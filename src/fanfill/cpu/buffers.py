"""What may be filled, and how it is seen.

A buffer is anything whose memory the caller owns and NumPy can view without a copy. Before a single byte is
written, this module answers three questions about it: which device it is on, which floating-point type it
stores, and whether any two elements share memory. Frameworks are recognised through ``sys.modules``: an
object of a package that nobody has imported cannot exist.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fanfill.cpu.exchange import array_of_dlpack, array_of_interface, array_of_memory, span
from fanfill.dtypes import STORAGES, storage_of
from fanfill.messages import type_name
from fanfill_kernels.formats import Format

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

Device = Literal["cpu", "cuda"]

# DLPack's device codes: CPU and pinned host memory; CUDA and CUDA managed memory.
_DLPACK_HOST = (1, 3)
_DLPACK_CUDA = (2, 13)

# The dtypes of torch tensors that fills and words take.
_DRAWN = tuple(STORAGES)
WORDS = ("uint32",)

# The most nodes that the search for a collision visits. Views made by slicing, transposing, diagonals and
# sliding windows need a few dozen. The problem itself is NP-hard, so there are always strides that need more;
# those are refused.
_SEARCH_LIMIT = 100_000


# What stands for a dtype that NumPy has no name for, by its size.
_INTEGERS = {1: "uint8", 2: "int16"}


# XLA copies memory that does not begin at such a place, and TensorFlow aborts; np.empty's lies 16 or 48 bytes
# past one.
_ALIGNMENT = 64


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty C-contiguous array that JAX (``device_put``) and TensorFlow (DLPack) take over without a copy.

    Theirs keeps it alive. Nothing may write to it afterwards: the other array would change.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    array: NDArray[Any] = memory[first : first + size].view(dtype).reshape(shape)
    return array


class Lanes(NamedTuple):
    """A buffer as the kernels see it: same shape and strides, elements as plain machine words."""

    view: NDArray[Any]
    storage: Format
    is_torch: bool


def device_of(buffer: object) -> Device:
    """Say where a buffer's memory is.

    Parameters
    ----------
    buffer
        Any object that `fanfill.fill` may be given.

    Returns
    -------
    "cpu" or "cuda"

    Raises
    ------
    TypeError
        If the object is not a buffer, or lies on a device of another kind.
    """
    if isinstance(buffer, np.ndarray):
        return "cpu"
    torch = torch_of(buffer)
    if torch is not None:
        kind = str(buffer.device.type)  # type: ignore[attr-defined]
        if kind not in ("cpu", "cuda"):
            raise TypeError(
                f"expected a buffer in host memory or on a CUDA device; got a torch tensor on device {kind!r}"
            )
        return "cuda" if kind == "cuda" else "cpu"
    if is_cupy(buffer) or hasattr(buffer, "__cuda_array_interface__"):
        return "cuda"
    # A NumPy scalar offers both protocols below, on a copy of its value: what is written there is lost.
    if not isinstance(buffer, np.generic):
        if hasattr(buffer, "__array_interface__") or _memory(buffer) is not None:
            return "cpu"
        if hasattr(buffer, "__dlpack_device__"):
            code = int(buffer.__dlpack_device__()[0])
            if code in _DLPACK_HOST or code in _DLPACK_CUDA:
                return "cpu" if code in _DLPACK_HOST else "cuda"
            raise TypeError(
                f"expected a buffer in host memory or on a CUDA device; got one on DLPack device type {code}"
            )
    raise TypeError(
        "expected a writable array: a numpy.ndarray, or an object with the buffer protocol, "
        f"__array_interface__ or DLPack; got {type_name(buffer)}; pass the array that holds its data"
    )


def as_lanes(buffer: object) -> Lanes:
    """View a host buffer as an array of machine words that kernels can write.

    Parameters
    ----------
    buffer
        A `numpy.ndarray` (subclasses such as `numpy.memmap` included, masked arrays not), an object with the
        writable buffer protocol, ``__array_interface__`` or CPU DLPack, or a torch CPU tensor.

    Returns
    -------
    Lanes
        ``view`` shares the buffer's memory, with its shape and strides; float32 and float64 stay themselves,
        16-bit types are seen as uint16 and 8-bit types as uint8.

    Raises
    ------
    TypeError
        If the object is not a buffer or does not hold one of the floating-point types.
    ValueError
        If it is read-only, its byte order is foreign, or its elements share memory.
    """
    if torch_of(buffer) is not None:
        lanes = torch_lanes(buffer)
        assert_fillable(lanes.view)
        return lanes
    array = host_array(buffer)
    storage = storage_of(array.dtype)
    assert_fillable(array)
    return Lanes(array if array.dtype == storage.lanes else array.view(storage.lanes), storage, False)


def torch_lanes(tensor: Any) -> Lanes:
    """View a torch CPU tensor as `as_lanes` does, without asking whether its elements share memory.

    Raises
    ------
    TypeError
        If it does not hold one of the floating-point types, or is no plain memory.
    ValueError
        If its storage does not hold its elements.
    """
    array = torch_array(tensor, _DRAWN)
    storage = STORAGES[_dtype_of(tensor.dtype)[0]]
    return Lanes(array if array.dtype == storage.lanes else array.view(storage.lanes), storage, True)


def host_array(buffer: object) -> NDArray[Any]:
    """Return an ndarray on the memory of a buffer that is no torch tensor, never a copy."""
    if isinstance(buffer, np.ndarray):
        if type(buffer) is np.ndarray:
            return buffer
        masked = sys.modules.get("numpy.ma")
        if masked is not None and isinstance(buffer, masked.MaskedArray):
            raise TypeError(
                "expected a plain array; got a numpy.ma.MaskedArray, whose mask says that some elements must "
                "not be touched; pass its .data to fill them all"
            )
        return buffer.view(np.ndarray)
    if device_of(buffer) != "cpu":
        raise TypeError(f"expected a buffer in host memory; got a {type_name(buffer)} on a CUDA device")
    interface = getattr(buffer, "__array_interface__", None)
    if interface is not None:
        return array_of_interface(buffer, interface)
    memory = _memory(buffer)
    if memory is not None:
        return array_of_memory(memory)
    return array_of_dlpack(buffer)


def assert_fillable(array: NDArray[Any]) -> None:
    """Raise ValueError unless the array can be written and no two of its elements share memory."""
    if not array.flags.writeable:
        raise ValueError(
            "expected a writable buffer; got a read-only one; pass a writable copy of it, such as "
            "numpy.array(buffer)"
        )
    assert_distinct(array.shape, array.strides, array.itemsize, "numpy.array(buffer)")


def assert_distinct(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, copy: str) -> None:
    """Raise ValueError if elements share memory; ``copy`` is an expression that makes a copy."""
    if overlaps(shape, strides, itemsize):
        raise ValueError(
            f"expected a buffer whose elements do not share memory; got shape {shape} with strides "
            f"{strides} bytes and {itemsize}-byte elements; pass a copy of it, such as {copy}"
        )


def overlaps(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Say whether two elements of a strided view share a byte.

    Two elements collide when their index vectors differ by some d != 0 with ``|sum(d_k * stride_k)| <
    itemsize``. If every stride, taken in increasing order, steps over all that the smaller ones reach, no
    such d exists: that settles every view that slicing and transposing can make. Otherwise an exact search
    over d decides; if it grows too long, the answer is True, the safe one.

    Examples
    --------
    >>> overlaps((8, 3), (4, 4), 4), overlaps((3, 2), (8, 12), 4)  # a sliding window; two interleaved rows
    (True, False)
    """
    axes = sorted((abs(stride), n) for stride, n in zip(strides, shape, strict=True) if n > 1)
    if any(n == 0 for n in shape):
        return False
    reach = itemsize
    for stride, n in axes:
        if stride < reach:
            return _collide(axes, itemsize)
        reach += stride * (n - 1)
    return False


def _collide(axes: list[tuple[int, int]], itemsize: int) -> bool:
    """Search for d, largest stride first, leaving sums that smaller strides cannot bring back to zero."""
    if axes[0][0] < itemsize:
        return True
    slack = itemsize - 1
    reaches = [slack]
    for stride, n in axes:
        reaches.append(reaches[-1] + stride * (n - 1))
    # (axis, the sum so far, whether some d is nonzero already): d and -d are one collision, so that the first
    # nonzero d is positive.
    stack = [(len(axes) - 1, 0, False)]
    for _ in range(_SEARCH_LIMIT):
        if not stack:
            return False
        axis, total, moved = stack.pop()
        if axis < 0:
            if moved:
                return True
            continue
        stride, n = axes[axis]
        low = max(1 - n if moved else 0, -((total + reaches[axis]) // stride))
        high = min(n - 1, (reaches[axis] - total) // stride)
        if high - low > _SEARCH_LIMIT:
            return True
        stack.extend((axis - 1, total + d * stride, moved or d != 0) for d in range(low, high + 1))
    return True


def _memory(buffer: object) -> memoryview | None:
    try:
        return memoryview(buffer)  # type: ignore[arg-type]
    except (TypeError, BufferError, ValueError):
        return None


def is_cupy(buffer: object) -> bool:
    """Say whether the buffer is a `cupy.ndarray`: one need not be asked for its interface, which is slow."""
    array = getattr(sys.modules.get("cupy"), "ndarray", None)
    return array is not None and isinstance(buffer, array)


def torch_of(buffer: object) -> ModuleType | None:
    """Return torch when the buffer is one of its tensors."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return torch if tensor is not None and isinstance(buffer, tensor) else None


def assert_stored(tensor: Any) -> None:
    """Raise ValueError unless a torch tensor's storage, which can be resized, holds all of its elements."""
    there, size = tensor.untyped_storage().nbytes(), tensor.element_size()
    # The quick question first: a small tensor is filled in a few us.
    reach = tensor.numel() if tensor.is_contiguous() else span(tensor.shape, tensor.stride(), 1)[1]
    end = (tensor.storage_offset() + reach) * size
    if reach and end > there:
        raise ValueError(
            f"expected a torch tensor whose storage holds its elements; got shape {tuple(tensor.shape)}, "
            f"which reaches byte {end} of a storage of {there}; fill it while its storage is whole (FSDP "
            "frees those of parameters that it gathers when needed)"
        )


def mark_written(tensor: Any) -> None:
    """Move a torch tensor's version counter, as torch does for what it writes in place.

    Writing through a pointer does not: a graph that has saved the tensor would go backward with new values.
    """
    move = getattr(sys.modules["torch"].autograd.graph, "increment_version", None)
    if move is not None:
        move(tensor)
    else:  # a torch of before 2.1: to write none of the elements counts, too, and takes ten times as long
        tensor.detach().unsqueeze(0)[:0].zero_()


def mark_all_written(tensors: list[Any]) -> None:
    """`mark_written` of many, by one call where torch has one."""
    try:
        mark_written(tensors)
    except (AttributeError, TypeError):  # an older torch's takes one at a time
        for tensor in tensors:
            mark_written(tensor)


def torch_array(tensor: Any, dtypes: tuple[str, ...]) -> NDArray[Any]:
    """Return an ndarray on a torch CPU tensor's memory; of integers, for a dtype that NumPy does not have.

    Raises
    ------
    TypeError
        If its dtype is none of those named, or it is no plain memory.
    ValueError
        If its storage does not hold its elements.
    """
    name, integers = _dtype_of(tensor.dtype)
    if name not in dtypes:
        raise TypeError(
            f"expected a torch tensor of {', '.join(dtypes[:-1])}{' or ' if dtypes[1:] else ''}{dtypes[-1]}; "
            f"got {tensor.dtype}; {_remedy(tensor.dtype.is_floating_point, dtypes)}"
        )
    try:
        # detach: a leaf that requires grad refuses numpy(), and its initialisation is no part of any graph.
        memory = tensor.detach()
        if integers is not None:
            memory = memory.view(integers)
        array: NDArray[Any] = memory.numpy()
        assert_stored(tensor)
    except (RuntimeError, TypeError) as error:
        raise TypeError(
            f"expected a torch tensor in plain host memory; got a {type_name(tensor)} that has no NumPy "
            f"view ({error}); use fanfill.torch"
        ) from error
    return array


@cache
def _dtype_of(dtype: Any) -> tuple[str, Any]:
    """A torch dtype's name, and the torch dtype of integers that stands for it if NumPy does not have it."""
    name = str(dtype).removeprefix("torch.")
    if name in _DRAWN and not hasattr(np, name):
        return name, getattr(sys.modules["torch"], _INTEGERS[STORAGES[name].itemsize])
    return name, None


def _remedy(floating: bool, dtypes: tuple[str, ...]) -> str:
    if dtypes == WORDS:
        return "fill() makes floating-point values" if floating else "words() makes no others"
    return "fill a tensor of one of these and convert it"
