"""From a Python function to machine code: Numba compiles the loops, ``trace.py`` writes their bodies.

A kernel is one function, without entry points for Python or C and without Numba's runtime. So its object code
is self-contained: ``objects.py`` can load it in a process that never imports Numba. Its only argument is the
address of its arguments (see ``objects.Layout``).
"""

from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from fanfill_kernels import lanes
from fanfill_kernels.compile import numba_internals as numba
from fanfill_kernels.compile.numba_internals import BodyType, Code, TypingError, intrinsic, types
from fanfill_kernels.compile.rebinding import Body, Bound, rebind
from fanfill_kernels.compile.trace import Lane, Memory
from fanfill_kernels.compile.vectors import OPERATIONS
from fanfill_kernels.store import keys
from fanfill_kernels.store.objects import Layout

keys.note_module()

# For processors with a feature: how many 64-bit lanes a register has, and how many registers of blocks are
# made side by side. Ten rounds of Philox, or a logarithm, are one long chain of operations, and too few
# chains leave the vector units idle. (Zen 4, in cache, G values/s with 2, 4, 6, 8 and 12 chains: uniforms
# 2.4, 3.1, 3.3, 3.4, 3.0, normals 1.2, 1.48, 1.47, 1.55, 1.43: spilling some of them to the stack costs less
# than idle units. With AVX2's 16 registers, 2, 3, 4 and 6 chains: normals 0.68, 0.91, 0.78, 0.78.)
_PROCESSORS = (("+avx512f", 8, 8), ("+avx2", 4, 3), ("", 2, 4))
# Every scratch begins with a cache line.
ALIGNED = 64


def _lanes(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A value of the compiled code as a body sees it."""
    if isinstance(kind, types.Array):
        return Memory(builder, numba.data_of(context, builder, kind, value), numba.dtype_of(kind.dtype))
    if isinstance(kind, types.BaseTuple):
        members = numba.members(builder, value)
        return tuple(_lanes(context, builder, *member) for member in zip(kind.types, members, strict=True))
    return Lane(builder, value, numba.dtype_of(kind))


# An intrinsic with star-arguments cannot be called with a single argument.
_ARITIES: dict[int, Any] = {
    1: lambda typed: lambda _context, a: typed(a),
    2: lambda typed: lambda _context, a, b: typed(a, b),
    3: lambda typed: lambda _context, a, b, c: typed(a, b, c),
    6: lambda typed: lambda _context, a, b, c, d, e, f: typed(a, b, c, d, e, f),
}


def operation(function: Any) -> Any:
    """A lane function for scalars in any compiled code: its instructions are written in place."""

    def written(context: Any, builder: Any, kinds: Any, args: Any) -> Any:
        given = (_lanes(context, builder, *argument) for argument in zip(kinds, args, strict=True))
        return function(*given)

    def typed(*arguments: Any) -> Any:
        # Its result types are known only once it is written: here, into a module that is thrown away.
        draft = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "draft")
        builder = ir.IRBuilder(draft.append_basic_block())
        context = numba.context()
        found = written(context, builder, arguments, [numba.undefined(context, kind) for kind in arguments])
        paired = isinstance(found, tuple)
        kinds = [numba.number(lane.dtype) for lane in (found if paired else (found,))]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = written(context, builder, arguments, args)
            if not paired:
                return made.value
            return numba.tuple_of(context, builder, signature.return_type, [lane.value for lane in made])

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
        return numba.nothing(context)

    return types.void(types.intp, body, state), codegen


def _reserve(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """A vector on the stack; the last argument is the number of items."""
    kind = signature.return_type
    data = builder.alloca(numba.machine_type(context, kind.dtype), size=args[-1])
    data.align = ALIGNED
    return numba.array_at(context, builder, kind, data, args[-1])


@intrinsic
def _least(_context: Any, _a: Any, _b: Any) -> Any:
    # min() would be compiled as a separate function for each number and type of arguments.
    def codegen(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _scratch(_context: Any, _count: Any) -> Any:
    return numba.vector(types.uint64)(types.intp), _reserve


@intrinsic
def _scratch_of(_context: Any, like: Any, _count: Any) -> Any:
    return numba.vector(like.dtype)(like, types.intp), _reserve


# What replaces each operation of ``lanes`` in compiled code; the other operations occur only in bodies.
_OPERATIONS: Bound = {
    lanes.i64: np.int64,
    lanes.u64: np.uint64,
    lanes.least: _least,
    lanes.scratch: _scratch,
    lanes.scratch_of: _scratch_of,
    lanes.loop: _loop,
}


def _types(layout: Layout) -> list[Any]:
    return [
        types.Tuple([numba.number(np.dtype(member)) for member in field])
        if isinstance(field, tuple)
        else numba.vector(numba.number(np.dtype(field[1:-1])))
        if field.startswith("[")
        else numba.number(np.dtype(field))
        for field in layout
    ]


def _unpacker(layout: Layout) -> Any:
    """The function that reads a kernel's arguments."""
    kinds = _types(layout)

    @intrinsic
    def unpack(_context: Any, _address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            slots = 0

            def load(kind: Any) -> Any:
                nonlocal slots
                llvm = numba.machine_type(context, kind)
                at = builder.add(args[0], ir.Constant(args[0].type, 8 * slots))
                slots += 1
                return builder.load(builder.inttoptr(at, llvm.as_pointer()))

            def read(kind: Any) -> Any:
                if isinstance(kind, types.BaseTuple):
                    return numba.tuple_of(context, builder, kind, [read(member) for member in kind.types])
                if isinstance(kind, types.Array):
                    items = numba.machine_type(context, kind.dtype).as_pointer()
                    data = builder.inttoptr(load(types.intp), items)
                    return numba.array_at(context, builder, kind, data, load(types.intp))
                return load(kind)

            return numba.tuple_of(context, builder, signature.return_type, [read(kind) for kind in kinds])

        return types.Tuple(kinds)(types.intp), codegen

    return unpack


def compiled(function: Any, bound: Bound, constants: dict[str, Any], name: str, layout: Layout) -> Code:
    """Compile a function that takes the arguments that ``layout`` describes.

    ``bound`` says what replaces the functions it calls: a `Body` for one that ``loop`` runs, or another
    Python function, which is compiled along with it.
    """
    constants = constants | registers()
    bound = {
        key: Body(rebind(value.function, {}, **constants)) if isinstance(value, Body) else value
        for key, value in bound.items()
    }
    helpers: Bound = {}
    for key, value in bound.items():
        if isinstance(value, FunctionType):
            helpers[key] = _helper(value, *helpers.items())
    operations = _OPERATIONS | OPERATIONS | {lanes.unpack: _unpacker(layout)}
    bare = rebind(function, operations | bound | helpers, name, **constants)
    return numba.machine_code(bare)


@cache
def _helper(function: FunctionType, *others: tuple[Any, Any]) -> Any:
    """A function that kernels call, and that may call others: compiled once for all kernels of a process."""
    return numba.helper(rebind(function, _OPERATIONS | OPERATIONS | dict(others)))


def registers() -> dict[str, int]:
    """How many Philox blocks fit into one register of the target processor, and how many are made at once."""
    features = numba.features()
    width, chains = next(row for feature, *row in _PROCESSORS if not feature or feature in features)
    return {"WIDTH": width, "GROUP": chains * width}
