"""Fixtures that make the backend see emulated devices: real CuPy arrays on host memory, and kernels that are
run from their PTX.

What they can show is which kernel runs where, on which elements and with which bits; not a GPU's hardware,
timing or concurrency. ``tests/cuda/test_cuda_device.py`` is for a real one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cupy
import pytest
import shared

from cuda_on_cpu.cupy_on_host import Machine
from cuda_on_cpu.shim import NAMES
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import nvrtc, plans
from fanfill_kernels.cuda import GROUPED, KINDS, choice, source


@pytest.fixture(scope="session")
def cubins() -> Path:
    """A cache folder for compiled kernels, shared by all tests of a run that are not about it."""
    made = shared.folder() / "cubins"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


@functools.cache
def families() -> dict[str, str]:
    """The families of kernels that the backend compiles one by one, by the source of each."""
    return {choice.source_of(name): name for name in NAMES}


def symbols(text: str) -> list[str]:
    """The kernels of a source that the backend compiles; none if it is another."""
    head = f"#define {GROUPED.upper()}\n"
    if text.startswith(head):
        family = families().get(text.removeprefix(head).partition("\n")[2])
        return [] if family is None else [f"{GROUPED}_{family}"]
    family = families().get(text)
    return [] if family is None else [f"{kind}_{family}" for kind in KINDS]


_compile = nvrtc.Compiler.compile


def compile_for_emulation(
    self: nvrtc.Compiler, source: str, name: str, arch: int | str, ptx: bool = False
) -> bytes:
    """NVRTC in name only: of machine code the emulation reads the symbols, and the PTX it runs is made once.

    What NVRTC makes of each kernel is the matter of test_cuda_compile.py, and that the backend's sources
    give the same that of test_cuda_backend_cache.py.
    """
    found = symbols(source) if not ptx and arch in self.architectures else []
    if not found:
        return _compile(self, source, name, arch, ptx)
    return b"\0".join([b"\x7fELF", *map(str.encode, found), str(arch).encode()])


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

    monkeypatch.setattr(nvrtc.Compiler, "compile", compile_for_emulation)
    machines: list[Machine] = []
    before = cupy.cuda.get_allocator()
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(cubins))
    yield make
    cupy.cuda.set_allocator(before)
    for machine in machines:
        machine.assert_guards()


@pytest.fixture
def gpu(emulated: Callable[..., Machine]) -> Machine:
    """Two devices of one architecture, that whose kernels test_cuda_ptx.py compiles too.

    That another gets kernels of its own is shown by test_cuda_backend_cache.py.
    """
    return emulated(90, 90)


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
