"""CUDA as a fill sees it: one record of functions, implemented with CuPy.

To emulate a GPU, a machine without one only has to replace these functions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INSTALL", "Driver", "find", "one_line"]

INSTALL = "pip install 'fanfill[cuda12]' or 'fanfill[cuda13]', for the CUDA version that nvidia-smi names"


class Driver(NamedTuple):
    """What a fill needs from CUDA; CuPy provides it, or a test's stand-in.

    Attributes
    ----------
    devices, current
        How many devices there are; which one is current on this thread.
    version
        The CUDA version that NVIDIA's driver knows: 12090 for 12.9.
    architecture, multiprocessors
        ``architecture(number)``: 90 for compute capability 9.0; ``multiprocessors(number)``: how many.
    locate
        ``locate(pointer)``: the device that the memory belongs to, or None for memory of no device.
    stream
        ``stream(number)``: the handle of CuPy's current stream on a device, for this thread.
    use
        ``with use(number):`` makes a device current on this thread.
    context
        The handle of this thread's current context, 0 if it has none. ``use`` makes that of the device.
    load
        ``load(image)`` loads a cubin or PTX on the current device; ``.get_function(name).ptr`` of the result
        is the handle of a kernel.
    launch
        ``launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, 0)``: ``cuLaunchKernel`` itself,
        with the address of an array of pointers to the parameters, which it copies. On an H200 that took the
        host 3.9 us, the least of 20 ways; CuPy's Function with NumPy arrays took 37. It fails on a thread
        without a context.
    empty
        ``empty(shape, dtype)``: an uninitialised array on the current device.
    allocate, memset, read
        ``allocate(bytes).ptr``; ``memset(pointer, byte, bytes, stream)``, asynchronous; ``read(pointer,
        bytes)``, after all pending work of the device.
    seconds
        ``seconds(run, stream)``: the time between two events on the stream, before and after ``run()``.
    facts
        ``facts(number)``: the device's name, memory and so on, to be reported along with a figure.
    """

    devices: Callable[[], int]
    current: Callable[[], int]
    version: Callable[[], int]
    architecture: Callable[[int], int]
    multiprocessors: Callable[[int], int]
    locate: Callable[[int], int | None]
    stream: Callable[[int], int]
    use: Callable[[int], AbstractContextManager[Any]]
    context: Callable[[], int]
    load: Callable[[bytes], Any]
    launch: Callable[[int, int, int, int, int, int, int, int, int, int, int], object]
    empty: Callable[[tuple[int, ...], np.dtype[Any]], Any]
    allocate: Callable[[int], Any]
    memset: Callable[[int, int, int, int], None]
    read: Callable[[int, int], bytes]
    seconds: Callable[[Callable[[], object], int], float]
    facts: Callable[[int], dict[str, Any]]


def find(cupy: Any) -> Driver | str:
    """The driver behind CuPy, or why there is none, and the remedy."""
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() == 0:
            return _no_device()
    except runtime.CUDARuntimeError as error:
        return _why(error, runtime)
    except RuntimeError as error:
        return f"CUDA cannot be started ({one_line(error)}); nvidia-smi should list a device"
    return _through(cupy)


def one_line(error: BaseException) -> str:
    """An error's text in one line, of bounded length: a compiler's log runs to pages."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}..."


def _why(error: Any, runtime: Any) -> str:
    """What is wrong, from the status of the first call to the CUDA runtime."""
    if error.status == 100:  # cudaErrorNoDevice
        return _no_device()
    if error.status != 35:  # cudaErrorInsufficientDriver
        return f"CUDA cannot be started ({one_line(error)}); nvidia-smi should list a device"
    has, needs = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if has == 0:
        return "no NVIDIA driver was found; install one, and in a container pass the GPU in (--gpus all)"
    return (
        f"the NVIDIA driver is too old: it knows CUDA {_dotted(has)}, CuPy is built for {_dotted(needs)}; "
        f"update the driver, or take the CuPy of an older CUDA: {INSTALL}"
    )


def _no_device() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    because = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r} may hide it)"
    return f"the NVIDIA driver sees no device{because}; nvidia-smi should list one"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _through(cupy: Any) -> Driver:
    """The driver that CuPy is."""
    cuda, runtime, driver = cupy.cuda, cupy.cuda.runtime, cupy.cuda.driver
    device = functools.cache(cuda.Device)

    @contextmanager
    def use(number: int) -> Iterator[None]:
        with device(number):
            if not driver.ctxGetCurrent():
                runtime.setDevice(number)  # which CuPy leaves out if the number is the current one
            yield

    def locate(pointer: int) -> int | None:
        try:
            found = runtime.pointerGetAttributes(pointer)
        except runtime.CUDARuntimeError:  # what CUDA before 11 answered for memory that it does not know
            return None
        return int(found.device) if found.type else None  # 0: cudaMemoryTypeUnregistered

    def load(image: bytes) -> Any:
        module = cuda.function.Module()
        module.load(image)
        return module

    def read(pointer: int, size: int) -> bytes:
        found = np.empty(size, np.uint8)
        runtime.deviceSynchronize()
        runtime.memcpy(found.ctypes.data, pointer, size, runtime.memcpyDeviceToHost)
        return found.tobytes()

    def seconds(run: Callable[[], object], stream: int) -> float:
        begin, end = runtime.eventCreate(), runtime.eventCreate()
        try:
            runtime.eventRecord(begin, stream)
            run()
            runtime.eventRecord(end, stream)
            runtime.eventSynchronize(end)
            return float(runtime.eventElapsedTime(begin, end)) / 1000.0
        finally:
            runtime.eventDestroy(begin)
            runtime.eventDestroy(end)

    def facts(number: int) -> dict[str, Any]:
        found = runtime.getDeviceProperties(number)
        return {
            "gpu": found["name"].decode(),
            "compute_capability": str(device(number).compute_capability),
            "multiprocessors": found["multiProcessorCount"],
            "gpu_memory": found["totalGlobalMem"],
            "driver_cuda": _dotted(runtime.driverGetVersion()),
        }

    return Driver(
        devices=runtime.getDeviceCount,
        current=runtime.getDevice,
        version=runtime.driverGetVersion,
        architecture=lambda number: int(device(number).compute_capability),
        multiprocessors=functools.cache(
            lambda number: int(runtime.getDeviceProperties(number)["multiProcessorCount"])
        ),
        locate=locate,
        stream=lambda number: int(cuda.get_current_stream(number).ptr),
        use=use,
        context=driver.ctxGetCurrent,
        load=load,
        launch=driver.launchKernel,
        empty=cupy.empty,
        allocate=cuda.alloc,
        memset=runtime.memsetAsync,
        read=read,
        seconds=seconds,
        facts=facts,
    )
