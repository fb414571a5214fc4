"""The PTX translator: each instruction against known values, and errors for all that it does not know."""

from __future__ import annotations

import math
import random
import re
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import machine
from cuda_on_cpu.machine import LaunchError, Module, PtxError, Trap
from cuda_on_cpu.table import TABLE, found

HEADER = ".version 8.8\n.target sm_90, texmode_independent\n.address_size 64\n"
WIDTHS = {"p": 8, "h": 16, "w": 32, "l": 64}
NAN = math.nan


def f(x: float) -> int:
    """Bits of a float32."""
    return int(np.float32(x).view(np.uint32))


def d(x: float) -> int:
    """Bits of a float64."""
    return int(np.float64(x).view(np.uint64))


def names_in(statements: str) -> tuple[list[str], list[str]]:
    """(inputs, outputs): registers are named by width, h w l or p, and a letter or `o` and a number."""
    seen = list(dict.fromkeys(re.findall(r"%[phwl](?:[a-e]|o\d?)\b", statements)))
    return [n for n in seen if "o" not in n], [n for n in seen if "o" in n]


def snippet(statements: str, name: str = "k") -> str:
    """A kernel of one thread: loads the inputs, runs the statements, stores the outputs 8 bytes apart."""
    inputs, outputs = names_in(statements)
    lines = [f".visible .entry {name}(", "\t.param .u64 out"]
    lines[-1] += "".join(f",\n\t.param .u64 in_{n[1:]}" for n in inputs) + "\n)\n{"
    for kind, type_name in (("p", "pred"), ("h", "b16"), ("w", "b32"), ("l", "b64")):
        declared = [n for n in inputs + outputs if n[1] == kind]
        if declared:
            lines.append(f"\t.reg .{type_name} {', '.join(declared)};")
    lines.append("\t.reg .b64 %out;\n\t.reg .b32 %flag;\n\tld.param.u64 %out, [out];")
    for n in inputs:
        if n[1] == "p":
            lines.append(f"\tld.param.u32 %flag, [in_{n[1:]}];\n\tsetp.ne.u32 {n}, %flag, 0;")
        else:
            lines.append(f"\tld.param.b{WIDTHS[n[1]]} {n}, [in_{n[1:]}];")
    lines.append(statements)
    for k, n in enumerate(outputs):
        if n[1] == "p":
            lines.append(f"\tselp.u32 %flag, 1, 0, {n};\n\tst.global.u8 [%out+{8 * k}], %flag;")
        else:
            lines.append(f"\tst.global.b{WIDTHS[n[1]]} [%out+{8 * k}], {n};")
    return "\n".join([*lines, "\tret;\n}\n"])


def launched(module: Module, name: str, statements: str, given: tuple[int, ...]) -> tuple[int, ...]:
    inputs, outputs = names_in(statements)
    assert len(given) == len(inputs)
    out = np.zeros(len(outputs), np.uint64)
    args = [struct.pack("<Q", x) for x in (out.ctypes.data, *given)]
    module.launch(name, (1,), (1,), args, memory=[(out.ctypes.data, out.nbytes)])
    return tuple(int(x) for x in out)


@cache
def single(statements: str, flush: bool = False) -> Module:
    return Module(HEADER + snippet(statements), flush=flush)


def evaluated(statements: str, *given: int, flush: bool = False) -> tuple[int, ...]:
    return launched(single(statements, flush), "k", statements, given)


