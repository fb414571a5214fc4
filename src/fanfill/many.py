"""fill_many: all tensors of a model in one call.

Everything is checked before the first value is written. Then the tiles of all tensors in host memory are one
job for the pool, and small tensors share calls of their kernel, so thousands of them keep every thread busy.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fanfill import regions
from fanfill.backends import resolve
from fanfill.cpu import buffers
from fanfill.cpu import run as cpu_run
from fanfill.cpu import threads as pool
from fanfill.cuda import buffers as device_buffers
from fanfill.cuda import run as cuda_run
from fanfill.distributions import recipe
from fanfill.errors import BackendUnavailableError
from fanfill.fill import as_memory, checked_progress, key_of, plan_of, words_of
from fanfill.initializers import Initializer, constant, initializer_of
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.backends import Backend, DeviceBackend
    from fanfill.regions import Region
    from fanfill_kernels.philox import Key

__all__ = ["Job", "fill_many"]

Items = TypeVar("Items", bound=Mapping[Any, Any] | Iterable[Any])

_FORM = "(buffer, initializer, name), or with global_shape and offset behind the name"
_NAMED_FORM = "(buffer, initializer), or with global_shape and offset behind it"
_CONSTANTS = {"zeros": 0.0, "ones": 1.0}


class _Part(NamedTuple):
    """Which part of which tensor an item is (None: the whole); ``at`` is its number, None in a mapping."""

    at: int | None
    name: Any
    law: Initializer
    dtype: Any
    shape: tuple[int, ...]
    region: Region | None

    def __str__(self) -> str:
        return _label(self.at, self.name)


class _OnDevice(NamedTuple):
    """A fill of a device's memory: the arguments of `cuda_run.fill_target`."""

    target: device_buffers.Target
    region: Region
    recipe: Any
    key: Key


