"""The CUDA backend's Python on emulated devices: real CuPy arrays on host memory, kernels run from their PTX.

What is shown here is which kernel runs where, on which elements and with which bits; not a GPU's hardware,
timing or concurrency. ``tests/test_cuda_device.py`` is for a real one.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cupy
import numpy as np
import pytest
from cuda_on_cpu import cupy_on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401
from cuda_on_cpu.machine import Trap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanfill as ff
from fanfill import device as device_runs
from fanfill import golden, nvrtc, selftest
from fanfill.arguments import dtype_of
from fanfill.backends import cuda
from fanfill.dtypes import STORAGES
from fanfill.errors import BackendUnavailableError
from fanfill_kernels import cache
from fanfill_kernels.cuda import choice, source

backends = importlib.import_module("fanfill.backends")


class Foreign:
    """Another library's array: the interface, and what it says beside it."""

    def __init__(self, array, dtype=None, stream=None, **changes):
        dtype = np.dtype(dtype or array.dtype)
        self.dtype, self.array = dtype, array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": dtype.str,
            "data": (array.data.ptr, False),
            "version": 3,
            "stream": stream,
            **changes,
        }


def on_host(shape, law, dtype="float32", **how):
    return ff.fill(np.empty(shape, dtype_of(dtype)), law, backend="numpy", threads=1, **how)


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


# The values


@pytest.mark.parametrize("number", [0, 1])
def test_every_golden_case_in_every_layout(gpu, monkeypatch, number):
    cases = [case for case in golden.cases() if number == 0 or case.place != "large"]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    cupy_on_host.module(source(), gpu.architectures[number]).compile(workers=2, optimize=False)
    checks = list(selftest.run(selftest.Subject("cuda", number)))
    assert len(checks) == 4 * len(cases) > 2000
    assert [check for check in checks if check.problem] == []


@pytest.mark.parametrize(
    ("place", "problem"), [(0, "SHA-256 .*, expected"), (-selftest.GUARD, "bytes beside the buffer")]
)
def test_a_wrong_bit_and_a_byte_beside_the_buffer_are_seen(gpu, monkeypatch, place, problem):
    def launch(*arguments):
        gpu.launch(*arguments)
        gpu.latest.bytes(gpu.latest.pointer, gpu.latest.size)[selftest.GUARD + place] ^= 1

    monkeypatch.setattr(cuda, "_found", lambda: gpu.driver._replace(launch=launch))
    case = golden.Case("normal", "float32", "small")
    assert re.match(problem, selftest.check(selftest.Subject("cuda", 0), case, "contiguous"))


LAWS = {
    "uniform": ff.uniform(-0.3, 0.3),
    "uniform_range": ff.uniform(-0.7, 1.6),
    "normal": ff.normal(0.1, 0.6),
    "truncated_central": ff.truncated_normal(0.1, 0.6, -1.9, 1.3),
    "truncated": ff.truncated_normal(0.1, 0.6, -2.7, 2.9),
    "constant": ff.constant(0.25),
}


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("form", LAWS)
def test_each_form_and_dtype_has_its_kernels(gpu, form, dtype):
    name = str(8 * STORAGES[dtype].itemsize) if form == "constant" else dtype
    memory = cupy.empty(100, f"u{STORAGES[dtype].itemsize}")
    for view, kind in ((memory, "run"), (memory[1::2], "box")):
        ff.fill(Foreign(view, dtype_of(dtype)), LAWS[form], seed=1)
        assert [launch.kernel for launch in gpu.launches] == [f"{kind}_{form}_{name}"]
        expected = on_host(view.shape, LAWS[form], dtype, seed=1)
        assert gpu.host(view).tobytes() == expected.tobytes()
        gpu.launches.clear()


