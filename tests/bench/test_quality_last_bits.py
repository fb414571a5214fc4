"""The last bits of mantissas: what is expected, that ideal sources follow it, how soon flawed ones do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import quality
from quality_checks import Check, checks
from quality_controls import FROM_ZERO, FROM_ZERO_64, TRUNCATED, addend_rounded, rounded_twice
from quality_laws import Law
from quality_sources import FanfillSource, peer_streams
from quality_tally import BLOCK, Draw, Source, tallied
from scipy import special, stats

LAST = frozenset({"last"})


def named(law: Law) -> str:
    return f"{law.label} {law.dtype}"


def last_bits(law: Law, source: Source, draws: int) -> list[Check]:
    return checks(law, tallied(law, source, draws, wanted=LAST))


def ideal(law: Law, seed: int) -> Source:
    """NumPy's float64 values of the law, of 53 bits and more, rounded once to the dtype."""
    dtype = np.dtype(getattr(ml_dtypes, law.dtype, law.dtype))
    seeds = count(seed)

    def begin() -> Draw:
        generator = np.random.Generator(np.random.PCG64(next(seeds)))

        def drawn(number: int, out: np.ndarray) -> None:
            if law.kind == "normal":
                x = generator.standard_normal(out.size) * law.scale
            else:
                x = generator.random(out.size)
                if law.kind == "uniform":
                    x = law.middle + law.scale * (2 * x - 1)
                else:
                    below = special.ndtr(-law.cut)
                    x = special.ndtri(below + x * (1 - 2 * below)) * law.scale
            low = -law.limit if not law.middle else law.middle - law.scale
            out[:] = np.clip(x.astype(dtype).astype(np.float64), low, law.limit).astype(dtype).view(out.dtype)

        return drawn

    return begin


# Size: what follows its law is not rejected


@pytest.mark.parametrize("law", [law for law in quality.LAWS if law.dtype != "float64"], ids=named)
def test_ideal_values_pass(law: Law) -> None:
    found = last_bits(law, ideal(law, 1), 2**21)
    assert len(found) == 2
    assert not any(check.failed for check in found), found


def test_the_p_values_of_ideal_values_are_uniform() -> None:
    laws = (
        Law("normal", 1.0, "float32"),
        Law("uniform", 0.05, "float32", 0.05),
        Law("normal", 1.0, "float8_e4m3fn"),
    )
    found = [
        check.p
        for law in laws
        for seed in range(100)
        for check in last_bits(law, ideal(law, 100 * seed), BLOCK)
    ]
    assert len(found) == 600
    # 600 uniform ones are further off in one of 10^5 cases.
    assert stats.kstest(found, "uniform").pvalue > 1e-5


def test_the_noise_of_a_tossed_function_is_no_departure() -> None:
    """Values of few fixed ones: their last bits are tossed once, and more draws do not make them fairer."""

    class Coarse(Law):
        lattice = 2.0**16

    law = Coarse("truncated", 1.0, "float32")
    table = np.empty(BLOCK, np.float32)
    ideal(law, 5)()(0, table)
    table = table[: 2**16]
    generator = np.random.Generator(np.random.PCG64(6))

    def drawn(number: int, out: np.ndarray) -> None:
        out[:] = table[generator.integers(0, table.size, out.size)]

    def source() -> Draw:
        return drawn

    few = tallied(law, source, 2**23, threads=1, wanted=LAST)
    assert not any(check.failed for check in checks(law, few))
    assert any(check.failed for check in checks(Law("truncated", 1.0, "float32"), few))


# What is expected


@pytest.mark.parametrize("law", [law for law in quality.LAWS if law.narrow], ids=named)
def test_the_shares_of_narrow_types_are_those_of_their_values(law: Law) -> None:
    fields, classes = law.last_shape
    dtype = np.dtype(getattr(ml_dtypes, law.dtype, law.dtype))
    codes = np.arange(fields << (law.storage.precision - 1)).astype(f"u{law.storage.itemsize}")
    with np.errstate(invalid="ignore"):
        values = codes.view(dtype).astype(np.float64)  # NaN among them
    finite = np.isfinite(values)
    assert np.array_equal(law.magnitudes[finite], values[finite])
    assert np.isnan(law.magnitudes[~finite]).all()

    exact = {
        "uniform": stats.uniform(law.middle - law.scale, 2 * law.scale),
        "normal": stats.norm(0, law.scale),
        "truncated": stats.truncnorm(-2, 2, scale=law.scale),
    }[law.kind]
    v = values[finite]
    v = v[v <= law.limit]
    edges = np.concatenate((v[:1], (v[1:] + v[:-1]) / 2, [np.inf]))
    mass = np.diff(exact.cdf(edges)) + np.diff(exact.cdf(-edges[::-1]))[::-1]
    p = np.zeros(codes.size)
    p[: v.size] = mass
    p = p.reshape(fields, -1, classes).sum(1)
    likely = p.sum(1) > 1e-9
    assert likely.sum() >= 8
    shares = p[likely] / p[likely].sum(1, keepdims=True)
    assert law.last_shares[likely] == pytest.approx(shares, abs=1e-6)


def test_uniforms_are_held_to_one_half_where_two_points_share_a_last_place() -> None:
    """Below that, a lattice of odd multiples of 2^-31 makes all of a binade even, the next one odd."""
    law = Law("uniform", 1.0, "float32")
    counts = tallied(law, FanfillSource(law), 2**23, wanted=LAST).last
    share = counts[:, 1::2].sum(1) / np.maximum(1, counts.sum(1))
    exponents = np.arange(256) - 127
    held = law.last_shares.any(1)
    assert exponents[held].tolist() == list(range(-6, 0))
    assert share[held] == pytest.approx(np.full(6, 0.5), abs=0.01)
    assert share[exponents == -7] == 0.0
    assert share[exponents == -8] == 1.0


# Power


@pytest.mark.parametrize(
    ("law", "flawed", "share"),
    [
        (FROM_ZERO, rounded_twice, 0.25),
        (FROM_ZERO_64, rounded_twice, 0.25),
        (Law("uniform", 0.5, "float32", 1.5), rounded_twice, 0.417),
        (Law("uniform", 0.05, "float32", 0.05), rounded_twice, 0.32),
        (TRUNCATED, addend_rounded, 0.423),
        (Law("truncated", 0.5, "float32"), addend_rounded, 0.423),
    ],
    ids=lambda value: named(value) if isinstance(value, Law) else "",
)
def test_what_version_1_rounded_twice_is_rejected_by_one_block(
    law: Law, flawed: Callable[[Law], Source], share: float
) -> None:
    found = last_bits(law, flawed(law), BLOCK)
    assert all(check.failed for check in found), found
    assert float(found[0].found.partition("%")[0]) / 100 == pytest.approx(share, abs=0.01)


def test_a_lattice_of_24_bits_is_seen() -> None:
    """NumPy's float32 uniforms on [0, 1) are multiples of 2^-24: below 1/2 their last bit is zero."""
    (stream,) = peer_streams("numpy", (FROM_ZERO,))
    found: Any = last_bits(FROM_ZERO, stream.source, BLOCK)
    assert all(check.failed for check in found)
