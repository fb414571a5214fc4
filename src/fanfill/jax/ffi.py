"""XLA's custom call: it fills XLA's own output buffer, inside a compiled program, without a copy.

On CPUs the handler draws; on CUDA devices it puts kernels on XLA's stream (`fanfill.jax.on_cuda`).
"""

from __future__ import annotations

import ctypes
import functools
import traceback
from collections.abc import Callable
from typing import Any

import jax

from fanfill.jax import callframe, on_cuda
from fanfill.jax.spec import fill_parts

__all__ = ["TARGET", "available", "available_on_cuda", "fill_by_ffi", "register"]

# Programs in persistent caches and exported ones hold the name. Its number is that of the operands and the
# attribute (`fanfill.jax.spec`).
TARGET = "fanfill_fill_1"

# XLA takes a name once in a process; a second registration leaves it without a CPU backend. So what says that
# it is there must outlive this module, which may be reloaded or imported twice.
_MARK = f"_{TARGET}"


def _fill(frame: Any) -> None:
    words, offsets = (callframe.array(callframe.operand(frame, number)) for number in (0, 1))
    fill_parts(words, offsets, callframe.array(callframe.result(frame)), callframe.text_attribute(frame))


def _launch(frame: Any) -> None:
    words, offsets = callframe.operand(frame, 0), callframe.operand(frame, 1)
    text, stream = callframe.text_attribute(frame), callframe.stream(frame)
    from fanfill.jax.launching import launch_parts  # with the kernels' geometry, which CPUs do not need

    launch_parts(words, offsets, callframe.result(frame), text, stream)


def _handle(run: Callable[[Any], None], traits: int, pointer: Any, done: Any) -> None:
    """XLA's call; see `fanfill.jax.gate` for `done`."""
    frame = pointer.contents
    try:
        if not callframe.answer_metadata(frame, traits) and callframe.is_execution(frame):
            run(frame)
        done[0] = 1
    except BaseException as error:  # Ctrl-C as well: the caller gets a JaxRuntimeError that names it
        done[1] = callframe.error_of(frame, "".join(traceback.format_exception_only(error)).strip())


# By XLA's name of the platform.
_HANDLERS = {
    "cpu": functools.partial(_handle, _fill, 0),
    "CUDA": functools.partial(_handle, _launch, callframe.CAPTURABLE),
}


def register(platform: str = "cpu") -> bool:
    """Make the custom call known to XLA, once in a process; whether it is.

    It is not where llvmlite is missing or the process may not run code that it makes: there
    `jax.pure_callback` draws. Nor is it for CUDA unless JAX's plugin is installed. With the plugin, but
    without a device, XLA never hears of it: JAX keeps the registration for when the plugin finds one.
    """
    mark = f"{_MARK}_{platform}"
    if hasattr(jax.ffi, mark):
        return True
    if platform == "CUDA" and not on_cuda.has_plugin():
        return False
    try:
        from fanfill.jax.gate import make_gate

        inner = ctypes.CFUNCTYPE(None, ctypes.POINTER(callframe.Frame), ctypes.POINTER(ctypes.c_int64))(
            _HANDLERS[platform]
        )
        gate = make_gate(inner)
    except (ImportError, OSError):
        return False
    capsule = jax.ffi.pycapsule(ctypes.cast(gate.address, ctypes.c_void_p))
    setattr(jax.ffi, mark, (gate, capsule))  # before the registration, of which there must not be two
    jax.ffi.register_ffi_target(TARGET, capsule, platform=platform)
    return True


# At once, so that a program from a cache or an export finds it.
available = register()
available_on_cuda = register("CUDA")


def fill_by_ffi(words: Any, offsets: Any, local: tuple[int, ...], dtype: Any, spec: str) -> Any:
    """The part of shape `local` at `offsets`, of the tensor that `spec` describes."""
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(local, dtype), vmap_method="broadcast_all")
    return call(words, offsets, spec=spec)
