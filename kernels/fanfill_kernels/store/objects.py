"""Object code: loaded with llvmlite alone, and called through ``ctypes``, which releases the GIL.

Importing Numba takes 0.3 s, and its first use of anything compiled 0.25 s more (AMD EPYC). Loading a stored
kernel without Numba takes 3 ms.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import binding

from fanfill_kernels.philox import Key

# The arguments of a kernel, in order: "i8", "u8", "f4" and "f8" are scalars of that NumPy type, "[f4]" is a
# contiguous vector, and a tuple of scalar types is a tuple. In memory each scalar takes 8 bytes; a vector is
# its address and its length.
Layout = tuple[str | tuple[str, ...], ...]
_FORMATS = {"i8": "q", "u8": "Q", "f4": "f4x", "f8": "d"}

_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
# Numba's calling convention: places for the result (there is none) and for an exception.
RESULT = ctypes.c_void_p()
EXCEPTION = ctypes.c_void_p()
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
    return load_all([symbol], object_code)[0]


def load_all(symbols: Sequence[str], object_code: bytes) -> list[int]:
    """Load object code into this process; return the addresses of its functions of these names."""
    engine = engine_of(binding.parse_assembly(""), object_code)
    addresses = {symbol: int(engine.get_function_address(symbol)) for symbol in symbols}
    for symbol, address in addresses.items():
        if not address:
            raise ValueError(f"expected object code with a function {symbol}; got one without it")
    return list(addresses.values())


def engine_of(module: Any, object_code: bytes | None = None) -> Any:
    """Compile an LLVM module for this machine, or load object code; both stay for good."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(module, machine)
    if object_code is not None:
        engine.add_object_file(binding.ObjectFileRef.from_data(object_code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


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
    result, exception = ctypes.addressof(RESULT), ctypes.addressof(EXCEPTION)
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


def by_address(at: int, layout: Layout, length: int, params: tuple[Any, ...]) -> Callable[[int, Key], None]:
    """What fills ``length`` values from an address on, the first ones of a tensor: no array is made for them.

    The kernel is a `Kernels.run` whose code lies at ``at``.
    """
    function, pack = _Function(at), struct.Struct(format_of(layout)).pack
    result, exception = ctypes.addressof(RESULT), ctypes.addressof(EXCEPTION)

    def fill(address: int, key: Key) -> None:
        status = function(result, exception, pack(address, length, 0, *key, *params))
        if status:
            raise RuntimeError(f"expected a kernel to end without an error; got status {status}")

    return fill
