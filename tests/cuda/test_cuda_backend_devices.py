"""The CUDA backend on emulated devices: where the work goes, where `draw` allocates, and what is refused."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import Foreign, on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401
from cuda_on_cpu.machine import Trap
from equality import assert_same_bits

import fanfill as ff
from fanfill.dtypes import STORAGES
from fanfill.errors import BackendUnavailableError

# Where the work goes


def test_the_device_is_the_array_s_and_the_current_one_stays(gpu):
    with gpu.use(1):
        there = cupy.empty((40, 30), np.float32)
    assert gpu.current == 0
    for buffer in (there, Foreign(there)):  # CuPy's array knows its device, the driver that of any pointer
        ff.fill(buffer, "he_uniform", seed=4)
        assert gpu.current == 0
    assert [launch.device for launch in gpu.launches] == [1, 1]
    assert gpu.loads == [1]
    assert_same_bits(gpu.host(there), on_host((40, 30), "he_uniform", seed=4))
    with gpu.use(1):
        ff.fill(cupy.empty(5, np.float32), ff.normal(), seed=0)
        assert gpu.current == 1


def test_many_tensors_go_where_each_lies(gpu):
    with gpu.use(1):
        there = cupy.empty((40, 30), np.float32)
    first, here = cupy.empty(50, np.float16), np.zeros((7, 5), np.float32)
    law, seen = ff.uniform(-1, 2), []
    items = {"a": (there, "he_uniform"), "b": (here, law), "c": (first, law, (200,), (90,))}
    ff.fill_many(items, seed=4, progress=lambda *counts: seen.append(counts))
    assert sorted(launch.device for launch in gpu.launches) == [0, 1]
    assert_same_bits(gpu.host(there), on_host((40, 30), "he_uniform", seed=4, name="a"))
    assert_same_bits(here, on_host((7, 5), law, seed=4, name="b"))
    assert_same_bits(gpu.host(first), on_host(200, law, "float16", seed=4, name="c")[90:140])
    assert seen[-1] == (1285, 1285)
    seen.clear()
    ff.fill_many({"a": (there, "zeros")}, seed=4, progress=lambda *counts: seen.append(counts))
    assert seen == [(1200, 1200)]
    assert not gpu.host(there).any()
    gpu.launches.clear()
    for wrong in (Foreign(cupy.empty(3, np.int32)), here[:0].astype(np.int32)):
        with pytest.raises(TypeError, match=r"^item 'b': expected one of the dtypes"):
            ff.fill_many({"a": (there, "ones"), "b": (wrong, law)}, seed=4)
    with pytest.raises(ValueError, match="do not share memory; got 'a' and 'b'"):
        ff.fill_many({"a": (there, "ones"), "b": (there[:3], law)}, seed=4)
    assert gpu.launches == []


def test_the_stream_is_cupy_s_current_one_of_the_array_s_device(gpu):
    buffers = []
    for number in (0, 1):
        with gpu.use(number):
            buffers.append(cupy.empty(9, np.float32))
    with gpu.on_stream(0x700, 1), gpu.on_stream(0x600, 0):
        for buffer in buffers:
            ff.fill(buffer, ff.normal(), seed=0)
    ff.fill(buffers[1], ff.normal(), seed=0)
    assert [(launch.device, launch.stream) for launch in gpu.launches] == [(0, 0x600), (1, 0x700), (1, 0)]


def test_a_foreign_object_may_name_its_stream(gpu):
    array = cupy.empty(9, np.float32)
    gpu.streams[0] |= {0x900, 0xA00, 0x600}
    both = Foreign(array, stream=0x900)
    both.__cuda_stream__ = lambda: (0, 0xA00)
    with gpu.on_stream(0x600):
        for buffer in (
            Foreign(array),
            Foreign(array, stream=1),
            Foreign(array, stream=2),
            Foreign(array, stream=0x900),
            both,
        ):
            ff.fill(buffer, ff.normal(), seed=0)
    assert [launch.stream for launch in gpu.launches] == [0x600, 1, 2, 0x900, 0xA00]
    with pytest.raises(ValueError, match=r"expected a stream of 1 .*; got 0, which the protocol forbids"):
        ff.fill(Foreign(array, stream=0), ff.normal(), seed=0)
    both.__cuda_stream__ = lambda: (1, 0xA00)
    with pytest.raises(TypeError, match="expected __cuda_stream__ of version 0; got version 1"):
        ff.fill(both, ff.normal(), seed=0)


@pytest.fixture
def tensor(gpu, monkeypatch):
    """Make a torch tensor that says it is on a device, on an emulated device's memory."""
    torch = pytest.importorskip("torch")

    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 1)

    def current_stream(number):
        assert number == 1
        return SimpleNamespace(cuda_stream=0xB00)

    gpu.streams[1].add(0xB00)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)

    kept = []  # a tensor made from bytes does not keep what CuPy allocated

    def make(shape, dtype):
        size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
        with gpu.use(1):
            memory = gpu.allocate(size)
        kept.append(memory)
        flat = torch.from_numpy(gpu.bytes(memory.ptr, size)).view(dtype)
        return flat.reshape(shape).as_subclass(OnDevice)

    return make


