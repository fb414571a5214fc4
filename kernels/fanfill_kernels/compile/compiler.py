"""From a Python function to machine code: Numba compiles the control flow, ``trace.py`` writes the bodies of
its loops.

The control flow is the same for all forms of a dtype. So Numba writes it once in a process, as a *draft* that
calls bodies which are missing. Each kernel is a copy of a draft, with its own bodies inlined by LLVM. That
halves the time that a further kernel takes.

A kernel is one function, without entry points for Python or C and without Numba's runtime. So its object code
is self-contained: ``objects.py`` can load it in a process that never imports Numba. Its only argument is the
address of its arguments (see ``objects.Layout``).
"""

import itertools
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from fanfill_kernels import lanes
from fanfill_kernels.compile import numba_internals as numba
from fanfill_kernels.compile.numba_internals import (
    ADDRESS,
    BodyType,
    Code,
    TypingError,
    intrinsic,
    types,
)
from fanfill_kernels.compile.rebinding import Body, Bound, rebind
from fanfill_kernels.compile.trace import Lane, Memory, llvm_type
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


def _lanes(builder: Any, kind: Any, value: Any) -> Any:
    """A scalar of the compiled code, or a tuple of them, as a lane function sees it."""
    if isinstance(kind, types.BaseTuple):
        members = numba.members(builder, value)
        return tuple(_lanes(builder, *member) for member in zip(kind.types, members, strict=True))
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

    def written(builder: Any, kinds: Any, args: Any) -> Any:
        given = (_lanes(builder, *argument) for argument in zip(kinds, args, strict=True))
        return function(*given)

    def typed(*arguments: Any) -> Any:
        # Its result types are known only once it is written: here, into a module that is thrown away.
        draft = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), ()), "draft")
        builder = ir.IRBuilder(draft.append_basic_block())
        context = numba.context()
        found = written(builder, arguments, [numba.undefined(context, kind) for kind in arguments])
        paired = isinstance(found, tuple)
        kinds = [numba.number(lane.dtype) for lane in (found if paired else (found,))]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = written(builder, arguments, args)
            if not paired:
                return made.value
            return numba.tuple_of(context, builder, signature.return_type, [lane.value for lane in made])

        return (types.Tuple(kinds) if paired else kinds[0])(*arguments), codegen

    return intrinsic(_ARITIES[function.__code__.co_argcount](typed))


class _Missing(Body):
    """A body that a draft calls, and what it takes there: the types of its state, and its own LLVM type."""

    takes: tuple[Any, Any] | None = None

    @property
    def symbol(self) -> str:
        """Its name in a draft."""
        return f"fanfill.{self.function.__name__}"


def _flat(context: Any, builder: Any, kind: Any, value: Any) -> Iterator[Any]:
    """A value as a body's arguments: the members of a tuple, the address of a vector."""
    if isinstance(kind, types.Array):
        yield numba.data_of(context, builder, kind, value)
    elif isinstance(kind, types.BaseTuple):
        for member in zip(kind.types, numba.members(builder, value), strict=True):
            yield from _flat(context, builder, *member)
    else:
        yield value


@intrinsic
def _loop(_context: Any, count: Any, body: Any, state: Any) -> Any:
    if not isinstance(body, BodyType) or not isinstance(state, types.BaseTuple):
        raise TypingError(f"loop needs a body and a tuple of state, not {body} and {state}")
    missing = body.body

    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        values = [*_flat(context, builder, state, args[2])]
        kind = ir.FunctionType(ir.VoidType(), [args[0].type, *(value.type for value in values)])
        called = ir.Function(builder.module, kind, missing.symbol)
        missing.takes = state, kind
        entry = builder.basic_block
        inside = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        zero = ir.Constant(args[0].type, 0)
        builder.cbranch(builder.icmp_signed(">", args[0], zero), inside, after)
        builder.position_at_end(inside)
        i = builder.phi(args[0].type)
        i.add_incoming(zero, entry)
        builder.call(called, [i, *values])
        following = builder.add(i, ir.Constant(i.type, 1), flags=["nsw"])
        i.add_incoming(following, inside)
        builder.cbranch(builder.icmp_signed("<", following, args[0]), inside, after)
        builder.position_at_end(after)
        return numba.nothing(context)

    return types.void(types.intp, body, state), codegen