# (statements, [(inputs in order of appearance, outputs in order of appearance), ...])
KNOWN: list[tuple[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]] = [
    # integer sums
    ("add.s16 %ho, %ha, %hb;", [((0x7FFF, 1), (0x8000,)), ((0xFFFF, 2), (1,))]),
    ("add.s32 %wo, %wa, %wb;", [((0x7FFFFFFF, 1), (0x80000000,)), ((0xFFFFFFFF, 1), (0,))]),
    ("add.u64 %lo, %la, %lb;", [((2**64 - 1, 5), (4,)), ((2**32 - 1, 1), (2**32,))]),
    ("add.s64 %lo, %la, -8;", [((3,), (2**64 - 5,))]),
    ("add.s32 %wo, %wa, 0xFFFFFFFF;", [((3,), (2,))]),
    ("sub.u32 %wo, %wa, %wb;", [((3, 5), (0xFFFFFFFE,))]),
    ("sub.s64 %lo, %la, %lb;", [((3, 5), (2**64 - 2,))]),
    (
        "add.cc.u32 %wo, %wa, %wb;\naddc.u32 %wo1, %wc, %wd;",
        [((0xFFFFFFFF, 1, 5, 6), (0, 12)), ((0xFFFFFFFE, 1, 5, 6), (0xFFFFFFFF, 11))],
    ),
    (
        "add.cc.s64 %lo, %la, %lb;\naddc.cc.s64 %lo1, %lc, 0;\naddc.s64 %lo2, 0, 0;",
        [((2**64 - 1, 1, 2**64 - 1), (0, 0, 1)), ((2**64 - 1, 1, 7), (0, 8, 0)), ((1, 1, 7), (2, 7, 0))],
    ),
    (
        "sub.cc.u64 %lo, %la, %lb;\nsubc.u64 %lo1, %lc, %ld;",
        [((0, 1, 9, 2), (2**64 - 1, 6)), ((1, 1, 9, 2), (0, 7))],
    ),
    ("sub.cc.u32 %wo, %wa, %wb;\nsubc.u32 %wo1, %wc, 0;", [((0, 1, 0), (0xFFFFFFFF, 0xFFFFFFFF))]),
    # products
    ("mul.lo.s16 %ho, %ha, %hb;", [((0xFFFF, 3), (0xFFFD,)), ((300, 300), (90000 & 0xFFFF,))]),
    (
        "mul.lo.s32 %wo, %wa, %wb;",
        [((0xFFFFFFFF, 3), (0xFFFFFFFD,)), ((70000, 70000), (4900000000 % 2**32,))],
    ),
    ("mul.lo.s64 %lo, %la, %lb;", [((2**64 - 1, 3), (2**64 - 3,)), ((2**40, 2**40 + 1), (2**40,))]),
    ("mul.hi.u32 %wo, %wa, %wb;", [((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFE,)), ((2**16, 2**17), (2,))]),
    ("mul.hi.s32 %wo, %wa, %wb;", [((0xFFFFFFFF, 0xFFFFFFFF), (0,)), ((0x80000000, 2), (0xFFFFFFFF,))]),
    ("mul.hi.u64 %lo, %la, %lb;", [((2**64 - 1, 2**64 - 1), (2**64 - 2,)), ((2**63, 6), (3,))]),
    ("mul.hi.s64 %lo, %la, %lb;", [((2**64 - 1, 2**64 - 1), (0,)), ((2**63, 2), (2**64 - 1,))]),
    ("mul.hi.u16 %ho, %ha, %hb;", [((0xFFFF, 0xFFFF), (0xFFFE,))]),
    ("mul.wide.u16 %wo, %ha, %hb;", [((0xFFFF, 0xFFFF), (0xFFFE0001,))]),
    ("mul.wide.s16 %wo, %ha, %hb;", [((0xFFFF, 2), (0xFFFFFFFE,))]),
    ("mul.wide.u32 %lo, %wa, %wb;", [((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFE00000001,))]),
    ("mul.wide.u32 %lo, %wa, -766435501;", [((2,), (2 * 0xD2511F53,))]),
    ("mul.wide.s32 %lo, %wa, %wb;", [((0xFFFFFFFF, 5), (2**64 - 5,)), ((0x80000000, 0x80000000), (2**62,))]),
    ("mad.lo.s32 %wo, %wa, %wb, %wc;", [((7, 6, 0xFFFFFFFF), (41,))]),
    ("mad.lo.s64 %lo, %la, %lb, %lc;", [((2**63, 2, 9), (9,))]),
    ("mad.wide.u32 %lo, %wa, %wb, %la;", [((0xFFFFFFFF, 2, 5), (0x200000003,))]),
    ("mad.wide.s32 %lo, %wa, %wb, %la;", [((0xFFFFFFFF, 2, 5), (3,))]),
    ("mad.hi.u32 %wo, %wa, %wb, %wc;", [((2**31, 6, 5), (8,))]),
    ("div.u32 %wo, %wa, %wb;", [((0xFFFFFFFF, 2), (0x7FFFFFFF,))]),
    ("div.s32 %wo, %wa, %wb;", [((0xFFFFFFF9, 2), (0xFFFFFFFD,)), ((0x80000000, 0xFFFFFFFF), (0x80000000,))]),
    ("div.s64 %lo, %la, %lb;", [((2**63, 2**64 - 1), (2**63,))]),
    ("rem.u64 %lo, %la, %lb;", [((2**64 - 1, 10), (5,))]),
    ("rem.s32 %wo, %wa, %wb;", [((0xFFFFFFF9, 2), (0xFFFFFFFF,))]),
    # signs and ends
    ("neg.s32 %wo, %wa;", [((1,), (0xFFFFFFFF,)), ((0x80000000,), (0x80000000,))]),
    ("neg.s64 %lo, %la;", [((1,), (2**64 - 1,))]),
    ("abs.s32 %wo, %wa;", [((0xFFFFFFFB,), (5,)), ((5,), (5,))]),
    ("min.s32 %wo, %wa, %wb;", [((0xFFFFFFFF, 1), (0xFFFFFFFF,))]),
    ("min.u32 %wo, %wa, %wb;", [((0xFFFFFFFF, 1), (1,))]),
    ("max.s64 %lo, %la, %lb;", [((2**64 - 1, 1), (1,))]),
    ("max.u64 %lo, %la, %lb;", [((2**64 - 1, 1), (2**64 - 1,))]),
    ("clz.b32 %wo, %wa;", [((0,), (32,)), ((1,), (31,)), ((0x80000000,), (0,))]),
    ("clz.b64 %wo, %la;", [((0,), (64,)), ((2**32,), (31,))]),
    # logic
    ("and.b16 %ho, %ha, 255;", [((0xABCD,), (0xCD,))]),
    ("and.b64 %lo, %la, -4294967296;", [((0x123456789ABCDEF0,), (0x1234567800000000,))]),
    ("or.b32 %wo, %wa, %wb;", [((0xF0F0F0F0, 0x0FF00000), (0xFFF0F0F0,))]),
    ("xor.b64 %lo, %la, %lb;", [((0xFF, 2**63 + 1), (2**63 + 0xFE,))]),
    ("not.b16 %ho, %ha;", [((0xFF00,), (0x00FF,))]),
    ("not.b32 %wo, %wa;", [((0xFF00,), (0xFFFF00FF,))]),
    ("not.b64 %lo, %la;", [((0,), (2**64 - 1,))]),
    ("and.pred %po, %pa, %pb;", [((1, 1), (1,)), ((1, 0), (0,))]),
    ("or.pred %po, %pa, %pb;", [((0, 0), (0,)), ((1, 0), (1,))]),
    ("xor.pred %po, %pa, %pb;", [((1, 1), (0,)), ((1, 0), (1,))]),
    ("not.pred %po, %pa;", [((1,), (0,)), ((0,), (1,))]),
    ("lop3.b32 %wo, %wa, %wb, %wc, 0x96;", [((0xFF00FF00, 0xF0F0F0F0, 0xCCCCCCCC), (0xC33CC33C,))]),
    ("lop3.b32 %wo, %wa, %wb, %wc, 0;", [((1, 2, 3), (0,))]),
    ("lop3.b32 %wo, %wa, 5, 6, 255;", [((1,), (0xFFFFFFFF,))]),
    # shifts: counts are unsigned, and those beyond the width leave nothing, or the sign
    ("shl.b16 %ho, %ha, %wa;", [((0x8001, 1), (2,)), ((1, 15), (0x8000,)), ((1, 16), (0,))]),
    ("shl.b32 %wo, %wa, %wb;", [((3, 31), (0x80000000,)), ((3, 32), (0,)), ((3, 2**32 - 1), (0,))]),
    ("shl.b64 %lo, %la, %wa;", [((3, 63), (2**63,)), ((3, 64), (0,)), ((3, 33), (3 << 33,))]),
    ("shr.u16 %ho, %ha, %wa;", [((0x8000, 15), (1,)), ((0x8000, 16), (0,))]),
    ("shr.s16 %ho, %ha, %wa;", [((0x8000, 3), (0xF000,)), ((0x8000, 99), (0xFFFF,))]),
    ("shr.u32 %wo, %wa, %wb;", [((0x80000000, 31), (1,)), ((0x80000000, 32), (0,))]),
    ("shr.b32 %wo, %wa, 4;", [((0xF0000000,), (0x0F000000,))]),
    ("shr.s32 %wo, %wa, %wb;", [((0x80000000, 4), (0xF8000000,)), ((0x80000000, 40), (0xFFFFFFFF,))]),
    ("shr.u64 %lo, %la, %wa;", [((2**63, 63), (1,)), ((2**63, 64), (0,))]),
    ("shr.s64 %lo, %la, %wa;", [((2**63, 62), (2**64 - 2,)), ((2**63, 200), (2**64 - 1,)), ((5, 70), (0,))]),
    ("shf.l.wrap.b32 %wo, %wa, %wb, %wc;", [((0x89ABCDEF, 0x01234567, 36), (0x12345678,))]),
    ("shf.l.clamp.b32 %wo, %wa, %wb, %wc;", [((0x89ABCDEF, 0x01234567, 36), (0x89ABCDEF,))]),
    ("shf.r.wrap.b32 %wo, %wa, %wb, %wc;", [((0x89ABCDEF, 0x01234567, 36), (0x789ABCDE,))]),
    ("shf.r.clamp.b32 %wo, %wa, %wb, %wc;", [((0x89ABCDEF, 0x01234567, 33), (0x01234567,))]),
    ("shf.r.wrap.b32 %wo, %wa, %wb, 0;", [((0x89ABCDEF, 0x01234567), (0x89ABCDEF,))]),
    # fields
    ("prmt.b32 %wo, %wa, %wb, 0x7531;", [((0x33221100, 0x77665544), (0x77553311,))]),
    (
        "prmt.b32 %wo, %wa, %wb, %wc;",
        [((0x8070FF01, 0, 0xBA98), (0xFF00FF00,)), ((1, 0xAB, 0x4), (0x010101AB,))],
    ),
    ("bfe.u32 %wo, %wa, %wb, %wc;", [((0xABCDEF12, 8, 12), (0xDEF,)), ((5, 40, 3), (0,)), ((9, 0, 0), (0,))]),
    ("bfe.s32 %wo, %wa, 8, 12;", [((0xABCDEF12,), (0xFFFFFDEF,)), ((0x00070012,), (0x700,))]),
    (
        "bfe.s32 %wo, %wa, %wb, %wc;",
        [((0x80000000, 30, 8), (0xFFFFFFFE,)), ((0x80000000, 40, 1), (0xFFFFFFFF,))],
    ),
    ("bfe.u64 %lo, %la, 4, 40;", [((0x123456789ABCDEF0,), (0x6789ABCDEF,))]),
    ("bfe.s64 %lo, %la, 63, 1;", [((2**63,), (2**64 - 1,))]),
    ("bfi.b32 %wo, %wa, %wb, 8, 12;", [((0xFFFFF123, 0xABCDEF12), (0xABC12312,))]),
    ("bfi.b32 %wo, %wa, %wb, %wc, %wd;", [((1, 0x55, 4, 0), (0x55,)), ((7, 0, 31, 9), (0x80000000,))]),
    ("bfi.b64 %lo, %la, %lb, 60, 4;", [((0x1B, 5), ((0xB << 60) + 5,))]),
    # selections
    ("selp.b32 %wo, %wa, %wb, %pa;", [((1, 2, 1), (1,)), ((1, 2, 0), (2,))]),
    ("selp.f32 %wo, %wa, 0f3F800000, %pa;", [((5, 1), (5,)), ((5, 0), (f(1.0),))]),
    ("selp.f64 %lo, 0dC000000000000000, %la, %pa;", [((5, 1), (d(-2.0),)), ((5, 0), (5,))]),
    ("selp.b16 %ho, %ha, -1, %pa;", [((5, 0), (0xFFFF,))]),
    ("selp.s64 %lo, %la, %lb, %pa;", [((2**64 - 1, 0, 1), (2**64 - 1,))]),
    # comparisons of integers
    ("setp.lt.s32 %po, %wa, %wb;", [((0xFFFFFFFF, 0), (1,)), ((0, 0), (0,))]),
    ("setp.lt.u32 %po, %wa, %wb;", [((0xFFFFFFFF, 0), (0,)), ((0, 1), (1,))]),
    ("setp.ge.u64 %po, %la, %lb;", [((2**63, 1), (1,)), ((0, 1), (0,))]),
    ("setp.gt.s64 %po, %la, -1;", [((2**63,), (0,)), ((0,), (1,))]),
    ("setp.le.s16 %po, %ha, %hb;", [((0xFFFF, 0), (1,))]),
    ("setp.eq.b32 %po, %wa, %wb;", [((5, 5), (1,)), ((5, 6), (0,))]),
    ("setp.ne.s64 %po, %la, 0;", [((2**32,), (1,)), ((0,), (0,))]),
    ("setp.hs.u32 %po, %wa, %wb;", [((5, 5), (1,)), ((4, 5), (0,))]),
    ("setp.ls.u32 %po, %wa, %wb;", [((5, 5), (1,)), ((6, 5), (0,))]),
    ("setp.lo.u64 %po, %la, %lb;", [((5, 5), (0,)), ((4, 5), (1,))]),
    ("setp.hi.u16 %po, %ha, %hb;", [((0xFFFF, 5), (1,)), ((5, 5), (0,))]),
    ("setp.lt.s32 %po|%po1, %wa, %wb;", [((0xFFFFFFFF, 0), (1, 0)), ((1, 0), (0, 1))]),
    ("setp.eq.and.s32 %po, %wa, 0, %pa;", [((0, 1), (1,)), ((0, 0), (0,)), ((1, 1), (0,))]),
    ("setp.eq.or.s32 %po|%po1, %wa, 0, !%pa;", [((1, 1), (0, 1)), ((1, 0), (1, 1)), ((0, 1), (1, 0))]),
    ("setp.eq.xor.s32 %po, %wa, 0, %pa;", [((0, 1), (0,)), ((1, 1), (1,))]),
    # conversions of integers: narrower sources are the low bits, wider registers are filled up
    ("cvt.u32.u64 %wo, %la;", [((0x123456789,), (0x23456789,))]),
    ("cvt.u64.u32 %lo, %wa;", [((0xFFFFFFFF,), (0xFFFFFFFF,))]),
    ("cvt.s64.s32 %lo, %wa;", [((0xFFFFFFFF,), (2**64 - 1,))]),
    ("cvt.u16.u32 %ho, %wa;", [((0x12345678,), (0x5678,))]),
    ("cvt.s32.s8 %wo, %wa;", [((0x1280,), (0xFFFFFF80,))]),
    ("cvt.u32.u8 %wo, %ha;", [((0x1280,), (0x80,))]),
    ("cvt.s16.s8 %ho, %ha;", [((0x0080,), (0xFF80,))]),
    ("cvt.u8.u32 %ho, %wa;", [((0x12345678,), (0x78,))]),
    ("cvt.s64.s16 %lo, %ha;", [((0x8000,), (2**64 - 0x8000,))]),
    ("cvt.u32.s16 %wo, %ha;", [((0x8000,), (0xFFFF8000,))]),
    # between integers and floats
    ("cvt.rn.f32.s32 %wo, %wa;", [((0xFFFFFFFF,), (f(-1.0),)), ((16777217,), (f(16777216.0),))]),
    ("cvt.rn.f32.u32 %wo, %wa;", [((0xFFFFFFFF,), (f(2.0**32),)), ((16777219,), (f(16777220.0),))]),
    ("cvt.rn.f32.s64 %wo, %la;", [((2**63,), (f(-(2.0**63)),))]),
    # 2^62 + 2^38 + 1 is just above a tie of float32, and on it once it has been rounded to float64
    (
        "cvt.rn.f32.u64 %wo, %la;",
        [((2**62 + 2**38 + 1,), (f(2.0**62 + 2.0**39),)), ((2**64 - 1,), (f(2.0**64),))],
    ),
    ("cvt.rn.f32.u8 %wo, %ha;", [((0x1FF,), (f(255.0),))]),
    ("cvt.rn.f64.s32 %lo, %wa;", [((0x80000000,), (d(-(2.0**31)),))]),
    ("cvt.rn.f64.u32 %lo, %wa;", [((0x80000000,), (d(2.0**31),))]),
    ("cvt.rn.f64.s64 %lo, %la;", [((2**53 + 1,), (d(2.0**53),)), ((2**64 - 1,), (d(-1.0),))]),
    ("cvt.rn.f64.u64 %lo, %la;", [((2**64 - 1,), (d(2.0**64),)), ((2**53 + 3,), (d(2.0**53 + 4),))]),
    (
        "cvt.rzi.s32.f32 %wo, %wa;",
        [
            ((f(-1.9),), (0xFFFFFFFF,)),
            ((f(3e9),), (0x7FFFFFFF,)),
            ((f(-3e9),), (0x80000000,)),
            ((f(NAN),), (0,)),
        ],
    ),
    (
        "cvt.rzi.u32.f32 %wo, %wa;",
        [((f(-1.9),), (0,)), ((f(3e9),), (3000000000,)), ((f(5e9),), (0xFFFFFFFF,))],
    ),
    ("cvt.rni.s32.f32 %wo, %wa;", [((f(2.5),), (2,)), ((f(3.5),), (4,)), ((f(-2.5),), (0xFFFFFFFE,))]),
    (
        "cvt.rmi.s64.f64 %lo, %la;",
        [((d(-0.5),), (2**64 - 1,)), ((d(NAN),), (2**63,)), ((d(1e30),), (2**63 - 1,))],
    ),
    ("cvt.rpi.u64.f64 %lo, %la;", [((d(0.5),), (1,)), ((d(1e30),), (2**64 - 1,)), ((d(-3.0),), (0,))]),
    ("cvt.rni.f32.f32 %wo, %wa;", [((f(2.5),), (f(2.0),)), ((f(-0.25),), (f(-0.0),))]),
    ("cvt.rzi.f64.f64 %lo, %la;", [((d(-2.75),), (d(-2.0),))]),
    ("cvt.rmi.f32.f32 %wo, %wa;", [((f(-2.5),), (f(-3.0),))]),
    (
        "cvt.sat.f32.f32 %wo, %wa;",
        [((f(x),), (f(y),)) for x, y in ((-2.0, 0.0), (-0.0, 0.0), (0.25, 0.25), (1.5, 1.0), (NAN, 0.0))],
    ),
    ("cvt.rpi.f32.f32 %wo, %wa;", [((f(2.25),), (f(3.0),))]),
    ("cvt.f64.f32 %lo, %wa;", [((f(0.1),), (d(float(np.float32(0.1))),)), ((1,), (d(2.0**-149),))]),
    (
        "cvt.rn.f32.f64 %wo, %la;",
        [((d(1 + 2.0**-24),), (f(1.0),)), ((d(1 + 3 * 2.0**-24),), (f(1 + 2.0**-22),))],
    ),
    ("cvt.rn.f16.f32 %ho, %wa;", [((f(1 + 2.0**-11),), (0x3C00,)), ((f(1 + 3 * 2.0**-11),), (0x3C02,))]),
    (
        "cvt.rn.f16.f32 %ho, %wa;",
        [((f(2.0**-25),), (0,)), ((f(3 * 2.0**-25),), (2,)), ((f(7e4),), (0x7C00,))],
    ),
    (
        "cvt.rn.bf16.f32 %ho, %wa;",
        [((0x3F808000,), (0x3F80,)), ((0x3F818000,), (0x3F82,)), ((f(NAN),), (0x7FFF,))],
    ),
    ("cvt.rn.bf16x2.f32 %wo, %wa, %wb;", [((f(-1.0), f(2.0)), (0xBF804000,))]),
    ("cvt.rn.f16x2.f32 %wo, %wa, %wb;", [((f(-1.0), f(2.0)), (0xBC004000,))]),
    ("cvt.rn.satfinite.e4m3x2.f32 %ho, %wa, %wb;", [((f(-1.0), f(500.0)), (0xB87E,))]),
    ("cvt.rn.satfinite.e5m2x2.f32 %ho, %wa, %wb;", [((f(1.0), f(-1e6)), (0x3CFB,))]),
    ("cvt.f32.f16 %wo, %ha;", [((0x0001,), (f(2.0**-24),)), ((0xC000,), (f(-2.0),))]),
    ("cvt.f32.bf16 %wo, %ha;", [((0xC000,), (f(-2.0),))]),
    # floats: each one IEEE operation, rounded to nearest even
    (
        "add.rn.f32 %wo, %wa, %wb;",
        [((f(1.0), f(2.0**-24)), (f(1.0),)), ((f(1.0), f(3 * 2.0**-24)), (f(1 + 2.0**-22),))],
    ),
    (
        "sub.rn.f32 %wo, %wa, %wb;",
        [((f(1.0), f(1.0)), (0,)), ((f(0.1), f(0.3)), (f(np.float32(0.1) - np.float32(0.3)),))],
    ),
    (
        "mul.rn.f32 %wo, %wa, %wb;",
        [((0x3F800001, 0x3F800001), (0x3F800002,)), ((f(1e-30), f(1e-10)), (71362,))],
    ),
    ("mul.rn.f32 %wo, %wa, 0fBF800000;", [((f(3.0),), (f(-3.0),))]),
    ("div.rn.f32 %wo, %wa, %wb;", [((f(1.0), f(3.0)), (0x3EAAAAAB,)), ((f(-1.0), 0), (f(-math.inf),))]),
    ("fma.rn.f32 %wo, %wa, %wb, %wc;", [((0x3F800001, 0x3F800001, f(-1 - 2.0**-22)), (f(2.0**-46),))]),
    (
        "mul.rn.f32 %wo1, %wa, %wb;\nadd.rn.f32 %wo, %wo1, %wc;",
        [((0x3F800001, 0x3F800001, f(-1 - 2.0**-22)), (0x3F800002, 0))],
    ),
    ("sqrt.rn.f32 %wo, %wa;", [((f(2.0),), (0x3FB504F3,)), ((0x80000000,), (0x80000000,))]),
    ("rcp.rn.f32 %wo, %wa;", [((f(3.0),), (0x3EAAAAAB,))]),
    ("neg.f32 %wo, %wa;", [((0,), (0x80000000,)), ((f(-2.0),), (f(2.0),))]),
    ("abs.f32 %wo, %wa;", [((0x80000000,), (0,)), ((f(2.0),), (f(2.0),))]),
    ("min.f32 %wo, %wa, %wb;", [((f(NAN), f(1.0)), (f(1.0),)), ((0, 0x80000000), (0x80000000,))]),
    (
        "max.f32 %wo, %wa, %wb;",
        [((f(1.0), f(NAN)), (f(1.0),)), ((0x80000000, 0), (0,)), ((f(1.0), f(2.0)), (f(2.0),))],
    ),
    ("add.rn.f64 %lo, %la, %lb;", [((d(0.1), d(0.2)), (d(0.1 + 0.2),)), ((d(1.0), d(2.0**-53)), (d(1.0),))]),
    ("sub.rn.f64 %lo, %la, %lb;", [((d(0.3), d(0.1)), (d(0.3 - 0.1),))]),
    ("mul.rn.f64 %lo, %la, %lb;", [((d(0.1), d(0.1)), (d(0.1 * 0.1),))]),
    ("div.rn.f64 %lo, %la, 0d4008000000000000;", [((d(1.0),), (d(1 / 3),))]),
    (
        "fma.rn.f64 %lo, %la, %lb, %lc;",
        [((d(1 + 2.0**-52), d(1 + 2.0**-52), d(-1 - 2.0**-51)), (d(2.0**-104),))],
    ),
    ("sqrt.rn.f64 %lo, %la;", [((d(2.0),), (d(math.sqrt(2.0)),))]),
    ("rcp.rn.f64 %lo, %la;", [((d(3.0),), (d(1 / 3),))]),
    ("neg.f64 %lo, %la;", [((0,), (2**63,))]),
    ("abs.f64 %lo, %la;", [((d(-2.0),), (d(2.0),))]),
    ("min.f64 %lo, %la, %lb;", [((d(-1.0), d(1.0)), (d(-1.0),))]),
    ("max.f64 %lo, %la, %lb;", [((d(-1.0), d(NAN)), (d(-1.0),))]),
    # moves
    ("mov.u32 %wo, -2;", [((), (0xFFFFFFFE,))]),
    ("mov.f32 %wo, 0f3F800000;", [((), (f(1.0),))]),
    ("mov.b32 %wo, 0f3F800000;", [((), (f(1.0),))]),
    ("mov.f64 %lo, 0dBFF0000000000000;", [((), (d(-1.0),))]),
    ("mov.b16 %ho, -1;", [((), (0xFFFF,))]),
    ("mov.pred %po, %pa;", [((1,), (1,)), ((0,), (0,))]),
    ("mov.pred %po, 1;", [((), (1,))]),
    ("mov.b64 %lo, {%wa, %wb};", [((1, 2), (0x200000001,))]),
    ("mov.b32 %wo, {%ha, %hb};", [((1, 0x8002), (0x80020001,))]),
    ("mov.b64 %lo, {%ha, %hb, %hc, %hd};", [((1, 2, 3, 4), (0x0004000300020001,))]),
    ("mov.b64 {%wo, %wo1}, %la;", [((0x500000004,), (4, 5))]),
    ("mov.b64 {_, %wo}, %la;", [((0x500000004,), (5,))]),
    ("mov.b32 {%ho, %ho1}, %wa;", [((0xABCD1234,), (0x1234, 0xABCD))]),
    ("cvta.to.global.u64 %lo, %la;", [((12345,), (12345,))]),
    # control
    ("mov.u32 %wo, 1;\n@%pa mov.u32 %wo, 2;", [((1,), (2,)), ((0,), (1,))]),
    ("mov.u32 %wo, 1;\n@!%pa mov.u32 %wo, 2;", [((1,), (1,)), ((0,), (2,))]),
    ("mov.u32 %wo, 1;\n@%pa bra $L__1;\nmov.u32 %wo, 2;\n$L__1:", [((1,), (1,)), ((0,), (2,))]),
    ("mov.u32 %wo, 0;\nbra.uni B;\nA: add.s32 %wo, %wo, 100;\nB: add.s32 %wo, %wo, 1;", [((), (1,))]),
    (
        "mov.u32 %wo, 0;\nmov.u32 %wo1, 0;\nA:\nadd.s32 %wo, %wo, %wo1;\nadd.s32 %wo1, %wo1, 1;\n"
        "setp.lt.u32 %po, %wo1, %wa;\n@%po bra A;",
        [((5,), (10, 5, 0))],
    ),
    ("{ .reg .b32 t<2>; .reg .pred q; mov.u32 t1, 7; add.s32 %wo, t1, %wa; }", [((1,), (8,))]),
    (
        '{\n.reg .b32 %flag;\nmov.u32 %flag, 7;\n}\nmov.u32 %wo, 1; // {\n/* } */ .pragma "nounroll";',
        [((), (1,))],
    ),
]
TESTED = {opcode for text, _ in KNOWN for opcode in re.findall(r"\b[a-z]\w*(?:\.\w+)*", text)}


