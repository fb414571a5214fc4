"""What can be filled on a CUDA device, and how it is seen: the counterpart of `fanfill.cpu.buffers`.

Nothing here asks the device anything. A CuPy array and a torch tensor are read through their own attributes,
any other object through ``__cuda_array_interface__``; frameworks are recognised through ``sys.modules``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fanfill.cpu.buffers import assert_distinct, assert_stored, is_cupy, torch_of
from fanfill.cpu.exchange import assert_unmasked
from fanfill.dtypes import STORAGES, storage_of
from fanfill.messages import shown, type_name

__all__ = ["DeviceBuffer", "Target", "as_storage", "as_target", "assert_fillable", "torch_stream"]


class Target(NamedTuple):
    """A buffer in a device's memory, as the kernels see it.

    Attributes
    ----------
    pointer
        Address of the element at the origin; its memory may also lie below, where strides are negative.
    shape, strides
        Of the buffer; strides in bytes.
    dtype
        Name of what it stores: of `fanfill.dtypes.STORAGES`, "uint32", or another, which nothing fills.
    itemsize
        Bytes of an element.
    device
        The device's number; None: the driver knows it by the pointer.
    stream
        Handle of the CUDA stream to work on; None: CuPy's current one of that device.
    is_torch
        Whether it is a torch tensor.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    itemsize: int
    device: int | None
    stream: int | None
    is_torch: bool


class DeviceBuffer:
    """Device memory as any library may offer it: by ``__cuda_array_interface__``, and a dtype beside it.

    Of one whose device is known, `fanfill.fill_many` takes many in one launch, as of CuPy's arrays.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: np.dtype[Any],
        number: int | None = None,
    ) -> None:
        self.shape, self.dtype, self.number = shape, dtype, number
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
            "data": (pointer, False),
            "version": 3,
        }


def as_target(buffer: object) -> Target:
    """View a device buffer.

    Parameters
    ----------
    buffer
        A `cupy.ndarray`, a torch tensor on a CUDA device, or an object whose ``__cuda_array_interface__``
        (version 2 or 3) is writable. Where a typestr has no name for the dtype (bfloat16, float8), the
        object's ``dtype`` is asked.

    Raises
    ------
    TypeError
        If it is none of these, or is masked or sparse.
    ValueError
        If it is read-only, its byte order is foreign, or a torch tensor's storage does not hold it.
    """
    if is_cupy(buffer):
        return _cupy_target(buffer)
    torch = torch_of(buffer)
    if torch is not None:
        return _torch_target(buffer, torch)
    interface = getattr(buffer, "__cuda_array_interface__", None)
    if interface is None:
        raise TypeError(
            "expected a cupy.ndarray, a torch tensor or an object with __cuda_array_interface__; got "
            f"{type_name(buffer)}; pass cupy.from_dlpack(buffer) if it offers DLPack only"
        )
    return _interface_target(buffer, interface)


def as_storage(buffer: object) -> Target:
    """View a device buffer that can be filled: with `as_target`'s errors, and those of the checks below."""
    target = as_target(buffer)
    assert_storage(target)
    assert_fillable(target)
    return target


def assert_fillable(target: Target) -> None:
    """Raise ValueError unless each element has memory of its own, on a multiple of its size."""
    assert_distinct(target.shape, target.strides, target.itemsize, "cupy.array(buffer)")
    steps = [stride for stride, n in zip(target.strides, target.shape, strict=True) if n > 1]
    if prod(target.shape) and any(place % target.itemsize for place in (target.pointer, *steps)):
        raise ValueError(
            f"expected elements on multiples of their {target.itemsize} bytes, as GPUs write them; got "
            f"address {target.pointer:#x} with strides {target.strides} bytes; fill an aligned array and "
            "copy it there"
        )


def assert_storage(target: Target) -> None:
    """Raise TypeError unless the buffer stores one of the floating-point types."""
    if target.dtype not in STORAGES:
        raise TypeError(
            f"expected one of the dtypes {', '.join(STORAGES)}; got {target.dtype}; fill a buffer of one of "
            "these and convert that"
        )


def _cupy_target(array: Any) -> Target:
    return Target(
        array.data.ptr,
        tuple(array.shape),
        tuple(array.strides),
        _name(array.dtype),
        array.itemsize,
        array.data.device_id,
        None,
        is_torch=False,
    )


