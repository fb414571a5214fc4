"""Many fills as one job: what `fill_many`, `init_module`, recipes and Keras hand over.

Everything is checked before the first value is written. Then the tiles of all tensors in host memory are one
job for the pool, and small tensors share calls of their kernel, so thousands of them keep every thread busy.
"""

from __future__ import annotations

import functools
from array import array as column
from collections.abc import Callable, Sequence
from math import prod
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fanfill import regions
from fanfill.alike import Alike, libraries
from fanfill.apart import Memory, Part, assert_parts
from fanfill.backends import resolve
from fanfill.cpu import buffers
from fanfill.cpu import run as cpu_run
from fanfill.cuda import buffers as device_buffers
from fanfill.cuda import run as cuda_run
from fanfill.distributions import recipe
from fanfill.errors import BackendUnavailableError
from fanfill.fill import Plan, as_memory, planned, plans, remember
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.named import CONSTANTS, initializer_of
from fanfill.streams import digests, key_of, substream
from fanfill.structures import assert_on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.backends import Backend, DeviceBackend
    from fanfill.regions import Region
    from fanfill_kernels.formats import Format
    from fanfill_kernels.philox import Key

__all__ = ["Job"]


class _OnDevice(NamedTuple):
    """A fill of a device's memory: the arguments of `cuda_run.fill_target`."""

    target: device_buffers.Target
    region: Region
    recipe: Any
    key: Key


def _plain(entries: Sequence[Any], laws: Sequence[Any], names: Sequence[Any]) -> NDArray[np.intp]:
    """The places of whole tensors with an initializer and a name of ASCII, which suffice as they are."""
    kinds = {*map(type, laws)}, {*map(type, names)}
    if {*map(len, entries)} <= {3} and kinds == ({Initializer}, {str}) and "".join(names).isascii():
        return np.arange(len(entries))
    found = (
        k
        for k, entry in enumerate(entries)
        if len(entry) == 3
        if type(laws[k]) is Initializer and type(names[k]) is str and names[k].isascii()
    )
    return np.fromiter(found, np.intp)