def _write(module: Any, missing: _Missing, body: Body, params: tuple[str, ...]) -> None:
    """Write a body that a draft calls; ``params`` are the types of the kernel's parameters."""
    assert missing.takes is not None
    state, kind = missing.takes
    function = ir.Function(module, kind, missing.symbol)
    function.linkage = "linkonce_odr"  # gone once it is inlined
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    i, *values = function.args
    rest = iter(values)

    def lanes_of(kind: Any) -> Any:
        if kind == ADDRESS:
            return _parameters(builder, next(rest), params)
        if isinstance(kind, types.Array):
            return Memory(builder, next(rest), numba.dtype_of(kind.dtype))
        if isinstance(kind, types.BaseTuple):
            return tuple(lanes_of(member) for member in kind.types)
        return Lane(builder, next(rest), numba.dtype_of(kind))

    body(Lane(builder, i, np.int64), *map(lanes_of, state.types))
    builder.ret_void()


def _parameters(builder: Any, address: Any, params: tuple[str, ...]) -> tuple[Lane, ...]:
    """A kernel's parameters, 8 bytes each. No store changes them, so LLVM loads them before the loop."""
    found = []
    for slot, name in enumerate(params):
        at = builder.gep(address, [ir.Constant(ir.IntType(64), 8 * slot)])
        value = builder.load(builder.bitcast(at, llvm_type(name).as_pointer()))
        value.set_metadata("invariant.load", builder.module.add_metadata([]))
        found.append(Lane(builder, value, name))
    return tuple(found)


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


_numbers = itertools.count()  # which tell apart the symbols of a process

# In the layout of a draft: what stands for the kernel's parameters, of which only bodies know the types.
_PARAMS = "params"


def _types(layout: Layout) -> list[Any]:
    return [
        ADDRESS
        if field == _PARAMS
        else types.Tuple([numba.number(np.dtype(member)) for member in field])
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

            def place(kind: Any) -> Any:
                at = builder.add(args[0], ir.Constant(args[0].type, 8 * slots))
                return builder.inttoptr(at, kind)

            def load(kind: Any) -> Any:
                nonlocal slots
                value = builder.load(place(numba.machine_type(context, kind).as_pointer()))
                slots += 1
                return value

            def read(kind: Any) -> Any:
                if kind == ADDRESS:
                    return place(numba.machine_type(context, kind))
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
    Python function, which is compiled along with it. A kernel's last argument, if it is a tuple, is its
    parameters: only bodies use them.
    """
    constants = constants | registers()
    params = layout[-1] if isinstance(layout[-1], tuple) else ()
    common = (*layout[:-1], _PARAMS) if isinstance(layout[-1], tuple) else layout
    bodies = {key: body for key, body in bound.items() if isinstance(body, Body)}
    others = tuple((key, other) for key, other in bound.items() if key not in bodies)
    draft, missing = _draft(function, common, tuple(bodies), others, tuple(constants.items()))
    module = numba.module(name)
    for key, body in bodies.items():
        if missing[key].takes is not None:
            _write(module, missing[key], Body(rebind(body.function, {}, **constants)), params)
    return numba.machine_code(draft, module, f"{name}.{next(_numbers)}")


@cache
def _draft(
    function: FunctionType,
    layout: Layout,
    bodies: tuple[FunctionType, ...],
    others: tuple[tuple[Any, Any], ...],
    constants: tuple[tuple[str, Any], ...],
) -> tuple[numba.Draft, dict[FunctionType, _Missing]]:
    """A function's control flow, written once for all kernels of a process, and the bodies that it calls."""
    helpers: Bound = {}
    for key, value in others:
        if isinstance(value, FunctionType):
            helpers[key] = _helper(value, *helpers.items())
    missing = {key: _Missing(key) for key in bodies}
    operations = _OPERATIONS | OPERATIONS | {lanes.unpack: _unpacker(layout)}
    bare = rebind(function, operations | dict(others) | helpers | missing, **dict(constants))
    return numba.draft(bare), missing


@cache
def _helper(function: FunctionType, *others: tuple[Any, Any]) -> Any:
    """A function that kernels call, and that may call others: compiled once for all kernels of a process."""
    return numba.helper(rebind(function, _OPERATIONS | OPERATIONS | dict(others)))


def registers() -> dict[str, int]:
    """How many Philox blocks fit into one register of the target processor, and how many are made at once."""
    features = numba.features()
    width, chains = next(row for feature, *row in _PROCESSORS if not feature or feature in features)
    return {"WIDTH": width, "GROUP": chains * width}
