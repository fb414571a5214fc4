"""docs/stream.md is complete: its constants are the code's, a program written from it draws the same bits."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fanfill as ff
from fanfill.distributions import DISTRIBUTIONS
from fanfill.dtypes import STORAGES
from fanfill.recipes import _LIMITS
from fanfill.structures import STRUCTURES
from fanfill_kernels import arithmetic, arithmetic64, narrow, philox

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "stream.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- constants: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
MODULES = {"philox": philox, "arithmetic": arithmetic, "arithmetic64": arithmetic64, "narrow": narrow}
WORD = 2**32 - 1

Constants = dict[tuple[str, str], int | float]


def rows_of(table: str) -> list[list[str]]:
    """The cells of a Markdown table below its head."""
    return [[c.strip(" `") for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def number(text: str) -> int | float:
    return float.fromhex(text) if "p" in text else int(text, 16)


TABLES = {name: rows_of(table) for name, table in BLOCK.findall(PAGE)}
STATED: dict[str, Constants] = {
    name: {(row[0], row[1]): number(row[2]) for row in TABLES[name]} for name in MODULES
}


def constants_of(module: ModuleType) -> Constants:
    """Every number, and every number of a tuple, that a module holds under a name of its own."""
    found: Constants = {}
    for name, value in vars(module).items():
        if isinstance(value, np.generic | int | float):
            found[name, ""] = value.item() if isinstance(value, np.generic) else value
        elif isinstance(value, tuple):
            whole = isinstance(value[0], np.floating)
            for place, part in enumerate(value):
                found[name, f"x^{len(value) - 1 - place}" if whole else str(place)] = part.item()
    return found


def assert_same_constants(stated: Constants, found: Constants) -> None:
    assert stated.keys() == found.keys()
    wrong = {key: (stated[key], found[key]) for key in stated if stated[key] != found[key]}
    assert not wrong
    assert all(type(stated[key]) is type(found[key]) for key in stated)


# --- the tables
@pytest.mark.parametrize("name", MODULES)
def test_every_constant_of_the_kernels_stands_in_the_page_and_no_other(name: str) -> None:
    assert len(TABLES[name]) == len(STATED[name]) > 4
    assert_same_constants(STATED[name], constants_of(MODULES[name]))


def test_a_missing_an_extra_or_a_changed_constant_is_noticed() -> None:
    found = constants_of(arithmetic)
    first = next(iter(found))
    lacking = {key: value for key, value in found.items() if key != first}
    for stated in (lacking, found | {("LOG", "x^8"): 1.0}, found | {("SIN", "x^0"): 1.0}):
        with pytest.raises(AssertionError):
            assert_same_constants(stated, found)


def test_the_page_has_no_table_that_is_not_compared() -> None:
    assert TABLES.keys() == MODULES.keys() | {"storages", "limits"}
    assert PAGE.count("<!-- constants:") == PAGE.count("<!-- end -->") == len(TABLES)


def test_no_kernel_module_with_constants_is_left_out() -> None:
    folder = Path(arithmetic.__file__).parent
    # The constants of these two say where words lie, and what is launched: no value depends on them.
    paths = [path for path in folder.rglob("*.py") if path.stem != "__init__"]
    names = {".".join(path.relative_to(folder).with_suffix("").parts) for path in paths}
    names -= {"compile.boxes", "cuda.geometry", *MODULES}
    modules = {name: importlib.import_module(f"fanfill_kernels.{name}") for name in names}
    own = {
        (name, key)
        for name, module in modules.items()
        for key, value in vars(module).items()
        if isinstance(value, np.generic)
        and not any(value is v for m in MODULES.values() for v in vars(m).values())
    }
    assert not own


def test_the_storage_types_are_as_stated() -> None:
    stated = {
        row[0]: (row[1], int(row[2]), number(row[3]), number(row[4]), row[5] == "yes")
        for row in TABLES["storages"]
    }
    found = {
        s.name: (s.compute.__name__, s.precision, s.largest, 2.0**s.least, s.signed_zero)
        for s in STORAGES.values()
    }
    assert stated == found


def test_the_limits_are_as_stated() -> None:
    stated = {
        row[0]: (number(row[1]), Fraction(row[2]), float(row[3]), number(row[4]), number(row[5]))
        for row in TABLES["limits"]
    }
    found = {
        kind.__name__: (x.least, x.reach, x.cut_reach, x.least_cut, x.tiny) for kind, x in _LIMITS.items()
    }
    assert stated == found


def test_every_distribution_has_its_section() -> None:
    stated = dict(re.findall(r"^### (4\.\d+) (.+)$", PAGE, re.MULTILINE))
    records = {**DISTRIBUTIONS, **STRUCTURES}
    assert sorted(stated) == sorted({record.section for record in records.values()})
    for name, record in records.items():
        assert name.split("_")[-1] in stated[record.section].lower(), (name, stated[record.section])


def test_the_divisor_of_corrected_truncated_normals_is_as_stated() -> None:
    (divisor,) = re.findall(r"std = sqrt\(scale / fan\) / (0x\S+),", PAGE)
    law = ff.variance_scaling(0.7, "fan_in", "truncated_normal").law((3, 5))
    assert law.params == (0.0, math.sqrt(0.7 / 3) / float.fromhex(divisor), -2.0, 2.0)


def test_the_page_speaks_of_the_stream_version_of_the_code() -> None:
    assert PAGE.startswith(f"# The number contract, stream version {ff.STREAM_VERSION}\n")


def test_the_script_that_writes_the_tables_would_change_nothing() -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "kernels")])
    script = [sys.executable, str(ROOT / "benchmarks" / "stream_tables.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- the float32 normal, written from sections 1 to 4.3 of the page with the page's constants
PHILOX = {name: value for (name, _), value in STATED["philox"].items()}
SCALAR = {name: value for (name, place), value in STATED["arithmetic"].items() if not place}
F = np.float32
UNIT, HALF, ONE, TWO, THREE = (F(SCALAR[name]) for name in ("UNIT", "HALF", "ONE", "TWO", "THREE_UNITS"))


def polynomial(name: str) -> list[np.float32]:
    """A polynomial of the page, from the highest power down."""
    powers = {int(place[2:]): F(v) for (n, place), v in STATED["arithmetic"].items() if n == name and place}
    return [powers[k] for k in sorted(powers, reverse=True)]


def word(i: int, seed: int, sub: int) -> int:
    """Section 2."""
    b = i // 4
    c0, c1, c2, c3 = b & WORD, b >> 32, sub & WORD, sub >> 32
    k0, k1 = seed & WORD, seed >> 32
    for _ in range(10):
        p0, p1 = PHILOX["M0"] * c0, PHILOX["M1"] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & WORD, (p0 >> 32) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + PHILOX["W0"]) & WORD, (k1 + PHILOX["W1"]) & WORD
    return (c0, c1, c2, c3)[i % 4]


def signed(w: int) -> int:
    return ((w + 2**31) & WORD) - 2**31


def bits(x: np.float32) -> int:
    return int(x.view(np.int32))


def horner(x: np.float32, name: str) -> np.float32:
    p, *others = polynomial(name)
    for c in others:
        p = p * x
        p = p + c
    return p


def radius(w0: int) -> np.float32:
    v = F(signed(w0)) + HALF
    b = bits(v)
    if b < 0:
        g, e = v * -UNIT, F(0)
    else:
        m = np.int32((b & SCALAR["MANTISSA"]) | SCALAR["ONE_BITS"]).view(F)
        g, e = TWO - m, F((b >> SCALAR["MANTISSA_WIDTH"]) - SCALAR["WORD_BIAS"])
    square = (horner(g, "LOG") * g) * g
    return np.sqrt(e * F(SCALAR["MINUS_2_LN_2"]) + (g + square))


def normal(e: int, seed: int, sub: int, std: float, mean: float) -> np.float32:
    """Section 4.3."""
    w0, w1 = (word(e // 2 * 2 + k, seed, sub) for k in (0, 1))
    a = signed(w1 + SCALAR["EIGHTH"])
    coarse = F((a & SCALAR["COARSE"]) - SCALAR["EIGHTH"])
    fine = F((a | 1) & SCALAR["FINE"])
    t = (coarse + fine) * UNIT
    z = t * t
    sine = coarse * THREE + (fine * THREE + horner(z, "SIN") * t)
    cosine = horner(z, "COS") * z + ONE
    q = radius(w0) * F(std)
    if a < 0:
        q = -q
    if a & SCALAR["QUARTER"]:
        cosine, sine = -sine, cosine
    return q * (sine if e % 2 else cosine) + F(mean)


def substream(name: str | int) -> int:
    if isinstance(name, int):
        return name
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(
    ("seed", "name", "std", "mean", "first"),
    [
        (0, 0, 1.0, 0.0, 0),
        (2**64 - 1, 2**64 - 1, 1.0, 0.0, 1),
        (0xC0FFEE, "decoder.0.wq", 0.02, 0.0, 12345),
        (7, "größe", 3.0, -1.5, 2**34 - 301),
    ],
)
def test_the_normal_written_from_the_page_is_the_fill_bit_for_bit(
    backend: str, seed: int, name: str | int, std: float, mean: float, first: int
) -> None:
    buffer = np.empty(600, np.float32)
    ff.fill(
        buffer,
        ff.normal(mean, std),
        seed=seed,
        name=name,
        global_shape=(2**40,),
        offset=(first,),
        backend=backend,
    )
    sub = substream(name)
    expected = np.array([normal(first + k, seed, sub, std, mean) for k in range(600)], np.float32)
    np.testing.assert_array_equal(buffer.view(np.uint32), expected.view(np.uint32))


def test_the_zeros_of_sparse_written_from_the_page_are_the_fills() -> None:
    """Section 4.7."""
    seed, name, rows, columns = 0xC0FFEE, "decoder.0.wq", 30, 7
    own = substream(name).to_bytes(8, "little")
    digest = hashlib.blake2b(own, digest_size=8, person=b"sparse").digest()
    sub = int.from_bytes(digest, "little")
    values = ff.draw((rows, columns), ff.sparse(0.35, 0.5), seed=seed, name=name)
    for column in range(columns):
        ranks = [(word(row * columns + column, seed, sub), row) for row in range(rows)]
        zero = {row for _, row in sorted(ranks)[: math.ceil(0.35 * rows)]}
        for row in range(rows):
            found = values[row, column]
            wanted = F(0) if row in zero else normal(row * columns + column, seed, substream(name), 0.5, 0.0)
            assert bits(found) == bits(wanted), (row, column)


def test_the_normal_written_from_the_page_notices_a_coefficient_that_is_one_place_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = [normal(e, 1, 2, 1.0, 0.0) for e in range(200)]
    key = ("SIN", "x^0")
    monkeypatch.setitem(STATED["arithmetic"], key, float(np.nextafter(F(STATED["arithmetic"][key]), F(0))))
    assert before != [normal(e, 1, 2, 1.0, 0.0) for e in range(200)]


@pytest.mark.parametrize("w0", [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
def test_the_radius_written_from_the_page_is_the_kernels_at_extreme_words(w0: int) -> None:
    found = arithmetic.radius(np.array([w0], np.uint32))[0]
    assert bits(found) == bits(radius(w0))
