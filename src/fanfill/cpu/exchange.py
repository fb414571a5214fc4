"""Views host memory of other libraries as an ndarray on the same memory: never a copy, never beyond its end.

NumPy alone takes copies if a protocol allows them, reads past the end of a buffer that is too short for its
shape, and ignores masks. Errors here describe what cannot be viewed in the words of the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill.messages import shown, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["array_of_dlpack", "array_of_interface", "array_of_memory", "assert_unmasked", "span"]

# What NumPy and other libraries raise if they cannot view or offer memory.
_REFUSALS = (BufferError, NotImplementedError, OverflowError, RuntimeError, TypeError, ValueError)


def array_of_interface(owner: object, interface: Any) -> NDArray[Any]:
    """View the memory that an object's ``__array_interface__`` describes.

    Raises
    ------
    TypeError
        If there is a mask, or NumPy cannot read the interface.
    ValueError
        If some elements lie outside the buffer that the interface names. (If it gives an address, nobody
        knows how much memory lies there.)
    """
    assert_unmasked(interface, "__array_interface__")
    data, memory = interface.get("data"), None
    if not isinstance(data, tuple):
        # NumPy releases the buffer once it has its address; this array keeps the buffer from being resized.
        source: Any = owner if data is None else data
        memory = _viewed(owner, "__array_interface__", lambda: np.frombuffer(source, np.uint8))
        interface = {**interface, "data": memory}
    array = _viewed(owner, "__array_interface__", lambda: np.asarray(_Interface(interface, owner)))
    if memory is not None:
        low, high = span(array.shape, array.strides, array.itemsize)
        first = array.ctypes.data - memory.ctypes.data
        if array.size and (first + low < 0 or first + high > memory.nbytes):
            raise ValueError(
                "expected a buffer that holds all elements; got an __array_interface__ of shape "
                f"{shown(array.shape)}, whose elements take bytes {first + low} to {first + high} of a "
                f"buffer of {memory.nbytes}; correct its shape, strides or offset, or pass an array that fits"
            )
    return array


def array_of_memory(memory: memoryview) -> NDArray[Any]:
    """View the memory of an object with the buffer protocol; TypeError if NumPy cannot."""
    if any(step >= 0 for step in memory.suboffsets or ()):
        raise TypeError(
            f"expected memory that a shape and strides describe; got a buffer of shape {memory.shape} with "
            f"suboffsets {memory.suboffsets}, whose rows lie behind pointers; fill its rows one by one, or "
            "an array of that shape and copy it there"
        )
    return _viewed(memory.obj, "the buffer protocol", lambda: np.asarray(memory))


def array_of_dlpack(buffer: Any) -> NDArray[Any]:
    """View what an object in host memory offers through DLPack.

    Raises
    ------
    TypeError
        If the object or NumPy refuses, or the object makes a copy at each request.
    ValueError
        If it exports DLPack without a version: NumPy takes that as read-only.
    """
    exporter: Any = _Exporter(buffer)
    array = _viewed(buffer, "DLPack", lambda: np.from_dlpack(exporter))
    # While the first export is alive, a second copy lies elsewhere; shared memory stays where it is.
    again = _viewed(buffer, "DLPack", lambda: np.from_dlpack(exporter))
    if array.ctypes.data != again.ctypes.data and array.size:
        raise TypeError(
            f"expected an object that shares its memory; got a {type_name(buffer)}, whose __dlpack__ copies "
            "it at each request, so only a copy would be filled; pass the array that holds its data"
        )
    if not array.flags.writeable and not exporter.versioned:
        why = (
            f"a {type_name(buffer)}, whose DLPack has no version and so cannot say whether it may be written"
            if exporter.asked
            else f"DLPack, which NumPy {np.__version__} takes as read-only and NumPy 2.1 does not"
        )
        raise ValueError(
            f"expected a writable buffer; got {why}; if its memory may be written, pass "
            "torch.from_dlpack(buffer), or an ndarray on that memory"
        )
    return array


def assert_unmasked(interface: Any, protocol: str) -> None:
    """Raise TypeError if an array interface is not a dict or has a mask."""
    if not isinstance(interface, dict):
        raise TypeError(
            f"expected a dict as {protocol}; got {shown(interface)}; pass the array that holds the data"
        )
    if interface.get("mask") is not None:
        raise TypeError(
            f"expected a plain array; got {protocol} with a mask, which says that some elements must not be "
            "touched; pass the array of its data to fill them all"
        )


def span(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int]:
    """Where the bytes of a view begin and end, counted from its first element; (0, 0) for an empty view."""
    if 0 in shape:
        return 0, 0
    ends = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return sum(min(0, end) for end in ends), sum(max(0, end) for end in ends) + itemsize


class _Interface:
    """Carries an ``__array_interface__`` and nothing else: NumPy must not choose a protocol that copies."""

    def __init__(self, interface: object, owner: object) -> None:
        self.__array_interface__ = interface
        self.owner = owner


class _Exporter:
    """Asks an object for DLPack on NumPy's behalf: version 1 and no copy, if the object supports them.

    Attributes
    ----------
    asked
        Whether NumPy has asked for a version; NumPy 2.0 does not, and treats all of DLPack as read-only.
    versioned
        Whether the object has answered with one.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.asked = self.versioned = False

    def __dlpack_device__(self) -> Any:
        return self.owner.__dlpack_device__()

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **_: object) -> Any:
        if max_version is None:
            return self.owner.__dlpack__()
        self.asked = True
        try:
            capsule = self.owner.__dlpack__(max_version=max_version, copy=False)
        except TypeError:  # older than DLPack 1.0, it knows neither; any other TypeError comes again
            return self.owner.__dlpack__()
        self.versioned = "dltensor_versioned" in repr(capsule)
        return capsule


def _viewed(owner: object, protocol: str, view: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    try:
        return view()
    except _REFUSALS as error:
        raise TypeError(
            f"expected memory that NumPy can view through {protocol}; got a {type_name(owner)} that has no "
            f"such view ({error}); pass an ndarray on its memory"
        ) from error
