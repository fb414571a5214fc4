"""Runs one fill in host memory: cuts it, shares the pieces among threads, draws each with a backend."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill import imports, tiling
from fanfill.cpu import pages, threads
from fanfill.structures import STRUCTURED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.backends import Backend, HostKernels
    from fanfill.recipes import Recipe
    from fanfill.regions import Region
    from fanfill.tiling import Piece, Tiling
    from fanfill_kernels.philox import Key

Progress = Callable[[int, int], object]
_Part = tuple[int, Callable[[], Callable[[int], int]]]  # how many tasks, and `threads.share`'s worker

# A fill of at most this many values stays on the calling thread, and so does any tile: 128 Ki normals take
# about 90 us on one core. Waking a helper takes 20 us, or 150 if the system has put its core to sleep, and
# helpers compete for the GIL.
SMALL = 131_072

# With several threads, each gets at least this many tiles if there are enough values. A thread that starts
# late or loses its core then delays the end by only a fraction of the whole.
_SHARES = 4

# From this many bytes on, values are written past the caches. No private cache holds as much, and the next
# tensor's values would drive them out of a shared one. Memory then need not be read before it is written: two
# threads gain a sixth with uniforms, a tenth with normals (interleaved runs, 8 MiB to 1 GiB).
NONTEMPORAL = 1 << 23


def fill_lanes(
    view: NDArray[Any],
    region: Region,
    recipe: Recipe,
    key: Key,
    backend: Backend,
    count: int,
    progress: Progress | None = None,
) -> None:
    """Fill a view of lanes.

    Parameters
    ----------
    view
        The buffer as `fanfill.cpu.buffers.as_lanes` sees it: any strides, no two elements in the
        same memory.
    region
        The part of its global tensor that the view is.
    recipe
        What to draw. The form ``constant`` needs no kernels: its bit pattern is stored.
    key
        Seed and substream as four 32-bit words: (seed low, seed high, substream low, substream high).
    backend
        Whose kernels draw.
    count
        The most threads that may work, the calling one included. Fills of at most `SMALL` values use the
        calling thread only.
    progress
        Called as ``progress(values done, values in all)`` on the calling thread, at last with both equal.
    """
    fill_all([], [Fill(view, region, recipe, key)], backend, count, progress)


class Fill(NamedTuple):
    """One fill of many: the arguments of `fill_lanes`."""

    view: NDArray[Any]
    region: Region
    recipe: Recipe
    key: Key


class Small(NamedTuple):
    """Small fills of whole tensors in contiguous memory by one kernel, none of them empty.

    ``templates`` are (length, params): what fills have in common that stand one after another, as many as
    ``counts`` says. They differ in memory and name: ``outs`` are flat arrays of lanes, or what makes one.
    """

    run: Callable[..., None]
    seed: tuple[int, int]
    templates: list[tuple[int, tuple[Any, ...]]]
    counts: list[int]
    addresses: NDArray[np.uint64]
    substreams: NDArray[np.uint64]
    out: Callable[[int], NDArray[Any]]


def fill_all(
    small: Sequence[Small],
    fills: Sequence[Fill],
    backend: Backend,
    count: int,
    progress: Progress | None = None,
) -> None:
    """Fill many views as one job: no thread waits while there is anything left to fill.

    Parameters
    ----------
    small
        Those that share calls of their kernels.
    fills
        All others, which are cut into tiles.
    backend, count, progress
        As in `fill_lanes`, for all of them together.
    """
    total = sum(fill.view.size for fill in fills) + sum(map(values_of, small))
    if total:
        helpers = 1 if total <= SMALL else count
        parts = [_part_of(fill, backend, helpers) for fill in fills if fill.view.size]
        most = min(SMALL, -(-total // (_SHARES * helpers)))
        parts += [_part_of_small(fills, most) for fills in small]
        tasks, worker = parts[0] if len(parts) == 1 else _joined(parts)
        if progress is None:
            threads.share(tasks, worker, helpers)
        else:
            threads.share(tasks, worker, helpers, lambda done: done < total and progress(done, total))
    if progress is not None:
        progress(total, total)


def values_of(small: Small) -> int:
    """How many values there are to fill."""
    return sum(size * count for (size, _), count in zip(small.templates, small.counts, strict=True))


def _part_of(fill: Fill, backend: Backend, helpers: int) -> _Part:
    """The tiles of a fill."""
    view, region, recipe, key = fill
    pages.ask(view)
    plan = _plan(view, region, backend, helpers)
    if recipe.form == "constant":
        return plan.tiles, _constant(view, plan, recipe.params[0])
    if recipe.form in STRUCTURED:
        structures = imports.module("fanfill.cpu.structures")

        def whole(part: NDArray[Any], where: Region, of: Recipe, key: Key) -> None:
            fill_lanes(part, where, of, key, backend, helpers)

        kernels = structures.bound(recipe, region, view.shape, key, backend, whole)
    else:
        kernels = backend.kernels(recipe.form, recipe.dtype)
    return plan.tiles, _draw(view, plan, recipe, key, backend, kernels)


def _part_of_small(small: Small, most: int) -> _Part:
    """Small fills, as many in one task as have about ``most`` values together."""
    lengths = np.repeat(np.array([size for size, _ in small.templates], np.int64), small.counts)
    filled = np.concatenate(([0], np.cumsum(lengths)))  # before each, and in all
    ends = np.unique(
        np.append(np.searchsorted(filled, np.arange(0, filled[-1], most)), lengths.size)
    ).tolist()
    templates = [(size, 0, (*small.seed, 0, 0), params) for size, params in small.templates]
    rows = getattr(small.run, "rows", None)
    run = rows(templates, small.counts, small.addresses, small.substreams) if rows is not None else None
    if run is None:
        run = _one_by_one(small)

    def draw(number: int) -> int:
        first, last = ends[number], ends[number + 1]
        run(first, last)
        return int(filled[last] - filled[first])

    return len(ends) - 1, lambda: draw


def _one_by_one(small: Small) -> Callable[[int, int], None]:
    params = [
        params for (_, params), count in zip(small.templates, small.counts, strict=True) for _ in range(count)
    ]
    lows, highs = (small.substreams & 0xFFFFFFFF).tolist(), (small.substreams >> 32).tolist()

    def run(first: int, last: int) -> None:
        for number in range(first, last):
            small.run(small.out(number), 0, (*small.seed, lows[number], highs[number]), params[number])

    return run


def _joined(parts: Sequence[_Part]) -> _Part:
    """Many parts as one: their tasks one after another."""
    ends = [*accumulate(tasks for tasks, _ in parts)]

    def worker() -> Callable[[int], int]:
        at, work, first = -1, None, 0  # the part that this thread is in: it may own a scratch

        def draw(number: int) -> int:
            nonlocal at, work, first
            found = bisect_right(ends, number)
            if found != at or work is None:
                at, work, first = found, parts[found][1](), ends[found] - parts[found][0]
            return work(number - first)

        return draw

    return ends[-1], worker


def store(out: NDArray[Any], start: int, key: Key, params: tuple[Any, ...]) -> None:
    """Do what a kernel's ``run`` does, for the form ``constant``."""
    out.view(f"u{out.itemsize}").fill(params[0])


