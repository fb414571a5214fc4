"""Object code: loaded with llvmlite alone, and called through ``ctypes``, which releases the GIL.

Importing Numba takes 0.3 s, and its first use of anything compiled 0.25 s more (AMD EPYC). Loading a stored
kernel without Numba takes 3 ms.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import binding

# The arguments of a kernel, in order: "i8", "u8", "f4" and "f8" are scalars of that NumPy type, "[f4]" is a
# contiguous vector, and a tuple of scalar types is a tuple. In memory each scalar takes 8 bytes; a vector is
# its address and its length.
Layout = tuple[str | tuple[str, ...], ...]
_FORMATS = {"i8": "q", "u8": "Q", "f4": "f4x", "f8": "d"}

_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
# Numba's calling convention: places for the result (there is none) and for an exception.
_RESULT = ctypes.c_void_p()
_EXCEPTION = ctypes.c_void_p()
_engines: list[Any] = []  # code lives as long as its engine


class ForbiddenError(OSError):
    """The process may not run memory that it has written: loading compiled code would crash it."""


def assert_executable() -> None:
    """Raise ForbiddenError if compiled code cannot run.

    Checked before each kernel, since a sandbox may forbid it at any time.
    """
    try:
        binding.check_jit_execution()
    except OSError as error:
        raise ForbiddenError(
            "expected that this process may run code that it makes; the system forbids it (systemd's "
            "MemoryDenyWriteExecute, SELinux's execmem); allow it, or set FANFILL_BACKEND=numpy"
        ) from error


def load(symbol: str, object_code: bytes) -> int:
    """Load object code into this process; return the address of one of its functions."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(object_code))
    engine.finalize_object()
    address: int = engine.get_function_address(symbol)
    if not address:
        raise ValueError(f"expected object code with a function {symbol}; got one without it")
    _engines.append(engine)
    return address


def format_of(layout: Layout) -> str:
    """The arguments as a format of the module ``struct``."""
    return "".join(
        "".join(_FORMATS[member] for member in field)
        if isinstance(field, tuple)
        else "Pq"
        if field.startswith("[")
        else _FORMATS[field]
        for field in layout
    )


def caller(address: int, layout: Layout) -> Callable[..., None]:
    """The function at an address; it takes the arguments that ``layout`` describes."""
    function = _Function(address)
    pack = struct.Struct(format_of(layout)).pack
    result, exception = ctypes.addressof(_RESULT), ctypes.addressof(_EXCEPTION)
    start_of, address_of = ctypes.c_char.from_buffer, ctypes.addressof

    def call(out: Any, *arguments: Any) -> None:
        if not out.size:
            return
        fields = [address_of(start_of(out)), out.size]
        for argument in arguments:
            if type(argument) is tuple:
                fields += argument
            elif type(argument) is np.ndarray:
                fields += (argument.ctypes.data, argument.size)
            else:
                fields.append(argument)
        status = function(result, exception, pack(*fields))
        if status:
            raise RuntimeError(f"expected a kernel to end without an error; got status {status}")

    return call


def rows_caller(
    repeat: Any, address: int, layout: Layout, places: Sequence[int], calls: Sequence[tuple[Any, ...]]
) -> Callable[[int, int], None]:
    """Prepare calls of the function at an address; what is returned makes those from one number to another
    by one call from Python, which releases the GIL.

    ``repeat`` is `repeater`'s. Each call has the arguments that ``layout`` describes: a vector, of which
    ``places`` holds the address, a number and tuples.
    """
    packed = struct.Struct(format_of(layout))
    rows = bytearray(packed.size * len(calls))
    pack_into, at = packed.pack_into, 0
    for place, (out, start, *tuples) in zip(places, calls, strict=True):
        pack_into(rows, at, place, out.size, start, *chain(*tuples))
        at += packed.size
    first_row = ctypes.addressof(ctypes.c_char.from_buffer(rows))
    result, exception = ctypes.addressof(_RESULT), ctypes.addressof(_EXCEPTION)

    def run(first: int, last: int, keep: Any = (rows, calls)) -> None:
        row = first_row + first * packed.size
        status = repeat(address, result, exception, row, packed.size, last - first)
        if status:
            raise RuntimeError(f"expected kernels to end without an error; got status {status}")

    return run


# A loop over rows of packed arguments; it ends with the first call that fails. Versions of LLVM that have
# untyped pointers read this notation, too.
_REPEAT = """
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
"""


@cache
def repeater() -> Any:
    """The loop, compiled by LLVM alone: 10 ms."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(_REPEAT), machine)
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address("repeat")
    return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_size_t] * 6)(address)
