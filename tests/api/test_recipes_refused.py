"""Recipes: every refusal of section 5 on both sides of its limit."""

import math
from fractions import Fraction

import numpy as np
import pytest
from bare_recipes import DTYPES, INF, bare

import fanfill as ff
from fanfill.dtypes import STORAGES
from fanfill.initializers import Initializer, constant, normal, truncated_normal, uniform
from fanfill.scaled import variance_scaling

NARROW_FAMILY = [name for name in DTYPES if name != "float64"]
LEAST = {name: 2.0**-900 if name == "float64" else 2.0**-80 for name in DTYPES}
REACH = {name: Fraction("9.5") if name == "float64" else Fraction("6.77") for name in DTYPES}


def below(x: float) -> float:
    return math.nextafter(x, -INF)


def above(x: float) -> float:
    return math.nextafter(x, INF)


def assert_accepted_and_refused(
    dtype: str, accepted: Initializer, refused: Initializer, message: str
) -> None:
    bare(accepted, dtype)
    with pytest.raises(ValueError, match=message):
        bare(refused, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_beyond_the_largest_value_is_refused(dtype: str, sign: int) -> None:
    largest = STORAGES[dtype].largest
    if dtype == "float64":
        bare(constant(sign * largest), dtype)
        return
    assert_accepted_and_refused(
        dtype,
        constant(sign * largest),
        constant(sign * above(largest)),
        "expected a constant within .* wider dtype",
    )


@pytest.mark.parametrize("dtype", NARROW_FAMILY)
def test_a_bound_beyond_the_largest_value_is_refused(dtype: str) -> None:
    largest = STORAGES[dtype].largest
    upper, lower = "expected an upper bound within .* got", "expected a lower bound within .* got"
    assert_accepted_and_refused(dtype, uniform(0, largest), uniform(0, above(largest)), upper)
    assert_accepted_and_refused(dtype, uniform(-largest, 0), uniform(-above(largest), 0), lower)
    assert_accepted_and_refused(
        dtype, uniform(-largest, largest), uniform(-above(largest), above(largest)), lower
    )


def test_all_of_float64_is_a_legal_range() -> None:
    largest = STORAGES["float64"].largest
    assert bare(uniform(-largest, largest), "float64").params == (largest,)
    assert bare(uniform(0, largest), "float64").params[-2:] == (0.0, largest)
    assert np.isfinite(ff.draw(1000, uniform(0, largest), seed=0, dtype="float64", device="cpu")).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [normal, truncated_normal])