@cache
def known_module() -> Module:
    module = Module(HEADER + "".join(snippet(text, f"k{n}") for n, (text, _) in enumerate(KNOWN)))
    module.compile(workers=2)
    return module


@pytest.mark.parametrize("number", range(len(KNOWN)), ids=[text.split(";")[0] for text, _ in KNOWN])
def test_instructions_give_known_values(number: int) -> None:
    statements, examples = KNOWN[number]
    for given, expected in examples:
        assert launched(known_module(), f"k{number}", statements, given) == expected, given


def test_every_handler_has_a_known_value() -> None:
    used = {made[0] for opcode in TESTED if (made := found(opcode))} | {
        found("ld.param.u64")[0],  # type: ignore[index]
        found("ld.global.u64")[0],  # type: ignore[index]
        found("st.global.u64")[0],  # type: ignore[index]
        found("ret")[0],  # type: ignore[index]
    }
    assert {handler for _, handler in TABLE} == used


EDGES = (0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 2**31 - 1, 2**31, 2**32 - 1)


def numbers(count: int, width: int, seed: str) -> list[int]:
    chance = random.Random(seed)
    return [chance.choice([*EDGES, chance.getrandbits(width)]) % 2**width for _ in range(count)]


def signed(x: int, n: int) -> int:
    return x - (x >> (n - 1) << n)


