"""CUDA devices for tests of the backend's Python: real CuPy arrays on host memory, emulated everything else.

Real are `cupy.ndarray` (allocated here through ``cupy.cuda.set_allocator``), its views, dtypes and strides,
and NVRTC. Emulated are devices, current device and streams, the loading of modules, and launches: what would
be loaded as a cubin is looked into for the kernels' names, and the PTX that NVRTC makes of the same source
runs on the CPU (`cuda_on_cpu.machine`). All of it stands behind `fanfill.cuda.driver.Driver`.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from cuda_on_cpu.compiled import GROUPED_SOURCE, KEYED, KEYED_SOURCE, PARAMETERS, shared_ptx
from cuda_on_cpu.machine import Module
from fanfill.cuda import nvrtc
from fanfill.cuda.driver import Driver
from fanfill_kernels.cuda.choice import source_of

CANARY = 0xA5
GUARD = 4096  # bytes of canary on both sides of an allocation
ALIGNMENT = 512  # of cudaMalloc


class Launch(NamedTuple):
    """What was launched, where."""

    kernel: str
    blocks: int
    threads: int
    device: int
    stream: int


class Allocation:
    """Guarded bytes of one device, for as long as a CuPy array uses them."""

    def __init__(self, size: int, device: int) -> None:
        self.memory = np.full(size + 2 * GUARD + ALIGNMENT, CANARY, np.uint8)
        self.pointer = -(-(self.memory.ctypes.data + GUARD) // ALIGNMENT) * ALIGNMENT
        self.size, self.device = size, device

    def bytes(self, pointer: int, size: int) -> np.ndarray:
        begin = pointer - self.memory.ctypes.data
        return self.memory[begin : begin + size]

    def damage(self) -> str | None:
        """What a kernel has written outside, in words."""
        begin = self.pointer - self.memory.ctypes.data
        if (self.memory[:begin] != CANARY).any():
            return f"written below an allocation of {self.size} bytes"
        if (self.memory[begin + self.size :] != CANARY).any():
            return f"written beyond an allocation of {self.size} bytes"
        return None


class Owner:
    """Keeps an allocation while CuPy needs it, and looks for damage when it no longer does."""

    def __init__(self, allocation: Allocation, damage: list[str]) -> None:
        self.allocation, self.damage = allocation, damage

    def __del__(self) -> None:
        found = self.allocation.damage()
        if found:
            self.damage.append(found)


class OutOfMemory(MemoryError):
    """What CuPy raises when it is not there to raise its own."""


@functools.cache
def module(source: str, architecture: int) -> Module:
    """The kernels as the CPU runs them; shared by all machines of a process."""
    return Module(shared_ptx(nvrtc.compiler(), source, architecture), lazily=True)


class Function:
    """A kernel of a module that was loaded on one device, and its handle."""

    def __init__(self, loaded: Loaded, name: str) -> None:
        self.loaded, self.name = loaded, name
        self.ptr = id(self)
        loaded.machine.functions[self.ptr] = self  # which lives as long as its module


class Loaded:
    """A module on one device."""

    def __init__(self, machine: Machine, module: Module, image: bytes | None, device: int) -> None:
        self.machine, self.module, self.image, self.device = machine, module, image, device

    def get_function(self, name: str) -> Function:
        self.machine.assert_not_capturing("a look-up of a kernel")
        if name not in self.module.entries or (
            self.image and b"\0" + name.encode() + b"\0" not in self.image
        ):
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return Function(self, name)


class Machine:
    """A machine with emulated devices.

    Parameters
    ----------
    architectures : tuple of int
        One a device.
    source : callable
        Returns the source that images are made from, as the backend compiles it.

    Attributes
    ----------
    launches : list of Launch
    loads : list of int
        The device of each module that was loaded.
    most : int or None
        Allocations of more bytes fail.
    parameters : int
        Bytes that the parameters of a grouped kernel may have.
    by_family : bool
        Make the PTX of each family alone: sooner there, where no other test needs all of them.
    """

    def __init__(self, architectures: tuple[int, ...], source: Callable[[], str]) -> None:
        self.architectures, self.source = architectures, source
        self._living: weakref.WeakSet[Owner] = weakref.WeakSet()
        self._damage: list[str] = []
        self.launches: list[Launch] = []
        self.loads: list[int] = []
        self.most: int | None = None
        self.parameters = PARAMETERS
        self.by_family = False
        self.capturing = False
        self.out_of_memory: Callable[[int], Exception] = OutOfMemory
        self.refuse_load: Exception | None = None
        self.streams: dict[int, set[int]] = {number: {0, 1, 2} for number in range(len(architectures))}
        self._thread = threading.local()
        self._lock = threading.Lock()
        self.functions: dict[int, Function] = {}
        self.latest: Allocation | None = None
        self.driver = Driver(
            devices=lambda: len(self.architectures),
            current=lambda: self.current,
            version=lambda: 13000,
            architecture=lambda number: self.architectures[number],
            multiprocessors=lambda number: 1,
            locate=self.locate,
            stream=self.stream,
            use=self.use,
            context=self.context,
            load=self.load,
            launch=self.launch,
            empty=self.empty,
            allocate=self.allocate,
            memset=self.memset,
            read=self.read,
            seconds=self.seconds,
            facts=lambda number: {"gpu": f"emulated sm_{self.architectures[number]}"},
        )

    # Devices and streams

    @property
    def current(self) -> int:
        return getattr(self._thread, "device", 0)

    @contextmanager
    def use(self, number: int) -> Iterator[None]:
        before = self.current
        self._thread.device = number
        self._thread.contexts = {number, *getattr(self._thread, "contexts", ())}
        try:
            yield
        finally:
            self._thread.device = before

    def context(self) -> int:
        """A thread has a device's context from when it first used the device."""
        known = getattr(self._thread, "contexts", ())
        return 0xC0 + self.current if self.current in known else 0

    def stream(self, number: int) -> int:
        return getattr(self._thread, "streams", {}).get(number, 0)

    @contextmanager
    def on_stream(self, handle: int, number: int = 0) -> Iterator[None]:
        """Make a stream CuPy's current one of a device on this thread."""
        self.streams[number].add(handle)
        before = getattr(self._thread, "streams", {})
        self._thread.streams = {**before, number: handle}
        try:
            yield
        finally:
            self._thread.streams = before

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Forbid what may not happen while a stream is captured into a graph."""
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def assert_not_capturing(self, what: str) -> None:
        assert not self.capturing, f"{what} during stream capture"

    # Memory

    def allocate(self, size: int) -> Any:
        """What ``cupy.cuda.set_allocator`` wants: memory of the current device, as a MemoryPointer."""
        from cupy.cuda import memory

        self.assert_not_capturing("an allocation")
        if self.most is not None and size > self.most:
            raise self.out_of_memory(size)
        made = self.latest = Allocation(size, self.current)
        owner = Owner(made, self._damage)
        with self._lock:
            self._living.add(owner)
        return memory.MemoryPointer(memory.UnownedMemory(made.pointer, max(size, 1), owner, self.current), 0)

    @property
    def allocations(self) -> list[Allocation]:
        """Those in use."""
        with self._lock:
            return [owner.allocation for owner in self._living]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    def locate(self, pointer: int) -> int | None:
        for allocation in self.allocations:
            if allocation.pointer <= pointer < allocation.pointer + max(allocation.size, 1):
                return allocation.device
        return None

    def memset(self, pointer: int, byte: int, size: int, stream: int) -> None:
        assert stream in self.streams[self.current]
        self.bytes(pointer, size)[:] = byte

    def read(self, pointer: int, size: int) -> bytes:
        self.assert_not_capturing("a copy to the host")
        return self.bytes(pointer, size).tobytes()

    def bytes(self, pointer: int, size: int) -> np.ndarray:
        """The emulated device memory itself."""
        for found in self.allocations:
            if found.pointer <= pointer and pointer + size <= found.pointer + found.size:
                return found.bytes(pointer, size)
        raise AssertionError(f"{size} bytes at {pointer:#x} are no device memory")

    def assert_guards(self) -> None:
        """No kernel has written outside of what was allocated."""
        found = [*self._damage, *filter(None, (allocation.damage() for allocation in self.allocations))]
        assert not found, found

    def host(self, array: Any) -> np.ndarray:
        """An emulated device array's values, of any strides."""
        if array.size == 0:
            return np.empty(array.shape, array.dtype)
        low = sum(min(0, (n - 1) * step) for n, step in zip(array.shape, array.strides, strict=True))
        high = sum(max(0, (n - 1) * step) for n, step in zip(array.shape, array.strides, strict=True))
        raw = self.bytes(array.data.ptr + low, high - low + array.itemsize)
        view = np.ndarray(array.shape, array.dtype, raw, -low, array.strides)
        return np.array(view, order="C")

    # Kernels

    def load(self, image: bytes) -> Loaded:
        self.assert_not_capturing("the loading of a module")
        if self.refuse_load is not None:
            raise self.refuse_load
        self.loads.append(self.current)
        if image.startswith(b"\x7fELF"):
            architecture = self.architectures[self.current]
            found = re.search(rb"\0(grouped_|(?:keyed_)?(?:run|box)_)(\w+)\0", image)
            assert found is not None
            kind, name = (part.decode() for part in found.groups())
            if kind == "grouped_":
                whole = self.parameters == PARAMETERS and not self.by_family
                source = GROUPED_SOURCE if whole else source_of(f"grouped_{self.parameters}_{name}")
            elif kind.startswith("keyed_"):
                source = KEYED_SOURCE if name in KEYED else source_of(f"keyed_{name}")
            else:
                source = source_of(name) if self.by_family else self.source()
            return Loaded(self, module(source, architecture), image, self.current)
        return Loaded(self, Module(image), None, self.current)

    def launch(
        self,
        handle: int,
        blocks: int,
        y: int,
        z: int,
        threads: int,
        thread_y: int,
        thread_z: int,
        shared: int,
        stream: int,
        pointers: int,
        extra: int,
    ) -> None:
        """``cuLaunchKernel``: all parameters are read here, at the call."""
        function = self.functions[handle]
        loaded, name = function.loaded, function.name
        assert self.context(), "a launch on a thread without a context"
        assert loaded.device == self.current, (
            f"a kernel of device {loaded.device}, launched on {self.current}"
        )
        assert stream in self.streams[self.current], f"stream {stream:#x} is not of device {self.current}"
        assert (y, z, thread_y, thread_z, shared, extra) == (1, 1, 1, 1, 0, 0)
        parameters = loaded.module.entries[name].parameters
        places = (ctypes.c_uint64 * len(parameters)).from_address(pointers)
        assert not any(place % 8 for place in places)
        passed = [
            ctypes.string_at(p, parameter.size) for p, parameter in zip(places, parameters, strict=True)
        ]
        memory = [(a.pointer, a.size) for a in self.allocations if a.device == self.current]
        loaded.module.launch(name, (blocks,), (threads,), passed, memory=memory)
        self.launches.append(Launch(name, blocks, threads, self.current, stream))

    def seconds(self, run: Callable[[], object], stream: int) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