def fill_many(
    items: Items,
    *,
    seed: int,
    backend: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Items:
    """Fill many buffers in place, each with its own initializer and name, as one job.

    The values are those of a `fill` of each. Thousands of small tensors use every thread, and no thread waits
    for another between two tensors. Nothing is written unless all items can be filled.

    Parameters
    ----------
    items
        A sequence of ``(buffer, initializer, name)``, or a mapping from names to ``(buffer, initializer)``.
        To fill a part of a tensor, append its ``global_shape`` and, if it does not begin at the origin, its
        ``offset``. Buffers, initializers and the rest are as in `fill`; an initializer may also be "zeros" or
        "ones". Buffers may lie in host memory and on GPUs.
    seed, backend, threads
        As in `fill`, for all items.
    progress
        A callable that gets (values done, values in all) of all items together, on the calling thread, at
        last with both equal.

    Returns
    -------
    items
        The very object that was given.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `fill`, before anything is written; the message begins with the item that it is about. Also if two
        items have one name, unless they are parts of one tensor that do not overlap (two tensors of one name
        would hold the same values); or if two items share memory.

    Examples
    --------
    >>> import numpy as np, fanfill as ff
    >>> w, b = np.empty((4, 3), np.float32), np.empty(3, np.float32)
    >>> _ = ff.fill_many({"dense.w": (w, ff.he_normal()), "dense.b": (b, "zeros")}, seed=0)
    >>> bool((w == ff.draw((4, 3), ff.he_normal(), seed=0, name="dense.w")).all()), b.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    checked_progress(progress)
    job = Job(seed, backend)
    count = pool.resolve(threads)
    for at, entry in _entries(items):
        try:
            job.add(at, *entry)
        except (TypeError, ValueError, BackendUnavailableError) as error:
            kind = next(k for k in (TypeError, ValueError, BackendUnavailableError) if isinstance(error, k))
            raise kind(f"item {_label(at, entry[2])}: {error}") from error
    job.assert_apart()
    job.run(count, progress)
    return items


def _entries(items: object) -> Iterator[tuple[int | None, Sequence[Any]]]:
    """The items' numbers, if they have any, and (buffer, initializer, name, perhaps global_shape, offset)."""
    if isinstance(items, Mapping):
        for name, entry in items.items():
            if not isinstance(entry, tuple | list) or not 2 <= len(entry) <= 4:
                raise TypeError(f"item {shown(name)}: expected {_NAMED_FORM}; got {shown(entry)}")
            yield None, (*entry[:2], name, *entry[2:])
        return
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise TypeError(
            f"items: expected a sequence of {_FORM}, or a mapping from names to {_NAMED_FORM}; got "
            f"{shown(items)}"
        )
    for number, entry in enumerate(items):
        if not isinstance(entry, tuple | list) or not 3 <= len(entry) <= 5:
            raise TypeError(f"item {number}: expected {_FORM}; got {shown(entry)}")
        yield number, entry


def _label(at: int | None, name: object) -> str:
    return shown(name) if at is None else f"{at} ({shown(name)})"


class Job:
    """Items that have been checked, as what will run."""

    def __init__(self, seed: int, backend: str | None) -> None:
        self.seed_words, self.backend = key_of(seed, 0)[:2], backend
        self.groups: dict[Any, cpu_run.Group] = {}
        self.fills: list[cpu_run.Fill] = []
        self.device_fills: list[_OnDevice] = []
        self.written: list[Any] = []  # torch tensors, to be told
        # The fields of `_Part`s: few objects for each item, since the collector visits them all again and again.
        self.names: dict[Any, tuple[Any, ...]] = {}
        self.again: list[tuple[Any, ...]] = []  # of a name that another item has
        self.firsts: list[int] = []  # of packed memory: its first byte, its size, whose it is
        self.sizes: list[int] = []
        self.owners: list[tuple[Any, ...]] = []
        self.host: Backend | None = None
        self.device: DeviceBackend | None = None

    def add(
        self, at: int | None, array: Any, law: Any, name: Any, global_shape: Any = None, offset: Any = None
    ) -> None:
        """Check one item; raise as `fill` would."""
        if type(law) is str and law in _CONSTANTS:
            law = constant(_CONSTANTS[law])
        elif type(law) is not Initializer:
            law = initializer_of(law)
        key = self.seed_words + words_of(name)
        whole = global_shape is None and offset is None
        if whole and type(array) is np.ndarray and self.backend is None and array.flags.carray:
            plan = plan_of(law, array)
            if plan is not None:
                out: Any = array.reshape(-1).view(plan.lanes)
                address = ctypes.addressof(ctypes.c_char.from_buffer(out))  # a quarter of ctypes.data's time
                self._small(plan.run, address, out, key, plan.params)
                self._note((at, name, law, array.dtype, array.shape, None), address, out.nbytes)
                return
        memory = as_memory(array, law, self.backend)
        if memory.is_torch:
            self.written.append(array)
        if isinstance(memory, device_buffers.Target):
            shape, strides, itemsize, dtype = memory.shape, memory.strides, memory.itemsize, memory.dtype
            address = memory.pointer
        else:
            view, dtype = memory.view, memory.storage.name
            shape, strides, itemsize, address = view.shape, view.strides, view.itemsize, view.ctypes.data
        region = regions.region(shape, global_shape, offset)
        made = recipe(law, region.shape, dtype)
        size, steps = prod(shape) * itemsize, [step * (n - 1) for step, n in zip(strides, shape, strict=True)]
        packed = size and sum(map(abs, steps)) + itemsize == size  # in whatever order
        first = address + sum(min(0, step) for step in steps)
        self._note((at, name, law, dtype, shape, None if whole else region), first, size if packed else 0)
        if isinstance(memory, device_buffers.Target):
            self.device = self.device or resolve("cuda", self.backend)
            self.device_fills.append(_OnDevice(memory, region, made, key))
            return
        self.host = self.host or resolve("cpu", self.backend)
        if region.shape == shape and 0 < view.size <= cpu_run.SMALL and view.flags.carray:
            run = cpu_run.store if made.form == "constant" else self.host.kernels(made.form, made.dtype).run
            self._small(run, address, view.reshape(-1), key, made.params)
        else:
            self.fills.append(cpu_run.Fill(view, region, made, key))

    def _note(self, part: tuple[Any, ...], first: int, size: int) -> None:
        if self.names.setdefault(part[1], part) is not part:
            self.again.append(part)
        if size:
            self.firsts.append(first)
            self.sizes.append(size)
            self.owners.append(part)

    def _small(self, run: Any, address: int, out: Any, key: Key, params: tuple[Any, ...]) -> None:
        group = self.groups.get(run)
        if group is None:
            group = self.groups[run] = cpu_run.Group(run, [], [])
        group.addresses.append(address)
        group.calls.append((out, 0, key, params))

    def assert_apart(self) -> None:
        """Raise ValueError if items share values or memory."""
        shared: dict[Any, list[_Part]] = {}
        for part in self.again:
            shared.setdefault(part[1], [_Part(*self.names[part[1]])]).append(_Part(*part))
        for parts in shared.values():
            _assert_parts(parts)
        firsts = np.array(self.firsts, np.uint64)
        order = np.argsort(firsts, kind="stable")
        ends = firsts + np.array(self.sizes, np.uint64)
        crossed = np.flatnonzero(firsts[order][1:] < np.maximum.accumulate(ends[order])[:-1])
        if crossed.size:
            one, other = (_Part(*self.owners[order[crossed[0] + k]]) for k in (0, 1))
            raise ValueError(
                f"items: expected buffers that do not share memory; got {one} and {other}, which do; fill a "
                "tied tensor once"
            )

    def values(self) -> int:
        """How many there are to fill."""
        on_devices = sum(prod(fill.target.shape) for fill in self.device_fills)
        small = sum(out.size for group in self.groups.values() for out, *_ in group.calls)
        return on_devices + small + sum(fill.view.size for fill in self.fills)

    def run(self, count: int, progress: Callable[[int, int], object] | None) -> None:
        """Fill: first what devices do on their own, then the host's memory."""
        on_devices = sum(prod(fill.target.shape) for fill in self.device_fills)
        groups = list(self.groups.values())
        for tensor in self.written:
            buffers.mark_written(tensor)
        if self.device is not None:
            cuda_run.fill_all(self.device_fills, self.device)
        follow = progress
        if progress is not None and on_devices:
            follow = functools.partial(_shifted, progress, on_devices)
        if groups or self.fills:
            cpu_run.fill_all(groups, self.fills, self.host or resolve("cpu", self.backend), count, follow)
        elif follow is not None:
            follow(0, 0)


def _shifted(progress: Callable[[int, int], object], before: int, done: int, total: int) -> None:
    progress(before + done, before + total)


def _assert_parts(parts: list[_Part]) -> None:
    """Raise ValueError unless items of one name are parts of one tensor that do not overlap."""
    first = parts[0]
    for part in parts[1:]:
        same = (part.law, str(part.dtype)) == (first.law, str(first.dtype))
        if not (same and part.region and first.region and part.region.shape == first.region.shape):
            raise ValueError(
                f"items: expected a name for each tensor; got {shown(part.name)} for {first} and {part}, "
                "which would hold the same values; give them different names, or, for parts of one tensor, "
                "pass its global_shape and each part's offset"
            )
    boxes = [(part, _box(part.shape, part.region)) for part in parts if part.region is not None]
    for number, (part, box) in enumerate(boxes):
        for other, other_box in boxes[:number]:
            if _overlap(box, other_box):
                raise ValueError(
                    f"items: expected parts of {shown(part.name)} that do not overlap; got {other} and "
                    f"{part}, which do; correct an offset, or leave one out"
                )


def _box(shape: tuple[int, ...], region: Region) -> tuple[tuple[int, int], ...]:
    """First and last coordinate, plus one, on each axis; of a flat range its indices alone."""
    if region.pitches == (1,) and len(region.shape) != 1:
        return ((region.start, region.start + shape[0]),)
    rest, box = region.start, []
    for pitch, n in zip(region.pitches, shape, strict=True):
        low, rest = divmod(rest, pitch) if pitch else (0, rest)
        box.append((low, low + n))
    return tuple(box)


def _overlap(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    """Whether two boxes of one tensor have an element in common; ranges and boxes are taken to have one."""
    if any(low == high for low, high in (*one, *other)):
        return False
    if len(one) != len(other):
        return True
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))