def _torch_target(tensor: Any, torch: Any) -> Target:
    if tensor.layout != torch.strided:
        raise TypeError(
            f"expected a dense torch tensor; got one of layout {tensor.layout}; fill its values() or a "
            "dense tensor"
        )
    if tensor.is_neg():
        raise TypeError(
            "expected a torch tensor that holds its own values; got a negated view of others; pass "
            "tensor.resolve_neg()"
        )
    assert_stored(tensor)
    size = tensor.element_size()
    return Target(
        tensor.data_ptr(),
        tuple(tensor.shape),
        tuple(size * step for step in tensor.stride()),
        str(tensor.dtype).removeprefix("torch."),
        size,
        tensor.device.index,
        torch_stream(torch)(tensor.device.index),
        is_torch=True,
    )


def torch_stream(torch: Any) -> Callable[[int], int]:
    """What returns the handle of torch's current stream of a device, by its number.

    The public function makes an object of torch's first, and takes 3.1 us, this one 0.07.
    """
    try:
        raw: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
    except AttributeError:  # a torch that was built without it
        return lambda number: int(torch.cuda.current_stream(number).cuda_stream)
    return raw


def _interface_target(buffer: object, interface: Any) -> Target:
    assert_unmasked(interface, "__cuda_array_interface__")
    try:
        pointer, read_only = interface["data"]
        typestr, shape = str(interface["typestr"]), tuple(map(operator.index, interface["shape"]))
        given = interface.get("strides")
        strides = None if given is None else tuple(map(operator.index, given))
        address = operator.index(pointer or 0)
        if any(n < 0 for n in shape) or len(shape if strides is None else strides) != len(shape):
            raise ValueError(f"shape {shown(shape)}, strides {shown(strides)}")
    except (KeyError, TypeError, ValueError) as error:
        raise TypeError(
            "expected a __cuda_array_interface__ of shape, typestr, data and perhaps strides; got a "
            f"{type_name(buffer)} with one that cannot be read ({type(error).__name__}: {error}); pass the "
            "array that holds its data"
        ) from error
    if read_only:
        raise ValueError(
            "expected a writable buffer; got a read-only one; pass a writable copy of it, such as "
            "cupy.array(buffer)"
        )
    dtype = _dtype(buffer, typestr)
    if strides is None:
        strides = tuple(dtype.itemsize * prod(shape[k + 1 :]) for k in range(len(shape)))
    return Target(
        address,
        shape,
        strides,
        _name(dtype),
        dtype.itemsize,
        buffer.number if isinstance(buffer, DeviceBuffer) else None,
        _stream(buffer, interface.get("stream")),
        is_torch=False,
    )


def _dtype(buffer: object, typestr: str) -> np.dtype[Any]:
    """What the typestr says, or, if it names no type of NumPy's, the object's dtype of that size.

    ml_dtypes calls bfloat16 "<V2", bytes without a meaning, and float8 "<f1", which no one else knows.
    """
    try:
        stated = np.dtype(typestr)
    except TypeError:
        stated = np.dtype(f"V{typestr[2:]}")
    if stated.kind != "V":
        return stated
    try:
        named = np.dtype(getattr(buffer, "dtype", stated))
    except TypeError:  # of a library that has dtypes of its own
        return stated
    return named if named.itemsize == stated.itemsize else stated


def _stream(buffer: object, stated: Any) -> int | None:
    """The stream that the object names: by ``__cuda_stream__``, else in the interface.

    Work that follows on that very stream needs no synchronisation with what the object's owner did there.
    """
    protocol = getattr(buffer, "__cuda_stream__", None)
    if protocol is not None:
        version, handle = protocol() if callable(protocol) else protocol
        if version != 0:
            raise TypeError(f"expected __cuda_stream__ of version 0; got version {shown(version)}")
        return int(handle)
    if stated is None:
        return None
    if stated == 0:
        raise ValueError(
            "expected a stream of 1 (legacy default), 2 (per-thread default), a handle or None in "
            "__cuda_array_interface__; got 0, which the protocol forbids"
        )
    return int(stated)


def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else storage_of(dtype).name  # which refuses it