def bfe(a: int, position: int, length: int, n: int, is_signed: bool) -> int:
    """The loop of the PTX manual, bit by bit."""
    position, length = position & 255, length & 255
    top = min(position + length - 1, n - 1)
    sign = a >> top & 1 if is_signed and length else 0
    found = [a >> (position + k) & 1 if k < length and position + k < n else sign for k in range(n)]
    return sum(bit << k for k, bit in enumerate(found))


def bfi(a: int, b: int, position: int, length: int, n: int) -> int:
    position, length = position & 255, length & 255
    for k in range(length):
        if position + k < n:
            b = b & ~(1 << (position + k)) | (a >> k & 1) << (position + k)
    return b


@pytest.mark.parametrize("n", [32, 64])
@pytest.mark.parametrize("kind", "us")
def test_bit_fields_are_the_manuals_loop(n: int, kind: str) -> None:
    register = "w" if n == 32 else "l"
    extract = f"bfe.{kind}{n} %{register}o, %{register}a, %wb, %wc;"
    insert = f"bfi.b{n} %{register}o, %{register}a, %{register}e, %wb, %wc;"
    values = zip(*(numbers(300, w, f"{k}{n}{kind}") for k, w in enumerate((n, n, 8, 8))), strict=True)
    for a, b, position, length in values:
        assert evaluated(extract, a, position, length) == (bfe(a, position, length, n, kind == "s"),)
        assert evaluated(insert, a, b, position, length) == (bfi(a, b, position, length, n),)


