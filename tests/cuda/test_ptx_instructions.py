"""The PTX translator's instructions: each against known values, and several at random."""

from __future__ import annotations

import math
import random
import re
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu.known_values import KNOWN
from cuda_on_cpu.machine import Module
from cuda_on_cpu.snippets import HEADER, NAN, WIDTHS, compile_together, d, evaluated, f, launched, snippet
from cuda_on_cpu.table import TABLE, found

TESTED = {opcode for text, _ in KNOWN for opcode in re.findall(r"\b[a-z]\w*(?:\.\w+)*", text)}


@cache
def known_module() -> Module:
    module = Module(HEADER + "".join(snippet(text, f"k{n}") for n, (text, _) in enumerate(KNOWN)))
    module.compile()
    return module


@pytest.fixture(scope="module", autouse=True)
def compiled_together() -> None:
    """What all tests below evaluate."""
    comparisons = [f"setp.{name}.{t} %po, %{r}a, %{r}b;" for name in COMPARED for t, r in FLOATS.items()]
    shifts = [f"shf.{side}.{mode}.b32 %wo, %wa, %wb, %wc;" for side in "lr" for mode in ("wrap", "clamp")]
    logic = [f"lop3.b32 %wo, %wa, %wb, %wc, {table:#x};" for table in TABLES]
    flushed = [text.format(ftz) for text, *_ in FLUSHED for ftz in ("", ".ftz")]
    compile_together([*comparisons, *shifts, *logic, *flushed, *PRODUCTS.values(), *CONVERSIONS.values()])


def test_instructions_give_known_values() -> None:
    for number, (statements, examples) in enumerate(KNOWN):
        for given, expected in examples:
            assert launched(known_module(), f"k{number}", statements, given) == expected, (statements, given)


def test_every_handler_has_a_known_value() -> None:
    used = {made[0] for opcode in TESTED if (made := found(opcode))} | {
        found("ld.param.u64")[0],  # type: ignore[index]
        found("ld.global.u64")[0],  # type: ignore[index]
        found("st.global.u64")[0],  # type: ignore[index]
        found("ret")[0],  # type: ignore[index]
        found("atom.global.add.u64")[0],  # type: ignore[index]  test_ptx_memory.py
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


TABLES = (0x96, 0xE8, 0xCA, 0x01, 0x80, 0x7F, 0x5A, 0xF8)


@pytest.mark.parametrize("table", TABLES)
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


REGISTERS = {16: "hw", 32: "wl", 64: "l_"}
PRODUCTS = {
    (n, kind, part): f"mul.{part}.{kind}{n} %{out}o, %{REGISTERS[n][0]}a, %{REGISTERS[n][0]}b;"
    for n in REGISTERS
    for kind in "us"
    for part, out in (("lo", REGISTERS[n][0]), ("hi", REGISTERS[n][0]), ("wide", REGISTERS[n][1]))
    if out != "_"
}


@pytest.mark.parametrize("n", REGISTERS)
@pytest.mark.parametrize("kind", "us")
def test_products_at_random(n: int, kind: str) -> None:
    small, large = REGISTERS[n]
    for a, b in zip(numbers(200, n, f"a{n}{kind}"), numbers(200, n, f"b{n}{kind}"), strict=True):
        exact = signed(a, n) * signed(b, n) if kind == "s" else a * b
        for part, value, out in (("lo", exact, small), ("hi", exact >> n, small), ("wide", exact, large)):
            if out == "_":
                continue
            width = WIDTHS[out]
            statement = PRODUCTS[n, kind, part]
            assert evaluated(statement, a, b) == (value % 2**width,), statement


UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}


COMPARED = ("eq", "ne", "lt", "le", "gt", "ge", *UNORDERED, "num", "nan")
FLOATS = {"f32": "w", "f64": "l"}


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("t", FLOATS)
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


CONVERSIONS = {name: f"cvt.rn.satfinite.{name}x2.f32 %ho, %wa, %wb;" for name in ("e4m3", "e5m2")}


@pytest.mark.parametrize("name", CONVERSIONS)
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
        statement = CONVERSIONS[name]
        assert evaluated(statement, f(x), f(1.0)) == (expected << 8 | evaluated(statement, 0, f(1.0))[0],), x
    assert evaluated(statement, f(NAN), 0x80000000) == (0x7F80,)
