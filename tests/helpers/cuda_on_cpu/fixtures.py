"""Fixtures that make the backend see emulated devices: real CuPy arrays on host memory, and kernels that are
run from their PTX.

What they can show is which kernel runs where, on which elements and with which bits; not a GPU's hardware,
timing or concurrency. ``tests/cuda/test_cuda_device.py`` is for a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cupy
import pytest
import shared

from cuda_on_cpu.cupy_on_host import Machine
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import nvrtc, plans
from fanfill_kernels.cuda import source


@pytest.fixture(scope="session")
def cubins() -> Path:
    """A cache folder for compiled kernels, shared by all tests of a run that are not about it."""
    made = shared.folder() / "cubins"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, cubins: Path) -> Iterator[Callable[..., Machine]]:
    """Make the backend see a machine with devices of these architectures, and nothing loaded."""

    def make(*architectures: int) -> Machine:
        machine = Machine(architectures, source)
        machine.out_of_memory = lambda size: cupy.cuda.memory.OutOfMemoryError(size, 0, 0)
        monkeypatch.setattr(cuda_backend, "_found", lambda: machine.driver)
        for cached in ("_functions", "_modules", "_images"):
            monkeypatch.setattr(cuda_backend, cached, {})
        for cached in ("_of_torch", "_of_cupy"):
            monkeypatch.setattr(plans, cached, {})
        cupy.cuda.set_allocator(machine.allocate)
        machines.append(machine)
        return machine

    machines: list[Machine] = []
    before = cupy.cuda.get_allocator()
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(cubins))
    yield make
    cupy.cuda.set_allocator(before)
    for machine in machines:
        machine.assert_guards()


@pytest.fixture
def gpu(emulated: Callable[..., Machine]) -> Machine:
    """Two devices of different architectures."""
    return emulated(80, 90)


@pytest.fixture
def no_cubins(monkeypatch: pytest.MonkeyPatch, emulated: Callable[..., Machine], tmp_path: Path) -> None:
    """A cache folder that is empty."""
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "cache"))


def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Count what NVRTC is asked to compile."""
    asked = []
    real = nvrtc.Compiler.compile

    def compile(self: nvrtc.Compiler, source: str, name: str, arch: int, ptx: bool = False) -> Any:
        asked.append((arch, ptx))
        return real(self, source, name, arch, ptx)

    monkeypatch.setattr(nvrtc.Compiler, "compile", compile)
    return asked
