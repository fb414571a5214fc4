"""Recipes: parameter types, inward rounding, and the cache."""

import time
from fractions import Fraction

import numpy as np
import pytest
from bare_recipes import DTYPES, INF, bare
from cases import FORMS, assert_covers

from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES, round_down, round_nearest
from fanfill.initializers import constant, normal, truncated_normal, uniform
from fanfill.recipes import Recipe
from fanfill.scaled import he_normal, he_uniform, lecun_normal, variance_scaling
from fanfill_kernels.formats import Format

# Parameters that lead to each form, and how many words that form's parameters begin with.
FORM_OF = [
    (he_uniform(), "uniform", 0),
    (uniform(-0.5, 0.5), "uniform", 0),
    (uniform(-0.5, 0.5, endpoint=False), "uniform_clamped", 0),
    (uniform(-0.5, 0.25), "uniform_range", 3),
    (uniform(-0.5, 0.25, endpoint=False), "uniform_range", 3),
    (he_normal(), "normal", 0),
    (normal(1, 2), "normal", 0),
    (he_normal(truncated=True), "truncated_central", 2),
    (truncated_normal(lower=-2, upper=1), "truncated_central", 2),
    (truncated_normal(lower=-2.1, upper=2), "truncated", 3),
    (truncated_normal(lower=2, upper=INF), "truncated", 3),
    (truncated_normal(lower=-INF, upper=INF), "truncated", 3),
]


