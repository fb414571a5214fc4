"""Uniforms on intervals that are not symmetric: a lattice point, rounded once; without their upper end."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reference_fills import BACKENDS

import fanfill as ff
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES, dtype_of, round_nearest
from fanfill.recipes import Lattice, lattice
from fanfill_kernels.forms import form_of
from fanfill_kernels.narrow import store_of

INTERVALS = [(0, 1), (0, 2), (1, 2), (1, 3), (-1, 3), (0, 0.1), (5, 6.5), (-0.25, 0.75), (-7, 0), (0.1, 0.3)]
INTERVALS += [(100, 101), (0, 1e-6), (-3e5, 1e6), (1e-3, 1e3), (-1e-20, 3e-20), (1000, 1000.001)]
WHOLE = int(np.float64(1.5 * 2.0**52).view(np.uint64))
PART = int(np.float64(2.0**52).view(np.uint64))


def bits_of(dtype: str) -> int:
    return 64 if dtype == "float64" else 32


def words_of(dtype: str) -> np.ndarray:
    """Extreme words and random ones."""
    bits = bits_of(dtype)
    few = [0, 1, 2, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 2, 2**bits - 1]
    kind = np.uint64 if bits == 64 else np.uint32
    return np.append(np.array(few, kind), np.random.default_rng(1).integers(0, 2**bits, 300, kind))


def point(made: Lattice, word: int, bits: int) -> Fraction:
    """The lattice point of a word, as docs/stream.md has it."""
    n = made.origin[0] - WHOLE
    if bits == 32:
        return Fraction(n + (made.width * word >> made.shift)) * Fraction(made.unit)
    step = made.width * word >> 64
    part = (made.origin[1] - PART) + ((step << 64 - made.shift) % 2**64 >> 13)
    return (n + (step >> made.shift) + Fraction(part, 2**51)) * Fraction(made.unit)


def accepted(low: float, high: float, dtype: str, endpoint: bool = True) -> Any:
    """The recipe of an interval, or None where the dtype has no value inside."""
    try:
        return recipe(ff.uniform(low, high, endpoint=endpoint), (1,), dtype)
    except ValueError:
        return None


def values(dtype: str, made: Any, words: np.ndarray) -> list[float]:
    parts = form_of(made.form, dtype)
    with np.errstate(all="ignore"):
        stored = np.asarray(store_of(dtype)(parts.function(words, made.params))).astype(STORAGES[dtype].lanes)
    return [float(x) for x in stored.view(dtype_of(dtype))]


@functools.cache
def points(low: float, high: float, compute: Any) -> list[Fraction]:
    """The points of all words of `words_of`, which narrow dtypes share."""
    made, dtype = lattice(low, high, compute), np.dtype(compute).name
    return [point(made, word, bits_of(dtype)) for word in words_of(dtype).tolist()]


def expected(dtype: str, made: Any, low: float, high: float) -> list[float]:
    s = STORAGES[dtype]
    least, most = float(made.params[-2]), float(made.params[-1])
    return [min(max(round_nearest(x, s), least), most) for x in points(low, high, s.compute)]


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("endpoint", [True, False])
def test_a_value_is_its_lattice_point_rounded_once_into_the_dtype(dtype: str, endpoint: bool) -> None:
    words, compared = words_of(dtype), 0
    for low, high in INTERVALS:
        made = accepted(low, high, dtype, endpoint)
        if made is not None:
            assert made.form == "uniform_range"
            assert values(dtype, made, words) == expected(dtype, made, low, high)
            compared += 1
    assert compared >= 9


def test_a_value_that_is_rounded_twice_is_noticed() -> None:
    """1 + 2^-8 + 2^-40 lies above a tie of bfloat16; float32 would put it on the tie, which goes to even."""
    s = STORAGES["bfloat16"]
    x = 1 + Fraction(1, 2**8) + Fraction(1, 2**40)
    assert round_nearest(round_nearest(x, STORAGES["float32"]), s) != round_nearest(x, s)
    tie = 2**32 - 3 * 2**23  # of 1 - 2^-7 and 1 - 2^-8, which bfloat16 has
    words = np.arange(tie - 256, tie + 256, dtype=np.uint32)
    made = recipe(ff.uniform(0, 1), (1,), "bfloat16")
    twice = form_of("uniform_range", "float32").function(words, made.params)
    once = form_of("uniform_range", "bfloat16").function(words, made.params)
    ties = store_of("bfloat16")(twice) != store_of("bfloat16")(once)
    assert 0 < ties.sum() <= 2**8


@pytest.mark.parametrize("compute", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [*INTERVALS, (1, math.nextafter(1, 2)), (-1, math.nextafter(1, 0))])
def test_the_points_fill_the_interval_evenly(low: float, high: float, compute: Any) -> None:
    bits, made = (
        (32, lattice(low, high, np.float32)) if compute is np.float32 else (64, lattice(low, high, compute))
    )
    length, unit = Fraction(high) - Fraction(low), Fraction(made.unit) / (1 if bits == 32 else 2**51)
    first, last = point(made, 0, bits), point(made, 2**bits - 1, bits)
    step = length / 2**bits
    assert abs(first - (low + step / 2)) <= step + 2 * unit
    assert abs(last - (high - step / 2)) <= step + 2 * unit
    assert abs((first + last) / 2 - (Fraction(low) + Fraction(high)) / 2) <= unit
    middle = point(made, 2 ** (bits - 1), bits)
    assert abs(middle - (Fraction(low) + Fraction(high)) / 2) <= step + 2 * unit
    reach = Fraction(made.unit) * 2 ** (45 if bits == 32 else 51)
    assert max(abs(low), abs(high)) <= reach < 2 * max(abs(Fraction(low)), abs(Fraction(high)))
    assert made.width < 2**bits
    assert made.shift <= 63
    if low == 0:
        assert first > 0
    if high == 0:
        assert last < 0


def last_bits(x: np.ndarray, binades: int) -> tuple[float, int]:
    """How many standard deviations the share of odd last bits is from one half, in the top binades."""
    x = np.abs(x)
    top = x[x >= 2.0 ** (math.floor(math.log2(float(x.max()))) - binades + 1)]
    odd = int((top.view(f"u{top.itemsize}") & 1).sum())
    return (odd - top.size / 2) / math.sqrt(top.size / 4), top.size


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_last_bit_is_fair(dtype: str, backend: str) -> None:
    for low, high in ((0, 1), (1, 2), (-1, 3), (0, 0.1), (-0.25, 0.75), (100, 101), (0.1, 0.3), (5, 6.5)):
        x = ff.draw(1 << 20, ff.uniform(low, high), seed=1, dtype=dtype, device="cpu", backend=backend)
        assert abs(last_bits(x, 3)[0]) < 4.5, (low, high)
        assert x.any()
        assert (x != 0).all()


def test_the_last_bits_of_version_1_are_not() -> None:
    w = ff.words(np.empty(1 << 20, np.uint32), seed=1)
    s = (w | np.uint32(1)).view(np.int32).astype(np.float32)
    for half, mid in ((0.5, 0.5), (2.0, 1.0)):
        x = s * np.float32(half * 2.0**-31) + np.float32(mid)
        assert last_bits(x, 1)[0] < -100


@pytest.mark.parametrize("law", [ff.truncated_normal(), ff.truncated_normal(lower=-3, upper=2.5)], ids=repr)
def test_the_last_bit_of_a_truncated_normal_is_fair_in_every_binade(law: ff.Initializer) -> None:
    z = np.abs(ff.draw(1 << 22, law, seed=1, device="cpu", backend="numpy"))
    for exponent in range(-9, 2):
        binade = z[(z >= 2.0 ** (exponent - 1)) & (z < 2.0**exponent)]
        assert binade.size > 1000
        assert abs(last_bits(binade, 1)[0]) < 4.5, exponent


# --- without the upper end
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.25), (0.1, 0.7)])
def test_without_the_endpoint_the_greatest_value_below_takes_its_place(
    low: float, high: float, dtype: str
) -> None:
    kind, words = dtype_of(dtype), words_of(dtype)
    closed = np.array(values(dtype, recipe(ff.uniform(low, high), (1,), dtype), words))
    half_open = np.array(values(dtype, recipe(ff.uniform(low, high, endpoint=False), (1,), dtype), words))
    at_end = closed >= high
    greatest = half_open.max()
    assert greatest < high
    assert (half_open[~at_end] == closed[~at_end]).all()
    assert (half_open[at_end] == greatest).all()
    if high in (0.25, 1.0):  # values of every dtype, which the last word rounds to
        lane = STORAGES[dtype].lanes
        following = np.array([greatest]).astype(kind).view(f"u{lane.itemsize}") + 1
        assert float(following.view(kind)[0]) == high
        assert at_end.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_without_the_endpoint_scale_to_indices(backend: str) -> None:
    law = ff.uniform(0, 1, endpoint=False)
    u = ff.draw(1 << 16, law, seed=0, dtype="bfloat16", device="cpu", backend=backend).astype(np.float64)
    assert int((u * 16).max()) == 15
    closed = ff.draw(1 << 16, ff.uniform(0, 1), seed=0, dtype="bfloat16", device="cpu").astype(np.float64)
    assert int((closed * 16).max()) == 16


def test_a_half_open_uniform_is_a_value_of_its_own() -> None:
    law = ff.uniform(-1, 2, endpoint=False)
    assert law != ff.uniform(-1, 2)
    assert repr(law) == "uniform(-1.0, 2.0, endpoint=False)"
    assert eval(repr(law), vars(ff)) == law
    assert law.bounds(()) == (-1.0, math.nextafter(2.0, 0.0))
    assert law.mean(()) == 0.5
    assert law.std(()) == ff.uniform(-1, 2).std(())


def test_wrong_endpoints_are_refused() -> None:
    with pytest.raises(TypeError, match="endpoint: expected True or False; got 'no'"):
        ff.uniform(0, 1, endpoint="no")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"\[low, low\) holds nothing; got low=1.0, high=1.0; leave endpoint out"
    ):
        ff.uniform(1, 1, endpoint=False)
    with pytest.raises(ValueError, match="expected low <= high"):
        ff.uniform(1, 0, endpoint=False)
    with pytest.raises(ValueError, match=r"got \[1\.\d+, 1\.\d+\), between two of them"):
        recipe(ff.uniform(math.nextafter(1, 2), 1 + 2.0**-11, endpoint=False), (1,), "float16")
