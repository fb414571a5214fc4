"""``fanfill bench --device cuda``: fills on a GPU beside the limit of its memory and other generators.

The method is that of the CPU's benchmark: one buffer, values checked against the NumPy oracle before they are
timed, contestants in turns, medians, and the limit (here the driver's memset) in the same turns. The clock is
a pair of CUDA events around the calls, on the stream where they work; so a call that costs the host more time
than the device shows what it costs the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from statistics import median
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
    Sample,
    assert_window,
    itemsize,
    numpy_dtype,
    parse_size,
    windows,
)
from fanfill.bench.report import Row
from fanfill.bench.suite import CONTESTS, Progress, unrepeated
from fanfill.cuda import backend, nvrtc
from fanfill.cuda.buffers import DeviceBuffer
from fanfill.cuda.driver import Driver
from fanfill.errors import BackendUnavailableError
from fanfill.report import MEMSET_BYTE

__all__ = ["PEERS", "Settings", "facts", "run", "settings"]

# One sample lasts so long on the device at least, by repeating the call: events tell some half microsecond.
SAMPLE_SECONDS = 2e-3
POISON = 0xA5

Run = Callable[[], object]


class Entrant(NamedTuple):
    """Who, how, and the call; or why there is none."""

    subject: str
    method: str
    run: Run | None
    missing: str | None = None


class Arena(NamedTuple):
    """The device, its memory that everyone writes, and the stream that everyone works on."""

    gpu: Driver
    number: int
    pointer: int
    stream: int

    def buffer(self, case: Case) -> DeviceBuffer:
        """The case's vector in that memory."""
        size = itemsize(case.dtype)
        return DeviceBuffer(self.pointer, (case.values,), (size,), numpy_dtype(case.dtype))

    def memset(self, byte: int, start: int, size: int) -> None:
        """Set bytes, on the stream."""
        self.gpu.memset(self.pointer + start, byte, size, self.stream)


@dataclass(frozen=True)
class Settings:
    """How large and how long a run is: see `fanfill.bench.suite.Settings`.

    Attributes
    ----------
    number
        Of the device.
    peers
        Names among `PEERS`.
    sizes, scaling
        Values of each contest; values of the fills that show scaling.
    rounds
        Turns of each contest.
    """

    number: int
    peers: tuple[str, ...]
    sizes: tuple[int, ...]
    scaling: tuple[int, ...]
    rounds: int


def settings(
    number: int = 0,
    quick: bool = False,
    peers: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
) -> Settings:
    """The settings that the options of the command stand for; ValueError for a peer of unknown name."""
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
    return Settings(number, taken, largest, (*scaling, max(largest)), 5 if quick else 15)


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
    gpu = backend.driver()
    if chosen.number >= gpu.devices():
        raise BackendUnavailableError(
            f"device: expected one of the {gpu.devices()} CUDA devices, cuda:0 and up; got "
            f"cuda:{chosen.number}"
        )
    rows: list[Row] = []
    with gpu.use(chosen.number):
        memory = gpu.allocate(max(chosen.sizes) * 8)  # at once: everyone writes the same pages
        arena = Arena(gpu, chosen.number, memory.ptr, gpu.stream(chosen.number))
        cases = [Case(*kind, size) for size in chosen.sizes for kind in CONTESTS]
        for done, case in enumerate(cases):
            progress("peers", done, len(cases))
            taking_part = [limit(arena, case), ours(arena, case)]
            for name in chosen.peers:
                taking_part += entrants(name, arena, case)
            rows += timed("peers", arena, case, taking_part, chosen.rounds)
        steps = [(kind, size) for kind in DISTRIBUTIONS for size in chosen.scaling]
        for done, (kind, size) in enumerate(steps):
            progress("scaling", done, len(steps))
            case = Case(kind, "uint32" if kind == "words" else "float32", size)
            rows += timed("scaling", arena, case, [limit(arena, case), ours(arena, case)], chosen.rounds)
        progress("scaling", len(steps), len(steps))
    return unrepeated(rows)