@st.composite
def fills(draw):
    """A shape, slices of each axis, an order of the axes, and a place in a larger tensor."""
    rank = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    index = tuple(slice(None, None, draw(st.sampled_from([1, 1, 2, 3, -1, -2]))) for _ in range(rank))
    order = draw(st.permutations(range(rank)))
    margins = [(draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(rank)]
    return (
        shape,
        index,
        order,
        margins,
        draw(st.sampled_from(sorted(LAWS))),
        draw(st.sampled_from(list(STORAGES))),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=fills(), start=st.integers(0, 8))
def test_any_view_of_any_part_has_the_values_of_the_host(gpu, case, start):
    shape, index, order, margins, form, dtype = case
    size = int(np.prod(shape, dtype=int))
    memory = cupy.empty(size + start, f"u{STORAGES[dtype].itemsize}")
    gpu.bytes(memory.data.ptr, memory.nbytes)[:] = 0x5A
    view = memory[start:].reshape(shape)[index].transpose(order)
    whole = tuple(n + low + high for n, (low, high) in zip(view.shape, margins, strict=True))
    part = {"global_shape": whole, "offset": tuple(low for low, _ in margins)}
    ff.fill(Foreign(view, dtype_of(dtype)), LAWS[form], seed=9, name="x", **part)
    expected = on_host(view.shape, LAWS[form], dtype, seed=9, name="x", **part)
    assert gpu.host(view).tobytes() == expected.tobytes()
    untouched = gpu.host(memory)
    untouched[start:].reshape(shape)[index] = 0
    assert set(untouched.view(np.uint8).tolist()) <= {0, 0x5A}
    kept = np.full(memory.shape, 0x5A, np.uint8)
    kept[start:].reshape(shape)[index] = 0
    assert (
        (untouched.view(np.uint8).reshape(-1, memory.itemsize) == 0x5A).all(axis=1) == (kept == 0x5A)
    ).all()


def test_a_flat_range_and_elements_beyond_2_to_the_34(gpu):
    part = {"global_shape": (2**20, 2**18), "offset": 2**34 - 1000}
    for dtype in ("float32", "float64", "bfloat16"):
        buffer = cupy.empty(2001, dtype_of(dtype))
        ff.fill(buffer, "he_normal", seed=2**64 - 1, name=2**64 - 1, **part)
        expected = on_host(2001, "he_normal", dtype, seed=2**64 - 1, name=2**64 - 1, **part)
        assert_same(gpu.host(buffer), expected)


def test_long_rows_are_runs_of_their_own_and_the_values_stay(gpu, monkeypatch):
    part = {"global_shape": (3, 9, 500), "offset": (1, 2, 30)}
    expected = on_host((2, 4, 300), "he_normal", seed=1, **part)
    for least, kernels in (
        (1 << 23, {"box_normal_float32"}),
        (300, {"run_normal_float32", "box_normal_float32"}),
    ):
        monkeypatch.setattr(device_runs, "_ROW", least)
        buffer = cupy.empty((2, 4, 300), np.float32)
        gpu.launches.clear()
        ff.fill(buffer, "he_normal", seed=1, **part)
        assert {launch.kernel for launch in gpu.launches} <= kernels
        assert len(gpu.launches) == (1 if least > 300 else 8)
        assert_same(gpu.host(buffer), expected)


def test_a_constant_of_any_dense_layout_is_one_run(gpu):
    for view in (
        cupy.empty((7, 5, 3), np.float32)[::-1].transpose(2, 0, 1),
        cupy.empty((3, 4), np.float16)[:, ::-1],
    ):
        gpu.launches.clear()
        ff.fill(view, ff.constant(0.5), seed=0)
        assert (gpu.host(view) == 0.5).all()
        assert [launch.kernel[:4] for launch in gpu.launches] == ["run_"]


def test_empty_and_zero_rank_buffers(gpu):
    for shape in ((0,), (3, 0, 2)):
        buffer = cupy.empty(shape, np.float32)
        assert ff.fill(buffer, ff.normal(), seed=0) is buffer
    assert gpu.launches == []
    scalar = cupy.empty((), np.float64)
    ff.fill(scalar, ff.normal(), seed=7)
    assert_same(gpu.host(scalar), on_host((), ff.normal(), "float64", seed=7))


def test_words_on_a_device(gpu):
    memory = cupy.empty(101, np.uint32)
    for view in (memory, memory[1:], memory[::-2]):
        assert ff.words(view, seed=5, name="n", start=2**34 - 7) is view
        assert_same(
            gpu.host(view), ff.words(np.empty(view.shape, np.uint32), seed=5, name="n", start=2**34 - 7)
        )
    ff.words(memory, seed=5, backend="cuda")
    with pytest.raises(
        TypeError, match="expected a buffer of native uint32, which words are; got dtype float32"
    ):
        ff.words(cupy.empty(3, np.float32), seed=0)
    with pytest.raises(ValueError, match=r"expected words below word 2\*\*63; got 101 of them"):
        ff.words(memory, seed=0, start=2**63 - 100)
    with pytest.raises(ValueError, match="buffer on a CUDA device; got 'numpy'"):
        ff.words(memory, seed=0, backend="numpy")


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
    assert_same(gpu.host(there), on_host((40, 30), "he_uniform", seed=4))
    with gpu.use(1):
        ff.fill(cupy.empty(5, np.float32), ff.normal(), seed=0)
        assert gpu.current == 1


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

    def current_stream(device):
        assert device == torch.device("cuda", 1)
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
        importlib.import_module("fanfill.device_buffers")._torch_target(sparse, torch)
    negated = torch._neg_view(made)
    with pytest.raises(TypeError, match=r"negated view of others; pass tensor\.resolve_neg"):
        ff.fill(negated, ff.normal(), seed=0)


# What is kept


def compilations(monkeypatch):
    """Count what NVRTC is asked to compile."""
    asked = []
    real = nvrtc.Compiler.compile

    def compile(self, source, name, arch, ptx=False):
        asked.append((arch, ptx))
        return real(self, source, name, arch, ptx)

    monkeypatch.setattr(nvrtc.Compiler, "compile", compile)
    return asked


@pytest.fixture
def no_cubins(monkeypatch, emulated, tmp_path):
    """A cache folder that is empty."""
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "cache"))


