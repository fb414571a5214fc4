"""No value leaves the interval that was promised, not even at the words where a bound could break."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from cases import FIXED

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.recipes import ends
from fanfill_kernels import arithmetic
from fanfill_kernels.forms import form_of
from fanfill_kernels.narrow import store_of

EXTREME = [0, 1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
INTERVALS = [(-1.0, 1.0), (-0.1, 0.1), (-1 / 3, 1 / 3), (-math.sqrt(0.003), math.sqrt(0.003))]
INTERVALS += [(-0.1, 0.3), (0.1, 0.7), (-1.0, 1 / 3), (1 / 3, 2 / 3), (-0.7, -0.001)]
CUTS = [(-2.0, 2.0), (-0.1, 1 / 3), (0.0, 2.0), (-3.3, 0.7), (0.5, math.inf), (3.1, 5.0), (-math.inf, -2.5)]


def extreme_words(dtype: str) -> np.ndarray:
    """The extreme words with every extreme word beside them, which makes the 64-bit ones of float64 too."""
    words = np.array([(a, b) for a in EXTREME for b in EXTREME], np.uint32).reshape(-1)
    return words.view(np.uint64) if dtype == "float64" else words


def values_at(words: np.ndarray, law: init.Initializer, dtype: str) -> np.ndarray:
    """What the words become in the dtype, as float64."""
    made = recipe(law, (1,), dtype)
    parts = form_of(made.form, dtype)
    with np.errstate(all="ignore"):
        if parts.arguments is not None:
            words = parts.arguments(words.view(np.uint64), made.params).view(np.uint32)
        if parts.paired:
            words = words[: words.size // 2 * 2]
            values = np.concatenate(parts.function(words[0::2], words[1::2], made.params))
        else:
            values = parts.function(words, made.params)
        stored = store_of(dtype)(values).astype(STORAGES[dtype].lanes)
    return np.asarray(stored.view(dtype_of(dtype)).astype(np.float64))


def assert_inside(values: np.ndarray, low: float | Fraction, high: float | Fraction) -> None:
    """In the closed interval; Python compares a float with a float or a Fraction exactly."""
    assert float(values.min()) >= low
    assert float(values.max()) <= high


def assert_ends_reached(values: np.ndarray, low: float, high: float, dtype: str, slack: float = 0.0) -> None:
    """Within two steps of the dtype, or the slack, of both ends."""
    near = slack + 2.0 ** (2 - STORAGES[dtype].precision) * max(abs(low), abs(high))
    assert values.min() - low <= near
    assert high - values.max() <= near


@pytest.mark.parametrize("dtype", STORAGES)
def test_no_word_leaves_the_bounds_that_are_stated(dtype: str) -> None:
    for case, law in FIXED.items():
        if case != "constant":
            values = values_at(extreme_words(dtype), law, dtype)
            assert np.isfinite(values).all(), law
            assert_inside(values, *law.bounds((), dtype))


@pytest.mark.parametrize("dtype", STORAGES)
def test_no_word_leaves_a_uniforms_interval_and_both_ends_are_reached(dtype: str) -> None:
    for low, high in INTERVALS:
        values = values_at(extreme_words(dtype), init.uniform(low, high), dtype)
        assert_inside(values, low, high)
        assert_ends_reached(values, low, high, dtype)
        assert len(np.unique(values)) > 2, (low, high)


@pytest.mark.parametrize("dtype", STORAGES)
def test_no_word_leaves_a_truncated_normals_interval(dtype: str) -> None:
    mean, std = 0.1, 0.7
    random = np.random.default_rng(6).integers(0, 2**32, 2**16, np.uint32)
    for lower, upper in CUTS:
        law = init.truncated_normal(mean, std, lower, upper)
        low, high = (float(end) for end in ends(mean, std, lower, upper))
        extreme = values_at(extreme_words(dtype), law, dtype)
        values = np.concatenate((extreme, values_at(random.view(extreme_words(dtype).dtype), law, dtype)))
        assert np.isfinite(values).all(), law
        assert_inside(values, *ends(mean, std, lower, upper))
        if math.isfinite(lower) and math.isfinite(upper):
            assert_ends_reached(extreme, low, high, dtype, slack=2.0**-18)


@pytest.mark.parametrize("dtype", STORAGES)
def test_no_normal_is_zero_or_lies_beyond_what_its_words_allow(dtype: str) -> None:
    words = extreme_words(dtype)
    several = np.stack(np.meshgrid(np.unique(words), words), -1).reshape(-1)
    random = np.random.default_rng(9).integers(0, 2**32, 2**18, np.uint32).view(words.dtype)
    made = recipe(init.normal(), (1,), dtype)
    function = form_of("normal", dtype).function
    with np.errstate(all="ignore"):
        for chosen in (several, random):
            values = np.concatenate(function(chosen[0::2], chosen[1::2], made.params))
            assert np.isfinite(values).all()
            assert (values != 0).all()
            # sqrt(-2 ln 2^-33) = 6.7637 and sqrt(-2 ln 2^-65) = 9.4926
            assert np.abs(values).max() < (9.493 if dtype == "float64" else 6.764)
    radii = np.abs(np.concatenate(function(several[0::2], several[1::2], made.params)))
    assert radii.max() > (9.492 if dtype == "float64" else 6.763)


def test_the_interval_checks_can_fail() -> None:
    high = 0.1
    unclamped = arithmetic.uniform(extreme_words("float32"), (np.float32(high),))
    assert float(np.float32(high)) > high
    with pytest.raises(AssertionError):
        assert_inside(unclamped.astype(np.float64), -high, high)
    narrow = store_of("bfloat16")(
        arithmetic.uniform(extreme_words("float32"), (np.nextafter(np.float32(high), np.float32(0)),))
    )
    with pytest.raises(AssertionError):
        assert_inside(narrow.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64), -high, high)
    with pytest.raises(AssertionError):
        assert_ends_reached(np.array([-0.099, 0.0999999]), -high, high, "float32")
