"""The operations that are spelled differently for a NumPy block and for compiled vectors.

``philox.py``, ``arithmetic.py``, ``arithmetic64.py`` and ``narrow.py`` are written once, on "lanes": a lane
is a NumPy array here, an entry of a tape (``tape.py``), or the vectors of a loop that is being compiled
(``trace.py``). Three rules make all executions agree to the bit:

* both operands of an operation have the same type; an explicit cast says which type integers take;
* a cast between integers of the same width reinterprets, any other cast converts, rounded to nearest even;
* floating-point work is one IEEE operation at a time, never a library function other than ``sqrt``.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike


def _cast(x: Any, dtype: np.dtype[Any]) -> Any:
    """Reinterpret between integers of the same width, convert otherwise; copy only if necessary."""
    if isinstance(x, int):
        return dtype.type(x)
    if x.dtype == dtype:
        return x
    if x.dtype.itemsize == dtype.itemsize and x.dtype.kind in "iu" and dtype.kind in "iu":
        return x.view(dtype)
    return x.astype(dtype)


def _caster(dtype: DTypeLike) -> Any:
    lane = np.dtype(dtype)

    def cast(x: Any) -> Any:
        return _cast(x, lane)

    return cast


i32 = _caster(np.int32)
u32 = _caster(np.uint32)
i64 = _caster(np.int64)
u64 = _caster(np.uint64)
f32 = _caster(np.float32)
f64 = _caster(np.float64)


def bits32(x: Any) -> Any:
    """Bit pattern of a float32 as int32."""
    return x.view(np.int32)


def float_of_bits32(x: Any) -> Any:
    """The float32 whose bit pattern is the int32 ``x``."""
    return x.view(np.float32)


def bits64(x: Any) -> Any:
    """Bit pattern of a float64 as int64."""
    return x.view(np.int64)


def float_of_bits64(x: Any) -> Any:
    """The float64 whose bit pattern is the int64 ``x``."""
    return x.view(np.float64)


def sqrt(x: Any) -> Any:
    """Correctly rounded square root in the type of ``x``."""
    return np.sqrt(x)


def magnitude(x: Any) -> Any:
    """The absolute value of an integer other than the least of its type."""
    return np.absolute(x)


def low_half(x: Any) -> Any:
    """The low 32 bits of a uint64."""
    return x.low_half() if hasattr(x, "low_half") else x & np.uint64(2**32 - 1)


def select(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; both are evaluated."""
    return np.where(condition, a, b)


def least(a: int, b: int) -> int:
    """The lesser of two counts."""
    return min(a, b)


def unpack(arguments: Any) -> Any:
    """A kernel's arguments: those given, or in compiled code those stored at the address given."""
    return arguments


def scratch(count: int) -> Any:
    """Memory for ``count`` uint64 until the kernel ends; on the stack in compiled code."""
    return np.empty(count, np.uint64)


def scratch_of(like: Any, count: int) -> Any:
    """Memory for ``count`` items of the type of ``like``, in the same way."""
    return np.empty(count, like.dtype)


def lead(out: Any, alignment: int) -> int:
    """How many items of ``out`` lie before the first address that is a multiple of ``alignment``."""
    return int(-out.ctypes.data % alignment // out.itemsize)


def publish() -> None:
    """Let other threads see everything written so far, past the caches or not, before what follows."""


def loop(count: int, body: Any, state: Any) -> None:
    """Call ``body(i, *state)`` for i below ``count``."""
    for i in range(count):
        body(i, *state)


# The functions below move elements of vectors. Compiled code holds a vector of ``count`` elements in
# registers of ``width`` elements each; NumPy holds an array.


def consecutive(first: Any, count: int, width: int) -> Any:
    """The uint64 ``first``, ``first + 1``, ... as a vector of ``count``."""
    if isinstance(first, np.generic):
        return first + np.arange(count, dtype=first.dtype)
    return first.consecutive(count, width)


def vectors(memory: Any, index: Any, count: int, width: int) -> Any:
    """``count`` elements of memory from ``index`` on."""
    return (
        memory[index : index + count]
        if isinstance(memory, np.ndarray)
        else memory.vectors(index, count, width)
    )


def put(memory: Any, index: Any, x: Any) -> None:
    """Store a vector in memory from ``index`` on."""
    if isinstance(memory, np.ndarray):
        memory[index : index + x.size] = x
    else:
        memory[index] = x


def interleave(memory: Any, index: Any, a: Any, b: Any, nontemporal: bool = False) -> None:
    """Store two vectors interleaved: ``a[0], b[0], a[1], b[1], ...``; if ``nontemporal``, past the caches, to
    memory that begins with a cache line.
    """
    if isinstance(memory, np.ndarray):
        memory[index : index + 2 * a.size : 2] = a
        memory[index + 1 : index + 2 * b.size : 2] = b
    else:
        memory.interleave(index, a, b, nontemporal)


def interleaved(a: Any, b: Any, first: int) -> Any:
    """``a[first], b[first], a[first + 2], b[first + 2], ...``: every second element of both, interleaved."""
    if isinstance(a, np.ndarray):
        return np.stack((a[first::2], b[first::2]), axis=1).reshape(-1)
    return a.interleaved(b, first)


def parts(x: Any, count: int) -> Any:
    """A vector cut into ``count`` parts, if it has as many registers; a NumPy array is one part."""
    return (x,) if isinstance(x, np.ndarray) else x.parts(count)