def test_one_compilation_an_architecture_and_one_load_a_device(emulated, no_cubins, monkeypatch):
    asked = compilations(monkeypatch)
    gpu = emulated(90, 80, 90)
    for number in (0, 1, 2, 2, 0):
        with gpu.use(number):
            buffer = cupy.empty(40, np.float32)
        for view in (buffer, buffer[::2]):  # two kernels of one family
            ff.fill(view, ff.normal(), seed=1)
    assert [pair for pair in asked if not pair[1]] == [(90, False), (80, False)]
    assert gpu.loads == [0, 1, 2]
    ff.fill(buffer, ff.uniform(-1, 1), seed=1)
    assert gpu.loads == [0, 1, 2, 0]


def test_cubins_are_kept_between_processes_by_architecture_version_and_source(
    emulated, no_cubins, monkeypatch
):
    def in_a_new_process(*architectures):
        emulated(*architectures)
        ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=1)
        cubins = [pair for pair in asked if not pair[1]]
        asked.clear()
        return cubins

    asked = compilations(monkeypatch)
    assert in_a_new_process(90) == [(90, False)]
    assert in_a_new_process(90) == []
    (kept,) = (entry for entry in cache.folder().iterdir() if b"\x7fELF" in entry.read_bytes())
    assert in_a_new_process(80) == [(80, False)]
    kept.write_bytes(kept.read_bytes()[:-1])  # cut short
    assert in_a_new_process(90) == [(90, False)]
    compiler = nvrtc.compiler()
    monkeypatch.setattr(compiler, "version", (compiler.version[0], compiler.version[1] + 1))
    assert in_a_new_process(90) == [(90, False)]
    real = choice.source_of
    monkeypatch.setattr(choice, "source_of", lambda name: real(name) + "\n//\n")
    assert in_a_new_process(90) == [(90, False)]


