"""The golden fills: what they draw, and the SHA-256 of the bytes that every machine must draw.

Tests and `fanfill.selftest` share this list. ``tests/golden.py`` rewrites the hashes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from importlib import resources
from math import prod
from typing import Any, NamedTuple

import fanfill as ff
from fanfill.distributions import DISTRIBUTIONS
from fanfill.dtypes import STORAGES
from fanfill.initializers import Initializer
from fanfill.structures import STRUCTURES

__all__ = [
    "INITIALIZERS",
    "MATRICES",
    "PLACES",
    "WORDS",
    "Case",
    "Place",
    "Words",
    "cases",
    "draw",
    "expected",
]

SEED = 0xC0FFEE0123456789

INITIALIZERS = {
    "xavier_uniform": ff.xavier_uniform(),
    "xavier_normal gain 5/3": ff.xavier_normal(gain=5 / 3),
    "xavier_normal truncated": ff.xavier_normal(truncated=True),
    "he_uniform fan_out": ff.he_uniform(mode="fan_out"),
    "he_normal": ff.he_normal(),
    "he_normal truncated": ff.he_normal(truncated=True),
    "lecun_uniform": ff.lecun_uniform(),
    "lecun_normal": ff.lecun_normal(),
    "variance_scaling fan_geo_avg": ff.variance_scaling(1.5, "fan_geo_avg", "uniform"),
    **{
        case: Initializer(name, params)
        for name, record in DISTRIBUTIONS.items()
        for case, params in record.golden.items()
    },
}


MATRICES = {
    case: (Initializer(name, params), shape)
    for name, record in STRUCTURES.items()
    for case, (params, shape) in record.golden.items()
}


class Place(NamedTuple):
    """The buffer's shape, the global tensor's shape, and where the buffer lies in the tensor."""

    shape: tuple[int, ...]
    global_shape: tuple[int, ...] | None = None
    offset: int | tuple[int, ...] | None = None


# Whole, odd, and far beyond 2^32 elements. The last one passes block 2^32 of the generator.
PLACES = {
    "small": Place((7, 3)),
    "large": Place((129, 257)),
    "box": Place((5, 11), (9000, 70000), (8991, 69987)),
    "far box": Place((4, 3, 5), (2**20, 2**20, 64), (2**20 - 4, 2**19 + 1, 33)),
    "flat": Place((1001,), (70, 90), 1003),
    "far flat": Place((77,), (2**20, 2**19), 2**34 - 39),
}


# Of a matrix: the whole, a box in its middle, and a range of its elements.
PARTS = ("whole", "middle", "range")


def part_of(shape: tuple[int, ...], part: str) -> Place:
    """One of the `PARTS` of a tensor."""
    if part == "whole":
        return Place(shape)
    if part == "range":
        size = prod(shape)
        return Place((size // 2,), shape, size // 4)
    return Place(tuple(n - n // 4 - n // 3 for n in shape), shape, tuple(n // 3 for n in shape))


class Words(NamedTuple):
    """Raw words: how many, the first one, the seed and the name."""

    number: int
    start: int
    seed: int = SEED
    name: str | int = "golden/words"


# "published": the block of Random123's known answers that a fill of words can reach. The others begin within
# a block, cross word 2^34 (block 2^32), and end with the last word that exists.
WORDS = {
    "published": Words(4, 0, 0, 0),
    "odd": Words(1001, 3),
    "carry": Words(259, 2**34 - 129),
    "last": Words(77, 2**63 - 77),
}


class Case(NamedTuple):
    """One golden fill; raw words have the initializer "words" and the dtype "uint32"."""

    initializer: str
    dtype: str
    place: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The buffer's shape."""
        return (WORDS[self.place].number,) if self.initializer == "words" else drawn_by(self)[1].shape

    def __str__(self) -> str:
        return " / ".join(self)


def drawn_by(case: Case) -> tuple[Initializer, Place, str]:
    """What a golden fill draws, where, and under which name; of a matrix all parts have one name."""
    if case.initializer in MATRICES:
        law, shape = MATRICES[case.initializer]
        return law, part_of(shape, case.place), "golden/matrix"
    return INITIALIZERS[case.initializer], PLACES[case.place], f"golden/{case.place}"


def cases() -> Iterator[Case]:
    """Every golden fill."""
    for place in WORDS:
        yield Case("words", "uint32", place)
    for law in INITIALIZERS:
        for dtype in STORAGES:
            for place in PLACES:
                yield Case(law, dtype, place)
    for law in MATRICES:
        for dtype in STORAGES:
            for place in PARTS:
                yield Case(law, dtype, place)


def draw(case: Case, buffer: Any, **how: Any) -> None:
    """Draw a case into a buffer of its shape and dtype; ``how`` is passed on, a backend for example."""
    if case.initializer == "words":
        _, start, seed, name = WORDS[case.place]
        ff.words(buffer, seed=seed, name=name, start=start, **how)
        return
    law, place, name = drawn_by(case)
    ff.fill(
        buffer,
        law,
        seed=SEED,
        name=name,
        global_shape=place.global_shape,
        offset=place.offset,
        **how,
    )


@functools.cache
def expected() -> dict[str, str]:
    """The committed SHA-256 of each case's bytes (C order, little-endian), keyed by the case's text.

    Raises
    ------
    RuntimeError
        If the hashes belong to another version of the stream.
    """
    found = json.loads(resources.files(__package__).joinpath("golden.json").read_text())
    if found["stream"] != ff.STREAM_VERSION:
        raise RuntimeError(
            f"expected golden hashes of stream version {ff.STREAM_VERSION}; got those of version "
            f"{found['stream']}; the installation is broken, install fanfill again"
        )
    hashes: dict[str, str] = found["sha256"]
    return hashes
