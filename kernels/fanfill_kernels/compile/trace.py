"""Lane functions as LLVM instructions: called once on ``Lane`` objects, they write what they do.

``tape.py`` does the same for NumPy. The functions ask for operations through ``__array_ufunc__`` and
``__array_function__``. Each operation becomes one strictly typed instruction: operands of different types are
an error here, where NumPy would widen them. No instruction is marked as inexact, so LLVM neither contracts a
multiply-add nor reorders anything.

A lane holds one scalar or several vectors (made by ``consecutive`` and ``Memory.vectors``). With vectors,
each operation is written for one vector after the other, so the code holds that many chains of dependent
instructions side by side, where the processor finds them. A scalar that meets vectors is spread over them.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

from fanfill_kernels.store import keys

keys.note_module()

_FLOATS = {4: ir.FloatType(), 8: ir.DoubleType()}
_COMPARISONS = {
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
# The builder's method for each ufunc, for signed integers, unsigned ones and floats. Division of signed
# integers is left out: Python's and LLVM's differ.
_OPERATIONS: dict[str, tuple[str | None, str | None, str | None]] = {
    "add": ("add", "add", "fadd"),
    "subtract": ("sub", "sub", "fsub"),
    "multiply": ("mul", "mul", "fmul"),
    "divide": (None, None, "fdiv"),
    "floor_divide": (None, "udiv", None),
    "remainder": (None, "urem", None),
    "negative": ("neg", None, "fneg"),
    "invert": ("not_", "not_", None),
    "bitwise_and": ("and_", "and_", None),
    "bitwise_or": ("or_", "or_", None),
    "bitwise_xor": ("xor", "xor", None),
    "left_shift": ("shl", "shl", None),
    "right_shift": ("ashr", "lshr", None),
}
_KINDS = "iuf"
ONE = ir.Constant(ir.IntType(32), 1)


def llvm_type(dtype: DTypeLike, width: int = 0) -> ir.Type:
    """The LLVM type of a machine word of that dtype, or of a vector of ``width`` such words."""
    kind = np.dtype(dtype)
    word = (
        _FLOATS[kind.itemsize]
        if kind.kind == "f"
        else ir.IntType(1 if kind.kind == "b" else 8 * kind.itemsize)
    )
    return ir.VectorType(word, width) if width else word


def constant(x: Any, dtype: np.dtype[Any], width: int = 0) -> Any:
    """A number as an LLVM constant, or a vector that repeats it ``width`` times."""
    number = float(x) if dtype.kind == "f" else int(x)
    return ir.Constant(llvm_type(dtype, width), [ir.Constant(llvm_type(dtype), number)] * width or number)


def shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """The vector of these places of ``a`` followed by ``b``."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