def test_a_family_is_compiled_alone_and_to_the_same_code():
    whole = nvrtc.compile(source(), "fill.cu", 90, ptx=True).decode()
    for name in (
        "normal_float32",
        "truncated_float8_e5m2",
        "uniform_range_float64",
        "words_uint32",
        "constant_8",
    ):
        text = nvrtc.compile(choice.source_of(name), "fill.cu", 90, ptx=True).decode()
        assert set(re.findall(r"\.entry (\w+)", text)) == {f"run_{name}", f"box_{name}"}
        for kind in ("run", "box"):
            assert choice.family(f"{kind}_{name}") == name
            assert body(text, f"{kind}_{name}") == body(whole, f"{kind}_{name}")
    families = {choice.family(entry) for entry in re.findall(r"\.entry (\w+)", whole)}
    assert len(families) == 35
    assert all(choice.source_of(name).count("\n") == source().count("\n") for name in families)
    for name in ("normal_float31", "normal", "float32", ""):
        with pytest.raises(ValueError, match=f"expected kernels of a form and dtype, .*; got '{name}'"):
            choice.source_of(name)


def body(ptx, entry):
    """An entry point's instructions, without the numbers that the compiler gives to labels."""
    found = re.search(rf"\.entry {entry}\(.*?^\}}", ptx, re.MULTILINE | re.DOTALL)
    return re.sub(r"\$L__BB\d+_", "$L__BB_", found[0])


def test_a_cache_folder_that_cannot_be_written_is_no_error(emulated, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    gpu = emulated(90)
    buffer = ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=1)
    assert_same(gpu.host(buffer), on_host(9, ff.normal(), seed=1))


def test_many_threads_load_once_and_draw_the_same(gpu):
    expected = [on_host((50, 60), law, seed=1) for law in LAWS.values()]
    start = threading.Barrier(8)
    launches = []
    real = gpu.launch

    def work(number):
        start.wait()
        with gpu.use(number % 2):
            drawn = [ff.fill(cupy.empty((50, 60), np.float32), law, seed=1) for law in LAWS.values()]
        launches.append(number)
        return drawn

    with ThreadPoolExecutor(8) as pool:
        for drawn in pool.map(work, range(8)):
            for found, wanted in zip(drawn, expected, strict=True):
                assert_same(gpu.host(found), wanted)
    assert real == gpu.launch
    assert sorted(gpu.loads) == [number for number in (0, 1) for _ in LAWS]
    assert sorted(launches) == list(range(8))


def test_a_warm_fill_can_be_captured_and_a_cold_one_shows_that_the_check_can_fail(gpu):
    buffer = cupy.empty((30, 40), np.float32)
    for view in (buffer, buffer[1:, ::2]):
        with gpu.capture(), pytest.raises(AssertionError, match="during stream capture"):
            ff.fill(view, ff.normal(), seed=0)
        ff.fill(view, ff.normal(), seed=0)
        with gpu.capture():
            ff.fill(view, ff.normal(), seed=1)
        assert_same(gpu.host(view), on_host(view.shape, ff.normal(), seed=1))


def test_progress_is_told_once_and_threads_are_checked_and_change_nothing(gpu):
    told = []
    buffer = cupy.empty(1000, np.float32)
    ff.fill(buffer, ff.normal(), seed=0, threads=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1000, 1000)]
    assert len(gpu.launches) == 1
    with pytest.raises(ValueError, match="threads: expected an integer"):
        ff.fill(buffer, ff.normal(), seed=0, threads=0)
    with pytest.raises(TypeError, match="progress: expected a callable"):
        ff.fill(buffer, ff.normal(), seed=0, progress=1)


# draw


