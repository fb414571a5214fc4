"""Kernels that read their seed and a part's place from device memory: emulated, with the bits of `fill`."""

from __future__ import annotations

import threading
from typing import Any

import cupy
import numpy as np
import pytest
from cases import OF_FORM
from cuda_on_cpu.arrays import on_host
from cuda_on_cpu.cupy_on_host import Machine
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401

import fanfill as ff
from fanfill.cuda import keyed
from fanfill.cuda.keyed import Draw, Places, fill_keyed
from fanfill.dtypes import STORAGES
from fanfill_kernels.cuda import geometry

SEED, NAME = 0xC0FFEE01_01234567, "decoder.0.wq"
# Kernels of each kind: a thread block a chunk or strided, of 1, 2, 4 and 8 bytes.
DRAWN = [
    (ff.uniform(-0.5, 0.5), "float32"),
    (ff.normal(0.0, 0.02), "float32"),
    (ff.truncated_normal(0.5, 1.5, -1.0, 0.25), "bfloat16"),
    (ff.uniform(-0.5, 1.5), "float8_e5m2"),
    (ff.normal(0.25, 2.0), "float64"),
]
each_drawn = pytest.mark.parametrize(
    ("law", "dtype"),
    [
        *DRAWN,
        *(
            pytest.param(law, dtype, marks=pytest.mark.slow)
            for law in OF_FORM.values()
            for dtype in STORAGES
            if (law, dtype) not in DRAWN
        ),
    ],
    ids=str,
)


class Device:
    """Device 1 of a machine, with key words and offsets in its memory."""

    def __init__(self, gpu: Machine) -> None:
        self.gpu = gpu
        self.kept: list[Any] = []

    def put(self, words: Any) -> int:
        """Put uint32 into the device's memory; the address."""
        words = np.asarray(words, np.uint32)
        with self.gpu.use(1):
            array = cupy.empty(max(words.size, 1), cupy.uint32)
        self.kept.append(array)
        self.gpu.bytes(array.data.ptr, words.nbytes)[:] = words.reshape(-1).view(np.uint8)
        return int(array.data.ptr)

    def draw(self, draw: Draw, offset: Any, seed: int = SEED, misplaced: int = 0) -> np.ndarray:
        """What a draw leaves in memory, as bits."""
        size = int(np.prod(draw.part)) * STORAGES[draw.dtype].itemsize
        with self.gpu.use(1):
            out = cupy.empty(size + misplaced, cupy.uint8)
        address = int(out.data.ptr) + misplaced
        places = Places(address, self.put([seed >> 32, seed & 0xFFFFFFFF]), self.put(offset))
        fill_keyed(draw, [places], 2)
        lanes = f"u{STORAGES[draw.dtype].itemsize}"
        return self.gpu.bytes(address, size).view(lanes).reshape(draw.part).copy()


@pytest.fixture
def device(gpu: Machine) -> Device:
    return Device(gpu)


def wanted(draw: Draw, offset: Any, seed: int = SEED) -> np.ndarray:
    made = on_host(
        draw.part, draw.law, draw.dtype, seed=seed, name=draw.name, global_shape=draw.shape, offset=offset
    )
    return made.view(f"u{made.itemsize}")


@each_drawn
def test_the_values_are_those_of_a_seed_that_the_host_knows(law: Any, dtype: str, device: Device) -> None:
    rows, columns = 40, 2 * geometry.THREADS
    for shape, part, offset, kernel in (
        ((rows, columns), (rows, columns), (0, 0), "run"),  # whole: the place is not read
        ((7,), (7,), (0,), "run"),
        ((), (), (), "run"),
        ((rows, columns), (8, columns), (24, 0), "run"),  # rows
        ((rows, columns), (rows, 48), (0, 96), "box"),  # columns
        ((rows, 33), (8, 33), (24, 0), "box"),  # rows that begin within a block
        ((6, 10, 9), (3, 5, 3), (3, 5, 6), "box"),
    ):
        draw = Draw(law, shape, part, NAME, dtype)
        found = device.draw(draw, offset)
        np.testing.assert_array_equal(found, wanted(draw, offset), f"{part} of {shape} at {offset}")
        assert device.gpu.launches[-1].kernel.startswith(f"keyed_{kernel}_")
        assert device.gpu.launches[-1][3:] == (1, 2)
    draw = Draw(law, (5, 7), (5, 7), 0, dtype)
    size = STORAGES[dtype].itemsize
    np.testing.assert_array_equal(device.draw(draw, (), 5, misplaced=size), wanted(draw, (0, 0), 5))
    assert device.gpu.launches[-1].kernel.startswith("keyed_box_")


