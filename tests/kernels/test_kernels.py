"""Compiled and NumPy kernels agree byte for byte wherever a piece starts and ends, and write nothing else."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import KEY, OF_FORM
from equality import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import (
    GUARD,
    RECIPES,
    assert_guards_untouched,
    box,
    each_recipe,
    guarded,
    run,
)
from numba import njit

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill_kernels import arithmetic, arithmetic64, narrow, philox
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.blocks.tape import ALIGNED
from fanfill_kernels.compile import boxes
from fanfill_kernels.compile.compiler import operation, registers
from fanfill_kernels.compile.rebinding import rebind
from fanfill_kernels.forms import form_of, forms_of

BACKENDS = ("numba", "numpy")
OTHER_CUTS = {
    "upper tail": init.truncated_normal(0.0, 1.0, 3.0, math.inf),
    "lower tail": init.truncated_normal(0.0, 1.0, -4.5, -2.5),
    "nearly all": init.truncated_normal(0.0, 1.0, -9.0, 12.0),
    "one-sided": init.truncated_normal(0.0, 1.0, 0.0, math.inf),
    "central one-sided": init.truncated_normal(0.0, 1.0, 0.0, 2.0),
    "a sliver": init.truncated_normal(0.0, 1.0, 1.99999, 2.0),
}
GROUP = registers()["GROUP"]
# Where a kernel cuts its work: Numba's groups and tiles (blocks of 4 words or 2), NumPy's pieces, long runs.
CUTS = sorted(
    {
        4 * ALIGNED,
        2 * GROUP,
        4 * GROUP,
        2 * boxes.TILE,
        4 * boxes.TILE,
        blocks.LONG,
        blocks.GATHER,
        blocks.BLOCK,
        2 * blocks.BLOCK,
    }
)
# Element 2^34 (float64: 2^33) begins block 2^32, where the counter's lower half wraps.
FAR = (2**31, 2**32, 2**33, 2**34, 3 * 2**34, 2**40 + 12345, 2**62, 2**63 - 4000)
WORDS = [0, 1, 2, 3, 5, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 2, 2**32 - 1]


@each_recipe
def test_every_start_and_every_length_up_to_130_gives_the_same_bytes(case: str) -> None:
    made = RECIPES[case]
    expected = run("numpy", made, 0, 140)
    for start in range(10):
        for count in range(131):
            assert_same_bits(run("numba", made, start, count), expected[start : start + count])
        for count in (*range(10), 31, 64, 65, 129, 130):
            assert_same_bits(run("numpy", made, start, count), expected[start : start + count])


@each_recipe
def test_lengths_around_every_internal_cut_give_the_same_bytes(case: str) -> None:
    made = RECIPES[case]
    for number, cut in enumerate(CUTS):
        for count in (cut - 1, cut, cut + 1):
            start = (count + number) % 4
            assert_same_bits(run("numba", made, start, count), run("numpy", made, start, count))


@each_recipe
def test_starts_around_every_carry_and_far_out_give_the_same_bytes(case: str) -> None:
    made = RECIPES[case]
    for far in FAR:
        whole = run("numpy", made, far - 70, 140)
        assert_same_bits(run("numba", made, far - 70, 140), whole)
        for before in range(4):
            assert_same_bits(run("numpy", made, far - before, 9), whole[70 - before : 79 - before])
            assert_same_bits(run("numba", made, far - before, 9), whole[70 - before : 79 - before])
    last = 2**63 - 33
    assert_same_bits(run("numba", made, last, 33), run("numpy", made, last, 33))


@each_recipe
def test_a_group_that_a_carry_cuts_short_gives_the_same_bytes(case: str) -> None:
    start = 2**33 * (2 - case.endswith("float64")) - 4 * GROUP - 3
    assert_same_bits(
        run("numba", RECIPES[case], start, 12 * GROUP), run("numpy", RECIPES[case], start, 12 * GROUP)
    )


@pytest.mark.parametrize("law", OTHER_CUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_cuts_of_every_kind_give_the_same_bytes_inside_them(law: str, dtype: str) -> None:
    made = recipe(OTHER_CUTS[law], (1,), dtype)
    found = run("numba", made, 1, 50_001)
    assert_same_bits(found, run("numpy", made, 1, 50_001))
    if dtype != "bfloat16":
        assert found.min() >= made.params[-2]
        assert found.max() <= made.params[-1]


@pytest.mark.parametrize("form", OF_FORM)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_parameters_give_the_same_bytes_and_no_subnormal(form: str, dtype: str) -> None:
    least = 2.0**-80 if dtype == "float32" else 2.0**-900
    laws = {
        "uniform": init.uniform(-least, least),
        "uniform_clamped": init.uniform(-least, least, endpoint=False),
        "uniform_range": init.uniform(-least, 3 * least),
        "normal": init.normal(0.0, least),
        "truncated_central": init.truncated_normal(least, least, -1.0, 1.0),
        "truncated": init.truncated_normal(-least, least, -3.0, 3.0),
    }
    made = recipe(laws[form], (1,), dtype)
    assert made.form == form
    found = run("numba", made, 0, 50_000)
    assert_same_bits(found, run("numpy", made, 0, 50_000))
    assert (np.abs(found[found != 0]) >= np.finfo(dtype).smallest_normal).all()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, pitch) whose indices stay below `REACH`: any order of axes, consecutive runs included."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    pitch = draw(st.lists(st.integers(1, 40), min_size=len(shape), max_size=len(shape)))
    if draw(st.booleans()):
        pitch[-1] = 1
        shape[-1] = draw(st.sampled_from([1, 2, 3, 8, 130, blocks.LONG - 1, blocks.LONG, blocks.LONG + 1]))
    return tuple(shape), tuple(pitch)


REACH = 2048


@functools.cache
def reference(case: str, start: int) -> np.ndarray:
    return run("numba", RECIPES[case], start, REACH)


@each_recipe
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(boxes(), st.integers(0, 7), st.sampled_from([0, 2**33 - 900, 2**34 - 900, 2**63 - REACH]))
def test_a_box_holds_the_elements_of_the_run_that_it_names(
    case: str, spec: tuple[tuple[int, ...], tuple[int, ...]], first: int, origin: int
) -> None:
    shape, pitch = spec
    index = first + sum(c * p for c, p in zip(np.indices(shape), pitch, strict=True)).reshape(-1)
    expected = reference(case, origin)[index]
    for backend in BACKENDS:
        assert_same_bits(box(backend, RECIPES[case], origin + first, shape, pitch), expected)


@each_recipe
def test_a_box_of_more_values_than_one_gather_is_the_transposed_run(case: str) -> None:
    rows, columns = 131, blocks.GATHER // 128
    whole = run("numba", RECIPES[case], 5, rows * columns).reshape(rows, columns)
    for backend in BACKENDS:
        found = box(backend, RECIPES[case], 5, (columns, rows), (1, columns))
        assert_same_bits(found.reshape(columns, rows), np.ascontiguousarray(whole.T))


@pytest.mark.parametrize("form", OF_FORM)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_kernels_give_the_same_bytes_whatever_the_callers_errstate(form: str, dtype: str) -> None:
    made = RECIPES[f"{form}-{dtype}"]
    expected = run("numpy", made, 3, 1000)
    with np.errstate(all="raise"):
        assert_same_bits(run("numpy", made, 3, 1000), expected)
        assert_same_bits(box("numpy", made, 3, (1000,), (1,)), expected)
        assert_same_bits(box("numpy", made, 3, (1000, 1), (1, 7)), expected)


def value(word: Any, params: Any) -> Any:
    """Stands for a lane function of one word."""
    raise NotImplementedError


def pair(first: Any, second: Any, params: Any) -> Any:
    """Stands for a lane function of two words."""
    raise NotImplementedError


def map_values(out: Any, words: Any, params: Any) -> None:
    for i in range(out.size):
        out[i] = value(words[i], params)


def map_pairs(out: Any, words: Any, params: Any) -> None:
    for i in range(out.size // 2):
        out[2 * i], out[2 * i + 1] = pair(words[2 * i], words[2 * i + 1], params)


def by_scalars(function: Any, paired: bool, words: np.ndarray, params: Any, lanes: Any) -> np.ndarray:
    """Values of a lane function from its compiled double, one word (or two) at a time."""
    out = np.empty(words.size, lanes)
    mapped = rebind(
        map_pairs if paired else map_values, {}, value=operation(function), pair=operation(function)
    )
    njit(error_model="numpy")(mapped)(out, words, params)
    return out


def by_arrays(function: Any, paired: bool, words: np.ndarray, params: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        if paired:
            return np.stack(function(words[0::2], words[1::2], params), 1).reshape(-1)
        return np.asarray(function(words, params))


def extreme_words(dtype: str) -> np.ndarray:
    """Every pair of extreme 32-bit words as neighbours, then random ones; in float64 pairs of pairs."""
    pairs = np.array([(a, b) for a in WORDS for b in WORDS], np.uint32)
    if dtype == "float64":
        few = pairs.reshape(-1).view(np.uint64)
        pairs = np.stack(np.meshgrid(few, few), -1).reshape(-1).view(np.uint32)
    return np.concatenate((pairs.reshape(-1), np.random.default_rng(3).integers(0, 2**32, 8192, np.uint32)))


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (form, dtype)
        for dtype in ("float32", "float64", "float16")
        for form in forms_of(dtype)
        if form in OF_FORM
    ],
)
def test_extreme_words_give_the_same_bytes_on_arrays_and_as_compiled_scalars(form: str, dtype: str) -> None:
    made, parts = RECIPES[f"{form}-{dtype}"], form_of(form, dtype)
    words = extreme_words(dtype)
    lanes = np.float64 if dtype == "float64" else np.float32
    if parts.arguments is not None:
        raw = words.view(np.uint64)
        pairs = by_arrays(parts.arguments, False, raw, made.params)
        assert_same_bits(by_scalars(parts.arguments, False, raw, made.params, np.uint64), pairs)
        words = pairs.view(np.uint32)
    if dtype == "float64":
        words = words.view(np.uint64)
    expected = by_arrays(parts.function, parts.paired, words, made.params)
    assert_same_bits(by_scalars(parts.function, parts.paired, words, made.params, lanes), expected)
    assert np.isfinite(expected).all()


COEFFICIENTS = [
    (module, name, place)
    for module in (arithmetic, arithmetic64)
    for name, row in vars(module).items()
    if isinstance(row, tuple)
    for place in range(len(row))
]


@functools.cache
def compiled_values(case: str) -> np.ndarray:
    return run("numba", RECIPES[case], 0, 40_000)


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", value)).removeprefix("fanfill_kernels.")


@pytest.mark.parametrize(("module", "name", "place"), COEFFICIENTS, ids=name_of)
def test_the_comparison_sees_a_change_in_any_coefficient(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, place: int
) -> None:
    dtype = "float64" if module is arithmetic64 else "float32"
    cases = [f"{form}-{dtype}" for form in ("normal", "truncated_central", "truncated")]
    values = {case: compiled_values(case) for case in cases}
    row = list(getattr(module, name))
    row[place] += row[place] * type(row[place])(2.0**-10)
    monkeypatch.setattr(module, name, tuple(row))
    for case, expected in values.items():
        found = run("changed", RECIPES[case], 0, 40_000)
        if (found != expected).any():
            break
    with pytest.raises(AssertionError):
        assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("module", "name", "wrong", "case"),
    [
        (philox, "ROUNDS", 9, "words-uint32"),
        (philox, "HALF", np.uint64(31), "words-uint32"),
        (arithmetic, "ODD", np.int32(0), "uniform-float32"),
        (arithmetic, "QUARTER", np.int32(2**29), "normal-float32"),
        (arithmetic, "TAIL", np.float32(0.02), "truncated-float32"),
        (narrow, "ONE", np.int32(0), "normal-float16"),
    ],
    ids=name_of,
)
def test_the_comparison_sees_a_change_in_any_other_constant(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, wrong: Any, case: str
) -> None:
    expected = run("numba", RECIPES[case], 0, 40_000)
    assert_same_bits(run("numpy", RECIPES[case], 0, 40_000), expected)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        assert_same_bits(run("changed", RECIPES[case], 0, 40_000), expected)


def test_the_comparison_sees_a_change_in_the_compiled_code() -> None:
    words, params = extreme_words("float32"), RECIPES["uniform_range-float32"].params
    expected = by_arrays(arithmetic.uniform_range, False, words, params)
    shifted = rebind(arithmetic.lattice_point, {}, POINT=arithmetic.POINT - 1024)
    changed = rebind(arithmetic.uniform_range, {arithmetic.lattice_point: shifted})
    assert_same_bits(by_scalars(arithmetic.uniform_range, False, words, params, np.float32), expected)
    with pytest.raises(AssertionError):
        assert_same_bits(by_scalars(changed, False, words, params, np.float32), expected)


def test_the_guard_zones_see_a_value_too_many() -> None:
    memory, out = guarded(10, np.dtype(np.float32))
    blocks.kernels("uniform", "float32").run(memory[GUARD : GUARD + out.size + 1], 0, KEY, (np.float32(1),))
    with pytest.raises(AssertionError, match="outside"):
        assert_guards_untouched(memory)
