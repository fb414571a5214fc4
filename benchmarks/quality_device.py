"""Draws and counts on a GPU: what `quality_tally` does in threads, with the same counts.

fanfill's kernels fill a batch of blocks in the device's memory, as a user's call would; ``quality_tally.cu``
counts them there. Nothing is copied to the host but the tally, at the end. Integers are the CPU's bit for
bit; sums of floats are added in another order, which moves them by far less than a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import quality_passes as passes
from quality_laws import Array, Law
from quality_sources import Altered, FanfillSource, Flaw, Mixed
from quality_tally import BLOCK, EVERY, PASSES, Neighbours, Source, Tally, constants, empty

import fanfill as ff
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda.buffers import DeviceBuffer
from fanfill.dtypes import dtype_of

__all__ = ["Device", "can_draw"]

THREADS = 256
BATCH = 512  # blocks: 2^26 values, so that each launch has threads for every multiprocessor
AHEAD = 16  # batches that the host may be ahead of the device
HOT = 1 << 14  # counts; so few are kept COPIES times side by side, one for each lane of a warp
COPIES = 32
PUT = 1000  # words that a launch puts into memory
ENDLESS = 2**40  # rows of the tensor that is drawn from

Shape = tuple[int, ...]


def source() -> str:
    """The kernels that count."""
    head = f"#define BLOCK {BLOCK}u\n#define LAGS {', '.join(map(str, passes.LAGS))}\n"
    return head + Path(__file__).with_name("quality_tally.cu").read_text()


def can_draw(source: Source | None) -> bool:
    """Whether a source is drawn on a device too; NumPy makes the others."""
    if isinstance(source, Altered):
        return isinstance(source.change, Flaw)
    return source is None or isinstance(source, FanfillSource | Mixed)


class Device:
    """A CUDA device that draws and counts; `tallied` is the engine."""

    def __init__(self, number: int) -> None:
        self.number, self.gpu = number, cuda_backend.driver()
        self.functions: dict[str, int] = {}
        with self.gpu.use(number):
            self.module = cuda_backend.load_source(self.gpu, source(), "quality_tally.cu")

    def __str__(self) -> str:
        facts = ", ".join(f"{name} {fact}" for name, fact in self.gpu.facts(self.number).items())
        return f"cuda:{self.number} ({facts})"

    def tallied(
        self,
        law: Law,
        source: Source,
        draws: int,
        neighbours: Neighbours = (),
        *,
        wanted: frozenset[str] = PASSES,
        progress: Callable[[int], object] = lambda draws: None,
    ) -> Tally:
        """Count at least ``draws`` values of a source, in whole blocks: `quality_tally.tallied`'s counts."""
        blocks = max(1, -(-draws // BLOCK))
        with self.gpu.use(self.number):
            batch = _Batch(self, law, min(blocks, BATCH), neighbours, wanted)
            for number, start in enumerate(range(0, blocks, BATCH)):
                batch.count(source, start, min(BATCH, blocks - start))
                if number % AHEAD == AHEAD - 1 and batch.blocks < blocks:
                    batch.wait()
                    progress(batch.blocks * BLOCK)
            found = batch.tally()
        progress(found.values)
        return found

    def start(self, kernel: str, blocks: int, *arguments: Any) -> None:
        """Start a kernel on so many thread blocks; arguments are NumPy's scalars, or bytes."""
        if kernel not in self.functions:
            self.functions[kernel] = int(self.module.get_function(kernel).ptr)
        stream = self.gpu.stream(self.number)
        packed = [a if isinstance(a, bytes) else a.tobytes() for a in arguments]
        cuda_backend.start(self.gpu, self.functions[kernel], blocks, THREADS, stream, packed)

    def draw(self, source: Source, pointer: Any, first: int, blocks: int, apart: int = 1) -> None:
        """Put the blocks first, first + apart, ... of a source one behind the other into memory."""
        if isinstance(source, FanfillSource):
            whole, offset = (ENDLESS, apart * BLOCK), (first // apart, 0)
            self._fill(source, pointer, (blocks, BLOCK), (BLOCK, 1), whole, offset)
        elif isinstance(source, Altered) and isinstance(source.change, Flaw):
            self.draw(source.source, pointer, first, blocks, apart)
            self.start(source.change.kernel, 2 * blocks, pointer, np.float32(source.change.by))
        elif isinstance(source, Mixed):
            self.draw(source.source, pointer, first, blocks, apart)
            # Of each group of `every` elements the first: a box of one column.
            every = source.every
            whole_of_groups = (ENDLESS, apart * BLOCK // every, every)
            shape, steps = (blocks, BLOCK // every, 1), (BLOCK, every, 1)
            self._fill(source.other, pointer, shape, steps, whole_of_groups, (first // apart, 0, 0))
        else:
            raise TypeError(
                f"expected a source that a device draws, such as fanfill's own; got {source!r}; count it on "
                "the CPU"
            )

    def _fill(
        self, source: FanfillSource, pointer: Any, shape: Shape, steps: Shape, whole: Shape, offset: Shape
    ) -> None:
        """Fill memory of these steps, in elements, with a part of an endless tensor."""
        dtype = dtype_of(source.law.dtype)
        strides = tuple(dtype.itemsize * step for step in steps)
        ff.fill(
            DeviceBuffer(int(pointer), shape, strides, dtype, self.number),
            source.law.initializer,
            seed=source.seed,
            name=source.name,
            global_shape=whole,
            offset=offset,
            backend="cuda",
        )


class _Counts(NamedTuple):
    """Numbers in the device's memory."""

    pointer: Any
    shape: Shape
    dtype: Any


class _Batch:
    """The device's memory: some blocks, what is made of them, and the counts so far."""

    def __init__(
        self, device: Device, law: Law, size: int, neighbours: Neighbours, wanted: frozenset[str]
    ) -> None:
        self.device, self.law, self.neighbours, self.wanted = device, law, neighbours, wanted
        self.blocks = self.beside = 0
        self.memory: list[Any] = []
        made, itemsize, lags = constants(law), law.storage.itemsize, len(passes.LAGS)
        self.width = 8 * itemsize
        self.standard = np.float64(law.middle), np.float64(made.inverse)
        self.to_unit = made.to_unit
        self.limits = np.append(made.levels, made.infinite).astype(np.uint64).tobytes()
        octets, _, self.down = law.octets
        self.octets = self.put(octets)
        self.wide = np.uint64(0)
        if law.narrow:
            self.wide = self.put(
                np.arange(1 << 16, dtype=np.uint32) << 16 if made.wide is None else made.wide
            )
        self.raw, self.z = self.empty(size * BLOCK * itemsize), self.empty(size * BLOCK * 4)
        rows = -(-size // EVERY) if neighbours and "neighbours" in wanted else 0
        self.other = self.empty(rows * BLOCK * itemsize)
        self.other_z, self.second_z = self.empty(rows * BLOCK * 4), self.empty(rows * BLOCK * 4)
        self.slots = 2 * THREADS * size
        self.cells, self.last = (
            (2 * law.cells, copies(2 * law.cells)),
            (*law.last_shape, copies(law.last_shape)),
        )
        shapes: dict[str, tuple[Shape, Any]] = {
            "sums": ((8, self.slots), np.float64),
            "levels": ((9, self.slots), np.uint64),
            "cells": (self.cells, np.uint64),
            "pairs": ((256, 256), np.uint64),
            "small": ((2 * law.number.exponent_bias + 2,), np.uint64),
            "last": (self.last, np.uint64),
            "lags": ((2 * lags, self.slots), np.float64),
            **{f"beside {k}": ((2, self.slots), np.float64) for k in range(len(neighbours))},
        }
        self.counts = {
            name: _Counts(self.zeros(shape), shape, dtype) for name, (shape, dtype) in shapes.items()
        }

    # Memory

    def empty(self, size: int) -> Any:
        """The address of so many bytes, which are kept as long as this."""
        self.memory.append(self.device.gpu.allocate(max(size, 1)))
        return np.uint64(self.memory[-1].ptr)

    def zeros(self, shape: Shape) -> Any:
        """The address of so many numbers of 64 bits."""
        size, gpu = 8 * math.prod(shape), self.device.gpu
        pointer = self.empty(size)
        gpu.memset(int(pointer), 0, size, gpu.stream(self.device.number))
        return pointer

    def put(self, table: Array) -> Any:
        """The address of a table's copy. It travels in the parameters of kernels."""
        data = table.tobytes()
        pointer = self.empty(4 * PUT * -(-len(data) // (4 * PUT)))
        for begin in range(0, len(data), 4 * PUT):
            part = data[begin : begin + 4 * PUT].ljust(4 * PUT, b"\0")
            self.device.start("put", -(-PUT // THREADS), pointer + np.uint64(begin), part, np.uint32(PUT))
        return pointer

    def read(self, name: str) -> Array:
        """Numbers, after all work that is under way."""
        pointer, shape, dtype = self.counts[name]
        data = self.device.gpu.read(int(pointer), 8 * math.prod(shape))
        return np.frombuffer(data, dtype).reshape(shape)

    def wait(self) -> None:
        """Wait for all work that is under way."""
        self.device.gpu.read(int(self.counts["small"].pointer), 8)

    # Counts

    def count(self, source: Source, first: int, blocks: int) -> None:
        """Draw and count some blocks."""
        self.device.draw(source, self.raw, first, blocks)
        self.blocks += blocks
        law, want = self.law, self.wanted
        if want - {"levels", "cells", "last"}:
            self.standardise(self.raw, self.z, blocks, self.slots if "moments" in want else 0)
        if "last" in want:
            mantissa, (_, classes, side_by_side) = law.storage.precision - 1, self.last
            how = map(np.uint32, (mantissa, classes, side_by_side))
            self.pass_over("last", blocks, *how, self.counts["last"].pointer)
        if "cells" in want:
            how_many = map(np.uint32, (law.shift, law.cells, self.down, self.cells[1]))
            numbering = b"".join(x.tobytes() for x in (np.int64(law.base), *how_many))
            found = [self.counts[name].pointer for name in ("cells", "pairs", "small")]
            self.pass_over("cells", blocks, self.wide, numbering, self.octets, *found)
        if "levels" in want:
            slots = self.counts["levels"].pointer, np.uint64(self.slots)
            self.pass_over("levels", blocks, self.wide, self.limits, *slots)
        if "lags" in want:
            slots = self.counts["lags"].pointer, np.uint64(self.slots)
            self.device.start("lags", 2 * blocks, self.z, self.to_unit, *slots)
        if "neighbours" in want:
            self.cross(first, -(-blocks // EVERY))

    def pass_over(self, kernel: str, blocks: int, *arguments: Any) -> None:
        """One of the kernels that there are for each width, on the batch."""
        self.device.start(f"{kernel}_{self.width}", 2 * blocks, self.raw, *arguments)

    def standardise(self, raw: Any, z: Any, blocks: int, slots: int = 0) -> None:
        """Values to z; with slots, the sums of its powers."""
        arguments = (self.wide, *self.standard, z, self.counts["sums"].pointer, np.uint64(slots))
        self.device.start(f"powers_{self.width}", 2 * blocks, raw, *arguments)

    def cross(self, first: int, blocks: int) -> None:
        """Multiply every eighth block, from the first of the batch on, with the neighbours'."""
        for k, pair in enumerate(self.neighbours):
            for source, z in zip(pair, (self.other_z, self.second_z), strict=True):
                if source is not None:
                    self.device.draw(source, self.other, first, blocks, EVERY)
                    self.standardise(self.other, z, blocks)
            own = (self.z, np.uint32(EVERY)) if pair[1] is None else (self.second_z, np.uint32(1))
            slots = self.counts[f"beside {k}"].pointer, np.uint64(self.slots)
            self.device.start("beside", 2 * blocks, *own, self.other_z, np.uint32(1), self.to_unit, *slots)
        self.beside += blocks * BLOCK

    def tally(self) -> Tally:
        """All that was counted."""
        found = empty(self.law, len(self.neighbours), self.wanted)
        found.values = self.blocks * BLOCK
        found.sums[:] = self.read("sums").sum(1)
        levels = self.read("levels")
        found.levels[:] = [*levels[:8].sum(1), levels[8].max()]
        found.cells[:] = self.read("cells").sum(-1)
        found.last[:] = self.read("last").sum(-1)
        found.pairs[:], found.small[:] = self.read("pairs"), self.read("small")
        lags = self.read("lags").sum(1)
        found.lags[:], found.square_lags[:] = np.split(lags, 2)
        if "lags" in self.wanted:
            found.apart += self.blocks * (BLOCK - np.array(passes.LAGS))
        for k in range(len(self.neighbours)):
            found.crossed[k] = self.read(f"beside {k}").sum(1)
        found.beside = self.beside
        return found


def copies(bins: int | Shape) -> int:
    """How often a count is kept side by side: where bins are few, additions would wait for one another."""
    return COPIES if np.prod(bins) <= HOT else 1
