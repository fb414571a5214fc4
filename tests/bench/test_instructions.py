"""The hot loops, as compiled here, use the processor's full vector width."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import assemblies
import numba
import numpy as np
import pytest

from fanfill import machine
from fanfill_kernels.compile.compiler import registers

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "instructions.py"
COMPILED = [
    ("words", "uint32"),
    ("uniform", "float32"),
    ("uniform_range", "float32"),
    ("normal", "float32"),
    ("truncated_central", "float32"),
    ("truncated", "float32"),
    ("uniform", "float64"),
    ("normal", "float64"),
    ("truncated_central", "float64"),
    ("truncated", "float64"),
    ("normal", "float16"),
    ("normal", "bfloat16"),
    ("uniform_clamped", "bfloat16"),
    ("uniform_range", "bfloat16"),
    ("uniform_range", "float64"),
]

pytestmark = [
    pytest.mark.skipif(
        platform.machine().lower() not in ("x86_64", "amd64"), reason="reads x86 assembly only"
    ),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="Numba's compiler is switched off"),
]


@pytest.fixture(scope="module")
def instructions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("instructions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["instructions"] = module
    spec.loader.exec_module(module)
    return module


def assert_full_width(loop: Any, width: int, blocks: float) -> None:
    """The loop computes in registers of that width, and makes so many Philox blocks: ten rounds of two
    products for each, but for two or three that all blocks share; truncated normals have some of their own.
    """
    assert loop.width == width
    assert 17 <= loop.counts["multiply"] * (width // 64) / blocks <= 30


@pytest.mark.parametrize(("form", "dtype"), COMPILED)
def test_each_hot_loop_is_vectorised_at_the_full_width(
    instructions: ModuleType, form: str, dtype: str
) -> None:
    loop = instructions.hot_loop(assemblies.of(form, dtype, instructions.assembly_of))
    blocks = registers()["GROUP"]
    assert instructions.per_value(loop, dtype) == blocks * (2 if dtype == "float64" else 4)
    assert_full_width(loop, 64 * registers()["WIDTH"], blocks)


def test_the_width_is_the_one_that_the_system_states() -> None:
    stated = machine.vector_bits()
    assert stated is not None
    assert 64 * registers()["WIDTH"] in (stated, 128 if stated == 256 else stated)  # AVX has no integers


def test_the_check_of_widths_can_fail(instructions: ModuleType) -> None:
    @numba.njit(error_model="numpy")
    def recurrence(out: Any, factor: Any) -> None:
        for i in range(1, out.size):
            out[i] = out[i - 1] * factor + out[i]

    recurrence(np.ones(8, np.float32), np.float32(0.5))
    loop = instructions.hot_loop("\n".join(recurrence.inspect_asm().values()))
    assert loop.width == 64
    assert loop.counts["float mul"] > 0
    for width in (64, 64 * registers()["WIDTH"]):
        with pytest.raises(AssertionError):
            assert_full_width(loop, width, 1)


def test_instructions_are_counted_by_class(instructions: ModuleType) -> None:
    """A loop written by hand: one of each, four floats stored, the loop's own overhead apart."""
    assembly = """
f:
\t.p2align\t4
.LBB0_1:
\tvmovups\t(%rdi,%rax,4), %xmm0
\tvmulps\t%xmm0, %xmm1, %xmm0
\tvaddps\t%xmm0, %xmm2, %xmm0
\tvcvtdq2ps\t%xmm0, %xmm0
\tvsqrtps\t%xmm0, %xmm0
\tvpsrld\t$3, %xmm0, %xmm0
\tvpxor\t%xmm0, %xmm1, %xmm0
\tvpshufd\t$78, %xmm0, %xmm0
\tvmovups\t%xmm0, 24(%rsp)
\tvmovups\t%xmm0, (%rdi,%rax,4)
\taddq\t$4, %rax
\tcmpq\t%rax, %rsi
\tjne\t.LBB0_1
\tretq
"""
    loop = instructions.hot_loop(assembly)
    assert (loop.width, loop.stored) == (128, 16)
    assert dict(loop.counts) == {
        "load, store": 3,
        "float mul": 1,
        "float add": 1,
        "convert": 1,
        "div, sqrt": 1,
        "shift": 1,
        "logic": 1,
        "shuffle": 1,
        "scalar": 3,
    }
    assert instructions.per_value(loop, "float32") == 4
