"""Kernels called by themselves, between guard zones."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from cases import KEY, OF_FORM

from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.recipes import Recipe
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.compile import cpu
from fanfill_kernels.forms import forms_of

# "changed" records its program anew at each call, and so sees a constant that a test has changed.
KERNELS = {"numba": cpu.kernels, "numpy": functools.cache(blocks.kernels), "changed": blocks.kernels}
RECIPES = {
    "words-uint32": Recipe("words", "uint32", ()),
    **{
        f"{form}-{dtype}": recipe(law, (1,), dtype)
        for form, law in OF_FORM.items()
        for dtype in STORAGES
        if form in forms_of(dtype)
    },
}
# Where values go depends on the form and on the size of an item. How they are rounded to narrow dtypes, and
# that each form has its kernel for them, is shown by golden hashes and test_narrow.py. So one narrow dtype of
# each size is enough, with a form of one word and one of two.
_STORED = ("float32", "float64", "uint32"), ("float16", "float8_e5m2"), ("uniform_clamped", "normal")


def _is_quick(made: Recipe) -> bool:
    wide, narrow, forms = _STORED
    return made.dtype in wide or (made.dtype in narrow and made.form in forms)


each_recipe = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if _is_quick(made) else pytest.mark.slow) for case, made in RECIPES.items()],
)
GUARD = 64


def lanes_of(dtype: str) -> np.dtype[Any]:
    return np.dtype(np.uint32) if dtype == "uint32" else STORAGES[dtype].lanes


def guarded(count: int, lanes: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(memory with guard zones around, the part between them): all bytes 0xA5."""
    memory = np.full((count + 2 * GUARD) * lanes.itemsize, 0xA5, np.uint8).view(lanes)
    return memory, memory[GUARD : GUARD + count]


def assert_guards_untouched(memory: np.ndarray) -> None:
    for guard in (memory[:GUARD], memory[-GUARD:]):
        assert (guard.view(np.uint8) == 0xA5).all(), "a kernel wrote outside its buffer"


def run(backend: str, made: Recipe, start: int, count: int) -> np.ndarray:
    memory, out = guarded(count, lanes_of(made.dtype))
    KERNELS[backend](made.form, made.dtype).run(out, start, KEY, made.params)
    assert_guards_untouched(memory)
    assert not np.isnan(out).any()
    return out


def box(backend: str, made: Recipe, start: int, shape: tuple[int, ...], pitch: tuple[int, ...]) -> np.ndarray:
    memory, out = guarded(math.prod(shape), lanes_of(made.dtype))
    function = KERNELS[backend](made.form, made.dtype).box
    function(out, start, np.array(shape, np.int64), np.array(pitch, np.int64), KEY, made.params)
    assert_guards_untouched(memory)
    assert not np.isnan(out).any()
    return out