def _plan(view: NDArray[Any], region: Region, backend: Backend, count: int) -> Tiling:
    most = max(SMALL, -(-view.size // (_SHARES * count))) if count > 1 else view.size
    return tiling.tiling(
        region.start,
        tiling.merge(view.shape, region.pitches, view.strides),
        view.itemsize,
        bool(view.flags.aligned),
        min(backend.chunk(view.itemsize, count), most),
        min(backend.tile(view.itemsize, count), most),
    )


def _canonical(view: NDArray[Any], plan: Tiling) -> NDArray[Any]:
    """The same elements with the plan's axes."""
    shape = tuple(axis.n for axis in plan.axes)
    strides = tuple(axis.stride for axis in plan.axes)
    return np.lib.stride_tricks.as_strided(view, shape, strides)


def _constant(view: NDArray[Any], plan: Tiling, bits: int) -> Callable[[], Callable[[int], int]]:
    target = _canonical(view.view(f"u{view.itemsize}"), plan)

    def store(number: int) -> int:
        tile = target[tiling.piece(plan, number).where]
        tile.fill(bits)
        return tile.size

    return lambda: store


def _draw(
    view: NDArray[Any], plan: Tiling, recipe: Recipe, key: Key, backend: Backend, kernels: HostKernels
) -> Callable[[], Callable[[int], int]]:
    target = _canonical(view, plan)
    params = recipe.params
    streams = plan.in_place and view.nbytes >= NONTEMPORAL
    if streams:
        kernels = kernels._replace(run=kernels.nontemporal)
    if plan.in_place and [(axis.stride, axis.pitch) for axis in plan.axes] == [(view.itemsize, 1)]:
        return lambda: _stretch(target, plan, kernels, _lead(target) if streams else 0, key, params)

    def draw_in_place(number: int) -> int:
        piece = tiling.piece(plan, number)
        out = target[piece.where].reshape(-1)
        _values(kernels, out, piece, key, params)
        return out.size

    if plan.in_place:
        return lambda: draw_in_place
    put = backend.scatter(target)

    def with_scratch() -> Callable[[int], int]:
        scratch = np.empty(prod(plan.extents), view.dtype)

        def draw_and_put(number: int) -> int:
            piece = tiling.piece(plan, number)
            out = scratch[: prod(piece.shape)]
            _values(kernels, out, piece, key, params)
            put(piece.where, out)
            return out.size

        return draw_and_put

    return with_scratch


def _lead(target: NDArray[Any]) -> int:
    from fanfill_kernels.compile.loops import LINE
    from fanfill_kernels.lanes import lead

    return lead(target, LINE)


def _stretch(
    target: NDArray[Any], plan: Tiling, kernels: HostKernels, lead: int, key: Key, params: tuple[Any, ...]
) -> Callable[[int], int]:
    """Draw tiles of one run of elements; all but the first begin ``lead`` elements later, at a cache line."""
    (extent,) = plan.extents

    def draw(number: int) -> int:
        first = number * extent + (lead if number else 0)
        out = target[first : (number + 1) * extent + lead]
        kernels.run(out, plan.start + first, key, params)
        return out.size

    return draw


def _values(kernels: HostKernels, out: NDArray[Any], piece: Piece, key: Key, params: tuple[Any, ...]) -> None:
    if piece.pitches == (1,):
        kernels.run(out, piece.start, key, params)
    else:
        kernels.box(out, piece.start, piece.shape, piece.pitches, key, params)