class Lane(NDArrayOperatorsMixin):
    """A scalar in a function that is being written, or several vectors of ``width`` elements each."""

    __slots__ = ("builder", "dtype", "values", "width")

    def __init__(self, builder: Any, values: Any, dtype: DTypeLike, width: int = 0) -> None:
        self.builder, self.width = builder, width
        self.values: tuple[Any, ...] = tuple(values) if width else (values,)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def value(self) -> Any:
        """A scalar's own value."""
        (found,) = self.values
        return found

    @property
    def size(self) -> int:
        """How many elements there are."""
        return max(1, self.width) * len(self.values)

    def _like(self, values: list[Any], dtype: DTypeLike, width: int) -> "Lane":
        return Lane(self.builder, values if width else values[0], dtype, width)

    def view(self, dtype: DTypeLike) -> "Lane":
        width = self.width * self.dtype.itemsize // np.dtype(dtype).itemsize
        kind = llvm_type(dtype, width)
        return self._like([self.builder.bitcast(x, kind) for x in self.values], dtype, width)

    def astype(self, dtype: DTypeLike) -> "Lane":
        given, wanted = self.dtype, np.dtype(dtype)
        if given.kind in "iub" and wanted.kind in "iu":
            narrower = wanted.itemsize < given.itemsize and given.kind != "b"
            cast = "trunc" if narrower else "sext" if given.kind == "i" else "zext"
        elif given.kind in "iu" and wanted.kind == "f":
            cast = "sitofp" if given.kind == "i" else "uitofp"
        elif given.kind == wanted.kind == "f" and wanted.itemsize < given.itemsize:
            cast = "fptrunc"
        else:
            raise TypeError(
                "expected a conversion from an integer, or to a narrower float; got one from "
                f"{given} to {wanted}"
            )
        kind = llvm_type(wanted, self.width)
        return self._like([getattr(self.builder, cast)(x, kind) for x in self.values], wanted, self.width)

    def low_half(self) -> "Lane":
        """The low 32 bits of uint64.

        Vectors are shuffled with zeros. LLVM sees through that and drops it: multiplying two such vectors
        becomes the processor's widening multiplication. A mask it would move out of the loop to another
        operand where it can, and then no longer know that the high half is zero (with AVX2 that costs a
        twentieth of a uniform's time).
        """
        if not self.width:
            return self & np.uint64(2**32 - 1)  # type: ignore[no-any-return]
        words = self.view(np.uint32)
        zero = constant(0, words.dtype, words.width)
        places = [k if k % 2 == 0 else words.width + k for k in range(words.width)]
        vectors = [shuffled(self.builder, x, zero, places) for x in words.values]
        return Lane(self.builder, vectors, np.uint32, words.width).view(np.uint64)

    def consecutive(self, count: int, width: int) -> "Lane":
        """This scalar and the numbers that follow it, ``count`` in all, in vectors of ``width``."""
        first = self._spread(width)
        steps = (
            [ir.Constant(llvm_type(self.dtype), k + j) for j in range(width)] for k in range(0, count, width)
        )
        kind = llvm_type(self.dtype, width)
        vectors = [self.builder.add(first, ir.Constant(kind, numbers)) for numbers in steps]
        return Lane(self.builder, vectors, self.dtype, width)

    def interleaved(self, other: "Lane", first: int) -> "Lane":
        """This one's and the other's elements ``first``, ``first + 2``, ..., interleaved."""
        places = [first + k + (self.width if odd else 0) for k in range(0, self.width, 2) for odd in (0, 1)]
        pairs = zip(self.values, other.values, strict=True)
        vectors = [shuffled(self.builder, a, b, places) for a, b in pairs]
        return Lane(self.builder, vectors, self.dtype, self.width)

    def parts(self, count: int) -> "list[Lane]":
        """The same elements in ``count`` parts, or in as many as there are vectors."""
        each = -(-len(self.values) // count)
        return [
            Lane(self.builder, self.values[k : k + each], self.dtype, self.width)
            for k in range(0, len(self.values), each)
        ]

    def _spread(self, width: int) -> Any:
        """A scalar as a vector."""
        none = ir.Constant(llvm_type(self.dtype, width), ir.Undefined)
        single = self.builder.insert_element(none, self.value, ir.Constant(ir.IntType(32), 0))
        return shuffled(self.builder, single, none, [0] * width)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        (dtype, *others) = {x.dtype for x in inputs if not isinstance(x, int)}
        if others:
            raise TypeError(f"expected {ufunc.__name__} of one type; got {dtype} and {others[0]}")
        rows, width = _aligned(inputs, [dtype] * len(inputs))
        made = [_operation(self.builder, ufunc, dtype, row) for row in rows]
        return self._like(made, bool if ufunc.__name__ in _COMPARISONS else dtype, width)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is not np.where or options:
            return NotImplemented
        condition, a, b = arguments
        if a.dtype != b.dtype:
            raise TypeError(f"expected a choice between values of one type; got {a.dtype} and {b.dtype}")
        rows, width = _aligned(arguments, [condition.dtype, a.dtype, a.dtype])
        return self._like([self.builder.select(*row) for row in rows], a.dtype, width)


def _aligned(operands: Any, dtypes: list[Any]) -> tuple[list[tuple[Any, ...]], int]:
    """The operands' values side by side, one row for each vector (or one for scalars), and the width."""
    vectors = [x for x in operands if isinstance(x, Lane) and x.width]
    if len({(x.width, len(x.values)) for x in vectors}) > 1:
        sizes = ", ".join(f"{len(x.values)} of {x.width}" for x in vectors)
        raise TypeError(f"expected the same number of vectors of the same width; got {sizes}")
    width, count = (vectors[0].width, len(vectors[0].values)) if vectors else (0, 1)
    columns = [
        [constant(x, dtype, width)] * count
        if not isinstance(x, Lane)
        else x.values
        if x.width == width
        else [x._spread(width)] * count
        for x, dtype in zip(operands, dtypes, strict=True)
    ]
    return list(zip(*columns, strict=True)), width


def _operation(builder: Any, ufunc: np.ufunc, dtype: np.dtype[Any], values: tuple[Any, ...]) -> Any:
    """One instruction, on scalars or on vectors."""
    name, kind = ufunc.__name__, values[0].type
    if name in _COMPARISONS:
        compare = {"i": builder.icmp_signed, "u": builder.icmp_unsigned, "f": builder.fcmp_ordered}
        return compare[dtype.kind](_COMPARISONS[name], *values)
    if ufunc is np.sqrt:
        return builder.call(_square_root(builder.module, kind), values)
    if ufunc is np.absolute and dtype.kind == "i":
        width = kind.count if isinstance(kind, ir.VectorType) else 0
        below = builder.icmp_signed("<", values[0], constant(0, dtype, width))
        return builder.select(below, builder.neg(values[0]), values[0])
    operation = _OPERATIONS.get(name, (None, None, None))[_KINDS.index(dtype.kind)]
    if operation is None:
        raise TypeError(f"expected an operation that lanes have; got {name} of {dtype}")
    return getattr(builder, operation)(*values)


def _square_root(module: Any, kind: Any) -> Any:
    """LLVM's square root of a type: rounded correctly, since nothing here is marked as inexact."""
    word = kind.element if isinstance(kind, ir.VectorType) else kind
    suffix = f"v{kind.count}{word.intrinsic_name}" if word is not kind else word.intrinsic_name
    name = f"llvm.sqrt.{suffix}"
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, (kind,)), name)