@pytest.mark.parametrize("table", [0x96, 0xE8, 0xCA, 0x01, 0x80, 0x7F, 0x5A, 0xF8])
def test_lop3_is_its_truth_table(table: int) -> None:
    a, b, c = 0xF0, 0xCC, 0xAA  # whose bits are all combinations: the result is the table itself
    assert evaluated(f"lop3.b32 %wo, %wa, %wb, %wc, {table:#x};", a, b, c)[0] & 0xFF == table


@pytest.mark.parametrize("side", "lr")
@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts_at_every_count(side: str, mode: str) -> None:
    low, high = 0x89ABCDEF, 0x01234567
    for by in (*range(70), 2**32 - 1):
        count = by % 32 if mode == "wrap" else min(by, 32)
        both = high << 32 | low
        expected = both << count >> 32 if side == "l" else both >> count
        statement = f"shf.{side}.{mode}.b32 %wo, %wa, %wb, %wc;"
        assert evaluated(statement, low, high, by) == (expected % 2**32,)


def test_prmt_at_random() -> None:
    for a, b, selector in zip(*(numbers(300, 32, f"prmt{k}") for k in range(3)), strict=True):
        given = struct.pack("<II", a, b)
        nibbles = [selector >> 4 * k & 15 for k in range(4)]
        picked = [given[x & 7] if x < 8 else 255 * (given[x & 7] >> 7) for x in nibbles]
        expected = int.from_bytes(bytes(picked), "little")
        assert evaluated("prmt.b32 %wo, %wa, %wb, %wc;", a, b, selector) == (expected,)