def test_every_distribution_and_every_form_is_here() -> None:
    assert_covers([init for init, _, _ in FORM_OF], "constant")  # which has tests of its own
    assert {form for _, form, _ in FORM_OF} == set(FORMS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_are_words_and_then_numbers_of_the_compute_type(dtype: str) -> None:
    sizes = {"uniform": 1, "uniform_clamped": 3, "uniform_range": 3}
    sizes |= {"normal": 2, "truncated_central": 6, "truncated": 7}
    for init, form, words in FORM_OF:
        got = bare(init, dtype, (64, 32))
        if form == "uniform" and STORAGES[dtype].itemsize < 4:
            form = "uniform_clamped"
        assert (got.form, got.dtype) == (form, dtype)
        words += (dtype == "float64") * {"truncated": 2, "uniform_range": 1}.get(form, 0)
        assert [type(x) for x in got.params[:words]] == [np.uint64] * words, init
        assert {type(x) for x in got.params[words:]} == {STORAGES[dtype].compute}, init
        assert len(got.params) == words + sizes[form], init


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_is_rounded_toward_zero_and_its_limit_is_a_storage_value(dtype: str) -> None:
    s = STORAGES[dtype]
    for fan in range(1, 60):
        init = he_uniform()
        exact = init.bounds((fan, 5))[1]
        bound, *limits = bare(init, dtype, (fan, 5)).params
        assert exact * (1 - 2.0**-23) < float(bound) <= exact
        if not limits:
            assert float(bound) == round_down(exact, s)
            continue
        least, limit = limits
        assert least == -limit
        assert float(limit) <= exact
        assert float(limit) == round_down(exact, s)
        assert round_nearest(float(limit), s) == float(limit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_widths_are_constants(dtype: str) -> None:
    zero, half = Recipe("constant", dtype, (0,)), bare(constant(0.5), dtype)
    assert bare(variance_scaling(0.0, distribution="uniform"), dtype, (3, 3)) == zero
    assert bare(variance_scaling(0.0), dtype, (3, 3)) == zero
    assert bare(variance_scaling(0.0, distribution="truncated_normal"), dtype, (3, 3)) == zero
    assert bare(uniform(0, 0), dtype) == bare(uniform(-0.0, 0.0), dtype) == zero
    assert bare(uniform(0.5, 0.5), dtype) == bare(normal(0.5, 0), dtype) == half
    assert bare(truncated_normal(0.5, 0, 20, 21), dtype) == half
    assert half.params[0] > 0
    assert type(half.params[0]) is int


def test_constants_are_rounded_once_to_nearest_even() -> None:
    assert bare(constant(0.1), "float32").params == (int(np.float32(0.1).view(np.uint32)),)
    assert bare(constant(0.1), "float16").params == (int(np.float16(0.1).view(np.uint16)),)
    assert bare(constant(-0.0), "float64").params == (1 << 63,)
    assert bare(constant(0.0), "float64").params == (0,)
    assert bare(constant(1e-46), "float32").params == (0,)
    # Through float32 this would round down: the tie of bfloat16 plus a little that float32 cannot hold.
    assert bare(constant(1 + 2.0**-8 + 2.0**-40), "bfloat16").params == (0x3F81,)
    assert bare(constant(-448), "float8_e4m3fn").params == (0xFE,)


def test_the_cache_tells_negative_zero_from_zero() -> None:
    assert recipe(constant(0.0), (), "float32").params == (0,)
    assert recipe(constant(-0.0), (), "float32").params == (1 << 31,)


def test_a_range_is_clamped_inward() -> None:
    low, high = 0.1, 0.7
    least, greatest = bare(uniform(low, high), "float16").params[-2:]
    assert low <= float(least) < low + 2.0**-13
    assert high - 2.0**-10 < float(greatest) <= high
    assert float(np.float16(least)) == float(least)
    for dtype in DTYPES:
        assert bare(uniform(-3, 224), dtype).params[-2:] == (-3, 224)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_a_truncated_normal_are_storage_values_inside_the_exact_interval(dtype: str) -> None:
    s: Format = STORAGES[dtype]
    rng = np.random.default_rng(4)
    for mean, std, a in rng.uniform(-2, 2, size=(50, 3)).tolist():
        std, b = abs(std) + 0.5, a + 1.5
        lower, upper, c_std, c_mean, low, high = bare(truncated_normal(mean, std, a, b), dtype).params[-6:]
        exact_low, exact_high = (Fraction(mean) + Fraction(std) * Fraction(x) for x in (a, b))
        step = Fraction(2) ** (2 - s.precision) * 8
        assert exact_low <= Fraction(float(low)) < exact_low + step
        assert exact_high - step < Fraction(float(high)) <= exact_high
        assert a <= float(lower) < a + 2.0**-20
        assert b - 2.0**-20 < float(upper) <= b
        assert (c_std, c_mean) == (s.compute(std), s.compute(mean))
        assert round_nearest(float(low), s) == float(low)
        assert round_nearest(float(high), s) == float(high)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_cuts_do_not_clamp(dtype: str) -> None:
    lower, upper, _, _, low, high = bare(truncated_normal(lower=-INF, upper=2.5), dtype).params[-6:]
    assert (lower, upper, low, high) == (-INF, 2.5, -INF, 2.5)
    lower, upper, _, _, low, high = bare(truncated_normal(lower=-2.5, upper=INF), dtype).params[-6:]
    assert (lower, upper, low, high) == (-2.5, INF, -2.5, INF)


def test_a_finite_end_beyond_the_largest_value_clamps_there() -> None:
    params = bare(truncated_normal(0, 50, -1e300, 1e300), "float8_e4m3fn").params
    assert [float(x) for x in params[-2:]] == [-448.0, 448.0]
    assert [float(x) for x in params[4:6]] == [-STORAGES["float32"].largest, STORAGES["float32"].largest]


def test_the_symmetric_central_line_of_float32_is_pinned() -> None:
    origin, width = map(int, bare(truncated_normal(), "float32").params[:2])
    assert width == round(Fraction("0.95449973610364158559943472566693312505644755259664") * 2**31)
    assert (origin - width // 2) % 2**64 == 2**64 - round(
        Fraction("0.477249868051820792799717362833466562528223776298") * 2**63
    )


def test_an_interval_around_zero_always_holds_zero() -> None:
    bound, least, greatest = bare(uniform(-1e-4, 1e-4), "float8_e4m3fn").params
    assert (float(bound) > 9e-5, least, greatest) == (True, 0.0, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_no_end_is_subnormal_in_the_compute_type(dtype: str) -> None:
    tiny = float(np.finfo(STORAGES[dtype].compute).smallest_normal)
    assert [float(x) for x in bare(uniform(tiny / 4, 1), dtype).params[-2:]] == [tiny, 1.0]
    assert [float(x) for x in bare(uniform(-tiny / 4, 1), dtype).params[-2:]] == [0.0, 1.0]
    assert [float(x) for x in bare(uniform(-1, -tiny / 4), dtype).params[-2:]] == [-1.0, -tiny]
    assert [float(x) for x in bare(uniform(-1, tiny / 4), dtype).params[-2:]] == [-1.0, 0.0]
    if dtype != "float64":
        # An end that nearly cancels: mean + cut * std = 2^-184.
        init = truncated_normal(2.0**-80, 2.0**-80 * (1 + 2.0**-52), -1 + 2.0**-52, 1)
        assert float(bare(init, dtype).params[-2]) == tiny


def test_subnormals_of_the_narrow_types_are_ends_like_others() -> None:
    assert [float(x) for x in bare(uniform(2.0**-24, 1), "float16").params[-2:]] == [2.0**-24, 1.0]
    assert float(bare(uniform(1e-3, 1), "float8_e4m3fn").params[-2]) == 2.0**-9


@pytest.mark.filterwarnings("error")
def test_the_callers_errstate_has_no_say() -> None:
    inits = [
        he_normal(),
        he_uniform(),
        uniform(-0.1, 0.3),
        truncated_normal(0.1, 2.0**-70, -INF, 1),
        constant(1e-46),
    ]
    want = [bare(init, dtype, (7, 9)) for init in inits for dtype in DTYPES]
    with np.errstate(all="raise"):
        assert [bare(init, dtype, (7, 9)) for init in inits for dtype in DTYPES] == want


def test_a_recipe_is_cached_and_made_quickly() -> None:
    init, shape = lecun_normal(), (123, 77)
    assert recipe(init, shape, "float32") is recipe(lecun_normal(), shape, "float32")

    def best(call: object, count: int) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) / count)
        return min(times)

    # Some 0.2 and 10 microseconds on a Xeon core; the limits leave room for slow and busy machines.
    assert best(lambda: recipe(init, shape, "float32"), 500) < 5e-6
    assert best(lambda: bare(init, "float32", shape), 50) < 500e-6
