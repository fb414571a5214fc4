"""What the driver asks of CuPy, call by call, with a stand-in for CuPy: no call here reaches a GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from fanfill.cuda import driver as drivers


class Status(RuntimeError):
    """CUDARuntimeError."""


class Device:
    """A device of CuPy's."""

    compute_capability = "120"

    def __init__(self, calls, number):
        self.calls, self.number = calls, number

    def __enter__(self):
        self.calls.append(("enter", self.number))

    def __exit__(self, *error):
        self.calls.append(("exit", self.number))


class Recorder:
    """A CuPy that writes down what is asked of it."""

    def __init__(self):
        self.calls, self.context = [], 0
        runtime = SimpleNamespace(
            CUDARuntimeError=Status,
            getDeviceCount=lambda: 2,
            getDevice=lambda: 1,
            setDevice=self.set_device,
            driverGetVersion=lambda: 13010,
            pointerGetAttributes=self.attributes,
            deviceSynchronize=lambda: self.calls.append("synchronize"),
            memcpy=self.memcpy,
            memcpyDeviceToHost=2,
            memsetAsync=lambda *a: self.calls.append(("memset", *a)),
            eventCreate=lambda: len(self.calls) + 100,
            eventRecord=lambda event, stream: self.calls.append(("record", stream)),
            eventSynchronize=lambda event: self.calls.append("wait"),
            eventElapsedTime=lambda begin, end: 2.5,
            eventDestroy=lambda event: self.calls.append("destroy"),
            getDeviceProperties=lambda number: {
                "name": b"A GPU",
                "multiProcessorCount": 7,
                "totalGlobalMem": 2**35,
            },
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            Device=self.device,
            get_current_stream=lambda number: SimpleNamespace(ptr=0x500 + number),
            alloc=lambda size: SimpleNamespace(ptr=size),
            function=SimpleNamespace(Module=self.module),
            driver=SimpleNamespace(ctxGetCurrent=lambda: self.context, launchKernel=lambda *given: None),
        )
        self.empty = lambda shape, dtype: (shape, dtype)

    def device(self, number):
        self.calls.append(("Device", number))
        return Device(self.calls, number)

    def set_device(self, number):
        self.calls.append(("setDevice", number))
        self.context = 0xC0 + number

    def attributes(self, pointer):
        if pointer == 3:
            raise Status("cudaErrorInvalidValue")
        return SimpleNamespace(device=1, type=pointer)

    def memcpy(self, target, source, size, kind):
        self.calls.append(("memcpy", source, size, kind))
        ctypes.memset(target, 0x21, size)

    def module(self):
        return SimpleNamespace(load=lambda image: self.calls.append(("load", image)))


@pytest.fixture
def cupy():
    return Recorder()


@pytest.fixture
def gpu(cupy):
    return drivers.find(cupy)


def test_devices_streams_and_memory_are_asked_for_by_their_numbers(cupy, gpu):
    assert (gpu.devices(), gpu.current(), gpu.version(), gpu.architecture(1)) == (2, 1, 13010, 120)
    assert gpu.multiprocessors(1) == 7
    assert gpu.stream(1) == 0x501
    for number in (1, 0, 1):
        with gpu.use(number):
            pass
    assert [call for call in cupy.calls if call[0] == "Device"] == [("Device", 1), ("Device", 0)]
    assert gpu.allocate(64).ptr == 64
    assert gpu.empty((2,), np.float32) == ((2,), np.float32)
    assert gpu.facts(0) == {
        "gpu": "A GPU",
        "compute_capability": "120",
        "multiprocessors": 7,
        "gpu_memory": 2**35,
        "driver_cuda": "13.1",
    }


@pytest.mark.parametrize(("kind", "device"), [(0, None), (1, 1), (2, 1), (3, None)])
def test_memory_belongs_to_the_device_that_the_driver_names(gpu, kind, device):
    assert gpu.locate(kind) == device  # 0: cudaMemoryTypeUnregistered; 3: here, an error


def test_a_launch_is_the_driver_s_own_call(cupy, gpu):
    assert gpu.launch is cupy.cuda.driver.launchKernel
    real = pytest.importorskip("cupy_backends.cuda.api.driver").launchKernel
    names = "f grid_dim_x grid_dim_y grid_dim_z block_dim_x block_dim_y block_dim_z shared_mem_bytes stream"
    taken = [part.split()[-1] for part in real.__doc__.partition("(")[2].rstrip(")").split(",")]
    assert taken == [*names.split(), "kernel_params", "extra"]


def test_a_device_in_use_has_a_context_on_this_thread(cupy, gpu):
    with gpu.use(1):
        assert cupy.calls == [("Device", 1), ("enter", 1), ("setDevice", 1)]
        assert gpu.context() == 0xC1
    cupy.calls.clear()
    with gpu.use(1):
        pass
    assert cupy.calls == [("enter", 1), ("exit", 1)]


def test_images_are_loaded_bytes_read_after_all_work_and_memory_set_on_the_stream(cupy, gpu):
    assert gpu.load(b"cubin").load is not None
    assert gpu.read(4096, 6) == b"!!!!!!"
    gpu.memset(4096, 0xA5, 6, 0x700)
    assert cupy.calls == [
        ("load", b"cubin"),
        "synchronize",
        ("memcpy", 4096, 6, 2),
        ("memset", 4096, 0xA5, 6, 0x700),
    ]


def test_seconds_are_between_two_events_on_the_stream(cupy, gpu):
    assert gpu.seconds(lambda: cupy.calls.append("run"), 0x700) == 0.0025
    assert cupy.calls == [("record", 0x700), "run", ("record", 0x700), "wait", "destroy", "destroy"]


def test_the_names_are_those_of_the_installed_cupy():
    real = pytest.importorskip("cupy")
    for name in vars(Recorder().cuda.runtime):
        assert hasattr(real.cuda.runtime, name), name
    for name in ("Device", "get_current_stream", "alloc", "function", "driver"):
        assert hasattr(real.cuda, name), name
    for name in vars(Recorder().cuda.driver):
        assert hasattr(real.cuda.driver, name), name
    module = real.cuda.function.Module()
    assert callable(module.load)
    assert callable(module.get_function)
    assert hasattr(real.cuda.function.Function, "ptr")