@pytest.mark.parametrize("n", [16, 32, 64])
@pytest.mark.parametrize("kind", "us")
def test_products_at_random(n: int, kind: str) -> None:
    small, large = {16: "hw", 32: "wl", 64: "l_"}[n]
    for a, b in zip(numbers(200, n, f"a{n}{kind}"), numbers(200, n, f"b{n}{kind}"), strict=True):
        exact = signed(a, n) * signed(b, n) if kind == "s" else a * b
        for part, value, out in (("lo", exact, small), ("hi", exact >> n, small), ("wide", exact, large)):
            if out == "_":
                continue
            width = WIDTHS[out]
            statement = f"mul.{part}.{kind}{n} %{out}o, %{small}a, %{small}b;"
            assert evaluated(statement, a, b) == (value % 2**width,), statement


UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge", *UNORDERED, "num", "nan"])
@pytest.mark.parametrize("t", ["f32", "f64"])
def test_float_comparisons_with_and_without_nan(name: str, t: str) -> None:
    """Ordered ones are false if an operand is a NaN, unordered ones true; -0 equals 0."""
    bits, register = (f, "w") if t == "f32" else (d, "l")
    for a in (-1.0, -0.0, 0.0, 2.5, math.inf, NAN):
        for b in (-1.0, 0.0, 3.0, -math.inf, NAN):
            unordered = math.isnan(a) or math.isnan(b)
            holds = {
                "eq": a == b,
                "ne": a != b,
                "lt": a < b,
                "le": a <= b,
                "gt": a > b,
                "ge": a >= b,
                "num": not unordered,
                "nan": unordered,
            }
            expected = holds[UNORDERED.get(name, name)]
            if unordered and name not in ("num", "nan"):
                expected = name in UNORDERED
            statement = f"setp.{name}.{t} %po, %{register}a, %{register}b;"
            assert evaluated(statement, bits(a), bits(b)) == (expected,), (a, b)


