"""Calls of a compiled kernel by address: no array is made for the memory that it fills."""

import ctypes
import struct
from collections.abc import Callable
from typing import Any

from fanfill_kernels.store.objects import Layout, format_of

Key = tuple[int, int, int, int]

_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
# Numba's calling convention: places for the result (there is none) and for an exception.
_RESULT, _EXCEPTION = ctypes.c_void_p(), ctypes.c_void_p()


def by_address(at: int, layout: Layout, length: int, params: tuple[Any, ...]) -> Callable[[int, Key], None]:
    """What fills ``length`` values from an address on, the first ones of a tensor.

    The kernel is a `Kernels.run` whose code lies at ``at``.
    """
    function, pack = _Function(at), struct.Struct(format_of(layout)).pack
    result, exception = ctypes.addressof(_RESULT), ctypes.addressof(_EXCEPTION)

    def fill(address: int, key: Key) -> None:
        status = function(result, exception, pack(address, length, 0, *key, *params))
        if status:
            raise RuntimeError(f"expected a kernel to end without an error; got status {status}")

    return fill
