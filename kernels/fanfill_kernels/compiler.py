"""From a Python function to machine code: Numba compiles the loops, ``trace.py`` writes what they do.

A kernel is one function, without entry points for Python or C and without Numba's runtime, so that its object
code needs nothing but itself: ``objects.py`` can load it in a process that never imports Numba. It gets one
argument, the address of its arguments (see ``objects.Layout``).
"""

from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, compiler
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.imputils import lower_constant
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable, register_model, typeof_impl
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype, from_dtype

from fanfill_kernels import lanes
from fanfill_kernels.objects import Layout
from fanfill_kernels.rebinding import Body, Bound, rebind
from fanfill_kernels.trace import Lane, Memory
from fanfill_kernels.vectors import OPERATIONS

# Of processors with a feature: how many 64-bit lanes a register has, and how many registers of blocks are
# made side by side. Ten rounds of Philox, or a logarithm, are one long chain of operations, and few chains
# leave the vector units idle. (Zen 4, in cache, G values/s with 2, 4, 6, 8 and 12 chains: uniforms 2.4, 3.1,
# 3.3, 3.4, 3.0, normals 1.2, 1.48, 1.47, 1.55, 1.43: that some of them wait on the stack costs less. With
# AVX2's 16 registers, 2, 3, 4 and 6 chains: normals 0.68, 0.91, 0.78, 0.78.)
_PROCESSORS = (("+avx512f", 8, 8), ("+avx2", 4, 3), ("", 2, 4))
# Every scratch begins with a cache line.
ALIGNED = 64


class BodyType(types.Opaque):  # type: ignore[misc]
    """The type of one body: which function it is, is known when the loop is compiled."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        super().__init__(f"Body({function.__name__}, {id(function)})")


@typeof_impl.register(Body)
def _type_of_body(body: Body, _context: Any) -> BodyType:
    return BodyType(body.function)


register_model(BodyType)(models.OpaqueModel)


@lower_constant(BodyType)
def _constant_body(context: Any, _builder: Any, _type: Any, _value: Any) -> Any:
    return context.get_dummy_value()


def _lanes(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """What a body sees of a value of the compiled code."""
    if isinstance(kind, types.Array):
        return Memory(builder, make_array(kind)(context, builder, value).data, as_dtype(kind.dtype))
    if isinstance(kind, types.BaseTuple):
        members = cgutils.unpack_tuple(builder, value)
        return tuple(_lanes(context, builder, *member) for member in zip(kind.types, members, strict=True))
    return Lane(builder, value, as_dtype(kind))


# An intrinsic with star-arguments does not take a single one.
_ARITIES: dict[int, Any] = {
    1: lambda typed: lambda _context, a: typed(a),
    2: lambda typed: lambda _context, a, b: typed(a, b),
    3: lambda typed: lambda _context, a, b, c: typed(a, b, c),
    6: lambda typed: lambda _context, a, b, c, d, e, f: typed(a, b, c, d, e, f),
}


def operation(function: Any) -> Any:
    """A lane function for use on scalars in anybody's compiled code: its instructions, in place."""

    def written(context: Any, builder: Any, kinds: Any, args: Any) -> Any:
        given = (_lanes(context, builder, *argument) for argument in zip(kinds, args, strict=True))
        return function(*given)

    def typed(*arguments: Any) -> Any:
        # What it returns shows when it is written, here into a module that is thrown away.
        draft = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "draft")
        builder = ir.IRBuilder(draft.append_basic_block())
        target = cpu_target.target_context
        undefined = [ir.Constant(target.get_value_type(kind), ir.Undefined) for kind in arguments]
        found = written(target, builder, arguments, undefined)
        paired = isinstance(found, tuple)
        kinds = [from_dtype(lane.dtype) for lane in (found if paired else (found,))]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = written(context, builder, arguments, args)
            if not paired:
                return made.value
            return context.make_tuple(builder, signature.return_type, [lane.value for lane in made])

        return (types.Tuple(kinds) if paired else kinds[0])(*arguments), codegen

    return intrinsic(_ARITIES[function.__code__.co_argcount](typed))