class Memory:
    """A contiguous vector of machine words: ``memory[i]`` loads, ``memory[i] = x`` stores.

    Indices count from 0 up. An integer stored into a narrower word keeps its low bits. A lane of vectors is
    stored from the index on.
    """

    __slots__ = ("builder", "data", "dtype")

    def __init__(self, builder: Any, data: Any, dtype: DTypeLike) -> None:
        self.builder, self.data = builder, data
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def _at(self, index: Any) -> Any:
        at = index.value if isinstance(index, Lane) else constant(index, np.dtype(np.int64))
        return self.builder.gep(self.data, [at], inbounds=True)

    def _vector_at(self, index: Any, kind: Any) -> Any:
        return self.builder.bitcast(self._at(index), kind.as_pointer())

    def __getitem__(self, index: Any) -> Lane:
        loaded = self.builder.load(self._at(index), align=self.dtype.itemsize)
        return Lane(self.builder, loaded, self.dtype)

    def vectors(self, index: Any, count: int, width: int) -> Lane:
        """The ``count`` words from ``index`` on, in vectors of ``width``."""
        kind = llvm_type(self.dtype, width)
        places = [self._vector_at(index + k, kind) for k in range(0, count, width)]
        loaded = [self.builder.load(place, align=self.dtype.itemsize) for place in places]
        return Lane(self.builder, loaded, self.dtype, width)

    def __setitem__(self, index: Any, x: Lane) -> None:
        self._check(x)
        if x.dtype.itemsize != self.dtype.itemsize:
            x = x.astype(self.dtype)
        if x.width:
            self._put(index, x, x.width)
        else:
            self.builder.store(x.value, self._at(index), align=self.dtype.itemsize)

    def interleave(self, index: Any, a: Lane, b: Lane, nontemporal: bool = False) -> None:
        """Store ``a[0], b[0], a[1], ...`` from ``index`` on; if ``nontemporal``, as whole cache lines."""
        size, wide = self.dtype.itemsize, a.dtype.itemsize
        if size < wide:  # two values fit into one word that they were computed in: no element moves
            mask = a.dtype.type(2 ** (8 * size) - 1)
            pairs = (a & mask) | ((b & mask) << a.dtype.type(8 * size))
            self._put(
                index, pairs if 2 * size == wide else pairs.astype(f"u{2 * size}"), 2 * a.width, nontemporal
            )
            return
        self._check(a)
        lines = []
        for x, y in zip(a.values, b.values, strict=True):
            for first in (0, a.width // 2):
                places = [k + odd for k in range(first, first + a.width // 2) for odd in (0, a.width)]
                lines.append(shuffled(self.builder, x, y, places))
        self._put(index, Lane(self.builder, lines, a.dtype, a.width), a.width, nontemporal)

    def _check(self, x: Lane) -> None:
        if x.dtype != self.dtype and "f" in (x.dtype.kind, self.dtype.kind):
            raise TypeError(f"expected a value of {self.dtype} to store; got one of {x.dtype}")

    def _put(self, index: Any, x: Lane, step: int, nontemporal: bool = False) -> None:
        """Store each of the vectors ``step`` words after the one before."""
        for number, value in enumerate(x.values):
            place = self._vector_at(index + number * step, value.type)
            if nontemporal:
                stored = self.builder.store(value, place, align=x.width * x.dtype.itemsize)
                stored.set_metadata("nontemporal", self.builder.module.add_metadata([ONE]))
            else:
                self.builder.store(value, place, align=self.dtype.itemsize)
