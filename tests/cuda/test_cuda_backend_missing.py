"""The CUDA backend where a driver, a device, CuPy or a compiler is missing or too old: what it says."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import on_host
from cuda_on_cpu.fixtures import compilations, cubins, emulated, gpu, no_cubins  # noqa: F401
from equality import assert_same_bits

import fanfill as ff
from fanfill import selftest
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import nvrtc
from fanfill.errors import BackendUnavailableError
from fanfill_kernels.cuda import choice


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
    assert type(ff.draw(3, ff.normal(), seed=0, device="auto")) is np.ndarray
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
    cuda_backend._found.cache_clear()
    yield monkeypatch
    cuda_backend._found.cache_clear()


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
    if not isinstance(cuda_backend._found(), str):
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
    assert_same_bits(gpu.host(buffer), on_host((30, 40), "he_normal", seed=1))


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

    def compile(self, *arguments, **options):
        used.append(self.version[0])
        return real(self, *arguments, **options)

    monkeypatch.setattr(nvrtc.Compiler, "compile", compile)
    monkeypatch.setattr(cuda_backend, "_found", lambda: gpu.driver._replace(version=lambda: 12020))
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
        match=r"expected the driver to load kernels for sm_90 on device 0; got CUDA_ERROR_UNSUPPORTED",
    ):
        ff.fill(buffer, ff.normal(), seed=0)
    gpu.refuse_load = Status(2, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(Status, match="OUT_OF_MEMORY"):
        ff.fill(buffer, ff.normal(), seed=0)
    gpu.refuse_load = None
    ff.fill(buffer, ff.normal(), seed=0)
    assert_same_bits(gpu.host(buffer), on_host(9, ff.normal(), seed=0))
