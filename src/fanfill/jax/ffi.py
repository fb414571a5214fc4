"""XLA's custom call for CPUs: it fills XLA's own output buffer, inside a compiled program, without a copy."""

from __future__ import annotations

import ctypes
import traceback
from typing import Any

import jax

from fanfill.jax import callframe
from fanfill.jax.spec import fill_parts

__all__ = ["TARGET", "available", "fill_by_ffi", "register"]

# Programs in persistent caches and exported ones hold the name. Its number is that of the operands and the
# attribute (`fanfill.jax.spec`).
TARGET = "fanfill_fill_1"

# XLA takes a name once in a process; a second registration leaves it without a CPU backend. So what says that
# it is there must outlive this module, which may be reloaded or imported twice.
_MARK = f"_{TARGET}"


def _handle(pointer: Any, done: Any) -> None:
    """XLA's call; see `fanfill.jax.gate` for `done`."""
    frame = pointer.contents
    try:
        if not callframe.answer_metadata(frame) and callframe.is_execution(frame):
            words, offsets = callframe.operand(frame, 0), callframe.operand(frame, 1)
            fill_parts(words, offsets, callframe.result(frame), callframe.text_attribute(frame))
        done[0] = 1
    except BaseException as error:  # Ctrl-C as well: the caller gets a JaxRuntimeError that names it
        done[1] = callframe.error_of(frame, "".join(traceback.format_exception_only(error)).strip())


def register() -> bool:
    """Make the custom call known to XLA, once in a process; whether it is.

    It is not where llvmlite is missing or the process may not run code that it makes: there
    `jax.pure_callback` draws.
    """
    if hasattr(jax.ffi, _MARK):
        return True
    try:
        from fanfill.jax.gate import make_gate

        inner = ctypes.CFUNCTYPE(None, ctypes.POINTER(callframe.Frame), ctypes.POINTER(ctypes.c_int64))(
            _handle
        )
        gate = make_gate(inner)
    except (ImportError, OSError):
        return False
    capsule = jax.ffi.pycapsule(ctypes.cast(gate.address, ctypes.c_void_p))
    setattr(jax.ffi, _MARK, (gate, capsule))  # before the registration, of which there must not be two
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    return True


# At once, so that a program from a cache or an export finds it.
available = register()


def fill_by_ffi(words: Any, offsets: Any, local: tuple[int, ...], dtype: Any, spec: str) -> Any:
    """The part of shape `local` at `offsets`, of the tensor that `spec` describes."""
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(local, dtype), vmap_method="broadcast_all")
    return call(words, offsets, spec=spec)