@pytest.mark.parametrize("dtype", STORAGES)
def test_torch_tensors_of_every_dtype_on_torch_s_stream(gpu, tensor, dtype):
    torch = pytest.importorskip("torch")
    law = ff.kaiming_normal(in_axis=1, out_axis=0)
    made = tensor((12, 17), getattr(torch, dtype))
    for view in (made, made.t()):
        assert ff.fill(view, law, seed=3) is view
        bits = view.as_subclass(torch.Tensor).contiguous().view(torch.uint8).numpy().tobytes()
        assert bits == on_host(tuple(view.shape), law, dtype, seed=3).tobytes()
    assert {(launch.device, launch.stream) for launch in gpu.launches} == {(1, 0xB00)}


def test_the_version_counter_of_a_torch_tensor_moves_when_it_is_written(tensor):
    torch = pytest.importorskip("torch")
    for dtype, fill in (
        (torch.float32, lambda w, **how: ff.fill(w, ff.normal(), **how)),
        (torch.uint32, ff.words),
    ):
        made = tensor((4, 5), dtype)
        before = made._version
        fill(made.t(), seed=0)
        assert made._version > before
        before = made._version
        with pytest.raises(ValueError, match="do not share memory"):
            fill(made[:1].expand(6, 5), seed=0)
        assert made._version == before


def test_torch_tensors_that_are_refused(tensor):
    torch = pytest.importorskip("torch")
    made = tensor((4, 5), torch.float32)
    with pytest.raises(ValueError, match="expected explicit axes on a torch tensor"):
        ff.fill(made, "he_normal", seed=0)
    with pytest.raises(TypeError, match=r"expected one of the dtypes float32, .*; got int32; fill a buffer"):
        ff.fill(tensor((4, 5), torch.int32), ff.normal(), seed=0)
    with pytest.raises(ValueError, match=r"do not share memory; .*such as cupy.array\(buffer\)"):
        ff.fill(made[:1].expand(6, 5), ff.normal(), seed=0)
    sparse = SimpleNamespace(layout=torch.sparse_coo)
    with pytest.raises(
        TypeError, match=r"expected a dense torch tensor; got one of layout torch\.sparse_coo"
    ):
        importlib.import_module("fanfill.cuda.buffers")._torch_target(sparse, torch)
    freed = torch.zeros(4, 5).as_subclass(type(made))
    freed.untyped_storage().resize_(72)
    with pytest.raises(
        ValueError, match=r"storage holds its elements; .* reaches byte 80 of a storage of 72"
    ):
        ff.fill(freed, ff.normal(), seed=0)
    negated = torch._neg_view(made)
    with pytest.raises(TypeError, match=r"negated view of others; pass tensor\.resolve_neg"):
        ff.fill(negated, ff.normal(), seed=0)


# draw


