"""Runs one fill in host memory: cuts it, shares the pieces among threads, draws each with a backend."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill import tiling
from fanfill.cpu import pages, threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.backends import Backend, HostKernels
    from fanfill.recipes import Recipe
    from fanfill.regions import Region
    from fanfill.tiling import Piece, Tiling
    from fanfill_kernels.philox import Key

Progress = Callable[[int, int], object]

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
    total = view.size
    if total:
        pages.ask(view)
        helpers = 1 if total <= SMALL else count
        plan = _plan(view, region, backend, helpers)
        worker = (
            _constant(view, plan, recipe.params[0])
            if recipe.form == "constant"
            else _draw(view, plan, recipe, key, backend)
        )
        if progress is None:
            threads.share(plan.tiles, worker, helpers)
        else:
            threads.share(plan.tiles, worker, helpers, lambda done: done < total and progress(done, total))
    if progress is not None:
        progress(total, total)


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
    view: NDArray[Any], plan: Tiling, recipe: Recipe, key: Key, backend: Backend
) -> Callable[[], Callable[[int], int]]:
    target = _canonical(view, plan)
    kernels, params = backend.kernels(recipe.form, recipe.dtype), recipe.params
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
