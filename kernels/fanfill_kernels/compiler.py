"""Bind the lane functions to Numba: the same code objects, with LLVM's casts, bitcasts and selects as
their globals.
"""

from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, register_jitable
from numba.np.arrayobj import make_array, populate_array

from fanfill_kernels import lanes


def _bitcast(source: Any, target: Any, llvm: ir.Type) -> Any:
    @intrinsic
    def bitcast(context: Any, x: Any) -> Any:
        return target(source), lambda _c, builder, _s, args: builder.bitcast(args[0], llvm)

    return bitcast


@intrinsic
def _select(context: Any, condition: Any, a: Any, b: Any) -> Any:
    # np.where on scalars branches: 6 M values/s against LLVM's select, which is a masked move.
    if a != b:
        raise TypingError(f"select needs one type, not {a} and {b}")
    return a(condition, a, b), lambda _c, builder, _s, args: builder.select(*args)


@intrinsic
def _sqrt(context: Any, x: Any) -> Any:
    def codegen(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [args[0].type]), args)

    return x(x), codegen


@intrinsic
def _halves(context: Any, pairs: Any) -> Any:
    # Numba's array.view compiles a check of shapes that takes 0.8 s, a third of a kernel's whole compilation.
    if pairs != types.Array(types.uint64, 1, "C"):
        raise TypingError(f"halves needs a contiguous vector of uint64, not {pairs}")
    halved = types.Array(types.uint32, 1, "C")

    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        source = make_array(pairs)(context, builder, args[0])
        target = make_array(halved)(context, builder)
        populate_array(
            target,
            data=builder.bitcast(source.data, target.data.type),
            shape=[builder.mul(source.nitems, context.get_constant(types.intp, 2))],
            strides=[context.get_constant(types.intp, 4)],
            itemsize=context.get_constant(types.intp, 4),
            meminfo=source.meminfo,
            parent=source.parent,
        )
        return impl_ret_borrowed(context, builder, halved, target._getvalue())

    return halved(pairs), codegen


# Iterations of a vectorised loop that run side by side. Ten rounds of Philox, or a logarithm, are one long
# chain of operations; with a single chain in flight, as LLVM would have it, the vector units idle for a fifth
# of the time (Zen 4, in cache: uniforms go from 2.2 to 2.65 G values/s, normals gain as much; 8 are worse).
INTERLEAVE = 4


def _interleaved(builder: Any) -> Any:
    """Loop metadata: a node that names itself first, as LLVM wants it, and the hint."""
    module = builder.module
    count = ir.Constant(ir.IntType(32), INTERLEAVE)
    hint = module.add_metadata([ir.MetaDataString(module, "llvm.loop.interleave.count"), count])
    node = module.add_metadata([ir.MetaDataString(module, f"fanfill.loop.{len(module.metadata)}"), hint])
    node.operands = (node, hint)
    return node


@intrinsic
def _loop(context: Any, count: Any, body: Any, state: Any) -> Any:
    if not isinstance(state, types.BaseTuple):
        raise TypingError(f"loop needs a tuple of state, not {state}")
    arguments = (types.intp, *state.types)
    body.get_call_type(context, arguments, {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        resolved = body.get_call_type(context.typing_context, arguments, {})
        call = context.get_function(body, resolved)
        values = cgutils.unpack_tuple(builder, args[2])
        entry = builder.basic_block
        inside = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        zero = ir.Constant(args[0].type, 0)
        builder.cbranch(builder.icmp_signed(">", args[0], zero), inside, after)
        builder.position_at_end(inside)
        i = builder.phi(args[0].type)
        i.add_incoming(zero, entry)
        call(builder, [i, *values])
        following = builder.add(i, ir.Constant(i.type, 1), flags=["nsw"])
        i.add_incoming(following, builder.basic_block)
        back = builder.cbranch(builder.icmp_signed("<", following, args[0]), inside, after)
        back.set_metadata("llvm.loop", _interleaved(builder))
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(types.intp, body, state), codegen


# What stands for each operation of ``lanes`` in compiled code.
_OPERATIONS = {
    lanes.i32: np.int32,
    lanes.u32: np.uint32,
    lanes.i64: np.int64,
    lanes.u64: np.uint64,
    lanes.f32: np.float32,
    lanes.f64: np.float64,
    lanes.bits32: _bitcast(types.float32, types.int32, ir.IntType(32)),
    lanes.float_of_bits32: _bitcast(types.int32, types.float32, ir.FloatType()),
    lanes.bits64: _bitcast(types.float64, types.int64, ir.IntType(64)),
    lanes.float_of_bits64: _bitcast(types.int64, types.float64, ir.DoubleType()),
    lanes.sqrt: _sqrt,
    lanes.select: _select,
    lanes.halves: _halves,
    lanes.loop: _loop,
}


# Division as IEEE has it, not Python's check for zero, which would keep the loops scalar. Helpers are called
# from compiled code alone: without entry points for Python and C each of them compiles in half the time.
HELPER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def rebind(function: Any, bound: dict[Any, Any], name: str = "", **constants: Any) -> FunctionType:
    """The same code under another name, with bound functions as its globals in place of those that they
    stand for.
    """
    names = {
        key: bound.get(value, value) if isinstance(value, FunctionType) else value
        for key, value in function.__globals__.items()
    }
    copy = FunctionType(function.__code__, names | constants, name or function.__name__)
    copy.__qualname__ = copy.__name__
    return copy


def bind(*modules: ModuleType) -> dict[Any, Any]:
    """Bind the functions of lane modules, given in order of use: a map from each to its compiled double."""
    if config.DISABLE_JIT:
        return {
            function: function
            for module in (lanes, *modules)
            for function in vars(module).values()
            if callable(function)
        }
    bound: dict[Any, Any] = dict(_OPERATIONS)
    for module in modules:
        for function in vars(module).values():
            if (
                isinstance(function, FunctionType)
                and function.__module__ == module.__name__
                and function not in bound
            ):
                # alwaysinline: left as calls, the helpers cost a quarter of the speed; LLVM's inlining
                # compiles faster than Numba's (1.1 s against 1.3 s for the first normal).
                bound[function] = register_jitable(forceinline=True, **HELPER)(rebind(function, bound))
    return bound
