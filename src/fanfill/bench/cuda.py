"""``fanfill bench --device cuda``: fills on a GPU, compared with its memory limit and other generators.

The method is that of the CPU's benchmark: one buffer, values checked against the NumPy oracle before they are
timed, interleaved contestants, medians, and the limit (here the driver's memset) in the same turns. The clock
is a pair of CUDA events around the calls, on the stream where they work. So if a call costs the host more
time than the device, the figure is the host's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

import fanfill as ff
from fanfill.backends import resolve
from fanfill.bench.measure import (
    BOUND,
    DISTRIBUTIONS,
    LAWS,
    SEED,
    STD,
    Case,
    Clock,
    Entrant,
    Race,
    Row,
    Run,
    Sample,
    Settings,
    assert_window,
    contest,
    itemsize,
    numpy_dtype,
    parse_size,
    repeat,
    timed,
    windows,
)
from fanfill.bench.suite import CONTESTS, Progress, unrepeated
from fanfill.cuda import backend, nvrtc
from fanfill.cuda.buffers import DeviceBuffer
from fanfill.cuda.driver import Driver
from fanfill.errors import BackendUnavailableError
from fanfill.report import MEMSET_BYTE

__all__ = ["PEERS", "facts", "run", "settings"]

# The least that one sample lasts on the device. Its clock begins before the host starts its first call. With
# samples of 2 ms an H200 seemed to draw 537 G normals/s where its kernel alone drew 605.
SAMPLE_SECONDS = 20e-3
POISON = 0xA5


class GpuMemory(NamedTuple):
    """The device, its memory that everyone writes, and the stream that everyone works on."""

    driver: Driver
    number: int
    pointer: int
    stream: int

    def buffer(self, case: Case) -> DeviceBuffer:
        """The case's vector in that memory."""
        size = itemsize(case.dtype)
        return DeviceBuffer(self.pointer, (case.values,), (size,), numpy_dtype(case.dtype))

    def memset(self, byte: int, start: int, size: int) -> None:
        """Set bytes, on the stream."""
        self.driver.memset(self.pointer + start, byte, size, self.stream)


def settings(
    number: int = 0,
    quick: bool = False,
    peers: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
) -> Settings:
    """The settings for the command's options; ValueError for an unknown peer."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise ValueError(
            f"expected peers on a GPU among {', '.join(PEERS)}; got {', '.join(unknown)}; leave --peers out "
            "for all, or measure the host with --device cpu"
        )
    largest = tuple(sizes) if sizes else (parse_size("64Mi" if quick else "1Gi"),)
    steps = ("64Ki", "1Mi", "16Mi") if quick else ("1Ki", "64Ki", "1Mi", "4Mi", "16Mi", "64Mi", "256Mi")
    scaling = tuple(size for size in map(parse_size, steps) if size < max(largest))
    taken = tuple(PEERS) if peers is None else tuple(peers)
    return Settings(taken, largest, (*scaling, max(largest)), 5 if quick else 15, device=number)


def run(chosen: Settings, progress: Progress = lambda phase, done, total: None) -> list[Row]:
    """Measure everything that the settings name.

    Raises
    ------
    BackendUnavailableError
        If there is no such device.
    RuntimeError
        If a kernel's values are not those of the oracle.
    """
    resolve("cuda", None)
    number = chosen.device or 0
    gpu = backend.driver()
    if number >= gpu.devices():
        raise BackendUnavailableError(
            f"device: expected one of the {gpu.devices()} CUDA devices, cuda:0 and up; got cuda:{number}"
        )
    rows: list[Row] = []
    with gpu.use(number):
        block = gpu.allocate(max(chosen.sizes) * 8)  # at once: everyone writes the same pages
        memory = GpuMemory(gpu, number, block.ptr, gpu.stream(number))
        racing = race(memory, chosen.rounds)
        cases = [Case(*kind, size) for size in chosen.sizes for kind in CONTESTS]
        for done, case in enumerate(cases):
            progress("peers", done, len(cases))
            taking_part = [limit(memory, case), ours(memory, case)]
            for name in chosen.peers:
                taking_part += entrants(name, memory, case)
            rows += timed("peers", [(case, entrant) for entrant in taking_part], racing)
        steps = [(kind, size) for kind in DISTRIBUTIONS for size in chosen.scaling]
        for done, (kind, size) in enumerate(steps):
            progress("scaling", done, len(steps))
            case = Case(kind, "uint32" if kind == "words" else "float32", size)
            rows += timed("scaling", [(case, limit(memory, case)), (case, ours(memory, case))], racing)
        progress("scaling", len(steps), len(steps))
    return unrepeated(rows)


def facts(number: int) -> dict[str, Any]:
    """Facts to report with the figures: the device, and the compiler of the kernels."""
    gpu = backend.driver()
    compiler = nvrtc.compiler(gpu.version() // 1000)
    return {**gpu.facts(number), "nvrtc": ".".join(map(str, compiler.version))}


def limit(memory: GpuMemory, case: Case) -> Entrant:
    """The driver's memset of the same number of bytes, with a byte other than zero."""
    size = case.values * itemsize(case.dtype)
    return Entrant("limit", "cudaMemset", 1, lambda: memory.memset(MEMSET_BYTE, 0, size))