# Subnormals -------------------------------------------------------------------------------------------------

SMALL = 0x00400000  # 2^-127
LEAST = f(2.0**-126)
FLUSHED = [
    ("add.rn{}.f32 %wo, %wa, %wb;", (SMALL, SMALL), LEAST, 0),
    ("add.rn{}.f32 %wo, %wa, %wb;", (0x80000000 + SMALL, 0x80000000), 0x80000000 + SMALL, 0x80000000),
    ("sub.rn{}.f32 %wo, %wa, %wb;", (LEAST, f(2.0**-126 * 0.5)), SMALL, LEAST),
    ("sub.rn{}.f32 %wo, %wa, %wb;", (f(1.5 * 2.0**-126), LEAST), SMALL, 0),
    ("mul.rn{}.f32 %wo, %wa, %wb;", (LEAST, f(-0.5)), 0x80000000 + SMALL, 0x80000000),
    ("div.rn{}.f32 %wo, %wa, %wb;", (LEAST, f(2.0)), SMALL, 0),
    ("fma.rn{}.f32 %wo, %wa, %wb, %wc;", (LEAST, f(0.25), SMALL // 2), SMALL, 0),
    ("sqrt.rn{}.f32 %wo, %wa;", (0x00200000,), f(2.0**-64), 0),
    ("rcp.rn{}.f32 %wo, %wa;", (f(2.0**127),), SMALL, 0),
    ("neg{}.f32 %wo, %wa;", (SMALL,), 0x80000000 + SMALL, 0x80000000),
    ("abs{}.f32 %wo, %wa;", (0x80000000 + SMALL,), SMALL, 0),
    ("min{}.f32 %wo, %wa, %wb;", (SMALL, f(1.0)), SMALL, 0),
    ("max{}.f32 %wo, %wa, %wb;", (SMALL, 0), SMALL, 0),
    ("setp.gt{}.f32 %po, %wa, %wb;", (SMALL, 0), 1, 0),
    ("cvt{}.f64.f32 %lo, %wa;", (SMALL,), d(2.0**-127), 0),
    ("cvt.rn{}.f32.f64 %wo, %la;", (d(2.0**-127),), SMALL, 0),
    ("cvt.rpi{}.f32.f32 %wo, %wa;", (SMALL,), f(1.0), 0),
    ("cvt{}.sat.f32.f32 %wo, %wa;", (SMALL,), SMALL, 0),
    ("cvt.rpi{}.s32.f32 %wo, %wa;", (SMALL,), 1, 0),
]


@pytest.mark.parametrize("case", FLUSHED, ids=[text for text, *_ in FLUSHED])
def test_ftz_flushes_operands_and_results_by_modifier_or_by_force(case: tuple[str, Any, int, int]) -> None:
    text, given, kept, flushed = case
    assert evaluated(text.format(""), *given) == (kept,)
    assert evaluated(text.format(".ftz"), *given) == (flushed,)
    assert evaluated(text.format(""), *given, flush=True) == (flushed,)


def test_force_leaves_float64_moves_selections_and_integers_alone() -> None:
    assert evaluated("add.rn.f64 %lo, %la, %lb;", 1, 2, flush=True) == (3,)
    assert evaluated("mov.f32 %wo, %wa;", SMALL, flush=True) == (SMALL,)
    assert evaluated("selp.f32 %wo, %wa, %wb, %pa;", SMALL, 0, 1, flush=True) == (SMALL,)
    assert evaluated("add.s32 %wo, %wa, %wb;", SMALL, 1, flush=True) == (SMALL + 1,)


# Memory -----------------------------------------------------------------------------------------------------


def kernel(body: str, parameters: str = ".param .u64 a") -> Module:
    registers = ".reg .pred %p<4>; .reg .b16 %h<9>;\n.reg .b32 %r<9>;\n.reg .b64 %l<9>;\n"
    return Module(f"{HEADER}.visible .entry k({parameters})\n{{\n{registers}{body}\nret;\n}}\n")


def address(memory: np.ndarray, offset: int = 0) -> bytes:
    return struct.pack("<Q", memory.ctypes.data + offset)


def aligned(count: int) -> np.ndarray:
    memory = np.zeros(count + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + count]


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


# Launches ---------------------------------------------------------------------------------------------------

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


# Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "add.f32 %r1, %r2, %r3;",  # ptxas may fuse a sum without .rn
        "mul.f64 %l1, %l2, %l3;",
        "add.rz.f32 %r1, %r2, %r3;",
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


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_bytes_of_floats_are_rounded_to_nearest_even_and_saturated(name: str) -> None:
    import ml_dtypes

    dtype = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[name]
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    values = np.unique(values[np.isfinite(values)])
    between = (values[1:] + values[:-1]) / 2
    near = [np.nextafter(between, sign * np.float32(np.inf)) for sign in (-1, 1)]
    for x in (*values, *between, *near[0], *near[1], np.float32(1e-30), np.float32(1e9), np.float32(-np.inf)):
        expected = int(np.clip(x, -largest, largest).astype(dtype).view(np.uint8))
        statement = f"cvt.rn.satfinite.{name}x2.f32 %ho, %wa, %wb;"
        assert evaluated(statement, f(x), f(1.0)) == (expected << 8 | evaluated(statement, 0, f(1.0))[0],), x
    assert evaluated(statement, f(NAN), 0x80000000) == (0x7F80,)
