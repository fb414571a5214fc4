"""Fixtures shared by the tests."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import shared

from fanfill.backends import Backend, HostKernels
from fanfill.recipes import Recipe

# What an assertion in these compares is shown, as it is for one in a test.
pytest.register_assert_rewrite(
    "cases", "command_line", "cuda_on_cpu.pieces", "equality", "keras_checks", "kernel_runs", "processes"
)

# The files that take longest, in this order first, so that no worker is left with one of them at the end.
# test_cuda_compile.py makes machine code and with it the PTX that others ask for.
LONGEST = (
    "test_cuda_compile",
    "test_leaks",
    "test_cuda_source",
    "test_cuda_ptx",
    "test_targets",
    "test_kernels",
    "test_cuda_backend_values",
    "test_probe",
    "test_compile_ahead",
    "test_cache",
    "test_cli_streams",
    "test_faults_kernels",
    "test_quality",
    "test_load",
    "test_torch_sharding",
)

# What these run is the tests' own code, the benchmarks', that of children, or what many other tests run too:
# measuring their coverage would slow them down by a quarter and find nothing.
UNMEASURED = re.compile(
    r"test_(feeds|instructions|quality\w*|cuda_(ptx|source|compile|roots|groups)|ptx_\w+|targets|leaks|load|stacks"
    r"|forks|reentry|kernels|scatter|lattice|accuracy|bits|boxes|narrow|intervals|fuzz|distributions|torch_layers"
    r"|torch_distributions|signal_propagation|torch_sharding|threads_stress|flush_to_zero|adding_a_distribution"
    r"|torch_accelerated_models)"
)

NO_GPU = "no device; get one"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--with-emulated-gpu",
        action="store_true",
        help="report an emulated CUDA device as usable, here and in child processes",
    )


# Children import the same modules a thousand times, and some tests time it: without bytecode an import takes
# five times as long. Workers start after this file is read.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def end_at_once(worker: int) -> None:
    """End a worker once its results are out: to free the objects of torch, JAX and Numba takes 4 s."""
    if os.getpid() == worker:  # and not a fork of it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # Before whatever tests register, so it runs after it. Nobody asks for a worker's exit code.
        atexit.register(end_at_once, os.getpid())
    shared.folder()  # workers and child processes inherit where it is
    # Threads of OpenBLAS and of torch's OpenMP spin as they wait, on cores that other workers need. Fanfill
    # has its own, and reads neither.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")
    # JAX reads it once, when any test first uses it; tests of shards need several devices.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    # A shell's background jobs ignore Ctrl-C, and their children would too, which tests send it to.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--with-emulated-gpu"):
        from cuda_on_cpu import usable

        usable.install()


@pytest.hookimpl(optionalhook=True, wrapper=True)  # optional: xdist may be off
def pytest_xdist_auto_num_workers() -> Iterator[int]:
    """A worker more than there are cores: many tests wait for a child, and a core would rest meanwhile."""
    found = yield
    return found if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else found + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect the tests without collecting garbage: nothing that is imported here, or found, is any.

    That takes 7 s of CPU off the 21 of each worker, which went through torch's and JAX's objects again and
    again. Frozen, they are left out later as well. What comes later is collected less often than Python
    would, which spent a twentieth of the tests' time on it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
    if config.pluginmanager.hasplugin("_cov") and "COVERAGE_PROCESS_START" not in os.environ:
        for item in items:
            if UNMEASURED.fullmatch(item.path.stem):
                item.add_marker(pytest.mark.no_cover)
    if config.getoption("--with-emulated-gpu"):
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a real CUDA device"))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine without a GPU, whatever this one has; the reason that the backend gives."""
    from fanfill.cuda import backend as cuda_backend

    monkeypatch.setattr(cuda_backend, "_found", lambda: NO_GPU)
    return NO_GPU


INDEX = Recipe("words", "uint32", ())
"""What the index backend is asked to draw; it draws indices, whatever the recipe."""


class Calls:
    """What a fake backend was asked to do, and how long each call is to take."""

    def __init__(self) -> None:
        self.runs = 0
        self.boxes = 0
        self.threads: set[int] = set()
        self.seconds = 0.0
        self.last = 0.0

    def note(self, kind: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.threads.add(threading.get_ident())
        if self.seconds:
            time.sleep(self.seconds)
        self.last = time.monotonic()


MakeIndexBackend = Callable[..., tuple[Backend, Calls]]


@pytest.fixture
def index_backend() -> MakeIndexBackend:
    """Make a backend that writes each element's global index plus `error`: placement, and nothing else."""

    def make(chunk: int = 1 << 20, tile: int = 1 << 16, error: int = 0) -> tuple[Backend, Calls]:
        calls = Calls()

        def write(out: np.ndarray, index: Any) -> None:
            assert out.ndim == 1
            assert out.flags.c_contiguous
            assert out.flags.aligned
            out[:] = np.asarray(index + error, dtype=np.uint64).astype(out.dtype)

        def run(out: np.ndarray, start: int, key: Any, params: Any) -> None:
            assert type(start) is int
            calls.note("runs")
            write(out, np.uint64(start) + np.arange(out.size, dtype=np.uint64))

        def box(out: np.ndarray, start: int, shape: Any, pitches: Any, key: Any, params: Any) -> None:
            assert all(type(n) is int for n in (start, *shape, *pitches))
            calls.note("boxes")
            index = np.full(shape, start, np.uint64)
            for axis, (n, pitch) in enumerate(zip(shape, pitches, strict=True)):
                steps = np.arange(n, dtype=np.uint64) * np.uint64(pitch)
                index += steps.reshape([-1 if k == axis else 1 for k in range(len(shape))])
            write(out, index.reshape(-1))

        def scatter(target: np.ndarray) -> Any:
            def put(where: tuple[slice, ...], values: np.ndarray) -> None:
                assert values.ndim == 1
                assert values.flags.c_contiguous
                target[where] = values.reshape(target[where].shape)

            return put

        kernels = HostKernels(run, box, run)
        backend = Backend(
            "index", "cpu", lambda: None, lambda *_: kernels, scatter, lambda *_: chunk, lambda *_: tile
        )
        return backend, calls

    return make
