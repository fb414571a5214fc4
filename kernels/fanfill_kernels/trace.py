"""Lane functions as LLVM instructions: called once on ``Lane`` objects, they write what they do.

``tape.py`` does the same for NumPy. The functions ask for operations through ``__array_ufunc__`` and
``__array_function__``; each becomes one instruction, strictly typed: operands of different types are an error
here, where NumPy would widen them. No instruction is marked as inexact, so that LLVM neither contracts a
multiply-add nor reorders anything.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

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


def llvm_type(dtype: DTypeLike) -> ir.Type:
    """The LLVM type of a machine word of that dtype."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return _FLOATS[kind.itemsize]
    return ir.IntType(1 if kind.kind == "b" else 8 * kind.itemsize)


class Lane(NDArrayOperatorsMixin):
    """A scalar value in a function that is being written; a vector's lane once LLVM vectorises the loop."""

    __slots__ = ("builder", "dtype", "value")

    def __init__(self, builder: Any, value: Any, dtype: DTypeLike) -> None:
        self.builder, self.value = builder, value
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def view(self, dtype: DTypeLike) -> "Lane":
        return Lane(self.builder, self.builder.bitcast(self.value, llvm_type(dtype)), dtype)

    def astype(self, dtype: DTypeLike) -> "Lane":
        given, wanted = self.dtype, np.dtype(dtype)
        if given.kind in "iub" and wanted.kind in "iu":
            narrower = wanted.itemsize < given.itemsize and given.kind != "b"
            cast = "trunc" if narrower else "sext" if given.kind == "i" else "zext"
        elif given.kind in "iu" and wanted.kind == "f":
            cast = "sitofp" if given.kind == "i" else "uitofp"
        else:
            raise TypeError(f"expected a conversion from an integer; got one from {given} to {wanted}")
        return Lane(self.builder, getattr(self.builder, cast)(self.value, llvm_type(wanted)), wanted)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        (dtype, *others) = {x.dtype for x in inputs if not isinstance(x, int)}
        if others:
            raise TypeError(f"expected {ufunc.__name__} of one type; got {dtype} and {others[0]}")
        builder = self.builder
        values = [_value(x, dtype) for x in inputs]
        if ufunc.__name__ in _COMPARISONS:
            compare = {"i": builder.icmp_signed, "u": builder.icmp_unsigned, "f": builder.fcmp_ordered}
            return Lane(builder, compare[dtype.kind](_COMPARISONS[ufunc.__name__], *values), bool)
        if ufunc is np.sqrt:
            root = builder.module.declare_intrinsic("llvm.sqrt", [values[0].type])
            return Lane(builder, builder.call(root, values), dtype)
        if ufunc is np.absolute and dtype.kind == "i":
            below = builder.icmp_signed("<", values[0], ir.Constant(values[0].type, 0))
            return Lane(builder, builder.select(below, builder.neg(values[0]), values[0]), dtype)
        operation = _OPERATIONS.get(ufunc.__name__, (None, None, None))[_KINDS.index(dtype.kind)]
        if operation is None:
            raise TypeError(f"expected an operation that lanes have; got {ufunc.__name__} of {dtype}")
        return Lane(builder, getattr(builder, operation)(*values), dtype)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is not np.where or options:
            return NotImplemented
        condition, a, b = arguments
        if a.dtype != b.dtype:
            raise TypeError(f"expected a choice between values of one type; got {a.dtype} and {b.dtype}")
        chosen = self.builder.select(condition.value, _value(a, a.dtype), _value(b, b.dtype))
        return Lane(self.builder, chosen, a.dtype)


def _value(x: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(x, Lane):
        return x.value
    return ir.Constant(llvm_type(dtype), float(x) if dtype.kind == "f" else int(x))


class Memory:
    """A contiguous vector of machine words: ``memory[i]`` loads, ``memory[i] = x`` stores.

    An index counts from 0 up. An integer stored into a narrower word keeps its low bits.
    """

    __slots__ = ("builder", "data", "dtype")

    def __init__(self, builder: Any, data: Any, dtype: DTypeLike) -> None:
        self.builder, self.data = builder, data
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def _at(self, index: Any) -> Any:
        return self.builder.gep(self.data, [_value(index, np.dtype(np.int64))], inbounds=True)

    def __getitem__(self, index: Any) -> Lane:
        loaded = self.builder.load(self._at(index), align=self.dtype.itemsize)
        return Lane(self.builder, loaded, self.dtype)

    def __setitem__(self, index: Any, x: Lane) -> None:
        if x.dtype.kind == "f" or self.dtype.kind == "f":
            if x.dtype != self.dtype:
                raise TypeError(f"expected a value of {self.dtype} to store; got one of {x.dtype}")
        elif x.dtype.itemsize != self.dtype.itemsize:
            x = x.astype(self.dtype)
        self.builder.store(x.value, self._at(index), align=self.dtype.itemsize)
