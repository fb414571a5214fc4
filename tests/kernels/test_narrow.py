"""One rounding to the 16- and 8-bit types, against NumPy's and ml_dtypes' casts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numba import njit

from fanfill.dtypes import STORAGES
from fanfill_kernels import narrow
from fanfill_kernels.compile.compiler import operation
from fanfill_kernels.compile.rebinding import rebind
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.narrow import store_of

NARROW = {
    name: np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))
    for name, f in STORAGES.items()
    if f.itemsize < 4
}

each_type = pytest.mark.parametrize("name", NARROW)


def store(x: Any) -> Any:
    """Stands for a type's rounding."""
    raise NotImplementedError


def store_all(out: Any, values: Any) -> None:
    for i in range(out.size):
        out[i] = store(values[i])


def by_reference(name: str, values: np.ndarray) -> np.ndarray:
    return values.astype(NARROW[name]).view(STORAGES[name].lanes)


def by_arrays(name: str, values: np.ndarray, function: Any = None) -> np.ndarray:
    out = np.empty(values.size, STORAGES[name].lanes)
    out[...] = (function or store_of(name))(values)
    return out


def by_scalars(name: str, values: np.ndarray) -> np.ndarray:
    out = np.empty(values.size, STORAGES[name].lanes)
    njit(rebind(store_all, {}, store=operation(store_of(name))))(out, values)
    return out


def exact_values(name: str) -> np.ndarray:
    """Every finite value of the type, negative ones and both zeros included, as float32."""
    s = STORAGES[name]
    patterns = np.arange(2 ** (8 * s.itemsize), dtype=np.uint32).astype(s.lanes)
    values = patterns.view(NARROW[name]).astype(np.float32)
    return values[np.isfinite(values)]


def midpoints(name: str) -> np.ndarray:
    """Halfway between neighbours, both signs: float32 holds every one of them exactly."""
    ascending = np.unique(exact_values(name)).astype(np.float64)
    halfway = (ascending[1:] + ascending[:-1]) / 2
    assert (halfway.astype(np.float32) == halfway).all()
    return halfway.astype(np.float32)


def neighbours(name: str, values: np.ndarray) -> np.ndarray:
    """The float32 values next to the given ones on both sides, within the type's finite range."""
    infinity = np.float32(np.inf)
    near = np.concatenate((np.nextafter(values, -infinity), np.nextafter(values, infinity)))
    return near[np.abs(near) <= STORAGES[name].largest]


def random_values(name: str) -> np.ndarray:
    """Random bit patterns, and values spread over the type's own exponents."""
    s = STORAGES[name]
    generator = np.random.default_rng(11)
    anywhere = generator.integers(0, 2**32, 2**19, np.uint32).view(np.float32)
    exponents = generator.uniform(max(s.least, -149) - 3, np.log2(s.largest), 2**19)
    spread = (generator.choice([-1.0, 1.0], 2**19) * 2.0**exponents).astype(np.float32)
    values = np.concatenate((anywhere, spread))
    return values[np.abs(values) <= s.largest]


def inputs(name: str) -> dict[str, np.ndarray]:
    exact, halfway = exact_values(name), midpoints(name)
    return {
        "exact": exact,
        "beside exact": neighbours(name, exact),
        "halfway": halfway,
        "beside halfway": neighbours(name, halfway),
        "random": random_values(name),
    }


def assert_rounded(found: np.ndarray, expected: np.ndarray, values: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape == values.shape
    wrong = np.flatnonzero(found != expected)
    assert not wrong.size, f"{wrong.size} of {values.size}; the first: {float(values[wrong[0]]).hex()}"


@each_type
def test_every_value_of_the_type_is_kept_and_every_midpoint_goes_to_the_even_one(name: str) -> None:
    for values in inputs(name).values():
        assert_rounded(by_arrays(name, values), by_reference(name, values), values)


@each_type
def test_the_compiled_rounding_is_the_same(name: str) -> None:
    values = np.concatenate(list(inputs(name).values()))
    assert_rounded(by_scalars(name, values), by_reference(name, values), values)


@each_type
def test_the_inputs_reach_what_they_claim(name: str) -> None:
    s, cases = STORAGES[name], inputs(name)
    assert cases["exact"].size == np.unique(cases["exact"]).size + s.signed_zero  # the two zeros
    assert cases["halfway"].size == np.unique(cases["exact"]).size - 1
    for values in cases.values():
        assert (values < 0).any()
        assert (values > 0).any()
        assert np.isfinite(values).all()
    least_normal = 2.0 ** (s.least + s.precision - 1)
    assert (np.abs(cases["exact"]) < least_normal).sum() == 2**s.precision - 1 + s.signed_zero
    assert (np.abs(cases["halfway"]) < least_normal).sum() == 2**s.precision
    assert np.abs(cases["exact"]).max() == s.largest


@each_type
def test_zeros_keep_their_sign_where_the_format_has_one(name: str) -> None:
    zeros = np.array([0.0, -0.0, 1e-45, -1e-45, -1e-9], np.float32)
    sign = 1 << (8 * STORAGES[name].itemsize - 1) if STORAGES[name].signed_zero else 0
    stored = [by_arrays(name, zeros).tolist(), by_scalars(name, zeros).tolist()]
    last = 0xB089 if name == "bfloat16" else sign  # bfloat16 holds 1e-9
    assert stored == [[0, sign, 0, sign, last]] * 2
    assert by_reference(name, zeros).tolist() == stored[0]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_wide_types_are_stored_as_they_were_computed(name: str) -> None:
    assert store_of(name) is narrow.keep
    values = np.random.default_rng(12).normal(size=100).astype(name)
    assert narrow.keep(values) is values


@each_type
@pytest.mark.parametrize("direction", [-np.inf, np.inf])
def test_the_comparison_sees_ties_that_go_one_way(name: str, direction: float) -> None:
    def wrong(x: np.ndarray) -> Any:
        return store_of(name)(np.nextafter(x, np.float32(direction)))

    values = midpoints(name)
    with pytest.raises(AssertionError, match=r"the first: "):
        assert_rounded(by_arrays(name, values, wrong), by_reference(name, values), values)


@pytest.mark.parametrize("name", [name for name in NARROW if name != "bfloat16"])
def test_the_comparison_sees_subnormals_rounded_on_another_grid(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twice the magic number rounds to multiples of twice the least positive value.
    to = narrow.rounding_of(STORAGES[name])
    coarse = to._replace(magic=to.magic * 2, magic_bits=to.magic_bits + np.int32(1 << 23))
    values = exact_values(name)
    values = values[np.abs(values) < to.least_normal.view(np.float32)]
    assert_rounded(by_arrays(name, values), by_reference(name, values), values)
    monkeypatch.setattr(narrow, "rounding_of", lambda f: coarse)
    wrong = narrow.store_of.__wrapped__(name)
    with pytest.raises(AssertionError, match=r"the first: "):
        assert_rounded(by_arrays(name, values, wrong), by_reference(name, values), values)


@pytest.mark.parametrize("name", ["float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_the_comparison_sees_a_zero_whose_sign_is_the_nan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, name, FORMATS[name]._replace(signed_zero=True))
    wrong = narrow.store_of.__wrapped__(name)
    values = np.array([-1e-9], np.float32)
    assert_rounded(by_arrays(name, values), by_reference(name, values), values)
    with pytest.raises(AssertionError, match=r"the first: "):
        assert_rounded(by_arrays(name, values, wrong), by_reference(name, values), values)