@pytest.mark.parametrize("mean", [0.0, 1.0, -100.0])
def test_a_normal_that_reaches_beyond_the_largest_value_is_refused(
    dtype: str, make: object, mean: float
) -> None:
    room = Fraction(STORAGES[dtype].largest) - Fraction(abs(mean))
    std = float(room / REACH[dtype])
    while Fraction(std) * REACH[dtype] > room:
        std = below(std)
    while Fraction(above(std)) * REACH[dtype] <= room:
        std = above(std)
    assert_accepted_and_refused(
        dtype,
        make(mean, std),
        make(mean, above(std)),
        rf"expected \|mean\| \+ {float(REACH[dtype])} std within",
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_far_tail_that_reaches_beyond_the_largest_value_is_refused(dtype: str) -> None:
    reach = 10.9 if dtype == "float64" else 8.6
    std = STORAGES[dtype].largest / reach
    message = rf"expected \|mean\| \+ {reach} std within"
    for cuts in ((5.0, INF), (-INF, -5.0)):
        assert_accepted_and_refused(
            dtype, truncated_normal(0, std * 0.999, *cuts), truncated_normal(0, std * 1.001, *cuts), message
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tiny_parameter_is_refused(dtype: str) -> None:
    least = LEAST[dtype]
    tiny = below(least)
    power = r"2\^-900" if dtype == "float64" else r"2\^-80"
    for what, accepted, refused in (
        ("a std", normal(0, least), normal(0, tiny)),
        ("a std", truncated_normal(0, least), truncated_normal(0, tiny)),
        ("a mean", normal(least, 1), normal(tiny, 1)),
        ("a mean", normal(-least, 1), normal(-tiny, 1)),
        ("a mean", truncated_normal(0, 1), truncated_normal(-tiny, 1)),
        ("a mean", normal(least, 0), normal(tiny, 0)),
        ("a bound", uniform(-least, least), uniform(-tiny, tiny)),
        ("a half-width", uniform(0, 2 * least), uniform(0, 2 * tiny)),
        ("a half-width", uniform(0, 2 * least), uniform(0, 5e-324)),
    ):
        assert_accepted_and_refused(
            dtype,
            accepted,
            refused,
            rf"expected {what} of 0 or at least {power} .* for {dtype}; got .*; use 0",
        )


@pytest.mark.parametrize("dtype", NARROW_FAMILY)
def test_a_tiny_midpoint_needs_no_refusal(dtype: str) -> None:
    """The interval is not drawn as a midpoint and a half-width, whose sum could be subnormal."""
    least = LEAST[dtype]
    made = bare(uniform(-8 * least, 8 * least * (1 + 2.0**-40)), dtype)
    assert made.form == "uniform_range"
    assert abs(made.params[-1]) in (0.0, abs(made.params[-2]))


# In float64 the smallest scale gives a std of 2^-537 and a fan of 2^700: out of reach.
@pytest.mark.parametrize("dtype", NARROW_FAMILY)
def test_a_tiny_fan_scaled_std_or_bound_is_refused(dtype: str) -> None:
    scale = 2.0**-160
    flat = variance_scaling(scale / 3, distribution="uniform")
    bare(variance_scaling(scale), dtype, (1, 2))
    bare(flat, dtype, (1, 2))
    with pytest.raises(ValueError, match="expected a std of 0 or at least"):
        bare(variance_scaling(scale), dtype, (2, 2))
    with pytest.raises(ValueError, match="expected a bound of 0 or at least"):
        bare(flat, dtype, (2, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tiny_cut_is_refused_and_a_zero_cut_is_not(dtype: str) -> None:
    least = 2.0**-122 if dtype == "float64" else 2.0**-46
    message = r"expected cuts that are 0 or at least 2\^-(46|122) sigma .* got .*; use 0"
    assert_accepted_and_refused(
        dtype, truncated_normal(lower=0), truncated_normal(lower=below(least)), message
    )
    assert_accepted_and_refused(
        dtype, truncated_normal(upper=-least), truncated_normal(upper=-below(least)), message
    )
    if dtype in ("float32", "bfloat16", "float64"):  # the others hold no value in so small an interval
        _, _, lower, _, std, *_ = bare(truncated_normal(0, LEAST[dtype], least, 2), dtype).params
        assert lower * std >= np.finfo(STORAGES[dtype].compute).smallest_normal


@pytest.mark.parametrize("dtype", DTYPES)
def test_cuts_that_hold_too_little_are_refused(dtype: str) -> None:
    message = r"expected cuts that hold at least 2\^-24"
    assert_accepted_and_refused(
        dtype, truncated_normal(lower=5.294, upper=INF), truncated_normal(lower=5.295, upper=INF), message
    )
    assert_accepted_and_refused(
        dtype,
        truncated_normal(0, 2, lower=0, upper=1.5e-7),
        truncated_normal(0, 2, lower=0, upper=1.49e-7),
        message,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_interval_that_holds_no_value_is_refused(dtype: str) -> None:
    s = STORAGES[dtype]
    step = 2.0 ** (1 - s.precision)
    low, high = 1 + step / 4, 1 + step / 2
    message = rf"expected an interval that holds a value of {dtype}; got \[1\.0.*widen it"
    if dtype == "float64":  # a uniform's ends are values of it, so only a truncated normal can miss them all
        std = 2.0**-70
        assert_accepted_and_refused(
            dtype, truncated_normal(1, std, -1, 0), truncated_normal(1, std, 0.5, 1), message
        )
        return
    assert_accepted_and_refused(dtype, uniform(1, high), uniform(low, high), message)
    assert_accepted_and_refused(dtype, uniform(low, 1 + step), uniform(low, below(1 + step)), message)
    assert_accepted_and_refused(dtype, uniform(1, 1), uniform(low, low), message)
    assert_accepted_and_refused(
        dtype,
        truncated_normal(1, step, 0.0, 0.5),
        truncated_normal(1, step, 0.25, 0.5),
        message,
    )
