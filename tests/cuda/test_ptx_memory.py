"""The PTX translator's loads, stores and parameters, and the traps that end an access a GPU refuses."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cuda_on_cpu.machine import Trap
from cuda_on_cpu.snippets import address, aligned, evaluated, kernel


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (
            "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%l1]; st.global.v4.b32 [%l1+16], {%r4, %r3, %r2, %r1};",
            "dcba",
        ),
        ("ld.global.v2.f64 {%l2, %l3}, [%l1]; st.global.v2.f64 [%l1+16], {%l3, %l2};", "cdab"),
        ("ld.global.v2.b32 {%r1, %r2}, [%l1+8]; st.global.cs.v2.u32 [%l1+24], {%r1, %r2};", "__cd"),
        ("ld.global.nc.L1::no_allocate.f32 %r1, [%l1+4]; st.global.f32 [%l1+16], %r1;", "b___"),
        ("add.s64 %l2, %l1, 32; ld.global.u64 %l3, [%l2+-32]; st.global.b64 [%l2+-16], %l3;", "ab__"),
    ],
)
def test_loads_and_stores_of_vectors(statements: str, expected: str) -> None:
    memory = aligned(32)
    words = {c: bytes([ord(c)] * 4) for c in "abcd"} | {"_": bytes(4)}
    memory[:16] = np.frombuffer(b"".join(words[c] for c in "abcd"), np.uint8)
    module = kernel(f"ld.param.u64 %l1, [a];\n{statements}")
    module.launch("k", (1,), (1,), [address(memory)], memory=[(memory.ctypes.data, 32)])
    assert memory[16:].tobytes() == b"".join(words[c] for c in expected)


def test_narrow_loads_extend_and_narrow_stores_cut() -> None:
    memory = aligned(64)
    memory[:4] = (0x80, 0xFF, 0x34, 0x92)
    module = kernel(
        """ld.param.u64 %l1, [a];
        ld.global.u8 %h1, [%l1]; st.global.b16 [%l1+8], %h1;
        ld.global.s8 %h1, [%l1]; st.global.b16 [%l1+10], %h1;
        ld.global.s8 %r1, [%l1+1]; st.global.b32 [%l1+12], %r1;
        ld.global.s16 %r1, [%l1+2]; st.global.u32 [%l1+16], %r1;
        ld.global.b16 %r1, [%l1+2]; st.global.u32 [%l1+20], %r1;
        ld.global.s16 %l2, [%l1+2]; st.global.u64 [%l1+24], %l2;
        mov.b32 %r1, 0x12345678; st.global.u8 [%l1+32], %r1; st.global.b16 [%l1+34], %r1;
        st.global.v4.b8 [%l1+36], {%r1, %r1, %h1, %h1};"""
    )
    module.launch("k", (1,), (1,), [address(memory)], memory=[(memory.ctypes.data, 64)])
    assert memory[8:40].tobytes().hex() == (
        "8000" "80ff" "ffffffff" "3492ffff" "34920000" "3492ffffffffffff" "78007856" "78788080"
    )  # fmt: skip


def test_an_atomic_sum_gives_the_old_number_and_no_host_thread_loses_one() -> None:
    memory = aligned(24)
    module = kernel(
        """ld.param.u64 %l1, [a]; mov.u64 %l2, 3;
        atom.global.add.u64 %l3, [%l1], %l2;
        setp.eq.u64 %p1, %l3, 2997;
        @%p1 st.global.u64 [%l1+8], %l3;
        atom.global.add.u64 %l3, [%l1+16], 1;"""
    )
    module.launch("k", (100,), (10,), [address(memory)], memory=[(memory.ctypes.data, 24)], workers=2)
    assert memory.view(np.uint64).tolist() == [3000, 2997, 1000]
    with pytest.raises(Trap, match="outside of the memory"):
        module.launch("k", (1,), (1,), [address(memory, 8)], memory=[(memory.ctypes.data, 24)])
    with pytest.raises(Trap, match="misaligned"):
        module.launch("k", (1,), (1,), [address(memory, 4)], memory=[(memory.ctypes.data, 24)])


def test_parameters_are_laid_out_and_read_like_structs() -> None:
    parameters = """.param .u8 small, .param .align 8 .b8 box[40], .param .u64 .ptr .align 1 out,
        .param .f32 scale, .param .u64 .ptr .global .align 16 last"""
    module = kernel(
        """ld.param.u64 %l1, [out];
        ld.param.u8 %r1, [small]; st.global.u32 [%l1], %r1;
        ld.param.v2.u32 {%r1, %r2}, [box+8]; st.global.v2.u32 [%l1+8], {%r2, %r1};
        ld.param.s16 %r1, [box+2]; st.global.u32 [%l1+4], %r1;
        mov.b64 %l2, box; mul.wide.u32 %l3, %r2, 8; add.s64 %l2, %l2, %l3;
        ld.param.u64 %l3, [%l2+16]; st.global.u64 [%l1+16], %l3;
        ld.param.f32 %r1, [scale]; st.global.f32 [%l1+24], %r1;
        ld.param.u64 %l2, [last]; st.global.u64 [%l1+32], %l2;""",
        parameters,
    )
    found = module.entries["k"].parameters
    assert [(p.kind, p.size, p.align, p.offset) for p in found] == [
        ("value", 1, 1, 0),
        ("bytes", 40, 8, 8),
        ("value", 8, 8, 48),
        ("value", 4, 4, 56),
        ("value", 8, 8, 64),
    ]
    memory = aligned(40)
    box = struct.pack("<HhIIIQQQ", 1, -2, 3, 4, 1, 11, 22, 33)
    args = [b"\x07", box, address(memory), struct.pack("<f", 1.5), struct.pack("<Q", 99)]
    module.launch("k", (1,), (1,), args, memory=[(memory.ctypes.data, 40)])
    assert struct.unpack("<IiIIQfxxxxQ", memory.tobytes()) == (7, -2, 1, 4, 22, 1.5, 99)


@pytest.mark.parametrize(
    ("statement", "size"),
    [
        ("st.global.v4.b32 [%l1+{}], {{%r1, %r1, %r1, %r1}};", 16),
        ("st.global.v2.f64 [%l1+{}], {{%l2, %l2}};", 16),
        ("ld.global.v2.u32 {{%r1, %r2}}, [%l1+{}];", 8),
        ("ld.global.v4.u16 {{%h1, %h2, %h3, %h4}}, [%l1+{}];", 8),
        ("st.global.u64 [%l1+{}], %l2;", 8),
        ("st.global.b32 [%l1+{}], %r1;", 4),
        ("ld.global.u16 %h1, [%l1+{}];", 2),
    ],
)
def test_misaligned_access_traps_with_address_line_and_thread(statement: str, size: int) -> None:
    memory = aligned(64)
    head = "mov.b32 %r1, 0; mov.b64 %l2, 0; ld.param.u64 %l1, [a];\n"
    args, bounds = [address(memory)], [(memory.ctypes.data, 64)]
    kernel(head + statement.format(16)).launch("k", (2,), (2,), args, memory=bounds)
    for offset in (1, size // 2):
        with pytest.raises(Trap, match=f"misaligned address .* at line 10, `{statement[:9]}") as caught:
            kernel(head + statement.format(16 + offset)).launch("k", (2,), (2,), args, memory=bounds)
        assert caught.value.address == memory.ctypes.data + 16 + offset
        assert (caught.value.thread, caught.value.block, caught.value.line) == ((0, 0, 0), (0, 0, 0), 10)


@pytest.mark.parametrize("offset", [-4, 64, 1 << 40])
def test_access_outside_of_the_memory_traps(offset: int) -> None:
    memory = aligned(64)
    module = kernel(f"mov.b32 %r1, 0; ld.param.u64 %l1, [a]; st.global.u32 [%l1+{offset}], %r1;")
    with pytest.raises(Trap, match="address outside of the memory"):
        module.launch("k", (1,), (1,), [address(memory)], memory=[(memory.ctypes.data, 64)])
    with pytest.raises(Trap, match="address outside of the memory"):
        module.launch("k", (1,), (1,), [address(memory)], memory=[])


def test_a_vector_that_crosses_the_end_traps_and_writes_nothing() -> None:
    memory = aligned(64)
    module = kernel("mov.b64 %l2, -1; ld.param.u64 %l1, [a]; st.global.v2.u64 [%l1+32], {%l2, %l2};")
    with pytest.raises(Trap, match="outside"):
        module.launch("k", (1,), (1,), [address(memory)], memory=[(memory.ctypes.data, 40)])
    assert not memory.any()


def test_parameters_beyond_the_last_and_misaligned_ones_trap() -> None:
    for offset, reason in ((8, "outside"), (4, "misaligned"), (-8, "outside")):
        with pytest.raises(Trap, match=reason):
            kernel(f"ld.param.u64 %l1, [a+{offset}];").launch("k", (1,), (1,), [bytes(8)])


def test_division_by_zero_traps() -> None:
    with pytest.raises(Trap, match="division by zero"):
        evaluated("div.u32 %wo, %wa, %wb;", 1, 0)


def test_a_trap_names_the_thread_that_did_it() -> None:
    body = """mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3; mul.wide.u32 %l2, %r4, 4; ld.param.u64 %l1, [a]; add.s64 %l1, %l1, %l2;
    st.global.u32 [%l1], %r4;"""
    memory = aligned(64)
    with pytest.raises(Trap) as caught:
        kernel(body).launch("k", (5,), (4,), [address(memory)], memory=[(memory.ctypes.data, 52)])
    assert (caught.value.thread, caught.value.block) == ((1, 0, 0), (3, 0, 0))