def ours(memory: GpuMemory, case: Case, law: ff.Initializer | None = None) -> Entrant:
    """fanfill, its kernels loaded, its values checked against the NumPy oracle; for ``law`` see
    `assert_window`.
    """
    buffer, size = memory.buffer(case), itemsize(case.dtype)

    def fill() -> None:
        if case.distribution == "words":
            ff.words(buffer, seed=SEED, backend="cuda")
        else:
            ff.fill(buffer, law or LAWS[case.distribution], seed=SEED, backend="cuda")

    for start, count in windows(case):
        memory.memset(POISON, start * size, count * size)
    fill()
    for start, count in windows(case):
        assert_window(case, start, memory.driver.read(memory.pointer + start * size, count * size), law)
    return Entrant("fanfill", "cuda", 1, fill)


def race(memory: GpuMemory, rounds: int) -> Race:
    """A contest on the memory's stream. Its clock is a pair of CUDA events around the calls."""

    def seconds(run: Run, count: int) -> float:
        return memory.driver.seconds(partial(repeat, run, count), memory.stream)

    def run(runs: list[Run]) -> list[Sample]:
        for call in runs:
            call()  # loads its kernels: that it took long says nothing about the calls that follow
        return contest(runs, rounds=rounds, clock=Clock(seconds, SAMPLE_SECONDS, 1e-6))

    return run


# The peers: each in the fastest way that it documents, in place, on the same memory.


def entrants(peer: str, memory: GpuMemory, case: Case) -> list[Entrant]:
    """A peer's ways to do a case: none if it has none; if the peer cannot be used, one that says why.

    A peer may fail in unforeseen ways on other machines: any exception becomes its row and does not end the
    run.
    """
    try:
        return list(PEERS[peer](memory, case))
    except Exception as error:
        return [Entrant(peer, "", 1, None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]


def torch(memory: GpuMemory, case: Case) -> Iterator[Entrant]:
    """Tensor methods and ``torch.nn.init``, with hardware approximations, on a tensor in the same memory."""
    package = import_module("torch")
    size = itemsize(case.dtype)
    lanes = DeviceBuffer(memory.pointer, (case.values,), (size,), np.dtype(f"i{size}"))
    place = f"cuda:{memory.number}"
    flat = package.as_tensor(lanes, device=place).view(getattr(package, case.dtype))
    if flat.data_ptr() != memory.pointer:
        raise RuntimeError("torch made a copy of the memory")
    if case.distribution == "truncated":
        init = package.nn.init.trunc_normal_
        yield Entrant("torch", "nn.init.trunc_normal_", 1, lambda: init(flat, 0.0, STD, -2 * STD, 2 * STD))
    elif case.distribution == "uniform":
        yield Entrant("torch", "Tensor.uniform_", 1, lambda: flat.uniform_(-BOUND, BOUND))
    elif case.distribution == "normal":
        yield Entrant("torch", "Tensor.normal_", 1, lambda: flat.normal_(0.0, STD))


def cupy(memory: GpuMemory, case: Case) -> Iterator[Entrant]:
    """``cupy.random.Generator`` with ``out=``, then the scale in place."""
    package = import_module("cupy")
    if case.dtype not in ("float32", "float64") or case.distribution not in ("uniform", "normal"):
        return
    flat = package.asarray(memory.buffer(case))
    for name in ("XORWOW", "Philox4x3210"):
        generator = package.random.Generator(getattr(package.random, name)(SEED))
        yield Entrant("cupy", f"Generator({name}), out=", 1, scaled(generator, case, flat))


def scaled(generator: Any, case: Case, flat: Any) -> Run:
    """Draw a case with one of CuPy's generators."""

    def uniform() -> None:
        generator.random(dtype=flat.dtype, out=flat)
        flat.__imul__(2 * BOUND)
        flat.__isub__(BOUND)

    def normal() -> None:
        generator.standard_normal(dtype=flat.dtype, out=flat)
        flat.__imul__(STD)

    return uniform if case.distribution == "uniform" else normal


def curand(memory: GpuMemory, case: Case) -> Iterator[Entrant]:
    """cuRAND's host interface: Philox and XORWOW; uniforms come unscaled, in (0, 1]."""
    library = import_module("cupy.cuda").curand
    suffix = {"float32": "", "float64": "Double"}.get(case.dtype)
    if suffix is None or case.distribution not in ("uniform", "normal"):
        return
    for name in ("PHILOX4_32_10", "XORWOW"):
        generator = library.createGenerator(getattr(library, f"CURAND_RNG_PSEUDO_{name}"))
        library.setStream(generator, memory.stream)
        library.setPseudoRandomGeneratorSeed(generator, SEED)
        if case.distribution == "uniform":
            draw = getattr(library, f"generateUniform{suffix}")
            yield Entrant(
                "curand", f"{name}, unscaled", 1, partial(draw, generator, memory.pointer, case.values)
            )
        else:
            draw = getattr(library, f"generateNormal{suffix}")
            run = partial(draw, generator, memory.pointer, case.values, 0.0, STD)
            yield Entrant("curand", name, 1, run)


PEERS: dict[str, Callable[[GpuMemory, Case], Iterator[Entrant]]] = {
    "torch": torch,
    "cupy": cupy,
    "curand": curand,
}
