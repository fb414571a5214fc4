"""Lane functions written as LLVM instructions do what NumPy does, and refuse what has no one meaning."""

from __future__ import annotations

import ctypes
import math
import re
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit
from numba.core.errors import TypingError

from fanfill_kernels import lanes
from fanfill_kernels.compile import cpu
from fanfill_kernels.compile.compiler import compiled, operation
from fanfill_kernels.compile.rebinding import Body
from fanfill_kernels.compile.trace import Lane, Memory
from fanfill_kernels.store import objects

I32 = np.array([0, 1, -1, 5, -7, 2**31 - 1, -(2**31)], np.int32)
U64 = np.array([0, 1, 7, 2**32, 2**63, 2**64 - 1], np.uint64)
F32 = np.array([0.0, -0.0, 1.5, -2.25, np.inf, 3e38], np.float32)
FUNCTIONS = {
    "i32 add": (lambda a, b: a + b, I32),
    "i32 subtract": (lambda a, b: a - b, I32),
    "i32 multiply": (lambda a, b: a * b, I32),
    "i32 logic": (lambda a, b: (a & b) ^ ~(a | b), I32),
    "i32 shift": (lambda a, b: (a >> np.int32(3)) + (b << np.int32(2)), I32),
    "i32 negative": (lambda a, b: -a + b, I32),
    "i32 compare": (lambda a, b: lanes.select(a < b, a, b) + lanes.select(a != b, a, np.int32(9)), I32),
    "i32 order": (lambda a, b: lanes.select(a >= b, a, b) - lanes.select(a <= b, b, a), I32),
    "i32 as others": (lambda a, b: lanes.u64(a) + lanes.u64(lanes.i64(b)), I32),
    "i32 as f32": (lambda a, b: lanes.f32(a) - lanes.f32(lanes.u32(b)), I32),
    "u64 divide": (lambda a, b: a // (b | np.uint64(1)) + a % np.uint64(10), U64),
    "u64 shift": (lambda a, b: (a >> np.uint64(5)) ^ b, U64),
    "u64 compare": (lambda a, b: lanes.select(a > b, a, b) + lanes.select(a == b, a, a), U64),
    "u64 narrowed": (lambda a, b: lanes.i32(a) + lanes.i32(b), U64),
    "u64 as f32": (lambda a, b: lanes.f32(a) * lanes.f32(lanes.i64(b)), U64),
    "f32 arithmetic": (lambda a, b: (a + b) * (a - b) / (b * b + np.float32(1)), F32),
    "f32 root": (lambda a, b: lanes.sqrt(a * a) - b, F32),
    "f32 negative": (lambda a, b: -a - -b, F32),
    "f32 bits": (lambda a, b: lanes.float_of_bits32(lanes.bits32(a) ^ np.int32(-(2**31))) + b, F32),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_each_operation_gives_the_bytes_that_numpy_gives(case: str) -> None:
    function, values = FUNCTIONS[case]
    a, b = (x.reshape(-1).copy() for x in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        expected = function(a, b)
    apply = operation(function)
    found = np.empty_like(expected)

    @njit(error_model="numpy")
    def each(a: Any, b: Any, out: Any) -> None:
        for i in range(out.size):
            out[i] = apply(a[i], b[i])

    each(a, b, found)
    numbers = ~np.isnan(expected) if expected.dtype.kind == "f" else slice(None)
    assert found[numbers].tobytes() == expected[numbers].tobytes()


def lane(dtype: str) -> Lane:
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), ()), "draft")
    builder = ir.IRBuilder(function.append_basic_block())
    kinds = {"f4": ir.FloatType(), "f8": ir.DoubleType(), "i4": ir.IntType(32), "u8": ir.IntType(64)}
    return Lane(builder, ir.Constant(kinds[dtype], ir.Undefined), dtype)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: lane("i4") + lane("u8"), "expected add of one type; got"),
        (lambda: lane("f4") * np.float64(2), "expected multiply of one type; got"),
        (
            lambda: lane("i4") // np.int32(2),
            "expected an operation that lanes have; got floor_divide of int32",
        ),
        (lambda: np.exp(lane("f4")), "expected an operation that lanes have; got exp of float32"),
        (
            lambda: lane("f4").astype("i4"),
            "expected a conversion from an integer, or to a narrower float; got one from float32 to int32",
        ),
        (lambda: lanes.select(lane("i4") < np.int32(1), lane("i4"), lane("f4")), "expected a choice between"),
        (lambda: np.add.reduce(lane("f4")), "operand type"),
        (lambda: np.sum(lane("f4")), "no implementation found"),
    ],
)
def test_what_has_no_one_meaning_is_an_error(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        wrong()


def test_vectors_go_with_as_many_of_one_width() -> None:
    first = lane("u8")
    four, two, wide = first.consecutive(16, 4), first.consecutive(8, 4), first.consecutive(16, 8)
    assert (four + four).size == (four + first).size == 16
    for a, b, sizes in ((four, two, "4 of 4, 2 of 4"), (wide, four, "2 of 8, 4 of 4")):
        wanted = f"expected the same number of vectors of the same width; got {sizes}"
        with pytest.raises(TypeError, match=wanted):
            a + b


def test_memory_holds_its_own_type_alone() -> None:
    value = lane("f4")
    pointer = value.builder.alloca(ir.DoubleType())
    with pytest.raises(TypeError, match="expected a value of float64 to store; got one of float32"):
        Memory(value.builder, pointer, "f8")[0] = value


def step(i: Any, out: Any, by: Any) -> None:
    out[i] = lanes.f32(lanes.i32(i)) * by


def body(i: Any, out: Any, by: Any) -> None:
    raise NotImplementedError


def scale(arguments: Any) -> None:
    out, by = lanes_unpack(arguments)
    lanes_loop(out.size, body, (out, by))


lanes_unpack, lanes_loop = lanes.unpack, lanes.loop


def test_a_function_with_a_loop_is_compiled_and_called() -> None:
    layout = ("[f4]", "f4")
    code = compiled(scale, {body: Body(step)}, {}, "scale", layout)
    out = np.empty(1000, np.float32)
    call = objects.caller(code.address, layout)
    call(out, np.float32(0.5))
    np.testing.assert_array_equal(out, np.arange(1000, dtype=np.float32) / 2)
    call(out[:0], np.float32(9))  # nothing to do, and no memory to point at


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_loaded_before_the_loop_that_needs_them(dtype: str) -> None:
    """Its longest block has loads of vectors alone, such as what did not fit the registers."""
    made = cpu.loops_of("uniform_range", dtype).run.compile().library.get_llvm_str()
    longest = max(re.split(r"\n\n", made), key=len)
    assert longest.count("store <") > 1
    assert not re.search(r"= load (?!<)", longest)
    assert re.search(r"= load (?!<)", made)


def test_a_loop_without_a_body_is_an_error() -> None:
    with pytest.raises(TypingError, match="loop needs a body and a tuple of state"):
        compiled(scale, {body: np.int64}, {}, "scale", ("[f4]", "f4"))


def test_a_kernel_that_reports_an_error_is_one() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    failing = kind(lambda result, exception, arguments: 3)
    address = ctypes.cast(failing, ctypes.c_void_p).value
    assert address is not None
    with pytest.raises(RuntimeError, match="expected a kernel to end without an error; got status 3"):
        objects.caller(address, ("[f4]",))(np.empty(4, np.float32))


def test_code_that_calls_something_outside_of_itself_is_not_kept() -> None:
    def logarithm(arguments: Any) -> None:
        (out,) = lanes_unpack(arguments)
        out[0] = math.lgamma(out[0])

    assert compiled(logarithm, {}, {}, "logarithm", ("[f4]",)).object_code is None
