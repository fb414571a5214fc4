"""Draws blocks, counts them in threads, and merges the counts: no values are kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import quality_passes as passes
from quality_laws import Array, Law

BLOCK = 1 << 17  # values: half a MiB of float32, which stays in a core's second cache
EVERY = 8  # blocks of which one is held against its neighbouring streams
EPOCH = 1 << 12  # blocks after which 32-bit counts are added to those of 64 bits

PASSES = frozenset({"moments", "levels", "cells", "last", "lags", "neighbours"})

Draw = Callable[[int, Array], None]  # (number of the block, where to put its values)
Source = Callable[[], Draw]  # called once in each thread
Neighbours = tuple[tuple[Source, Source | None], ...]


@dataclass
class Tally:
    """Counts and sums over draws.

    Attributes
    ----------
    sums
        Of z, z^2, ... z^8.
    levels
        Values at or beyond the law's six levels, zeros, infinities and NaN, the largest magnitude's bits.
    cells, pairs, small
        Values in a cell (of the positive ones, then of the negative ones); consecutive values in a pair of
        classes; magnitudes below the cells by exponent.
    last
        Values with an exponent field and last bits of the mantissa, in the dtype's own bits.
    lags, square_lags
        Sums of products of standardised values (and squares) that are LAGS apart; `apart` their numbers.
    crossed
        For each neighbouring stream: sums of products of values and of squares; `beside` their number.
    """

    values: int
    sums: Array
    levels: Array
    cells: Array
    pairs: Array
    small: Array
    last: Array
    lags: Array
    square_lags: Array
    apart: Array
    crossed: Array
    beside: int = 0
    done: frozenset[str] = field(default=PASSES)

    def add(self, other: Tally) -> None:
        """Take in the counts of other draws."""
        largest = max(self.levels[8], other.levels[8])
        for f in fields(self):
            if f.name != "done":
                setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        self.levels[8] = largest


def empty(law: Law, neighbours: int, done: frozenset[str] = PASSES) -> Tally:
    """A tally of nothing."""
    lags, whole = len(passes.LAGS), np.int64
    exponents = 2 * law.number.exponent_bias + 2
    return Tally(
        0,
        np.zeros(8),
        np.zeros(9, whole),
        np.zeros(2 * law.cells, whole),
        np.zeros((256, 256), whole),
        np.zeros(exponents, whole),
        np.zeros(law.last_shape, whole),
        np.zeros(lags),
        np.zeros(lags),
        np.zeros(lags, whole),
        np.zeros((neighbours, 2)),
        0,
        done,
    )


class Engine(Protocol):
    """What counts the values of a source: `tallied`, or `quality_device.Device.tallied`."""

    def __call__(
        self,
        law: Law,
        source: Source,
        draws: int,
        neighbours: Neighbours = (),
        *,
        wanted: frozenset[str] = PASSES,
        progress: Callable[[int], object] = ...,
    ) -> Tally: ...


class Constants(NamedTuple):
    """What the passes have to know of a law.

    Attributes
    ----------
    inverse, to_unit
        Of the standard deviation, and of that of z^2 - 1.
    levels, infinite
        Magnitudes, as signed bits: six levels, and the least of what is no number.
    wide
        float32's bits by those of a narrow type, where these are looked up: a bfloat16 is the upper half of
        a float32.
    """

    inverse: float
    to_unit: Any
    levels: Array
    infinite: Any
    wide: Array | None


def constants(law: Law) -> Constants:
    n = law.number
    magnitude = np.dtype(f"i{n.real().itemsize}").type
    # A level beyond the last is never reached.
    found = [bits for _, bits in law.levels] + [np.iinfo(magnitude).max] * 6
    wide = None
    if law.narrow and law.dtype != "bfloat16":
        wide = np.concatenate((law.magnitudes, -law.magnitudes)).view(n.bits)
    return Constants(
        1.0 / (law.scale * law.std),
        np.float32(1.0 / np.sqrt(law.moments[4] - 1.0)),
        np.array(found[:6], magnitude),
        magnitude(((1 << (n.sign - n.mantissa)) - 1) << n.mantissa),
        wide,
    )


def tallied(
    law: Law,
    source: Source,
    draws: int,
    neighbours: Neighbours = (),
    *,
    threads: int = 2,
    wanted: frozenset[str] = PASSES,
    progress: Callable[[int], object] = lambda draws: None,
) -> Tally:
    """Count at least ``draws`` values of a source, in whole blocks.

    A neighbour is a pair of sources whose blocks are multiplied; None stands for the source itself. Thread t
    takes the blocks t, t + threads, ...: who draws what does not depend on who is faster.
    """
    total = empty(law, len(neighbours), wanted)
    blocks = max(1, -(-draws // BLOCK))
    threads = min(threads, blocks)
    with ThreadPoolExecutor(threads) as pool:
        workers = [_Worker(law, source, neighbours, wanted) for _ in range(threads)]
        for start in range(0, blocks, EPOCH):
            end = min(start + EPOCH, blocks)
            jobs = [pool.submit(w.count, range(start + k, end, threads)) for k, w in enumerate(workers)]
            for job in jobs:
                total.add(job.result())
            progress(end * BLOCK)
    return total


class _Worker:
    """One thread's memory: a block, and what the passes make of it."""

    def __init__(
        self,
        law: Law,
        source: Source,
        neighbours: Neighbours,
        wanted: frozenset[str],
    ) -> None:
        n = law.number
        self.law, self.wanted = law, wanted
        self.draw = source()
        self.neighbours = [(a(), b() if b else None) for a, b in neighbours]
        made = constants(law)
        self.inverse, self.to_unit, self.wide = made.inverse, made.to_unit, made.wide
        self.levels, self.infinite = made.levels, made.infinite
        self.x = np.empty(BLOCK, n.real)
        self.bits = self.x.view(n.bits)
        self.raw = np.empty(BLOCK, law.storage.lanes) if law.narrow else self.bits
        self.magnitudes = np.empty(BLOCK, f"i{n.real().itemsize}")
        self.numbers = np.empty(BLOCK, np.int32)
        self.z, self.square, self.other_z, self.other_square = np.empty((4, BLOCK), np.float32)

    def count(self, blocks: range) -> Tally:
        """The counts of these blocks."""
        law, found = self.law, empty(self.law, len(self.neighbours), self.wanted)
        cells, pairs = np.zeros(2 * law.cells, np.uint32), np.zeros((256, 256), np.uint32)
        octets, _, down = law.octets
        n, want = law.number, self.wanted
        nothing = np.zeros(8)
        for number in blocks:
            self.fetch(self.draw, number)
            found.values += BLOCK
            if want - {"levels", "cells", "last"}:
                sums = found.sums if "moments" in want else nothing
                passes.powers(self.x, self.inverse, law.middle, sums, self.z)
            if "last" in want:
                passes.last_bits(
                    self.raw, 8 * law.storage.itemsize - 1, law.storage.precision - 1, found.last
                )
            if "cells" in want:
                passes.number_cells(
                    self.bits, self.magnitudes, n.sign, law.shift, law.base, law.cells, self.numbers
                )
                passes.count_cells(
                    self.numbers, cells, octets, down, pairs, self.magnitudes, n.mantissa, found.small
                )
            elif "levels" in want:
                passes.magnitudes_of(self.bits, self.magnitudes, n.sign)
            if "levels" in want:
                passes.extremes(self.magnitudes, self.levels, self.infinite, found.levels)
            if want & {"lags", "neighbours"}:
                passes.squares(self.z, self.to_unit, self.square)
            if "lags" in want:
                passes.lagged(self.z, found.lags)
                passes.lagged(self.square, found.square_lags)
                found.apart += BLOCK - np.array(passes.LAGS)
            if "neighbours" in want and number % EVERY == 0:
                self.cross(number, found.crossed)
                found.beside += BLOCK
        found.cells += cells
        found.pairs += pairs
        return found

    def fetch(self, draw: Draw, number: int) -> None:
        """Draw a block; one of a narrow type is widened."""
        if not self.law.narrow:
            draw(number, self.x)
            return
        draw(number, self.raw)
        if self.wide is None:
            passes.widen(self.raw, self.bits)
        else:
            passes.look_up(self.raw, self.wide, self.bits)

    def cross(self, number: int, sums: Array) -> None:
        """Multiply this block with those of the neighbours. Overwrites it."""
        nothing = np.zeros(8)
        for k, (first, second) in enumerate(self.neighbours):
            self.fetch(first, number)
            passes.powers(self.x, self.inverse, self.law.middle, nothing, self.other_z)
            passes.squares(self.other_z, self.to_unit, self.other_square)
            if second is not None:
                self.fetch(second, number)
                passes.powers(self.x, self.inverse, self.law.middle, nothing, self.z)
                passes.squares(self.z, self.to_unit, self.square)
            sums[k, 0] += passes.product(self.z, self.other_z)
            sums[k, 1] += passes.product(self.square, self.other_square)