def test_draw_allocates_on_the_device_that_is_named(gpu):
    for device, number in (("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        drawn = ff.draw((5, 6), "he_normal", seed=2, device=device)
        assert type(drawn) is cupy.ndarray
        assert drawn.data.device_id == number
        assert_same(gpu.host(drawn), on_host((5, 6), "he_normal", seed=2))
    with gpu.use(1):
        assert ff.draw(3, ff.normal(), seed=0, device="cuda", dtype="bfloat16").data.device_id == 1
    assert type(ff.draw(3, ff.normal(), seed=0, device="cpu")) is np.ndarray
    assert type(ff.draw(3, ff.normal(), seed=0, backend="numpy")) is np.ndarray
    assert type(ff.draw(3, ff.normal(), seed=0, backend="cuda")) is cupy.ndarray


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
    assert ff.backends()[2] == ("cuda", True, None)


# What is missing


def assert_unavailable(message):
    """Every way to ask says it."""
    cuda_status = ff.backends()[2]
    assert not cuda_status.usable
    assert re.search(message, cuda_status.reason), cuda_status.reason
    assert "\n" not in cuda_status.reason
    stand_in = type(
        "Array", (), {"__cuda_array_interface__": {"shape": (3,), "typestr": "<f4", "data": (1, False)}}
    )
    for call in (
        lambda: ff.fill(stand_in(), ff.normal(), seed=0),
        lambda: ff.draw(3, ff.normal(), seed=0, device="cuda"),
        lambda: ff.select_backend(stand_in()),
        lambda: selftest.subjects("cuda"),
    ):
        with pytest.raises(BackendUnavailableError, match=f"backend 'cuda' is not usable: .*{message}"):
            call()
    assert type(ff.draw(3, ff.normal(), seed=0)) is np.ndarray
    assert all(subject.backend != "cuda" for subject in selftest.subjects())


class Status(RuntimeError):
    """CUDARuntimeError without a driver to raise it."""

    def __init__(self, status, text="cudaErrorOfSomeKind: it did not work"):
        super().__init__(text)
        self.status = status


def cupy_with(count, driver=12040, runtime=12090):
    """A CuPy whose first call of CUDA ends like this."""

    def devices():
        if isinstance(count, Exception):
            raise count
        return count

    parts = SimpleNamespace(
        getDeviceCount=devices,
        CUDARuntimeError=Status,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
    )
    return SimpleNamespace(cuda=SimpleNamespace(runtime=parts))


@pytest.fixture
def asked_anew(monkeypatch):
    """A backend that has not looked for CuPy yet."""
    cuda._found.cache_clear()
    yield monkeypatch
    cuda._found.cache_clear()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (cupy_with(Status(35), driver=0), r"no NVIDIA driver was found; install one, .*--gpus all"),
        (
            cupy_with(Status(35), driver=11040),
            r"too old: it knows CUDA 11.4, CuPy is built for 12.9; update the driver, .*fanfill\[cuda12\]",
        ),
        (cupy_with(Status(100)), "driver sees no device; nvidia-smi should list one"),
        (cupy_with(0), "driver sees no device; nvidia-smi should list one"),
        (cupy_with(Status(999)), "CUDA cannot be started .cudaErrorOfSomeKind: it did not work.; nvidia-smi"),
        (cupy_with(RuntimeError("no libcuda\nat all")), "CUDA cannot be started .no libcuda at all."),
        (None, r"CuPy cannot be imported .*; pip install 'fanfill\[cuda12\]' or 'fanfill\[cuda13\]'"),
    ],
)
def test_each_way_to_have_no_device_is_told_with_the_remedy(asked_anew, found, message):
    asked_anew.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked_anew.setitem(sys.modules, "cupy", found)
    assert_unavailable(message)


def test_a_hidden_device_is_suspected(asked_anew):
    asked_anew.setenv("CUDA_VISIBLE_DEVICES", "-1")
    asked_anew.setitem(sys.modules, "cupy", cupy_with(Status(100)))
    assert_unavailable(r"sees no device \(CUDA_VISIBLE_DEVICES='-1' may hide it\)")


