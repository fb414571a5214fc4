"""Loops over many small tensors: what would take Python microseconds a turn is machine code, by LLVM alone.

To find 10,000 arrays takes a third of the time here that their ``ctypes.data`` takes.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from fanfill_kernels.process.undivided import undivided
from fanfill_kernels.store import objects

# ``repeat`` goes over rows of packed arguments and ends
# with the first call that fails. ``addresses`` asks objects for their memory; if one raises, so does ctypes.
# Versions of LLVM that have untyped pointers read this notation, too.
_LOOPS = """
define i32 @repeat(i64 %call, i64 %result, i64 %exception, i64 %rows, i64 %stride, i64 %count) {
begin:
  %function = inttoptr i64 %call to i32 (i8*, i8*, i8*)*
  %r = inttoptr i64 %result to i8*
  %e = inttoptr i64 %exception to i8*
  br label %next
next:
  %number = phi i64 [ 0, %begin ], [ %following, %once ]
  %at = phi i64 [ %rows, %begin ], [ %behind, %once ]
  %more = icmp ult i64 %number, %count
  br i1 %more, label %once, label %done
once:
  %row = inttoptr i64 %at to i8*
  %status = call i32 %function(i8* %r, i8* %e, i8* %row)
  %following = add i64 %number, 1
  %behind = add i64 %at, %stride
  %good = icmp eq i32 %status, 0
  br i1 %good, label %next, label %failed
failed:
  ret i32 %status
done:
  ret i32 0
}

define i32 @addresses(i64 %get, i64 %release, i64 %objects, i64 %view, i64 %out, i64 %count) {
begin:
  %ask = inttoptr i64 %get to i32 (i8*, i8*, i32)*
  %give = inttoptr i64 %release to void (i8*)*
  %buffer = inttoptr i64 %view to i8*
  %first = inttoptr i64 %view to i64*
  br label %next
next:
  %number = phi i64 [ 0, %begin ], [ %following, %found ]
  %more = icmp ult i64 %number, %count
  br i1 %more, label %once, label %done
once:
  %offset = mul i64 %number, 8
  %from = add i64 %objects, %offset
  %slot = inttoptr i64 %from to i8**
  %object = load i8*, i8** %slot
  %status = call i32 %ask(i8* %object, i8* %buffer, i32 1)
  %good = icmp eq i32 %status, 0
  br i1 %good, label %found, label %failed
found:
  %address = load i64, i64* %first
  %to = add i64 %out, %offset
  %place = inttoptr i64 %to to i64*
  store i64 %address, i64* %place
  call void %give(i8* %buffer)
  %following = add i64 %number, 1
  br label %next
failed:
  ret i32 1
done:
  ret i32 0
}
"""


_compiled: dict[str, Any] = {}


def rows_of(
    layout: objects.Layout, templates: Sequence[tuple[Any, ...]], counts: Sequence[int]
) -> NDArray[np.uint64]:
    """Packed arguments of many calls: each template's, without the vector's address, as often as it counts.

    An argument is a row of 8-byte words; the first is the address, which is left 0, the next the length.
    """
    pack = struct.Struct(objects.format_of(layout)).pack
    packed = b"".join([pack(0, size, start, *chain(*tuples)) for size, start, *tuples in templates])
    return np.repeat(np.frombuffer(packed, np.uint64).reshape(len(templates), -1), counts, axis=0)


def rows_caller(address: int, rows: NDArray[np.uint64]) -> Callable[[int, int], None]:
    """What calls the function at an address with rows of packed arguments, from one number to another, by
    one call from Python, which releases the GIL.
    """
    repeat = _loop("repeat")
    first_row, stride = rows.ctypes.data, rows.strides[0]
    result, exception = ctypes.addressof(objects.RESULT), ctypes.addressof(objects.EXCEPTION)

    def run(first: int, last: int, keep: Any = rows) -> None:
        status = repeat(address, result, exception, first_row + first * stride, stride, last - first)
        if status:
            raise RuntimeError(f"expected kernels to end without an error; got status {status}")

    return run


def addresses_of(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    """Where writable, C-contiguous arrays begin."""
    call = _loop("addresses")
    pointers = (ctypes.py_object * len(arrays))(*arrays)  # type: ignore[misc]
    found = np.empty(len(arrays), np.uint64)
    view = ctypes.create_string_buffer(256)  # a Py_buffer, which has 80 bytes and begins with the address
    get, release = (
        ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        for name in ("PyObject_GetBuffer", "PyBuffer_Release")
    )
    call(get, release, ctypes.addressof(pointers), ctypes.addressof(view), found.ctypes.data, len(arrays))
    return found


def _loop(name: str) -> Any:
    return (_compiled or undivided(_compile))[name]


def _compile() -> dict[str, Any]:
    """The loops; 10 ms."""
    objects.assert_executable()
    engine = objects.engine_of(binding.parse_assembly(_LOOPS))
    kinds = {"repeat": ctypes.CFUNCTYPE, "addresses": ctypes.PYFUNCTYPE}  # the first releases the GIL
    _compiled.update(
        {
            name: kind(ctypes.c_int, *[ctypes.c_size_t] * 6)(engine.get_function_address(name))
            for name, kind in kinds.items()
        }
    )
    return _compiled
