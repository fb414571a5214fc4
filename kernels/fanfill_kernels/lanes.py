"""The operations whose spelling differs between a NumPy block and compiled vectors.

``philox.py``, ``arithmetic.py``, ``arithmetic64.py`` and ``narrow.py`` are written once, on "lanes": a lane
is a NumPy array here, an entry of a tape (``tape.py``), or the vectors of a loop that is being compiled
(``trace.py``). The rules that make all executions agree to the bit:

* both operands of an operation have one type, and where integers meet the cast says which;
* a cast between integers of one width reinterprets, any other cast converts, rounded to nearest even;
* floating-point work is one IEEE operation at a time, never a library function other than ``sqrt``.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike


def _cast(x: Any, dtype: np.dtype[Any]) -> Any:
    """Reinterpret between integers of one width, convert otherwise; no copy where none is needed."""
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
    """The absolute value of an integer that is not the least of its type."""
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
    """What a kernel was given: itself, or in compiled code what lies at that address."""
    return arguments


def scratch(count: int) -> Any:
    """Memory for so many uint64 until the kernel ends; compiled, on the stack."""
    return np.empty(count, np.uint64)


def scratch_of(like: Any, count: int) -> Any:
    """Memory for so many items of the type of ``like``, in the same way."""
    return np.empty(count, like.dtype)


def lead(out: Any, alignment: int) -> int:
    """How many items of ``out`` lie before the first address that is a multiple of ``alignment``."""
    return int(-out.ctypes.data % alignment // out.itemsize)


def publish() -> None:
    """Let other threads see everything that has been written, streamed or not, before what follows."""


def loop(count: int, body: Any, state: Any) -> None:
    """Call ``body(i, *state)`` for i below ``count``."""
    for i in range(count):
        body(i, *state)


# What follows moves elements of vectors. Compiled code holds a vector of ``count`` elements in registers of
# ``width``; NumPy holds an array.


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


def weave(memory: Any, index: Any, a: Any, b: Any, stream: bool = False) -> None:
    """Store two vectors by turns: ``a[0], b[0], a[1], b[1], ...``; on ``stream`` past the caches, to memory
    that begins with a cache line.
    """
    if isinstance(memory, np.ndarray):
        memory[index : index + 2 * a.size : 2] = a
        memory[index + 1 : index + 2 * b.size : 2] = b
    else:
        memory.weave(index, a, b, stream)


def woven(a: Any, b: Any, first: int) -> Any:
    """``a[first], b[first], a[first + 2], b[first + 2], ...``: by turns, every second element of both."""
    if isinstance(a, np.ndarray):
        return np.stack((a[first::2], b[first::2]), axis=1).reshape(-1)
    return a.woven(b, first)


def parts(x: Any, count: int) -> Any:
    """A vector cut into so many, if it has as many registers; NumPy has none, and one part."""
    return (x,) if isinstance(x, np.ndarray) else x.parts(count)
