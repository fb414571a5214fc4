"""Fixtures that make the backend see emulated devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cupy
import pytest

from cuda_on_cpu.cupy_on_host import Machine
from fanfill.backends import cuda
from fanfill_kernels.cuda import source


@pytest.fixture(scope="session")
def cubins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for compiled kernels, shared by tests that are not about it."""
    return tmp_path_factory.mktemp("cubins")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, cubins: Path) -> Iterator[Callable[..., Machine]]:
    """Make the backend see a machine with devices of these architectures, and nothing loaded."""

    def make(*architectures: int) -> Machine:
        machine = Machine(architectures, source)
        machine.out_of_memory = lambda size: cupy.cuda.memory.OutOfMemoryError(size, 0, 0)
        monkeypatch.setattr(cuda, "_found", lambda: machine.driver)
        for cached in ("_functions", "_modules", "_images"):
            monkeypatch.setattr(cuda, cached, {})
        cupy.cuda.set_allocator(machine.allocate)
        machines.append(machine)
        return machine

    machines: list[Machine] = []
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(cubins))
    yield make
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    for machine in machines:
        machine.assert_guards()


@pytest.fixture
def gpu(emulated: Callable[..., Machine]) -> Machine:
    """Two devices of different architectures."""
    return emulated(80, 90)