def test_draw_allocates_on_the_device_that_is_named(gpu):
    for device, number in (("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        drawn = ff.draw((5, 6), "he_normal", seed=2, device=device)
        assert type(drawn) is cupy.ndarray
        assert drawn.data.device_id == number
        assert_same_bits(gpu.host(drawn), on_host((5, 6), "he_normal", seed=2))
    with gpu.use(1):
        assert ff.draw(3, ff.normal(), seed=0, device="cuda", dtype="bfloat16").data.device_id == 1
    assert type(ff.draw(3, ff.normal(), seed=0, device="cpu")) is np.ndarray
    assert type(ff.draw(3, ff.normal(), seed=0, device="auto", backend="numpy")) is np.ndarray
    assert type(ff.draw(3, ff.normal(), seed=0, device="auto", backend="cuda")) is cupy.ndarray


def test_draw_refuses_devices_that_are_not_there_and_dtypes_that_cupy_has_not(gpu):
    with pytest.raises(
        BackendUnavailableError,
        match="device: expected one of the 2 CUDA devices, cuda:0 and up; got cuda:2; nvidia-smi",
    ):
        ff.draw(3, ff.normal(), seed=0, device="cuda:2")
    with pytest.raises(
        TypeError,
        match=r"dtype: expected one of which CuPy makes arrays; got float8_e5m2 .*; fill a torch tensor",
    ):
        ff.draw(3, ff.normal(), seed=0, device="cuda", dtype="float8_e5m2")
    with pytest.raises(TypeError, match="dtype"):
        ff.draw(3, ff.normal(), seed=0, device="cuda", dtype="nothing")
    with pytest.raises(ValueError, match="buffer on a CUDA device; got 'numba'"):
        ff.draw(3, ff.normal(), seed=0, device="cuda", backend="numba")


def test_out_of_memory_is_cupy_s_own_error(gpu):
    gpu.most = 1000
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        ff.draw(1000, ff.normal(), seed=0, device="cuda")
    assert gpu.launches == []
    ff.draw(100, ff.normal(), seed=0, device="cuda")


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: Foreign(a, data=(a.data.ptr, True)), ValueError, r"read-only one; .*cupy.array\(buffer\)"),
        (lambda a: Foreign(a, mask=a), TypeError, "expected a plain array; got .* with a mask"),
        (
            lambda a: Foreign(a, shape=(-1,)),
            TypeError,
            r"cannot be read \(ValueError: shape \(-1,\), .*; pass",
        ),
        (lambda a: Foreign(a, shape=(4.5,)), TypeError, r"cannot be read \(TypeError: 'float' object"),
        (lambda a: Foreign(a, shape=4), TypeError, "cannot be read .*'int' object is not iterable"),
        (lambda a: Foreign(a, strides=(4, 4)), TypeError, r"cannot be read .*strides \(4, 4\)"),
        (lambda a: Foreign(a, data=7), TypeError, "of shape, typestr, data .*cannot be read .*unpack"),
        (lambda a: Foreign(a, typestr=">f4"), ValueError, "machine's byte order"),
        (lambda a: Foreign(a, typestr="<i4"), TypeError, "expected one of the dtypes float32.*; got int32"),
        (lambda a: Foreign(a, typestr="<c8"), TypeError, "got complex64"),
        (lambda a: Foreign(a, strides=(0,)), ValueError, "do not share memory; got shape .* strides"),
        (
            lambda a: Foreign(a, data=(a.data.ptr + 2, False), shape=(3,)),
            ValueError,
            "multiples of their 4 bytes",
        ),
        (lambda a: Foreign(a, strides=(6,), shape=(3,)), ValueError, r"multiples .* strides \(6,\) bytes"),
        (lambda a: Foreign(a, data=(64, False)), ValueError, "address 0x40, which no device knows; allocate"),
        (lambda a: a.astype, TypeError, "expected a writable array"),
    ],
)
def test_buffers_that_cannot_be_filled(gpu, make, error, message):
    array = cupy.empty(40, np.float32)
    with pytest.raises(error, match=message):
        ff.fill(make(array), ff.normal(), seed=0)
    assert gpu.launches == []


def test_a_buffer_that_lies_about_its_size_is_caught_by_the_emulation(gpu):
    array = cupy.empty(40, np.float32)
    with pytest.raises(Trap, match="outside of the memory"):
        ff.fill(Foreign(array, shape=(41 + 1024,), strides=None), ff.normal(), seed=0)


def test_a_device_buffer_never_goes_through_the_host(gpu):
    array = cupy.empty(9, np.float32)
    for name in ("numba", "numpy"):
        with pytest.raises(ValueError, match=f"buffer on a CUDA device; got '{name}'"):
            ff.fill(array, ff.normal(), seed=0, backend=name)
    with pytest.raises(ValueError, match="buffer in host memory; got 'cuda'"):
        ff.fill(np.empty(9), ff.normal(), seed=0, backend="cuda")
    assert ff.select_backend(array) == ("cuda", "the buffer lies on a CUDA device")
    assert ff.backends()[2] == ("cuda", True, None, None)
