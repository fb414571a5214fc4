"""Operations on memory for compiled code, most of them on several neighbouring items at once.

If a short inner loop were left to LLVM and Numba, LLVM would guard it against overlap and Numba against
negative indices: for 16 values that costs several times the copy. ``boxes.py`` and ``scatter.py`` hold the
plain Python that these operations replace.
"""

from typing import Any

from llvmlite import ir

from fanfill_kernels import lanes
from fanfill_kernels.compile import boxes, scatter
from fanfill_kernels.compile import numba_internals as numba
from fanfill_kernels.compile.loops import LINE
from fanfill_kernels.compile.numba_internals import TypingError, intrinsic, types
from fanfill_kernels.compile.trace import ONE, shuffled
from fanfill_kernels.store import keys

keys.note_module()


def _vector_at(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int) -> Any:
    """The address of item ``at`` of a contiguous array, as a pointer to a vector of ``count`` items."""
    data = numba.data_of(context, builder, kind, array)
    lane = numba.machine_type(context, kind.dtype)
    return builder.bitcast(builder.gep(data, [at]), ir.VectorType(lane, count).as_pointer())


def _assert_vectors(*kinds: Any) -> None:
    for kind in kinds:
        if not (isinstance(kind, types.Array) and kind.ndim == 1 and kind.layout == "C"):
            raise TypingError(f"expected contiguous vectors, not {kind}")
    if len({kind.dtype for kind in kinds}) > 1:
        raise TypingError(f"expected vectors of one type, not {kinds}")


def _copier(count: int, backwards: bool) -> Any:
    @intrinsic
    def copy(context: Any, out: Any, at: Any, values: Any, source: Any) -> Any:
        _assert_vectors(out, values)

        def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
            align = numba.size_of(context, out.dtype)
            line = builder.load(_vector_at(context, builder, values, args[2], args[3], count), align=align)
            at = args[1]
            if backwards:
                line = shuffled(builder, line, line, list(reversed(range(count))))
                at = builder.sub(at, ir.Constant(at.type, count - 1))
            builder.store(line, _vector_at(context, builder, out, args[0], at, count), align=align)
            return numba.nothing(context)

        return types.void(out, types.intp, values, types.intp), codegen

    return copy


def _transposed(builder: Any, lines: list[Any]) -> list[Any]:
    """Transpose a square of lanes: swap ever smaller quarters off the diagonal."""
    side = len(lines)
    half = side // 2
    while half:
        upper = [k if not k & half else side + k - half for k in range(side)]
        lower = [k + half if not k & half else side + k for k in range(side)]
        for k in range(side):
            if not k & half:
                a, b = lines[k], lines[k + half]
                lines[k] = shuffled(builder, a, b, upper)
                lines[k + half] = shuffled(builder, a, b, lower)
        half //= 2
    return lines


def _transposer(nontemporal: bool) -> Any:
    @intrinsic
    def transpose_block(
        context: Any, memory: Any, at: Any, offsets: Any, first: Any, values: Any, source: Any, pitch: Any
    ) -> Any:
        _assert_vectors(memory, values)
        _assert_vectors(offsets)

        def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
            target, at, table, first, tile, source, pitch = args
            align = numba.size_of(context, memory.dtype)
            lines = []
            for _ in range(scatter.SIDE):
                line = _vector_at(context, builder, values, tile, source, scatter.SIDE)
                lines.append(builder.load(line, align=align))
                source = builder.add(source, pitch)
            data = numba.data_of(context, builder, offsets, table)
            for k, line in enumerate(_transposed(builder, lines)):
                column = builder.add(first, ir.Constant(first.type, k))
                place = builder.add(at, builder.load(builder.gep(data, [column])))
                to = _vector_at(context, builder, memory, target, place, scatter.SIDE)
                if nontemporal:
                    stored = builder.store(line, to, align=LINE)
                    stored.set_metadata("nontemporal", builder.module.add_metadata([ONE]))
                else:
                    builder.store(line, to, align=align)
            return numba.nothing(context)

        ints = types.intp
        return types.void(memory, ints, offsets, ints, values, ints, ints), codegen

    return transpose_block


@intrinsic
def _move_group(context: Any, memory: Any, at: Any, step: Any, values: Any, source: Any, pitch: Any) -> Any:
    _assert_vectors(memory, values)

    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        target, at, step, tile, source, pitch = args
        origin = numba.data_of(context, builder, values, tile)
        data = numba.data_of(context, builder, memory, target)
        moved = []
        for _ in range(scatter.BATCH):
            moved.append(builder.load(builder.gep(origin, [source])))
            source = builder.add(source, pitch)
        for value in moved:
            builder.store(value, builder.gep(data, [at]))
            at = builder.add(at, step)
        return numba.nothing(context)

    ints = types.intp
    return types.void(memory, ints, ints, values, ints, ints), codegen


@intrinsic
def _list_span(context: Any, blocks: Any, at: Any, block: Any) -> Any:
    _assert_vectors(blocks)

    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        kind = ir.VectorType(args[2].type, boxes.LISTED)
        none = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(none, args[2], ir.Constant(ir.IntType(32), 0))
        all_first = shuffled(builder, first, none, [0] * boxes.LISTED)
        numbers = builder.add(all_first, ir.Constant(kind, list(range(boxes.LISTED))))
        builder.store(numbers, _vector_at(context, builder, blocks, args[0], args[1], boxes.LISTED), align=8)
        return numba.nothing(context)

    return types.void(blocks, types.intp, types.uint64), codegen


@intrinsic
def _lead(_context: Any, out: Any, _alignment: Any) -> Any:
    def codegen(context: Any, builder: Any, _s: Any, args: Any) -> Any:
        address = builder.ptrtoint(numba.data_of(context, builder, out, args[0]), args[1].type)
        size = ir.Constant(address.type, numba.size_of(context, out.dtype))
        rest = builder.and_(builder.neg(address), builder.sub(args[1], ir.Constant(address.type, 1)))
        return builder.udiv(rest, size)

    return types.intp(out, types.intp), codegen


@intrinsic
def _publish(_context: Any) -> Any:
    def codegen(context: Any, builder: Any, _s: Any, _args: Any) -> Any:
        builder.fence("seq_cst")
        return numba.nothing(context)

    return types.void(), codegen


# What replaces each operation in compiled code.
OPERATIONS = {
    lanes.lead: _lead,
    lanes.publish: _publish,
    boxes.copy_span: _copier(boxes.SPAN, backwards=False),
    boxes.list_span: _list_span,
    scatter.reverse_line: _copier(scatter.SIDE, backwards=True),
    scatter.transpose_block: _transposer(nontemporal=False),
    scatter.transpose_block_nontemporal: _transposer(nontemporal=True),
    scatter.move_group: _move_group,
}
