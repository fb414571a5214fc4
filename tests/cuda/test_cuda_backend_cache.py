"""The CUDA backend on emulated devices: what is compiled, stored and loaded once, and stream capture."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import LAWS, on_host
from cuda_on_cpu.compiled import shared_ptx
from cuda_on_cpu.fixtures import compilations, cubins, emulated, gpu, no_cubins  # noqa: F401
from equality import assert_same_bits

import fanfill as ff
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import nvrtc
from fanfill_kernels.cuda import choice, source
from fanfill_kernels.store import cache


def test_one_compilation_an_architecture_and_one_load_a_device(emulated, no_cubins, monkeypatch):
    asked = compilations(monkeypatch)
    gpu = emulated(90, 100, 90)
    gpu.by_family = True  # no other test needs all kernels for 100
    for number in (0, 1, 2, 2, 0):
        with gpu.use(number):
            buffer = cupy.empty(40, np.float32)
        for view in (buffer, buffer[::2]):  # two kernels of one family
            ff.fill(view, ff.normal(), seed=1)
    assert [pair for pair in asked if not pair[1]] == [(90, False), (100, False)]
    assert gpu.loads == [0, 1, 2]
    ff.fill(buffer, ff.uniform(-1, 1), seed=1)
    assert gpu.loads == [0, 1, 2, 0]


def test_cubins_are_kept_between_processes_by_architecture_version_and_source(
    emulated, no_cubins, monkeypatch
):
    def in_a_new_process(*architectures):
        emulated(*architectures).by_family = True
        ff.fill(cupy.empty(9, np.float32), ff.normal(), seed=1)
        cubins = [pair for pair in asked if not pair[1]]
        asked.clear()
        return cubins

    asked = compilations(monkeypatch)
    assert in_a_new_process(90) == [(90, False)]
    assert in_a_new_process(90) == []
    (kept,) = (entry for entry in cache.folder().iterdir() if b"\x7fELF" in entry.read_bytes())
    assert in_a_new_process(100) == [(100, False)]
    kept.write_bytes(kept.read_bytes()[:-1])  # cut short
    assert in_a_new_process(90) == [(90, False)]
    compiler = nvrtc.compiler()
    monkeypatch.setattr(compiler, "version", (compiler.version[0], compiler.version[1] + 1))
    assert in_a_new_process(90) == [(90, False)]
    real = choice.source_of
    monkeypatch.setattr(choice, "source_of", lambda name: real(name) + "\n//\n")
    assert in_a_new_process(90) == [(90, False)]


def test_a_family_is_compiled_alone_and_to_the_same_code():
    whole = shared_ptx(nvrtc.compiler(), source(), 90).decode()
    for name in (
        "normal_float32",
        "truncated_float8_e5m2",
        "uniform_range_float64",
        "words_uint32",
        "constant_8",
    ):
        text = nvrtc.compiler().compile(choice.source_of(name), "fill.cu", 90, ptx=True).decode()
        assert set(re.findall(r"\.entry (\w+)", text)) == {f"run_{name}", f"box_{name}"}
        for kind in ("run", "box"):
            assert choice.family(f"{kind}_{name}") == name
            assert body(text, f"{kind}_{name}") == body(whole, f"{kind}_{name}")
    families = {choice.family(entry) for entry in re.findall(r"\.entry (\w+)", whole)}
    assert len(families) == 55
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
    assert_same_bits(gpu.host(buffer), on_host(9, ff.normal(), seed=1))


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
                assert_same_bits(gpu.host(found), wanted)
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
        assert_same_bits(gpu.host(view), on_host(view.shape, ff.normal(), seed=1))


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


def test_a_fill_in_a_signal_handler_while_its_thread_loads_the_same_kernel(emulated, monkeypatch):
    gpu = emulated(90)
    buffers = [cupy.empty(40, np.float32) for _ in range(2)]
    image, ended = cuda_backend._image, []

    def struck(*arguments):
        monkeypatch.setattr(cuda_backend, "_image", image)
        ff.fill(buffers[1], ff.normal(), seed=1)
        return image(*arguments)

    monkeypatch.setattr(cuda_backend, "_image", struck)
    thread = threading.Thread(
        target=lambda: ended.append(ff.fill(buffers[0], ff.normal(), seed=1)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert len(ended) == 1
    for buffer in buffers:
        assert_same_bits(gpu.host(buffer), on_host(40, ff.normal(), seed=1))


OTHER = 'extern "C" __global__ void marked(unsigned* out) { out[threadIdx.x] = threadIdx.x + 7; }'


def test_another_source_is_ptx_and_for_an_older_driver_machine_code(emulated):
    gpu = emulated(90)
    images = []

    def load(image):
        images.append(image)
        if not image.startswith(b"\x7fELF"):
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
        return "loaded"

    assert cuda_backend.load_source(gpu.driver, OTHER, "other.cu").module.entries.keys() == {"marked"}
    assert cuda_backend.load_source(gpu.driver._replace(load=load), OTHER, "other.cu") == "loaded"
    assert [image[:4] == b"\x7fELF" for image in images] == [False, True]
    assert b"sm_90" in images[0]
    # A device newer than the compiler gets PTX or nothing.
    newer = gpu.driver._replace(load=load, architecture=lambda number: 999)
    with pytest.raises(ff.BackendUnavailableError, match=r"expected an architecture that NVRTC .*; got 999;"):
        cuda_backend.load_source(newer, OTHER, "other.cu")
