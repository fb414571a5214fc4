"""The same bits by other doors: `fanfill.Philox`, and `fanfill.dask` where Dask is installed.

Each is compared with the committed hashes, not with what `fanfill.words` or `fanfill.fill` draw here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import fanfill as ff
from fanfill import imports
from fanfill.errors import BackendUnavailableError
from fanfill.selftest import golden
from fanfill.selftest.golden import Case

__all__ = ["ADAPTERS", "Result", "run"]

# A last chunk that is shorter on both axes, and a row that is a chunk of its own.
_CHUNKS = ((1, 100, 28), (200, 57))


class Result(NamedTuple):
    """What an adapter drew: how many cases, the wrong ones, or why it cannot be tested here."""

    name: str
    checks: int
    problems: tuple[str, ...]
    untested: str | None = None


def _philox() -> Iterator[tuple[Case, bytes]]:
    """Words one by one, and in pairs from the next one on."""
    for place, (number, start, seed, name) in golden.WORDS.items():
        bits = ff.Philox(seed, name, start)
        drawn = np.random.Generator(bits).integers(0, 2**32, number, np.uint32)
        bits.advance(-number)
        pairs = bits.random_raw(number // 2).astype("<u8").view("<u4")
        if not np.array_equal(pairs, drawn[: pairs.size]):
            drawn[:] = 0  # which has no committed hash
        yield Case("words", "uint32", place), drawn.astype("<u4").tobytes()


def _dask() -> Iterator[tuple[Case, bytes]]:
    """Whole tensors in uneven chunks."""
    draw = imports.module("fanfill.dask").draw
    for law, initializer in golden.INITIALIZERS.items():
        shape = golden.PLACES["large"].shape
        lazy = draw(shape, initializer, seed=golden.SEED, name="golden/large", chunks=_CHUNKS)
        yield Case(law, "float32", "large"), lazy.compute(scheduler="synchronous").tobytes()


ADAPTERS: dict[str, Callable[[], Iterator[tuple[Case, bytes]]]] = {"Philox": _philox, "dask": _dask}


def run(name: str) -> Result:
    """Draw an adapter's cases and compare them."""
    checks, problems = 0, []
    try:
        for case, drawn in ADAPTERS[name]():
            checks += 1
            digest, wanted = hashlib.sha256(drawn).hexdigest(), golden.expected()[str(case)]
            if digest != wanted:
                problems.append(f"{case}: SHA-256 {digest[:16]}..., expected {wanted[:16]}...")
    except (ImportError, BackendUnavailableError) as error:
        return Result(name, checks, tuple(problems), str(error))
    return Result(name, checks, tuple(problems))
