"""Both backends' values lie within the stated bounds of the exact formulas on the same words.

The measures and references are those of benchmarks/accuracy.py, which takes 10^8 words where these tests take
thousands.
"""

from __future__ import annotations

import math
from types import ModuleType

import mpmath as mp
import numpy as np
import pytest
from accuracy import LINES, Line, all_extremes, measure, some_words
from cases import assert_covers
from reference import (
    FLOOR,
    NORMAL_BOUND,
    Array,
    Exact,
    Finding,
    cut,
    extreme_words,
    kernel_values,
    normal_double,
    normal_single,
    radius_single,
    shares,
    truncated_double,
    truncated_single,
    ulps,
)

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill_kernels import arithmetic, arithmetic64
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.compile import cpu

BACKENDS = {"numba": cpu.kernels, "numpy": blocks.kernels}
KEY = (0x9E3779B9, 0x7F4A7C15, 0xF39CC060, 0x5CEDC834)
WORDS = {"float32": 200_000, "float64": 200}
MODULES = {"float32": arithmetic, "float64": arithmetic64}
SWITCH = init.truncated_normal(lower=-2.5, upper=3.0)
# What each polynomial takes part in, and which coefficient carries much of it, in float32 and in float64.
POLYNOMIALS = {
    "LOG": (init.normal(), -1, -1),
    "SIN": (init.normal(), -1, -1),
    "COS": (init.normal(), -1, -1),
    "CENTRE_P": (init.truncated_normal(), -2, 3),
    "CENTRE_Q": (init.truncated_normal(), -2, 4),
    "TAIL_P": (SWITCH, 1, 3),
    "TAIL_Q": (SWITCH, 0, 3),
}
PERTURBATION = {"float32": 2.0**-17, "float64": 2.0**-44}  # relative: eight or more times what is allowed
# The worst radius and the worst sine of benchmarks/accuracy.py, in one pair of words.
WORST_PAIR = (0xC846A620, 0x1FACC7CF)

each_line = pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
each_dtype = pytest.mark.parametrize("dtype", WORDS)


def drawn(backend: str, form: str, dtype: str, params: tuple[object, ...], count: int) -> Array:
    out = np.empty(count, dtype)
    BACKENDS[backend](form, dtype).run(out, 0, KEY, params)
    return out


def words_drawn(backend: str, dtype: str, count: int) -> Array:
    """The words of elements 0, 1, ... in the dtype's width."""
    steps = 2 if dtype == "float64" else 1
    words = drawn(backend, "words", "uint32", (), count * steps)
    return words.view(np.uint64) if steps == 2 else words


def assert_within_bounds(findings: list[Finding]) -> None:
    assert findings
    for finding in findings:
        assert finding.worst <= finding.bound, finding


def test_every_distribution_that_is_computed_is_measured() -> None:
    # Half-open uniforms are the same arithmetic as uniforms; a constant is rounded once, by the host.
    assert_covers([line.law for line in LINES], "half_open_uniform", "constant")


@each_dtype
@each_line
def test_random_words_give_values_within_the_bounds(line: Line, dtype: str) -> None:
    assert_within_bounds(measure(line, dtype, some_words(line, dtype, (7,), WORDS[dtype])))


@each_dtype
@each_line
def test_extreme_words_give_values_within_the_bounds(line: Line, dtype: str) -> None:
    words = all_extremes(line, dtype)
    if dtype == "float64":  # every fifth of 191^2 pairs, all the single words: mpmath is slow
        words = tuple(w[:: 5 if len(words) == 2 else 1] for w in words)
    assert_within_bounds(measure(line, dtype, words))


@pytest.mark.parametrize("backend", BACKENDS)
@each_dtype
def test_fills_of_normals_are_as_accurate_as_their_words_allow(backend: str, dtype: str) -> None:
    made = recipe(init.normal(), (1,), dtype)
    words = words_drawn(backend, dtype, WORDS[dtype])
    found = drawn(backend, made.form, dtype, made.params, WORDS[dtype])
    exact = (normal_single if dtype == "float32" else normal_double)(words[0::2], words[1::2])
    for half in (0, 1):
        assert ulps(found[half::2], exact[half], FLOOR).max() <= NORMAL_BOUND


