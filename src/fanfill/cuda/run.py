"""Runs one fill in a device's memory: the counterpart of `fanfill.cpu.run`.

This module and ``fanfill_kernels.cuda.geometry`` decide how a fill is cut into launches, on which no value
depends.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill.cuda.diagonals import constants
from fanfill.tiling import Axis, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from fanfill.backends import DeviceBackend
    from fanfill.cuda.buffers import Target
    from fanfill.recipes import Recipe
    from fanfill.regions import Region
    from fanfill_kernels.cuda.geometry import Launch
    from fanfill_kernels.philox import Key

    Fill = tuple[Target, Region, Recipe, Key]
    Progress = Callable[[int, int], object]
    Part = tuple[int, int, tuple[Axis, ...]]  # address and global index of the first element, axes from there

# Contiguous rows of at least this many values get a launch each, of the kernel for runs. They are 15 us of an
# H200's work (507 to 562 G normals/s, measured), and the driver's call takes the host 3.9 us there: launches
# hide behind work.
_ROW = 1 << 23


class Single(NamedTuple):
    """A launch: the context it was made in, the handle of its kernel, and what was asked for."""

    context: int
    function: int
    launch: Launch


def fill_target(
    target: Target,
    region: Region,
    recipe: Recipe,
    key: Key,
    backend: DeviceBackend,
    progress: Progress | None = None,
) -> Single | None:
    """Put the work of a fill on the target's stream; it may still be under way when this returns.

    Parameters
    ----------
    target
        The buffer: no element sharing memory with another, each on a multiple of its size.
    region
        Which part of its global tensor the buffer is.
    recipe
        What to draw; also the form ``words``, for uint32.
    key
        Seed and substream as four 32-bit words: (seed low, seed high, substream low, substream high).
    backend
        Whose kernels draw.
    progress
        Called once, when all has been handed over, as ``progress(values in all, values in all)``.

    Returns
    -------
    What was launched, if it was one kernel for runs.
    """
    total = prod(target.shape)
    made: list[Single] = []
    if total and recipe.form == "diagonals":
        for some, where, constant in constants(target, region, recipe):
            fill_target(some, where, constant, key, backend)
    elif total:
        from fanfill_kernels.cuda.geometry import launches

        with backend.launcher(target) as queue:
            for address, start, axes in parts(target, region, recipe.form):
                asked = launches(recipe.form, recipe.dtype, address, start, axes, key, recipe.params)
                made += [Single(queue.context, queue.launch(*one), one) for one in asked]
    if progress is not None:
        progress(total, total)
    return made[0] if len(made) == 1 and made[0].launch.entry.startswith("run_") else None


class Runs(NamedTuple):
    """Fills of whole tensors in C order, each on a multiple of 16 bytes, that differ in address and substream
    alone; ``target`` is one of them.
    """

    target: Target
    region: Region
    recipe: Recipe
    seed: tuple[int, int]
    addresses: NDArray[np.uint64]
    substreams: NDArray[np.uint64]


def is_run(target: Target, region: Region) -> bool:
    """Whether a target may be one of `Runs`."""
    from fanfill_kernels.cuda.geometry import STORE

    return target.device is not None and not target.pointer % STORE and _whole(target, region) is not None


def fill_all(fills: Iterable[Fill], backend: DeviceBackend, runs: Iterable[Runs] = ()) -> None:
    """Fill many targets, which share no memory, with as few launches as can be: those of one device, stream,
    seed, form and dtype together.

    What is no run of consecutive elements in aligned memory, and what has nobody to go with, is filled by
    `fill_target`. Nothing is allocated on the device or waited for, once the kernels are loaded.
    """
    from fanfill_kernels.cuda import groups
    from fanfill_kernels.cuda.geometry import THREADS, prepared, run_of, spans

    together: dict[tuple[Any, ...], list[tuple[Runs, list[groups.Items]]]] = {}
    known: dict[int, tuple[str, bytes]] = {}
    alone: list[Fill] = []

    def gather(some: Runs, where: Part, found: tuple[int, int]) -> None:
        target, _, recipe, seed, addresses, substreams = some
        family, make = known.get(id(recipe)) or known.setdefault(
            id(recipe), prepared(recipe.form, recipe.dtype, recipe.params)
        )
        items = []
        for span in spans(recipe.form, recipe.dtype, where[0], *found):
            behind = span.address - target.pointer
            begins = addresses + np.uint64(behind % 2**64) if behind else addresses
            items.append(groups.Items(span, make, begins, substreams))
        named = target.device, target.stream, family, seed, recipe.form, recipe.dtype
        together.setdefault(named, []).append((some, items))

    for some in runs:
        target, region, recipe = some[:3]
        where = _whole(target, region)
        assert where is not None
        found = run_of(recipe.form, target.itemsize, *where)
        assert found is not None
        gather(some, where, found)
    for fill in fills:
        target, region, recipe, key = fill
        if not prod(target.shape):
            continue
        if recipe.form == "diagonals":
            alone += [(*constant, key) for constant in constants(target, region, recipe)]
            continue
        part = _whole(target, region) or _only(parts(target, region, recipe.form))
        found = part and run_of(recipe.form, target.itemsize, *part)
        if found is None or part is None or target.device is None:
            alone.append(fill)
            continue
        substream = key[2] | key[3] << 32
        one = np.array([target.pointer], np.uint64), np.array([substream], np.uint64)
        gather(Runs(target, region, recipe, key[:2], *one), part, found)
    for named in [
        named for named, members in together.items() if sum(len(r.addresses) for r, _ in members) == 1
    ]:
        alone.append(_fill_of(together.pop(named)[0][0]))
    _prepare(together, alone, backend)
    for (_, _, family, seed, form, dtype), members in together.items():
        with backend.launcher(members[0][0].target) as queue:
            items = [item for _, some_items in members for item in some_items]
            for table in groups.tables(dtype, form, seed, items, queue.parameters(), queue.multiprocessors()):
                queue.launch(f"grouped_{family}", table.blocks, THREADS, (table.parameter,))
    for fill in alone:
        fill_target(*fill, backend)


def _fill_of(run: Runs) -> Fill:
    """The only one of runs as a single fill."""
    (substream,) = run.substreams.tolist()
    return run.target, run.region, run.recipe, (*run.seed, substream & 0xFFFFFFFF, substream >> 32)


def _prepare(
    together: dict[tuple[Any, ...], list[tuple[Runs, Any]]], alone: list[Fill], backend: DeviceBackend
) -> None:
    """Let each device compile all that it will need, side by side."""
    from fanfill_kernels.cuda.geometry import prepared

    needed: dict[int | None, tuple[Target, dict[str, None]]] = {}
    for (device, _, family, *_), members in together.items():
        needed.setdefault(device, (members[0][0].target, {}))[1][f"grouped_{family}"] = None
    for target, _, recipe, _ in alone:
        family = f"run_{prepared(recipe.form, recipe.dtype, recipe.params)[0]}"
        needed.setdefault(target.device, (target, {}))[1][family] = None
    for target, names in needed.values():
        with backend.launcher(target) as queue:
            queue.prepare(names)


def _whole(target: Target, region: Region) -> Part | None:
    """A whole tensor in C order, which most are, without the search for the fewest axes."""
    size = target.itemsize
    if region.start or region.shape != target.shape:
        return None
    if target.strides != tuple([pitch * size for pitch in region.pitches]):
        return None
    return target.pointer, 0, (Axis(prod(target.shape), 1, size),)


def _only(found: Iterator[Part]) -> Part | None:
    """The one part that there is, or None."""
    first = next(found, None)
    return first if first is None or next(found, None) is None else None


def parts(target: Target, region: Region, form: str) -> Iterator[Part]:
    """The boxes of a fill, by the fewest axes: rows that are long enough one by one, else all at once."""
    if form == "constant":
        address, axes = _in_order_of_memory(target)
    else:
        address, axes = target.pointer, merge(target.shape, region.pitches, target.strides)
    yield from _rows(address, region.start, axes, target.itemsize)


def _rows(address: int, start: int, axes: tuple[Axis, ...], itemsize: int) -> Iterator[Part]:
    last = axes[-1] if len(axes) > 1 else None
    if last is None or last.n < _ROW or (last.pitch, last.stride) != (1, itemsize):
        yield address, start, axes
        return
    n, pitch, stride = axes[0]
    for place in range(n):
        yield from _rows(address + place * stride, start + place * pitch, axes[1:], itemsize)


def _in_order_of_memory(target: Target) -> tuple[int, tuple[Axis, ...]]:
    """The lowest address and the axes from there, for values that do not depend on their index."""
    steps = sorted(zip(target.strides, target.shape, strict=True), key=lambda axis: -abs(axis[0]))
    strides, shape = tuple(abs(stride) for stride, _ in steps), tuple(n for _, n in steps)
    lowest = target.pointer + sum(min(0, stride * (n - 1)) for stride, n in steps)
    return lowest, merge(shape, tuple(stride // target.itemsize for stride in strides), strides)