@intrinsic
def _loop(_context: Any, count: Any, body: Any, state: Any) -> Any:
    if not isinstance(body, BodyType) or not isinstance(state, types.BaseTuple):
        raise TypingError(f"loop needs a body and a tuple of state, not {body} and {state}")

    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        values = _lanes(context, builder, state, args[2])
        entry = builder.basic_block
        inside = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        zero = ir.Constant(args[0].type, 0)
        builder.cbranch(builder.icmp_signed(">", args[0], zero), inside, after)
        builder.position_at_end(inside)
        i = builder.phi(args[0].type)
        i.add_incoming(zero, entry)
        body.function(Lane(builder, i, np.int64), *values)
        following = builder.add(i, ir.Constant(i.type, 1), flags=["nsw"])
        i.add_incoming(following, builder.basic_block)
        builder.cbranch(builder.icmp_signed("<", following, args[0]), inside, after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(types.intp, body, state), codegen


def _vector(context: Any, builder: Any, kind: Any, data: Any, size: Any) -> Any:
    """An array of the compiled code on memory that somebody else keeps."""
    array = make_array(kind)(context, builder)
    itemsize = ir.Constant(size.type, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    pointer = builder.bitcast(data, array.data.type)
    populate_array(array, pointer, [size], [itemsize], itemsize, meminfo=None, parent=None)
    return array._getvalue()


def _contiguous(dtype: Any) -> Any:
    return types.Array(dtype, 1, "C")


def _reserve(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """A vector on the stack, of as many items as the last argument says."""
    kind = signature.return_type
    data = builder.alloca(context.get_data_type(kind.dtype), size=args[-1])
    data.align = ALIGNED
    return _vector(context, builder, kind, data, args[-1])


@intrinsic
def _least(_context: Any, _a: Any, _b: Any) -> Any:
    # min() would be compiled, as a function of its own, for each number and types of its arguments.
    def codegen(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _scratch(_context: Any, _count: Any) -> Any:
    return _contiguous(types.uint64)(types.intp), _reserve


@intrinsic
def _scratch_of(_context: Any, like: Any, _count: Any) -> Any:
    return _contiguous(like.dtype)(like, types.intp), _reserve


# What stands for each operation of ``lanes`` in compiled code; the others are used in bodies alone.
_OPERATIONS: Bound = {
    lanes.i64: np.int64,
    lanes.u64: np.uint64,
    lanes.least: _least,
    lanes.scratch: _scratch,
    lanes.scratch_of: _scratch_of,
    lanes.loop: _loop,
}


class Code(NamedTuple):
    """A compiled function: its name and place, its object code (None if that needs more than itself)."""

    symbol: str
    address: int
    object_code: bytes | None
    library: Any  # Numba's; the address is good as long as it lives


def _types(layout: Layout) -> list[Any]:
    return [
        types.Tuple([from_dtype(np.dtype(member)) for member in field])
        if isinstance(field, tuple)
        else _contiguous(from_dtype(np.dtype(field[1:-1])))
        if field.startswith("[")
        else from_dtype(np.dtype(field))
        for field in layout
    ]


def _unpacker(layout: Layout) -> Any:
    """What reads a kernel's arguments."""
    kinds = _types(layout)

    @intrinsic
    def unpack(_context: Any, _address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            slots = 0

            def load(kind: Any) -> Any:
                nonlocal slots
                llvm = context.get_data_type(kind)
                at = builder.add(args[0], ir.Constant(args[0].type, 8 * slots))
                slots += 1
                return builder.load(builder.inttoptr(at, llvm.as_pointer()))

            def read(kind: Any) -> Any:
                if isinstance(kind, types.BaseTuple):
                    return context.make_tuple(builder, kind, [read(member) for member in kind.types])
                if isinstance(kind, types.Array):
                    data = builder.inttoptr(load(types.intp), context.get_data_type(kind.dtype).as_pointer())
                    return _vector(context, builder, kind, data, load(types.intp))
                return load(kind)

            return context.make_tuple(builder, signature.return_type, [read(kind) for kind in kinds])

        return types.Tuple(kinds)(types.intp), codegen

    return unpack


def compiled(function: Any, bound: Bound, constants: dict[str, Any], name: str, layout: Layout) -> Code:
    """Compile a function of the arguments that ``layout`` describes.

    ``bound`` says what stands for the functions it calls: a `Body` for one that ``loop`` runs, or another
    Python function, which is compiled with it.
    """
    operations = _OPERATIONS | OPERATIONS | {lanes.unpack: _unpacker(layout)}
    constants = constants | registers()
    bound = {
        key: Body(rebind(value.function, {}, **constants)) if isinstance(value, Body) else value
        for key, value in bound.items()
    }
    helpers: dict[Any, Any] = {}
    for key, value in bound.items():
        if isinstance(value, FunctionType):  # which may call those before it
            helpers[key] = _helper(rebind(value, operations | helpers))
    bare = rebind(function, operations | bound | helpers, name, **constants)
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    made = compiler.compile_extra(typing, target, bare, (types.intp,), types.void, _flags(), {})
    library, symbol = made.library, made.fndesc.llvm_func_name
    return Code(symbol, library.get_pointer_to_function(symbol), _object_code(library), library)


def registers() -> dict[str, int]:
    """How many Philox blocks fit into one register of the processor that is compiled for, and how many are
    made at once.
    """
    features = cpu_target.target_context.codegen()._tm_features.split(",")
    width, chains = next(row for feature, *row in _PROCESSORS if not feature or feature in features)
    return {"WIDTH": width, "GROUP": chains * width}


def _flags() -> Any:
    flags = compiler.Flags()
    # Division as C has it: Python's check for zero would be an exception, which a kernel has nobody to tell.
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    return flags


def _helper(function: FunctionType) -> Any:
    """A function for compiled code alone."""
    return register_jitable(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def _object_code(library: Any) -> bytes | None:
    """The library's object code, or None if it calls something that only Numba's process has."""
    outside = {f.name for f in library._final_module.functions if f.is_declaration}
    if any(not name.startswith("llvm.") for name in outside):
        return None
    (_, kind, state) = library.serialize_using_object_code()
    return bytes(state[0]) if kind == "object" else None