def test_a_cupy_that_breaks_on_import(asked_anew, tmp_path):
    (tmp_path / "cupy.py").write_text("raise OSError('libsomething: ' + 1000 * 'long ')")
    asked_anew.syspath_prepend(tmp_path)
    asked_anew.delitem(sys.modules, "cupy")
    assert_unavailable(r"importing CuPy failed \(OSError: libsomething: (long )+\.*.*\); reinstall it")
    assert len(ff.backends()[2].reason) < 600


def test_the_real_cupy_of_a_machine_without_a_driver(asked_anew):
    if not isinstance(cuda._found(), str):
        pytest.skip("this machine has a CUDA device")
    assert_unavailable("no NVIDIA driver was found")


def test_without_nvrtc(gpu, monkeypatch):
    monkeypatch.setattr(nvrtc, "compilers", lambda: ())
    assert_unavailable(r"NVRTC.*pip install 'fanfill\[cuda12\]'")


def old_compiler(monkeypatch, *architectures):
    """Make every NVRTC know these architectures only."""
    for compiler in nvrtc.compilers():
        monkeypatch.setattr(compiler, "architectures", architectures)


def test_a_device_newer_than_nvrtc_gets_ptx_of_the_newest_that_it_knows(emulated, no_cubins, monkeypatch):
    asked = compilations(monkeypatch)
    old_compiler(monkeypatch, 80, 90)
    gpu = emulated(95)
    buffer = ff.fill(cupy.empty((30, 40), np.float32), "he_normal", seed=1)
    assert asked == [(90, True)]
    assert_same(gpu.host(buffer), on_host((30, 40), "he_normal", seed=1))


def test_a_device_older_than_nvrtc_is_refused(emulated, monkeypatch):
    old_compiler(monkeypatch, 80, 90)
    emulated(70)
    with pytest.raises(
        BackendUnavailableError,
        match=r"expected a device that NVRTC \d+\.\d+ compiles for, sm_80 or later; got sm_70",
    ):
        ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=0)


def test_nvrtc_is_no_newer_than_the_driver(emulated, no_cubins, monkeypatch):
    gpu = emulated(90)
    used = []
    real = nvrtc.Compiler.compile

    def compile(self, *arguments):
        used.append(self.version[0])
        return real(self, *arguments)

    monkeypatch.setattr(nvrtc.Compiler, "compile", compile)
    monkeypatch.setattr(cuda, "_found", lambda: gpu.driver._replace(version=lambda: 12020))
    if min(compiler.version[0] for compiler in nvrtc.compilers()) > 12:
        assert_unavailable("NVRTC")
        return
    ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=0)
    assert used[0] == 12


def test_a_source_that_does_not_compile_is_told_with_the_log(emulated, monkeypatch):
    emulated(90)
    monkeypatch.setattr(choice, "source_of", lambda name: "int x = ;")
    with pytest.raises(BackendUnavailableError, match=r"(?s)to compile for sm_90.*expected an expression"):
        ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=0)


def test_a_driver_that_does_not_take_the_kernels(gpu):
    buffer = cupy.empty(9, np.float32)
    gpu.refuse_load = Status(222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: no")
    with pytest.raises(
        BackendUnavailableError,
        match=r"expected the driver to load kernels for sm_80 on device 0; got CUDA_ERROR_UNSUPPORTED",
    ):
        ff.fill(buffer, ff.normal(), seed=0)
    gpu.refuse_load = Status(2, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(Status, match="OUT_OF_MEMORY"):
        ff.fill(buffer, ff.normal(), seed=0)
    gpu.refuse_load = None
    ff.fill(buffer, ff.normal(), seed=0)
    assert_same(gpu.host(buffer), on_host(9, ff.normal(), seed=0))
