"""The PTX translator's launches: every thread once, within CUDA's limits and the kernel's own."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_on_cpu import machine
from cuda_on_cpu.machine import LaunchError, Module
from cuda_on_cpu.snippets import HEADER, address, kernel, snippet

COORDINATES = """ld.param.u64 %l1, [a]; mov.u32 %r1, %ctaid.z; mov.u32 %r2, %nctaid.y; mov.u32 %r3, %ctaid.y;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ctaid.x; mad.lo.s32 %r1, %r1, %r2, %r3;
    mov.u32 %r2, %ntid.z; mov.u32 %r3, %tid.z; mad.lo.s32 %r1, %r1, %r2, %r3;
    mov.u32 %r2, %ntid.y; mov.u32 %r3, %tid.y; mad.lo.s32 %r1, %r1, %r2, %r3;
    mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.s32 %r1, %r1, %r2, %r3;
    mul.wide.u32 %l2, %r1, 4; add.s64 %l1, %l1, %l2; ld.global.u32 %r2, [%l1]; add.s32 %r2, %r2, %r1;
    st.global.u32 [%l1], %r2;"""


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_thread_of_every_block_runs_once(workers: int) -> None:
    out = np.full(7 * 5 * 3 * 4 * 3 * 2, 1000, np.uint32)
    kernel(COORDINATES).launch("k", (7, 5, 3), (4, 3, 2), [address(out)], workers=workers)
    np.testing.assert_array_equal(out, 1000 + np.arange(out.size, dtype=np.uint32))


@pytest.mark.parametrize("grid", [(0,), (1, 0), (2**31,), (1, 65536), (1, 1, 65536), (1, 1, 1, 1), (-1,)])
def test_grids_outside_of_cudas_limits_are_refused(grid: tuple[int, ...]) -> None:
    with pytest.raises(LaunchError, match="expected a grid"):
        kernel("").launch("k", grid, (1,), [bytes(8)])


@pytest.mark.parametrize("block", [(0,), (1025,), (1, 1025), (1, 1, 65), (1, 1, 1, 1)])
def test_blocks_outside_of_cudas_limits_are_refused(block: tuple[int, ...]) -> None:
    with pytest.raises(LaunchError, match="expected a block"):
        kernel("").launch("k", (1,), block, [bytes(8)])
    with pytest.raises(LaunchError, match="at most 1024 threads"):
        kernel("").launch("k", (1,), (32, 33), [bytes(8)])


def test_a_kernels_own_limits_are_kept() -> None:
    entry = ".entry k()\n.maxntid 64, 2, 1\n.minnctapersm 4\n{ ret; }\n.entry e() .reqntid 32 { ret; }"
    module = Module(HEADER + entry)
    module.launch("k", (1,), (128,), [])
    with pytest.raises(LaunchError, match="at most 128 threads a block for k; got 129"):
        module.launch("k", (1,), (129,), [])
    with pytest.raises(LaunchError, match="expected 32 threads a block for e; got 31"):
        module.launch("e", (1,), (31,), [])


def test_arguments_have_the_exact_widths() -> None:
    module = kernel("", ".param .u64 a, .param .align 4 .b8 keys[88], .param .u8 b")
    good = [bytes(8), bytes(88), bytes(1)]
    module.launch("k", (1,), (1,), good)
    with pytest.raises(LaunchError, match="expected 3 arguments for k; got 2"):
        module.launch("k", (1,), (1,), good[:2])
    for number, width in enumerate((8, 88, 1)):
        for wrong in (width - 1, width + 1):
            args = [*good[:number], bytes(wrong), *good[number + 1 :]]
            with pytest.raises(
                LaunchError, match=f"expected {width} bytes for argument {number} of k; got {wrong}"
            ):
                module.launch("k", (1,), (1,), args)
    with pytest.raises(LaunchError, match="expected a kernel of this module; got 'other'"):
        module.launch("other", (1,), (1,), good)


def test_equal_bodies_are_compiled_once_and_other_ones_are_not() -> None:
    text = snippet("add.s32 %wo, %wa, 271828;", "first")
    Module(HEADER + text).compile()
    before = machine.distinct()
    Module("\n\n" + HEADER.replace("90", "75") + text.replace("first", "second")).compile()
    assert machine.distinct() == before
    Module(HEADER + text.replace("271828", "271829")).compile()
    assert machine.distinct() == before + 1