class Job:
    """Items that have been checked, as what will run.

    A model may have tens of thousands of them, and each costs microseconds before a thread can help. So what
    is known of an item lies in columns, at the item's number, and small tensors are packed for their kernel
    all at once.
    """

    def __init__(self, seed: int, backend: str | None, *, numbered: bool = False) -> None:
        self.seed, self.backend, self.numbered = key_of(seed, 0)[:2], backend, numbered
        self.names: list[Any] = []
        self.digests = bytearray()  # their substreams, 8 bytes each
        self.arrays: list[Any] = []
        self.alike: list[Alike] = []
        self.arrays_alike: dict[int, Alike] = {}  # NumPy's, by the identity of their plans
        self.planned: dict[tuple[Any, ...], Alike] = {}  # by this job alone
        self.libraries = libraries()
        self.parts: dict[int, Part] = {}  # all that are in none of these,
        self.spans: dict[int, Memory] = {}  # and their memory
        self.located: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None
        self.fills: list[cpu_run.Fill] = []
        self.device_fills: list[_OnDevice] = []
        self.written: list[Any] = []  # torch tensors, to be told
        self.host: Backend | None = None
        self.device: DeviceBackend | None = None

    def extend(
        self,
        entries: Sequence[Any],
        whose: Callable[[int], str] | None = None,
        check: Callable[[int], object] | None = None,
    ) -> None:
        """Check and add items: each a buffer, an initializer, a name, perhaps a global shape and an offset.

        Parameters
        ----------
        whose
            What begins an error's message, by the item's number in this job.
        check
            Called with the place among ``entries`` of each one that is not like another of them, before it is
            checked here; it may raise.

        Raises
        ------
        TypeError, ValueError, BackendUnavailableError
            As `fill`.
        """
        before = len(self.names)
        arrays, laws, names = (list(map(itemgetter(k), entries)) for k in range(3))
        if str in {*map(type, laws)}:
            laws = [CONSTANTS.get(law, law) if type(law) is str else law for law in laws]
        self.arrays += arrays
        self.names += names
        plain = _plain(entries, laws, names)
        if len(plain) == len(entries):
            self.digests += digests(names)
        else:
            found = np.zeros(len(entries), "<u8")
            found[plain] = np.frombuffer(digests(names[k] for k in plain), "<u8")
            self.digests += found.tobytes()
        left = np.ones(len(entries), np.bool_)
        self._add_alike(before, plain, arrays, laws, left, whose)
        of_arrays = {*plain.tolist()} if self.backend is None and np.ndarray in {*map(type, arrays)} else ()
        for k in np.flatnonzero(left).tolist():
            array, here = arrays[k], before + k
            if check is not None:
                check(k)
            if k in of_arrays and type(array) is np.ndarray:
                # What a plan stands for needs no further check. Written out, since a call costs as much as
                # what it does.
                plan = plans.get((laws[k], array.shape, array.dtype))
                if plan is not None and array.flags.carray:
                    alike = self.arrays_alike.get(id(plan))
                    if alike is None:
                        dtype = str(array.dtype)
                        alike = self._of_arrays(laws[k], dtype, array.shape, array.nbytes, plan)
                    if array.dtype is not plan.lanes:
                        self.arrays[here] = array.view(plan.lanes)
                    alike.numbers.append(here)
                    continue
            self._add(here, laws[k], entries[k][3:], whose)

    def _add_alike(
        self,
        before: int,
        plain: NDArray[np.intp],
        arrays: Sequence[Any],
        laws: Sequence[Initializer],
        left: NDArray[np.bool_],
        whose: Callable[[int], str] | None,
    ) -> None:
        """Add those of a library's buffers that are like another one, which meets every check; the others are
        ``left``.
        """
        kinds = {kind: self.libraries.get(kind) for kind in {*map(type, arrays)}}
        for library in dict.fromkeys(kinds.values()):
            if library is None:
                continue
            those, some, of_some = plain, arrays, laws
            if len({*kinds.values()}) > 1:
                those = those[[kinds[type(arrays[k])] is library for k in those]]
            if len(those) < len(arrays):
                some, of_some = [arrays[k] for k in those], [laws[k] for k in those]
            try:
                seen = library(some, of_some)
            except (RuntimeError, TypeError):  # one has no memory of its own: it will be refused by its name
                continue
            for at in seen.together():
                first, others = int(those[at[0]]), those[at[1:]]
                alike = self._add(before + first, laws[first], (), whose)
                left[first] = False
                if alike is not None and alike.addresses is not None:
                    alike.numbers.frombytes((others + before).tobytes())
                    alike.addresses.frombytes(seen.addresses[at[1:]].tobytes())
                    left[others] = False

    def _add(
        self, here: int, law: Any, place: Sequence[Any], whose: Callable[[int], str] | None
    ) -> Alike | None:
        """Check any item; return what others can be added to that are alike, if they can."""
        try:
            return self._checked(here, initializer_of(law), *place)
        except (TypeError, ValueError, BackendUnavailableError) as error:
            if whose is None:
                raise
            kind = next(k for k in (TypeError, ValueError, BackendUnavailableError) if isinstance(error, k))
            raise kind(f"{whose(here)}{error}") from error

    def _checked(
        self, here: int, law: Initializer, global_shape: Any = None, offset: Any = None
    ) -> Alike | None:
        array, name = self.arrays[here], self.names[here]
        number = substream(name)
        memory = as_memory(array, law, self.backend)
        if isinstance(memory, device_buffers.Target):
            shape, strides, itemsize, dtype = memory.shape, memory.strides, memory.itemsize, memory.dtype
            address = memory.pointer
        else:
            view, dtype = memory.view, memory.storage.name
            shape, strides, itemsize, address = view.shape, view.strides, view.itemsize, view.ctypes.data
        region = regions.region(shape, global_shape, offset)
        made = recipe(law, region.shape, dtype)
        if isinstance(memory, device_buffers.Target):
            assert_on_host(made, law)
        plain = not law.structured and 0 not in shape and region.shape == shape
        of_library = plain and global_shape is None and type(array) in self.libraries
        self.digests[8 * here : 8 * here + 8] = number.to_bytes(8, "little")
        if not isinstance(memory, device_buffers.Target):
            self.host = self.host or resolve("cpu", self.backend)
            if plain and view.size <= cpu_run.SMALL and view.flags.carray:
                alike = self._alike(law, shape, memory.storage, self.host, of_library)
                if type(array) is np.ndarray and self.backend is None:
                    remember(plans, (law, shape, array.dtype), alike.plan)
                alike.numbers.append(here)
                if alike.addresses is None:
                    self.arrays[here] = view
                    self._note_written(memory, array)
                else:
                    alike.addresses.append(address)
                return alike
        key = (*self.seed, number & 0xFFFFFFFF, number >> 32)
        if isinstance(memory, device_buffers.Target):
            self.device = self.device or resolve("cuda", self.backend)
            if of_library and cuda_run.is_run(memory, region):
                size = prod(shape) * itemsize
                one = memory, region, made
                numbers, addresses = column("q", [here]), column("Q", [address])
                alike = Alike(law, str(dtype), shape, size, numbers, addresses, None, memory.is_torch, one)
                self.alike.append(alike)
                return alike
        self._note_written(memory, array)
        part = None if global_shape is None else region
        self.parts[here] = Part(self.label(here), name, law, dtype, shape, part)
        self.spans[here] = Memory(address, shape, strides, itemsize)
        if isinstance(memory, device_buffers.Target):
            self.device_fills.append(_OnDevice(memory, region, made, key))
        else:
            self.fills.append(cpu_run.Fill(view, region, made, key))
        return None

    def _note_written(self, memory: buffers.Lanes | device_buffers.Target, array: Any) -> None:
        """Let torch know of a tensor that is not among those that are alike, once all have been checked."""
        if memory.is_torch:
            self.written.append(array)

    def _substreams(self) -> NDArray[np.uint64]:
        """Those of the names."""
        return np.frombuffer(bytes(self.digests), "<u8")

    def _of_arrays(
        self, law: Initializer, dtype: str, shape: tuple[int, ...], size: int, plan: Plan
    ) -> Alike:
        alike = self.arrays_alike[id(plan)] = Alike(law, dtype, shape, size, column("q"), None, plan)
        self.alike.append(alike)
        return alike

    def _alike(
        self, law: Initializer, shape: tuple[int, ...], storage: Format, host: Backend, located: bool
    ) -> Alike:
        named = law, shape, storage.name, located
        alike = self.planned.get(named)
        if alike is None:
            size, plan = prod(shape) * storage.itemsize, planned(law, shape, storage, host)
            if located:
                numbers, addresses = column("q"), column("Q")
                alike = Alike(law, storage.name, shape, size, numbers, addresses, plan, is_torch=True)
                self.alike.append(alike)
            else:
                alike = self._of_arrays(law, storage.name, shape, size, plan)
            self.planned[named] = alike
        return alike

    def label(self, number: int) -> str:
        """How an error names an item."""
        name = shown(self.names[number])
        return f"{number} ({name})" if self.numbered else name

    def _part(self, number: int) -> Part:
        """What is known of an item, for an error."""
        found = self.parts.get(number)
        if found is not None:
            return found
        alike = next(alike for alike in self.alike if number in alike.numbers)
        return Part(self.label(number), self.names[number], alike.law, alike.dtype, alike.shape, None)

    def assert_apart(self) -> None:
        """Raise ValueError if items share values or memory."""
        substreams = self._substreams()
        known = np.sort(substreams)  # in a third of argsort's time
        if (known[1:] == known[:-1]).any():
            self._assert_parts(substreams)
        firsts, ends = self._located()
        # Of memory that shares no byte, that which begins first ends first.
        if not self.parts and not (np.sort(firsts)[1:] < np.sort(ends)[:-1]).any():
            return
        gaps = {number for number, memory in self.spans.items() if memory.has_gaps}
        solid = ends > firsts
        solid[list(gaps)] = False
        order = np.argsort(firsts, kind="stable")
        order = order[solid[order]]
        crossed = np.flatnonzero(firsts[order][1:] < np.maximum.accumulate(ends[order])[:-1])
        if crossed.size:
            self._refuse_shared(*order[crossed[0] :][:2].tolist())
        for number in sorted(gaps):
            near = np.flatnonzero((firsts < ends[number]) & (ends > firsts[number])).tolist()
            for other in near:
                if (other not in gaps or other > number) and self._memory(number).meets(self._memory(other)):
                    self._refuse_shared(number, other)

    def _assert_parts(self, substreams: NDArray[np.uint64]) -> None:
        order = np.argsort(substreams, kind="stable")
        known = substreams[order]
        shared: dict[int, list[int]] = {}
        for at in np.flatnonzero(known[1:] == known[:-1]).tolist():
            shared.setdefault(int(known[at]), [int(order[at])]).append(int(order[at + 1]))
        for numbers in shared.values():
            assert_parts([self._part(number) for number in numbers])

    def _refuse_shared(self, *numbers: int) -> NoReturn:
        one, other = (self._part(number) for number in sorted(numbers))
        raise ValueError(
            f"items: expected buffers that do not share memory; got {one} and {other}, which do; fill a "
            "tied tensor once"
        )

    def _memory(self, number: int) -> Memory:
        found = self.spans.get(number)
        if found is not None:
            return found
        firsts, ends = self._located()
        first, end = int(firsts[number]), int(ends[number])
        return Memory(first, (end - first,), (1,), 1)

    def _located(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The first byte of each item's memory, and the one behind its last."""
        if self.located is not None and len(self.located[0]) == len(self.names):
            return self.located
        firsts, sizes = np.zeros(len(self.names), np.uint64), np.zeros(len(self.names), np.uint64)
        asked: list[int] = []
        for alike in self.alike:
            numbers = np.asarray(alike.numbers)
            sizes[numbers] = alike.size
            if alike.addresses is None:
                asked += alike.numbers
            else:
                firsts[numbers] = np.asarray(alike.addresses)
        if asked:
            self.host = self.host or resolve("cpu", self.backend)
            firsts[asked] = self.host.addresses([self.arrays[number] for number in asked])
        ends = firsts + sizes
        for number, memory in self.spans.items():
            firsts[number], ends[number] = memory.ends
        self.located = firsts, ends
        return self.located

    def values(self) -> int:
        """How many there are to fill."""
        small = sum(prod(alike.shape) * len(alike.numbers) for alike in self.alike if alike.on_device is None)
        return int(small + self._values_on_devices() + sum(prod(fill.view.shape) for fill in self.fills))

    def _values_on_devices(self) -> int:
        alike = sum(
            prod(alike.shape) * len(alike.numbers) for alike in self.alike if alike.on_device is not None
        )
        return int(alike + sum(prod(fill.target.shape) for fill in self.device_fills))

    def _packed(self) -> list[cpu_run.Small]:
        """The small fills, by kernel."""
        kernels: dict[Any, list[tuple[Alike, Plan]]] = {}
        for alike in self.alike:
            if alike.plan is not None:
                kernels.setdefault(alike.plan.run, []).append((alike, alike.plan))
        if not kernels:
            return []
        substreams, packed = self._substreams(), []
        firsts, _ = self._located()
        for run, all_alike in kernels.items():
            numbers = np.concatenate([alike.numbers for alike, _ in all_alike])
            templates = [(prod(alike.shape), plan.params) for alike, plan in all_alike]
            out = functools.partial(self._out, numbers)
            counts = [len(alike.numbers) for alike, _ in all_alike]
            packed.append(
                cpu_run.Small(run, self.seed, templates, counts, firsts[numbers], substreams[numbers], out)
            )
        return packed

    def _out(self, numbers: NDArray[np.int64], number: int) -> NDArray[Any]:
        seen = self.arrays[numbers[number]]
        flat = seen if isinstance(seen, np.ndarray) else buffers.torch_lanes(seen).view
        return flat.reshape(-1)

    def run(self, count: int, progress: Callable[[int, int], object] | None) -> None:
        """Fill: first what devices do on their own, then the host's memory."""
        on_devices = self._values_on_devices()
        written = [self.arrays[n] for alike in self.alike if alike.is_torch for n in alike.numbers]
        if written or self.written:
            buffers.mark_all_written(written + self.written)
        if self.device is not None:
            cuda_run.fill_all(self.device_fills, self.device, self._runs())
        follow = progress
        if progress is not None and on_devices:
            follow = functools.partial(_shifted, progress, on_devices)
        small = self._packed()
        if small or self.fills:
            cpu_run.fill_all(small, self.fills, self.host or resolve("cpu", self.backend), count, follow)
        elif follow is not None:
            follow(0, 0)

    def _runs(self) -> list[cuda_run.Runs]:
        """What lies on devices and is alike."""
        substreams = self._substreams()
        return [
            cuda_run.Runs(
                *alike.on_device, self.seed, np.array(alike.addresses), substreams[np.asarray(alike.numbers)]
            )
            for alike in self.alike
            if alike.on_device is not None and alike.addresses is not None
        ]


def _shifted(progress: Callable[[int, int], object], before: int, done: int, total: int) -> None:
    progress(before + done, before + total)
