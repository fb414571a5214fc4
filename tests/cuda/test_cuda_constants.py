"""The constants in the CUDA source are those of the Python code."""

import re
from typing import Any

import numpy as np
import pytest

from fanfill_kernels import arithmetic, arithmetic64, cuda, narrow, philox
from fanfill_kernels.formats import FORMATS


def cuda_constants(name: str) -> dict[str, list[float]]:
    """Names and values of a .cuh file's constants, from its text."""
    text = re.sub(r"//.*", "", cuda.text(name))
    found = {}
    for key, body in re.findall(r"constexpr \w+ (\w+)(?:\[\])? = ([^;]+);", text):
        parts = [part.strip() for part in body.strip("{}\n ,").split(",")]
        if all(re.fullmatch(LITERAL, part) for part in parts):  # not one that is made of others
            found[key] = [number(part) for part in parts]
    return found


LITERAL = r"-?(0x[0-9a-fA-F.]+p[+-]\d+f?|(0x[0-9a-fA-F]+|\d+)u?( << \d+)?)"


def number(text: str) -> float:
    """A C literal, or one shifted by another; hexadecimal floats have a p."""
    if "p" in text:
        return float.fromhex(text.rstrip("f"))
    value, _, shift = text.partition(" << ")
    return int(value.rstrip("u"), 0) << int(shift or 0)


@pytest.mark.parametrize("module", [philox, arithmetic, arithmetic64], ids=lambda m: m.__name__)
def test_constants_are_those_of_python(module: Any) -> None:
    """Every constant of the same name is the same number, and the polynomials are all there."""
    found = cuda_constants(module.__name__.rpartition(".")[2] + ".cuh")
    there = {
        key: [v.item() if isinstance(v, np.generic) else v for v in np.atleast_1d(np.array(value, object))]
        for key, value in vars(module).items()
        if key.isupper() and isinstance(value, tuple | int | np.number)
    }
    shared = found.keys() & there.keys()
    for key in shared:
        width = 64 if module is arithmetic64 else 32
        mine = [v % 2**width if isinstance(v, int) and v < 0 else v for v in there[key]]
        assert found[key] == mine, key
    assert {k for k, v in there.items() if len(v) > 1} <= shared
    assert len(shared) >= (4 if module is philox else 25)


def test_narrow_constants_are_those_of_python() -> None:
    text = cuda.text("narrow.cuh")
    stated = dict(re.findall(r"constexpr Rounding (\w+) = {(.*)};", text))
    rounded = {f.name.upper(): f for f in FORMATS.values() if f.itemsize < 4 and f.name != "bfloat16"}
    assert stated.keys() == rounded.keys()
    for name, f in rounded.items():
        *numbers, signed_zero = [part.strip() for part in stated[name].split(",")]
        assert [number(part) for part in numbers] == [v.item() for v in narrow.rounding_of(f)[:5]]
        assert signed_zero == str(f.signed_zero).lower()
    found = cuda_constants("narrow.cuh")
    assert {key: found[key] for key in ("TO_16", "TO_8", "HALF_BF16", "MAGNITUDE", "ONE")} == {
        "TO_16": [16], "TO_8": [24], "HALF_BF16": [0x7FFF], "MAGNITUDE": [2**31 - 1], "ONE": [1],
    }  # fmt: skip
