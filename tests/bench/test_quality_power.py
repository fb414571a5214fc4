"""Each single statistic of benchmarks/quality.py can reject, and none needs the draws to be kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import quality_passes as passes
from quality_checks import Check, checks
from quality_controls import altered
from quality_laws import Law
from quality_sources import BETWEEN, FanfillSource, fanfill_stream
from quality_tally import tallied

NORMAL = Law("normal", 1.0, "float32")
TRUNCATED = Law("truncated", 1.0, "float32")
DRAWS = 2**20


def assign(where: slice, value: float) -> Callable[[np.ndarray], None]:
    return lambda out: out.__setitem__(where, value)


def repeat(lag: int) -> Callable[[np.ndarray], None]:
    """Every second run of `lag` values is the run before it."""

    def change(out: np.ndarray) -> None:
        runs = out[: out.size // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
        runs[:, 1] = runs[:, 0]

    return change


def times(factor: float) -> Callable[[np.ndarray], None]:
    return lambda out: np.multiply(out, np.float32(factor), out=out)


FLAWS: dict[str, Callable[[np.ndarray], Any]] = {
    "three times as wide": times(3.0),
    "a thousandth as wide": times(2.0**-10),
    "even": lambda out: np.bitwise_and(out.view(np.uint32), np.uint32(0xFFFFFFFE), out=out.view(np.uint32)),
    "shifted": lambda out: np.add(out, np.float32(0.1), out=out),
    "holes": assign(slice(None, None, 64), 0.0),
    "not a number": assign(slice(7, 8), np.nan),
    "far away": assign(slice(7, 8), 1e30),
    "ends at the bound": lambda out: np.clip(out * np.float32(1.1), -1.999999, 1.999999, out=out),
    **{f"repeats after {lag}": repeat(lag) for lag in passes.LAGS},
}


def by_name(found: list[Check]) -> dict[tuple[str, str], bool]:
    """Whether it rejects, for each statistic; the number of bins in a name depends on the draws alone."""
    return {(check.group, check.name): check.failed for check in found}


@pytest.mark.parametrize("law", [NORMAL, TRUNCATED], ids=lambda law: law.kind)
def test_every_single_statistic_rejects_some_flaw_and_no_flawless_stream(law: Law) -> None:
    stream = fanfill_stream(law)
    right = by_name(checks(law, tallied(law, stream.source, DRAWS, stream.neighbours)))
    assert len(right) > 40
    assert not any(right.values())

    rejected: set[tuple[str, str]] = set()
    for change in FLAWS.values():
        found = by_name(checks(law, tallied(law, altered(law, change), DRAWS)))
        rejected |= {name for name, failed in found.items() if failed}
    # Each neighbour alone is the stream itself: its statistics reject, the others' do not.
    for number, between in enumerate(BETWEEN):
        same = list(stream.neighbours)
        same[number] = (stream.source, None if same[number][1] is None else stream.source)
        found = by_name(checks(law, tallied(law, stream.source, DRAWS, tuple(same))))
        failed = {name for name, wrong in found.items() if wrong}
        assert failed == {("neighbours", f"{kind}, {between}") for kind in ("values", "squares")}
        rejected |= failed
    # A normal can be any float32: no cell is empty.
    idle = {("chi-square", "cells that the law leaves empty")} if law is NORMAL else set()
    assert set(right) - rejected == idle


def test_a_tally_of_a_gibibyte_keeps_none_of_it() -> None:
    tracemalloc.start()
    try:
        tallied(NORMAL, FanfillSource(NORMAL), 2**20)  # what is made once
        begun = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        tallied(NORMAL, FanfillSource(NORMAL), 2**28, wanted=frozenset({"levels"}))
        few = tracemalloc.get_traced_memory()[1] - begun
        kept = FanfillSource(NORMAL)
        blocks = [np.empty(2**17, np.float32) for _ in range(256)]  # the negative control: an eighth is kept
        for number, block in enumerate(blocks):
            kept()(number, block)
        many = tracemalloc.get_traced_memory()[1] - begun
    finally:
        tracemalloc.stop()
    assert few < 64 << 20 < many
