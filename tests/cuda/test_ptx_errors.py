"""The PTX translator's errors: all that it does not know is refused, with its line."""

from __future__ import annotations

import re

import pytest
from cuda_on_cpu.machine import Module, PtxError
from cuda_on_cpu.snippets import HEADER, kernel


@pytest.mark.parametrize(
    "statement",
    [
        "add.f32 %r1, %r2, %r3;",  # ptxas may fuse a sum without .rn
        "mul.f64 %l1, %l2, %l3;",
        "add.rm.f32 %r1, %r2, %r3;",
        "add.rz.f64 %l1, %l2, %l3;",
        "mul.rm.f32 %r1, %r2, %r3;",
        "add.rn.sat.f32 %r1, %r2, %r3;",
        "add.rn.ftz.f16 %h1, %h2, %h3;",
        "div.full.f32 %r1, %r2, %r3;",
        "div.approx.f32 %r1, %r2, %r3;",
        "sqrt.approx.f32 %r1, %r2;",
        "ex2.approx.ftz.f32 %r1, %r2;",
        "cvt.rz.f32.s32 %r1, %r2;",
        "cvt.f32.s32 %r1, %r2;",
        "cvt.sat.u8.u32 %r1, %r2;",
        "cvt.rn.satfinite.relu.e4m3x2.f32 %h1, %r1, %r2;",
        "mul.wide.u64 %l1, %l2, %l3;",
        "mad.wide.s64 %l1, %l2, %l3, %l4;",
        "shl.u32 %r1, %r2, %r3;",
        "prmt.b32.f4e %r1, %r2, %r3, %r4;",
        "shf.l.b32 %r1, %r2, %r3, %r4;",
        "add.cc.u16 %h1, %h2, %h3;",
        "mov.b128 %l1, %l2;",
        "mov.b16 %h1, {%h2, %h3};",
        "ld.shared.u32 %r1, [%l1];",
        "ld.u32 %r1, [%l1];",
        "ld.volatile.global.u32 %r1, [%l1];",
        "st.local.u32 [%l1], %r1;",
        "atom.global.add.u32 %r1, [%l1], %r2;",
        "bar.sync 0;",
        "call.uni f, %r1;",
        "vote.sync.any.pred %p1, %p2, -1;",
    ],
)
def test_unknown_instructions_and_modifiers_are_errors_with_their_line(statement: str) -> None:
    words = re.escape(" ".join(re.findall(r"[\w.%]+", statement)[:1]))
    with pytest.raises(PtxError, match=rf"line 10: unknown instruction.* in `{words} "):
        kernel(f"mov.b32 %r1, 0;\n{statement}").compile()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("add.s32 %r1, %r2, %l3;", "a register of 64 bits as s32"),
        ("add.s64 %r1, %l2, %l3;", "a register of 32 bits for a result of type s64"),
        ("st.global.u64 [%l1], %r1;", "a register of 32 bits as b64"),
        ("ld.global.u64 %r1, [%l1];", "a register of 32 bits for a result of type u64"),
        ("st.global.f32 [%l1], %l1;", "a register of 64 bits as b32"),
        ("st.global.u32 [%r1], %r1;", "a register of 32 bits as u64"),
        ("selp.b32 %r1, %r2, %r3, %r4;", "a register of 32 bits as pred"),
        ("@%r1 mov.b32 %r1, 0;", "a register of 32 bits as pred"),
        ("cvt.u32.u8 %r1, %p1;", "a register of 1 bits as u8"),
        ("add.rn.f32 %r1, %r2, 1;", "expected an operand of type f32"),
        ("add.rn.f32 %r1, %r2, 0d3FF0000000000000;", "expected an operand of type f32"),
        ("mov.b32 %r1, 4294967296;", "expected an operand of type b32"),
        ("mov.b16 %h1, -32769;", "expected an operand of type b16"),
        ("mov.u64 %l1, %tid.x;", "expected an operand of type u64"),
        ("mov.u64 %l1, nowhere;", "expected an operand of type u64"),
        ("ld.param.u64 %l1, [nowhere];", "expected an operand of type u64"),
        ("ld.param.u64 %l1, %l2;", "expected an address"),
        ("add.s32 1, %r2, %r3;", "expected a register to write to"),
        ("add.s32 %r1, %r2;", "expected 3 operands, got 2"),
        ("setp.eq.and.s32 %p1, %r1, %r2;", "expected 4 operands, got 3"),
        ("st.global.v4.b32 [%l1], {%r1, %r2};", "expected 4 elements, got 2"),
        ("lop3.b32 %r1, %r2, %r3, %r4, 256;", "expected a truth table"),
        ("setp.lo.s32 %p1, %r1, %r2;", "no comparison lo of s32"),
        ("setp.lt.b32 %p1, %r1, %r2;", "no comparison lt of b32"),
        ("setp.ltu.u32 %p1, %r1, %r2;", "no comparison ltu of u32"),
        ("setp.hi.f32 %p1, %r1, %r2;", "no comparison hi of f32"),
        ("add.s32 %r1, %r2, 1;", "r_r2 is never written, but read"),
        ("@%p3 bra A; A:", "r_p3 is never written, but read"),
        ("bra nowhere;", "unknown label"),
        ("bra %r1;", "unknown label"),
    ],
)
def test_wrong_operands_are_errors_with_their_line(statement: str, why: str) -> None:
    with pytest.raises(PtxError, match=f"line 9: {re.escape(why)}.* in `"):
        kernel(statement).compile()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (".shared .align 4 .b8 table[4];", "line 4: expected an entry"),
        (".func f() { ret; }", "line 4: expected an entry"),
        (".entry k(.param .b128 a) { ret; }", "line 4: unknown parameter attribute"),
        (".entry k() .noreturn { ret; }", "line 4: expected an entry's body"),
        (".entry k() { .shared .b32 x; ret; }", "line 4: expected an instruction"),
        (".entry k() { .reg .b128 %x; ret; }", "line 4: expected a register type"),
        (".entry k() {\nmov.b32 %r1, 0; ret; }", "line 5: unknown operand; got '%r1'"),
        (".entry k() { .reg .b32 %r; mov.u32 %r, %laneid; }", "line 4: unknown operand; got '%laneid'"),
        (".entry k() { { .reg .b32 t; } mov.b32 t, 0; }", "line 4: expected a register to write to"),
        (".entry k() { mov.b32 ?; }", "line 4: unknown character"),
        (".entry k() { ret }", "line 4: unknown operand; got '}'"),
        (".entry k() { .reg .pred %p; @1 ret; }", "expected a predicate before this"),
        (".entry k() { .reg .pred %p; setp.eq.s32 %p, 1, !1; }", "expected a predicate before this"),
        (".entry k() { ld.param.u64 %l, [1]; }", "unknown operand"),
        (".entry k(.param .align x .b8 a[3]) { }", "expected an integer"),
    ],
)
def test_other_constructs_are_errors_with_their_line(text: str, why: str) -> None:
    with pytest.raises(PtxError, match=re.escape(why)):
        Module(HEADER + text).compile()


def test_entries_of_several_kernels_are_found_and_unused_variables_passed_over() -> None:
    text = ".global .align 4 .u32 M0 = -7;\n.weak .entry a()\n{ ret; }\n.const .b32 x[2] = {1, 2};"
    module = Module(HEADER + text + "\n.visible .entry b(.param .u32 x) { ret; }\0")
    assert [(name, e.parameter_bytes) for name, e in module.entries.items()] == [("a", 0), ("b", 4)]
    with pytest.raises(PtxError, match=r"line 4: expected an operand of type u32, got Name\(name='M0'\)"):
        Module(HEADER + ".global .u32 M0 = 1; .entry k() { .reg .b32 r; mov.u32 r, M0; }").compile()