def facts(number: int) -> dict[str, Any]:
    """What stands beside the figures: the device, and what compiled the kernels."""
    gpu = backend.driver()
    compiler = nvrtc.compiler(gpu.version() // 1000)
    return {**gpu.facts(number), "nvrtc": ".".join(map(str, compiler.version))}


def limit(arena: Arena, case: Case) -> Entrant:
    """The driver's memset of as many bytes, of a byte that is not zero."""
    size = case.values * itemsize(case.dtype)
    return Entrant("limit", "cudaMemset", lambda: arena.memset(MEMSET_BYTE, 0, size))


def ours(arena: Arena, case: Case) -> Entrant:
    """fanfill, its kernels loaded, its values checked against the NumPy oracle."""
    buffer, size = arena.buffer(case), itemsize(case.dtype)

    def fill() -> None:
        if case.distribution == "words":
            ff.words(buffer, seed=SEED, backend="cuda")
        else:
            ff.fill(buffer, LAWS[case.distribution], seed=SEED, backend="cuda")

    for start, count in windows(case):
        arena.memset(POISON, start * size, count * size)
    fill()
    for start, count in windows(case):
        assert_window(case, start, arena.gpu.read(arena.pointer + start * size, count * size))
    return Entrant("fanfill", "cuda", fill)


def timed(group: str, arena: Arena, case: Case, taking_part: Sequence[Entrant], rounds: int) -> list[Row]:
    """Rows of a contest; the first entrant is the limit that the others are held against."""
    running = [entrant.run for entrant in taking_part if entrant.run is not None]
    samples = iter(contest(arena, running, rounds))
    rows = []
    reference = None
    for subject, method, call, missing in taking_part:
        if call is None:
            rows.append(Row(group, subject, method, "", "", 0, 1, missing=missing))
            continue
        sample = next(samples)
        reference = reference or sample.seconds
        share = reference / sample.seconds
        kind = "limit" if subject == "limit" else group
        rows.append(Row(kind, subject, method, *case, 1, sample.seconds, sample.rounds, share))
    return rows


def contest(arena: Arena, runs: Sequence[Run], rounds: int) -> list[Sample]:
    """Time calls in turns by events, after one turn to warm up; the median of each."""
    repeats = []
    for call in runs:
        call()
        spent = arena.gpu.seconds(call, arena.stream)
        repeats.append(math.ceil(SAMPLE_SECONDS / min(SAMPLE_SECONDS, max(spent, 1e-6))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for k, call in enumerate(runs):
            times[k].append(arena.gpu.seconds(repeated(call, repeats[k]), arena.stream) / repeats[k])
    return [Sample(median(found), len(found)) for found in times]


def repeated(call: Run, count: int) -> Run:
    """Call so many times."""

    def run() -> None:
        for _ in range(count):
            call()

    return run


# The peers: in the fastest way that each documents, in place, on the same memory.


def entrants(peer: str, arena: Arena, case: Case) -> list[Entrant]:
    """A peer's ways to do a case: none if it has none, one that says why if the peer cannot be used.

    Whatever a peer raises, on a machine that nobody here has seen, is its own row and no end of the run.
    """
    try:
        return list(PEERS[peer](arena, case))
    except Exception as error:
        return [Entrant(peer, "", None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]


def torch(arena: Arena, case: Case) -> Iterator[Entrant]:
    """Tensor methods and ``torch.nn.init``, by hardware approximations, on a tensor of the same memory."""
    package = import_module("torch")
    size = itemsize(case.dtype)
    lanes = DeviceBuffer(arena.pointer, (case.values,), (size,), np.dtype(f"i{size}"))
    place = f"cuda:{arena.number}"
    flat = package.as_tensor(lanes, device=place).view(getattr(package, case.dtype))
    if flat.data_ptr() != arena.pointer:
        raise RuntimeError("torch made a copy of the memory")
    if case.distribution == "truncated":
        init = package.nn.init.trunc_normal_
        yield Entrant("torch", "nn.init.trunc_normal_", lambda: init(flat, 0.0, STD, -2 * STD, 2 * STD))
    elif case.distribution == "uniform":
        yield Entrant("torch", "Tensor.uniform_", lambda: flat.uniform_(-BOUND, BOUND))
    elif case.distribution == "normal":
        yield Entrant("torch", "Tensor.normal_", lambda: flat.normal_(0.0, STD))


def cupy(arena: Arena, case: Case) -> Iterator[Entrant]:
    """``cupy.random.Generator`` with ``out=``, then the scale in place."""
    package = import_module("cupy")
    if case.dtype not in ("float32", "float64") or case.distribution not in ("uniform", "normal"):
        return
    flat = package.asarray(arena.buffer(case))
    for name in ("XORWOW", "Philox4x3210"):
        generator = package.random.Generator(getattr(package.random, name)(SEED))
        yield Entrant("cupy", f"Generator({name}), out=", scaled(generator, case, flat))


def scaled(generator: Any, case: Case, flat: Any) -> Run:
    """Draw a case by a generator of CuPy's."""

    def uniform() -> None:
        generator.random(dtype=flat.dtype, out=flat)
        flat.__imul__(2 * BOUND)
        flat.__isub__(BOUND)

    def normal() -> None:
        generator.standard_normal(dtype=flat.dtype, out=flat)
        flat.__imul__(STD)

    return uniform if case.distribution == "uniform" else normal


def curand(arena: Arena, case: Case) -> Iterator[Entrant]:
    """cuRAND's host interface: Philox and XORWOW; uniforms come unscaled, in (0, 1]."""
    library = import_module("cupy.cuda").curand
    suffix = {"float32": "", "float64": "Double"}.get(case.dtype)
    if suffix is None or case.distribution not in ("uniform", "normal"):
        return
    for name in ("PHILOX4_32_10", "XORWOW"):
        generator = library.createGenerator(getattr(library, f"CURAND_RNG_PSEUDO_{name}"))
        library.setStream(generator, arena.stream)
        library.setPseudoRandomGeneratorSeed(generator, SEED)
        if case.distribution == "uniform":
            draw = getattr(library, f"generateUniform{suffix}")
            yield Entrant("curand", f"{name}, unscaled", partial(draw, generator, arena.pointer, case.values))
        else:
            draw = getattr(library, f"generateNormal{suffix}")
            yield Entrant("curand", name, partial(draw, generator, arena.pointer, case.values, 0.0, STD))


PEERS: dict[str, Callable[[Arena, Case], Iterator[Entrant]]] = {
    "torch": torch,
    "cupy": cupy,
    "curand": curand,
}