@pytest.mark.parametrize("backend", BACKENDS)
@each_dtype
@pytest.mark.parametrize("cuts", [(-2.0, 2.0), (-1.0, math.inf), (-9.0, 8.0), (3.0, 5.0)], ids=str)
def test_fills_of_truncated_normals_are_as_accurate_as_their_words_allow(
    backend: str, dtype: str, cuts: tuple[float, float]
) -> None:
    made = recipe(init.truncated_normal(0.0, 1.0, *cuts), (1,), dtype)
    words = words_drawn(backend, dtype, WORDS[dtype])
    found = drawn(backend, made.form, dtype, made.params, WORDS[dtype])
    reference = truncated_single if dtype == "float32" else truncated_double
    assert shares(found, reference(words, *cuts)).max() <= 1.0


@each_dtype
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_a_perturbed_coefficient_breaks_the_bound(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: ModuleType = MODULES[dtype]
    law, *places = POLYNOMIALS[name]
    weighty = places[dtype == "float64"]
    line = Line(name, law)
    words = some_words(line, dtype, (8,), WORDS[dtype])
    assert_within_bounds(measure(line, dtype, words))
    coefficients = list(getattr(module, name))
    coefficients[weighty] *= type(coefficients[weighty])(1 + PERTURBATION[dtype])
    monkeypatch.setattr(module, name, tuple(coefficients))
    (finding,) = measure(line, dtype, words)
    assert not finding.worst <= finding.bound


def test_the_worst_radius_times_the_worst_angle_stays_within_four_ulp() -> None:
    assert_within_bounds(measure(Line("normal", init.normal()), "float32", worst_pair()))


def worst_pair() -> tuple[Array, Array]:
    w0, w1 = WORST_PAIR
    return np.array([w0], np.uint32), np.array([w1], np.uint32)


def test_the_single_references_agree_with_the_multiprecision_ones() -> None:
    # The 64-bit word (w + 1/2) 2^32 stands for w's own u but for half a unit of 2^-64, which words near the
    # ends would notice; the angle of w | 1 lies at (w | 1) 2^32 but for one unit.
    w = some_words(LINES[0], "float32", (9,), 400)[0] // np.uint32(2) + np.uint32(2**30)
    w0, w1 = (w.astype(np.uint64) << np.uint64(32)) + np.uint64(2**31), w[::-1] * np.uint32(5)
    wide = (w1 | np.uint32(1)).astype(np.uint64) << np.uint64(32)
    pairs = [*zip(normal_single(w, w1), normal_double(w0, wide), strict=True)]
    cuts = ((-2.0, 2.0), (-1.0, math.inf), (5.29, math.inf), (-9.0, 8.0))
    pairs += [(truncated_single(w, *ends), truncated_double(w0, *ends)) for ends in cuts]
    for single, double in pairs:
        np.testing.assert_allclose(single.value, double.value, rtol=2e-15, atol=2e-15)


def test_the_single_radius_keeps_its_precision_at_the_extreme_words() -> None:
    w = extreme_words(32)
    with mp.workdps(50):
        exact = [float(mp.sqrt(-2 * mp.log(mp.ldexp(2 * v + 1, -33)))) for v in w.tolist()]
    np.testing.assert_allclose(radius_single(w), exact, rtol=4e-16)


def test_the_whole_line_holds_the_whole_probability() -> None:
    assert float(cut(-math.inf, math.inf).mass) == 1.0


def test_the_measure_of_ulp_is_the_spacing_of_floats() -> None:
    x = np.array([1.0, 1.5, 2.0, 1e-3, 2.0**-10, 3e-5], np.float32)
    exact = Exact(x.astype(np.float64))
    np.testing.assert_array_equal(ulps(x + np.spacing(x), exact), np.ones(6))
    floored = ulps(x + np.spacing(x), exact, FLOOR)
    np.testing.assert_array_equal(floored[:3], np.ones(3))
    assert floored[5] == np.spacing(x[5]) / np.spacing(np.float32(FLOOR))


def test_a_kernel_value_that_is_no_number_breaks_every_bound() -> None:
    made = recipe(init.normal(), (1,), "float32")
    nan = (np.float32(np.nan), np.float32(0))
    found = kernel_values(made._replace(params=nan), *worst_pair())
    assert not ulps(found[0], Exact(np.zeros(1)), FLOOR).max() <= NORMAL_BOUND
