"""Storage types: recognition, and exact directed rounding."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from fanfill.dtypes import STORAGES, bits, round_down, round_nearest, round_up, storage_of
from fanfill_kernels.formats import Format

DTYPES = {name: np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name)) for name in STORAGES}
NARROW = [name for name, s in STORAGES.items() if s.itemsize < 4]


def finite_values(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(values ascending, their patterns): every non-negative finite value of a narrow type."""
    s = STORAGES[name]
    patterns = np.arange(2 ** (8 * s.itemsize - 1), dtype=s.lanes)
    with np.errstate(invalid="ignore"):  # NaNs are among the patterns
        values = patterns.view(DTYPES[name]).astype(np.float64)
    keep = np.isfinite(values)
    return values[keep], patterns[keep]


@pytest.mark.parametrize("name", STORAGES)
def test_a_supported_dtype_is_recognised(name: str) -> None:
    s = storage_of(DTYPES[name])
    assert s is STORAGES[name]
    assert s.itemsize == DTYPES[name].itemsize == s.lanes.itemsize
    assert s.largest == float(ml_dtypes.finfo(DTYPES[name]).max)
    assert 2.0**s.least == float(ml_dtypes.finfo(DTYPES[name]).smallest_subnormal)


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(np.int32),
        np.dtype(">i4"),
        np.dtype(bool),
        np.dtype(np.complex64),
        np.dtype(object),
        np.dtype([("a", "f4")]),
        np.dtype("U3"),
        np.dtype("V2"),
        np.dtype(np.longdouble),
        np.dtype(ml_dtypes.float8_e4m3),
        np.dtype(ml_dtypes.int4),
    ],
)
def test_another_dtype_is_a_type_error(dtype: np.dtype) -> None:
    with pytest.raises(TypeError, match=r"expected one of the dtypes float32, .* got .* fill an array"):
        storage_of(dtype)


@pytest.mark.parametrize("dtype", [np.dtype(">f4"), np.dtype(">f8"), np.dtype(">f2")])
def test_a_foreign_byte_order_is_a_value_error(dtype: np.dtype) -> None:
    with pytest.raises(ValueError, match=r"this machine's byte order; got dtype '>f"):
        storage_of(dtype)


@pytest.mark.parametrize("name", NARROW)
def test_every_value_has_its_own_bits_and_rounds_to_itself(name: str) -> None:
    s = STORAGES[name]
    values, patterns = finite_values(name)
    sign = 1 << (8 * s.itemsize - 1)
    for value, pattern in zip(values.tolist()[::7], patterns.tolist()[::7], strict=True):
        assert bits(value, s) == pattern
        assert bits(-value, s) == pattern + (sign if value or s.signed_zero else 0)
        assert round_down(value, s) == round_up(value, s) == round_nearest(value, s) == value


@pytest.mark.parametrize("name", NARROW)
def test_directed_rounding_finds_the_neighbours_of_a_value_between(name: str) -> None:
    s = STORAGES[name]
    values, _ = finite_values(name)
    for low, high in list(zip(values.tolist(), values.tolist()[1:], strict=False))[:: 1 + len(values) // 500]:
        for x in (
            Fraction(low) + Fraction(1, 2**200),
            (low + high) / 2,
            Fraction(high) - Fraction(1, 2**200),
        ):
            assert (round_down(x, s), round_up(x, s)) == (low, high)
            assert (round_down(-x, s), round_up(-x, s)) == (-high, -low)


@pytest.mark.parametrize("name", NARROW)
def test_nearest_agrees_with_ml_dtypes_on_values_and_ties(name: str) -> None:
    s = STORAGES[name]
    values, _ = finite_values(name)
    rng = np.random.default_rng(1)
    ties = (values[:-1] + values[1:]) / 2
    x = np.concatenate([ties, rng.uniform(0, s.largest, 200), 2.0 ** rng.uniform(-30, 5, 200)])
    x = rng.permutation(x)[:800]
    x *= rng.choice([-1, 1], x.size)
    # Ties are exact in float32, so that going through it does not round twice.
    want = x.astype(np.float32).astype(DTYPES[name])
    got = [round_nearest(v, s) for v in x.astype(np.float32).tolist()]
    assert [bits(v, s) for v in got] == want.view(s.lanes).tolist()


@pytest.mark.parametrize(("name", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_wide_types_round_as_numpy_does(name: str, dtype: type) -> None:
    s = STORAGES[name]
    rng = np.random.default_rng(2)
    for _ in range(500):
        x = Fraction(float(rng.normal())) * Fraction(2) ** int(rng.integers(-160, 120)) + Fraction(1, 10**60)
        down, up, nearest = round_down(x, s), round_up(x, s), round_nearest(x, s)
        assert dtype(down) == down
        assert dtype(up) == up
        assert Fraction(down) <= x <= Fraction(up)
        assert up == float(np.nextafter(dtype(down), dtype(np.inf)))
        assert nearest == float(dtype(float(x))) or name == "float32"
        assert bits(down, s) == int(dtype(down).view(f"u{s.itemsize}"))


@pytest.mark.parametrize("s", STORAGES.values(), ids=STORAGES)
def test_beyond_the_largest_value_the_inner_neighbour_is_the_largest(s: Format) -> None:
    beyond = Fraction(s.largest) * 2
    assert (round_down(beyond, s), round_up(beyond, s)) == (s.largest, math.inf)
    assert (round_down(-beyond, s), round_up(-beyond, s)) == (-math.inf, -s.largest)
    assert (round_down(math.inf, s), round_up(-math.inf, s)) == (s.largest, -s.largest)


def test_directed_zeros_are_positive_and_nearest_keeps_the_sign() -> None:
    s = STORAGES["float16"]
    assert math.copysign(1.0, round_up(-1e-9, s)) == 1.0
    assert math.copysign(1.0, round_down(-0.0, s)) == 1.0
    assert math.copysign(1.0, round_nearest(-1e-9, s)) == -1.0
    assert bits(-0.0, s) == 0x8000


def test_nearest_refuses_what_lies_beyond_the_largest() -> None:
    with pytest.raises(ValueError, match=r"within 448\.0, the largest of float8_e4m3fn; got -449\.0"):
        round_nearest(-449.0, STORAGES["float8_e4m3fn"])


@pytest.mark.parametrize("x", [0.1, math.inf, math.nan, 70000.0])
def test_bits_refuses_what_the_type_does_not_hold(x: float) -> None:
    with pytest.raises(ValueError, match="expected a value that float16 holds exactly"):
        bits(x, STORAGES["float16"])
