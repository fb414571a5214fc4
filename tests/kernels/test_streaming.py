"""Large buffers are written past the caches: the same bytes wherever they begin, and nothing besides them."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest
from cases import KEY
from equality import assert_same_bits
from kernel_runs import GUARD, RECIPES, assert_guards_untouched, each_recipe, lanes_of, run

from fanfill import regions
from fanfill.backends import HostKernels, get
from fanfill.cpu import run as cpu_run
from fanfill_kernels.compile import cpu, loops
from fanfill_kernels.compile.compiler import registers

COUNT = 3 * 4 * registers()["GROUP"] + 37
# Blocks 2^32 - 5 and 2^32 - 4 of the substream are among the first: there lines and blocks part again.
CARRY = 2**34 - 19


def stream(case: str, start: int, lead: int) -> np.ndarray:
    """A streamed fill that begins ``lead`` bytes after a cache line, between guard zones."""
    made, lanes = RECIPES[case], lanes_of(RECIPES[case].dtype)
    memory = np.full((COUNT + 2 * GUARD) * lanes.itemsize + 2 * loops.LINE, 0xA5, np.uint8)
    shift = (lead - memory.ctypes.data - GUARD * lanes.itemsize) % loops.LINE
    memory = memory[shift : shift + (COUNT + 2 * GUARD) * lanes.itemsize].view(lanes)
    out = memory[GUARD : GUARD + COUNT]
    assert out.ctypes.data % loops.LINE == lead
    cpu.kernels(made.form, made.dtype).nontemporal(out, start, KEY, made.params)
    assert_guards_untouched(memory)
    return out


@each_recipe
def test_wherever_a_streamed_fill_begins_it_gives_the_same_bytes(case: str) -> None:
    size = lanes_of(RECIPES[case].dtype).itemsize
    for lead in range(0, loops.LINE, max(size, 4)):
        for start in (0, 1, 6, CARRY // (2 if size == 8 else 1)):
            assert_same_bits(stream(case, start, lead), run("numpy", RECIPES[case], start, COUNT))


def test_a_fill_streams_only_where_blocks_begin_with_lines() -> None:
    memory = np.zeros(256, np.float32)
    first = -memory.ctypes.data % loops.LINE // 4
    found = {
        (lead, start): loops.can_bypass_caches(memory[first + lead :], start, 4)
        for lead in range(16)
        for start in range(4)
    }
    assert found == {(lead, start): (start - lead) % 4 == 0 for lead in range(16) for start in range(4)}


@pytest.mark.parametrize(
    ("nbytes", "streamed"), [(cpu_run.NONTEMPORAL - 4, False), (cpu_run.NONTEMPORAL, True)]
)
def test_buffers_that_no_cache_holds_are_streamed(nbytes: int, streamed: bool) -> None:
    calls: list[str] = []

    def kernels(form: str, dtype: str) -> HostKernels:
        def noted(name: str) -> Any:
            def call(*arguments: Any) -> None:
                calls.append(name)
                getattr(cpu.kernels(form, dtype), name)(*arguments)

            return call

        return HostKernels(noted("run"), noted("box"), noted("nontemporal"))

    made, found = RECIPES["normal-float32"], np.empty(nbytes // 4, np.float32)
    region = regions.region(found.shape)
    cpu_run.fill_lanes(found, region, made, KEY, get("numba")._replace(kernels=kernels), 2)
    assert set(calls) == {"nontemporal" if streamed else "run"}
    expected = np.empty_like(found)
    cpu_run.fill_lanes(expected, region, made, KEY, get("numpy"), 2)
    assert_same_bits(found, expected)


def test_all_stretches_but_the_first_begin_with_a_line() -> None:
    seen: list[tuple[int, int, int]] = []

    def note(out: Any, start: int, *_: Any) -> None:
        seen.append((out.ctypes.data, start, out.size))

    def kernels(*_: str) -> HostKernels:
        return HostKernels(note, note, note)

    count = 3 * 2**20 + 11
    memory = np.empty(count + 16, np.float32)
    first = -memory.ctypes.data % loops.LINE // 4 + 4  # a line's fifth value
    out = memory[first % 16 :][:count]
    backend = get("numba")._replace(kernels=kernels, chunk=lambda *_: 2**20)
    region = regions.region(out.shape)._replace(start=40)
    cpu_run.fill_lanes(out, region, RECIPES["normal-float32"], KEY, backend, 1)
    assert len(seen) > 2
    assert sum(size for _, _, size in seen) == count
    done = 0
    for data, start, size in seen:
        assert (data, start) == (out.ctypes.data + 4 * done, 40 + done)
        done += size
    assert all(data % loops.LINE == 0 for data, _, _ in seen[1:])


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads x86 assembly only")
@pytest.mark.parametrize(
    "case",
    [
        "normal-float32",
        "uniform_clamped-bfloat16",
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("uniform-float64", "normal-float16")),
    ],
)
def test_streams_bypass_the_caches_and_end_with_a_fence(case: str) -> None:
    made = RECIPES[case]
    pattern = r"\bv?movnt\w+"
    kernels = cpu.kernels(made.form, made.dtype)
    plain = kernels.run.compile().library.get_asm_str()
    streaming = kernels.nontemporal.nontemporal.compile().library.get_asm_str()
    fence = r"\bmfence\b|\block\b"
    assert not re.search(pattern, plain)
    assert not re.search(fence, plain)
    values = 4 * registers()["GROUP"] // (2 if made.dtype == "float64" else 1)
    nbytes = values * lanes_of(made.dtype).itemsize
    assert len(re.findall(pattern, streaming)) >= nbytes // loops.LINE
    assert re.search(fence, streaming)