def test_another_key_in_the_same_memory_draws_anew_without_a_call(device: Device) -> None:
    """As a captured graph does: a launch repeated with the very same parameters."""
    draw = Draw(ff.normal(0.0, 0.02), (64,), (64,), NAME, "float32")
    with device.gpu.use(1):
        out = cupy.empty(64, cupy.float32)
    words = device.put([0, 1])
    for seed in (1, SEED):
        device.gpu.bytes(words, 8)[:] = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32).view(np.uint8)
        fill_keyed(draw, [Places(out.data.ptr, words, 0)], 2)
        np.testing.assert_array_equal(device.gpu.host(out).view("u4"), wanted(draw, (0,), seed))


def test_far_in_a_tensor(device: Device) -> None:
    """Beyond 2^34 elements the upper half of the block numbers is not 0."""
    law = ff.uniform(-0.5, 0.5)
    for shape, part, offset, kernel in (
        ((2**32, 4), (3, 4), (2**32 - 3, 0), "run"),
        ((2**32, 8), (3, 8), (2**32 - 3, 0), "box"),
        ((2**32, 2**20, 12), (2, 3, 5), (2**32 - 2, 2**19, 6), "box"),
    ):
        draw = Draw(law, shape, part, NAME, "float32")
        np.testing.assert_array_equal(device.draw(draw, offset), wanted(draw, offset))
        assert device.gpu.launches[-1].kernel == f"keyed_{kernel}_uniform_float32"


def test_a_whole_tensor_of_more_than_2_34_elements_is_several_launches() -> None:
    """Nothing is drawn: the upper half of the blocks' numbers is in the launch."""
    made = keyed._launches(Draw(ff.uniform(-0.5, 0.5), (2**35 + 8,), (2**35 + 8,), NAME, "float32"), 0)
    assert [one.entry for one in made] == ["keyed_run_uniform_float32"] * 3
    assert [geometry.SOURCE.unpack(one.arguments[2])[-1] for one in made] == [0, 1, 2]
    moved = geometry.addressed(made[1], 32, 48, 64)
    assert geometry.POINTER.unpack(moved[0]) == (2**36 + 32,)
    assert geometry.SOURCE.unpack(moved[2])[:2] == (48, 64)


def test_a_constant_needs_no_seed() -> None:
    """It is a run of the kernel that all constants have; no address of words is among its arguments."""
    draw = Draw(ff.constant(0.5), (5, 7), (5, 3), NAME, "float16")
    for misplaced in (0, 2):
        (one,) = keyed._launches(draw, misplaced)
        assert one.entry == "run_constant_16"
        assert geometry.addressed(one, 0, 48, 64) == one.arguments
        assert geometry.addressed(one, 32, 48, 64)[1:] == one.arguments[1:]
        assert geometry.RUN.unpack(one.arguments[1])[0] == 15


def test_nothing_is_launched_for_nothing(device: Device) -> None:
    fill_keyed(Draw(ff.normal(), (0, 3), (0, 3), 0, "float32"), [Places(0, 0, 0)], 2)
    fill_keyed(Draw(ff.normal(), (3,), (3,), 0, "float32"), [], 2)
    assert not device.gpu.launches
    assert not list(geometry.keyed_launches("normal", "float32", 0, [(0, 1, 4)], [], 0, (0, 0), ()))


def test_a_thread_that_captures_loads_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one does, and the second call needs none."""
    threads: list[threading.Thread] = []
    load = device.gpu.load
    driver = device.gpu.driver._replace(
        load=lambda image: (threads.append(threading.current_thread()), load(image))[1]
    )
    monkeypatch.setattr(device.gpu, "driver", driver)
    draw = Draw(ff.uniform(-0.5, 0.5), (8,), (8,), NAME, "float32")
    device.draw(draw, (0,))
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    places = Places(int(device.kept[0].data.ptr), int(device.kept[0].data.ptr), 0)
    with device.gpu.capture():
        fill_keyed(draw._replace(shape=(2,), part=(2,)), [places], 2)
    assert len(threads) == 1

    device.gpu.refuse_load = RuntimeError("no image")
    with pytest.raises(ff.BackendUnavailableError, match="no image"):
        device.draw(draw._replace(dtype="float64"), (0,))


def test_memory_of_no_device_is_refused(device: Device) -> None:
    host = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="expected memory of a CUDA device; got address 0x"):
        fill_keyed(Draw(ff.normal(), (4,), (4,), 0, "float32"), [Places(host.ctypes.data, 0, 0)], 2)


def test_a_place_has_at_most_16_moving_axes() -> None:
    shape = (2,) * 17
    with pytest.raises(
        ValueError, match=r"expected a part that may lie anywhere along at most 16 axes.*got 17"
    ):
        keyed._launches(Draw(ff.normal(), shape, (1,) * 17, 0, "float32"), 0)
