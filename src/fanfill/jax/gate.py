"""Native code around a custom call's handler in Python, made by llvmlite.

Two things that Python cannot do for itself:

* A thread that asks for the GIL while Python ends is stopped for good, and XLA, which waits for it, never
  ends either: 9 of 10 processes that ended with work on 8 devices in flight hung. So the gate counts who is
  inside, and once Python begins to end it lets nobody in: XLA gets an error without the GIL being asked for.
* An exception that leaves a ctypes callback is printed and lost, and what the caller gets as the result is
  garbage, which XLA takes for a pointer. So the handler returns nothing and writes into two places of the
  gate, which are empty unless it has come to its end.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import time
from typing import Any, NamedTuple

from llvmlite import binding, ir

from fanfill.jax.callframe import INTERNAL, Api, ErrorArgs, Frame
from fanfill_kernels.store.objects import assert_executable

__all__ = ["Gate", "make_gate"]

_MESSAGE = b"fanfill: Python is at its end, or an exception left the handler\0"

_I64, _I32, _ANY = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
_HANDLER = ir.FunctionType(_ANY, [_ANY])
_INNER = ir.FunctionType(ir.VoidType(), [_ANY, _ANY])


class Gate(NamedTuple):
    """A gate's function, and what must live as long as XLA may call it."""

    address: int
    engine: Any
    inner: Any
    closed: ctypes.c_int64
    inside: ctypes.c_int64

    def close(self) -> None:
        """Let nobody in any more, and wait for those inside."""
        self.closed.value = 1
        while self.inside.value:
            time.sleep(0.001)

    def forget(self) -> None:
        """In a forked child: none of those who were inside has come along."""
        self.inside.value = 0


def make_gate(inner: Any) -> Gate:
    """A gate around a ctypes callback ``(frame, done) -> None``.

    The callback sets ``done[0]`` to 1, or ``done[1]`` to the address of an error for XLA. The gate closes
    when Python ends.

    Raises
    ------
    ForbiddenError
        If the process may not run code that it makes.
    """
    assert_executable()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    module = binding.parse_assembly(str(_module(ctypes.cast(inner, ctypes.c_void_p).value or 0)))
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    closed, inside = (
        ctypes.c_int64.from_address(engine.get_global_value_address(name)) for name in ("closed", "inside")
    )
    gate = Gate(engine.get_function_address("handler"), engine, inner, closed, inside)
    atexit.register(gate.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=gate.forget)
    return gate


def _module(inner: int) -> ir.Module:
    module = ir.Module("fanfill_jax")
    closed, inside = (ir.GlobalVariable(module, _I64, name) for name in ("closed", "inside"))
    closed.initializer = inside.initializer = ir.Constant(_I64, 0)
    message = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), len(_MESSAGE)), "message")
    message.initializer = ir.Constant(message.value_type, bytearray(_MESSAGE))
    function = ir.Function(module, _HANDLER, "handler")
    (frame,) = function.args
    b = ir.IRBuilder(function.append_basic_block())

    def place(base: Any, offset: int, kind: Any) -> Any:
        return b.bitcast(b.gep(base, [ir.Constant(_I64, offset)]), kind.as_pointer())

    done = b.bitcast(b.alloca(_I64, 2), _ANY)
    args = b.bitcast(b.alloca(_I64, ctypes.sizeof(ErrorArgs) // 8), _ANY)
    for offset in (0, 8):
        b.store(ir.Constant(_I64, 0), place(done, offset, _I64))
    # Counted before the look at `closed`: whoever closes the gate after that look waits for this call.
    b.atomic_rmw("add", inside, ir.Constant(_I64, 1), "seq_cst")
    is_open = b.icmp_signed("==", b.load_atomic(closed, "seq_cst", 8), ir.Constant(_I64, 0))
    with b.if_then(is_open):
        b.call(b.inttoptr(ir.Constant(_I64, inner), _INNER.as_pointer()), [frame, done])
    b.atomic_rmw("sub", inside, ir.Constant(_I64, 1), "seq_cst")
    error = b.load(place(done, 8, _ANY))
    with b.if_then(b.icmp_signed("!=", b.load(place(done, 0, _I64)), ir.Constant(_I64, 0))):
        b.ret(ir.Constant(_ANY, None))
    with b.if_then(b.icmp_unsigned("!=", error, ir.Constant(_ANY, None))):
        b.ret(error)
    b.store(ir.Constant(_I64, ctypes.sizeof(ErrorArgs)), place(args, ErrorArgs.struct_size.offset, _I64))
    b.store(ir.Constant(_I64, 0), place(args, ErrorArgs.extension.offset, _I64))
    b.store(b.bitcast(message, _ANY), place(args, ErrorArgs.message.offset, _ANY))
    b.store(ir.Constant(_I32, INTERNAL), place(args, ErrorArgs.code.offset, _I32))
    api = b.load(place(frame, Frame.api.offset, _ANY))
    create = b.load(place(api, Api.error_create.offset, _HANDLER.as_pointer()))
    b.ret(b.call(create, [args]))
    return module
