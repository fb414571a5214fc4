"""Bits for batteries that read a pipe: words along an index, a name or a seed, and the laws' own bits.

    python benchmarks/feeds.py                       # what there is
    python benchmarks/feeds.py normal-24 | RNG_test stdin32
    python benchmarks/feeds.py words-name-20 | dieharder -g 200 -a

Writes as long as somebody reads. A word is 32 bits, lowest byte first. Values become bits by their own CDF,
which makes them uniform on [0, 1) again: the leading 24 (or 16) bits of each, packed one after the other
without a gap, so that each bit comes to stand everywhere in a word. ``benchmarks/batteries.sh`` runs TestU01
and PractRand on all of them. Needs the extra ``test`` (SciPy).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from quality_laws import Array, Law
from quality_sources import NAME, SEED, FanfillSource
from quality_tally import BLOCK, Source
from scipy import special

from fanfill_kernels.philox import MASK, philox_pairs

HALF = np.uint64(32)
AXES = ("index", "name", "seed")
STRIDES = {"0": 1, "20": 2**20, "32": 2**32}


def words(axis: str, stride: int) -> Iterator[Array]:
    """One word of each of the elements, integer names or seeds 0, stride, 2 stride, ..., the others fixed.

    Philox in NumPy's lanes, as many points at a time: a call of ``ff.words`` for each would take an hour.
    """
    for start in range(0, 2**63, BLOCK):
        where = (np.arange(start, start + BLOCK, dtype=np.uint64)) * np.uint64(stride)
        element, name, seed = (
            where if axis == a else np.uint64(v) for a, v in zip(AXES, (0, NAME, SEED), strict=True)
        )
        block, place = element >> np.uint64(2), (element & np.uint64(3)).astype(np.int64)
        counter = (block & MASK, block >> HALF, name & MASK, name >> HALF)
        with np.errstate(over="ignore"):
            first, second = philox_pairs(*counter, seed & MASK, seed >> HALF)
        four = np.stack([first & MASK, first >> HALF, second & MASK, second >> HALF])
        yield np.take_along_axis(four, np.broadcast_to(place, where.shape)[None], 0)[0].astype("<u4")


def uniform_again(law: Law, x: Array) -> Array:
    """What the law's CDF makes of values: exact where it is linear and the interval a power of two."""
    x = x.astype(np.float64)
    if law.kind == "uniform":
        return (x - (law.middle - law.scale)) / (2 * law.scale)
    below = special.ndtr(-law.cut)
    return (special.ndtr(x / law.scale) - below) / (1 - 2 * below)


def value_bits(law: Law, kept: int, source: Source | None = None, skipped: int = 0) -> Iterator[Array]:
    """`kept` bits, 24 or 16, of each value after its law's CDF, behind the first `skipped`."""
    draw, values = (source or FanfillSource(law))(), np.empty(BLOCK, law.number.real)
    steps = 2.0 ** (kept + skipped)
    for number in range(2**40):
        draw(number, values)
        whole = np.minimum(uniform_again(law, values) * steps, steps - 1).astype("<u8")
        yield whole.view(np.uint8).reshape(-1, 8)[:, : kept // 8].copy()


UNIFORM, NORMAL, TRUNCATED = (Law(kind, 1.0, "float32") for kind in ("uniform", "normal", "truncated"))
UNIFORM_64, NORMAL_64, TRUNCATED_64 = (Law(law.kind, 1.0, "float64") for law in (UNIFORM, NORMAL, TRUNCATED))
FROM_ZERO, FROM_ZERO_64 = Law("uniform", 0.5, "float32", 0.5), Law("uniform", 0.5, "float64", 0.5)


class Feed(NamedTuple):
    """What it is, and its bits; a control is flawed, and a battery must reject it."""

    text: str
    bits: Callable[[], Iterator[Array]]
    control: bool = False


def rounded_twice(law: Law) -> Source:
    """A source of the negative controls, whose module takes a second to import."""
    from quality_controls import rounded_twice

    return rounded_twice(law)


def _bits(law: Law, kept: int = 24, skipped: int = 0) -> Feed:
    behind = f"{kept} bits behind the first {skipped}" if skipped else f"the leading {kept} bits"
    return Feed(f"{law.label} {law.dtype}, {behind}", lambda: value_bits(law, kept, skipped=skipped))


def _words(axis: str, stride: int) -> Feed:
    return Feed(f"words, {axis} after {axis}, {stride:,} apart", lambda: words(axis, stride))


FEEDS = {
    **{f"words-{axis}-{power}": _words(axis, stride) for axis in AXES for power, stride in STRIDES.items()},
    "uniform-24": _bits(UNIFORM),
    "range-24": _bits(FROM_ZERO),
    "normal-24": _bits(NORMAL),
    "truncated-24": _bits(TRUNCATED),
    "normal-half-24": _bits(Law("normal", 0.5, "float32")),
    "truncated-half-24": _bits(Law("truncated", 0.5, "float32")),
    # On [1, 2] a float32 has 23 bits; on [0, 0.1] its steps are no multiple of those of 24 bits.
    "one-two-16": _bits(Law("uniform", 0.5, "float32", 1.5), 16, 7),
    "tenth-16": _bits(Law("uniform", 0.05, "float32", 0.05), 16),
    "uniform-float64-24": _bits(UNIFORM_64),
    "range-float64-24": _bits(FROM_ZERO_64),
    "range-float64-last-24": _bits(FROM_ZERO_64, 24, 29),
    "normal-float64-24": _bits(NORMAL_64),
    "truncated-float64-24": _bits(TRUNCATED_64),
    "uniform-16": _bits(UNIFORM, 16),
    "normal-16": _bits(NORMAL, 16),
    "truncated-16": _bits(TRUNCATED, 16),
    "version-1-24": Feed(
        "uniform(0, 1) float32 rounded twice, as in stream version 1, the leading 24 bits",
        lambda: value_bits(FROM_ZERO, 24, rounded_twice(FROM_ZERO)),
        control=True,
    ),
    "version-1-float64-last-24": Feed(
        "uniform(0, 1) float64 rounded twice, 24 bits behind the first 29",
        lambda: value_bits(FROM_ZERO_64, 24, rounded_twice(FROM_ZERO_64), 29),
        control=True,
    ),
}


def write(feed: Feed, file: int) -> None:
    """The feed's bytes, until nobody reads them."""
    with contextlib.suppress(BrokenPipeError):
        for part in feed.bits():
            data = memoryview(np.ascontiguousarray(part)).cast("B")
            while data:
                data = data[os.write(file, data) :]


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        for name, feed in FEEDS.items():
            sys.stdout.write(f"{name}\t{'control' if feed.control else 'feed'}\t{feed.text}\n")
        return 0
    if len(arguments) > 1 or arguments[0] not in FEEDS:
        raise SystemExit(f"expected one of {', '.join(FEEDS)}; got {' '.join(arguments)!r}")
    write(FEEDS[arguments[0]], sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
