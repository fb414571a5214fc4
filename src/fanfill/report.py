"""The measured fill behind ``fanfill fill``: what was drawn, how fast, and whether theory agrees.

The clock covers one fill of a buffer whose pages are in memory, with the kernels compiled: what a training
program sees when it initialises parameters that it holds. Before and after, outside the clock, the same
buffer gives the memory limit (memset by one thread), the moments and the hash.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fanfill as ff
from fanfill.cpu import run as cpu_run
from fanfill.files import writer
from fanfill.literals import BackendName

__all__ = [
    "Job",
    "Moments",
    "Report",
    "memset_rate",
    "moments",
    "prepare",
    "run",
    "run_on_device",
    "write_units",
]

Progress = Callable[[str, int, int], None]

MOMENTS_BLOCK = 1 << 20  # values: a float64 scratch of 8 MiB
HASH_BLOCK = 1 << 23  # bytes: Ctrl-C waits for one block
HASH_SECONDS = 0.1  # between two looks at how far the hash is
# Large enough that the C library's choice of store (cached or streaming) is the one it would make for the
# whole buffer; small enough that Ctrl-C, which is answered between two pieces, does not wait long.
MEMSET_PIECE = 1 << 28
# Of the round that brings the pages into memory, which no clock sees: a bar moves by these.
TOUCHED_PIECE = 1 << 24
# Not zero: some machines write zeros at twice the rate of anything else (58 GB/s against 25 on a virtual
# Zen 4), and draws are not zero.
MEMSET_BYTE = 0x5A
MEMSET_ROUNDS = 3
MEMSET_SECONDS = 0.02


@dataclass(frozen=True)
class Job:
    """What to fill a buffer with, and how."""

    initializer: ff.Initializer
    shape: tuple[int, ...]
    dtype: str
    seed: int
    name: str | int
    backend: BackendName | None
    threads: int


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a buffer's values; None if it has none."""

    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Report:
    """Every figure of a run: sizes in bytes, None for what was not measured or cannot be."""

    initializer: str
    shape: tuple[int, ...]
    values: int
    bytes: int
    dtype: str
    seed: int
    name: str | int
    stream_version: int
    backend: str
    threads: int
    seconds: float
    values_per_second: float
    bytes_per_second: float
    memset_bytes_per_second: float | None
    memset_share: float | None
    mean: float | None
    mean_expected: float
    mean_standard_error: float | None
    std: float | None
    std_expected: float
    sha256: str


def run(
    job: Job,
    buffer: np.ndarray[Any, Any],
    progress: Progress,
    *,
    warm: bool = True,
    write: Callable[[Callable[[int, int], None]], None] | None = None,
) -> Report:
    """Fill `buffer` as `job` says, and measure the fill and its values.

    Parameters
    ----------
    job : Job
        What to do; `prepare` has seen it. ``job.shape`` and ``job.dtype`` are the buffer's.
    buffer : numpy.ndarray
        C-contiguous and writable.
    progress : callable
        Gets (phase, done, total) from the calling thread, many times a second.
    warm : bool
        Measure memset on the buffer first, which also brings its pages into memory. False for a mapped file:
        its pages would be written twice, and memset would measure the disk.
    write : callable, optional
        Gets a function of (done, total), and puts the values where the buffer shows them, in place of a fill.
    """
    rate = memset_rate(buffer, partial(progress, "warming")) if warm else None
    if write is not None:
        progress("writing", 0, buffer.nbytes)
        started = perf_counter()
        write(partial(progress, "writing"))
    else:
        progress("filling", 0, buffer.nbytes)
        started = perf_counter()
        ff.fill(
            buffer,
            job.initializer,
            seed=job.seed,
            name=job.name,
            backend=job.backend,
            threads=job.threads,
            progress=lambda done, total: progress("filling", done * buffer.itemsize, total * buffer.itemsize),
        )
    seconds = perf_counter() - started
    return examined(job, buffer, seconds, rate, job.backend or ff.select_backend(buffer).name, progress)


def run_on_device(
    job: Job, number: int | None, dtype: np.dtype[Any], progress: Progress
) -> tuple[Report, np.ndarray[Any, Any]]:
    """Fill memory of a CUDA device, measure the fill by the device's clock, and bring the values to the host.

    The first fill, which loads or compiles the kernel, and memset come before the clock, as in `run`.

    Returns
    -------
    The report, and the values in host memory.
    """
    from fanfill.cuda import backend
    from fanfill.cuda.buffers import DeviceBuffer

    gpu = backend.driver()
    device = gpu.current() if number is None else number
    if device >= gpu.devices():
        raise ff.BackendUnavailableError(
            f"device: expected one of the {gpu.devices()} CUDA devices, cuda:0 and up; got cuda:{device}"
        )
    size = math.prod(job.shape) * dtype.itemsize
    with gpu.use(device):
        block, stream = gpu.allocate(max(size, 1)), gpu.stream(device)
        strides = tuple(math.prod(job.shape[k + 1 :]) * dtype.itemsize for k in range(len(job.shape)))
        buffer = DeviceBuffer(block.ptr, job.shape, strides, dtype)

        def fill() -> None:
            ff.fill(
                buffer, job.initializer, seed=job.seed, name=job.name, backend="cuda", threads=job.threads
            )

        progress("compiling", 0, 0)
        gpu.seconds(fill, stream)
        rate = None
        if size:
            progress("warming", 0, 0)
            memset = partial(gpu.memset, block.ptr, MEMSET_BYTE, size, stream)
            rate = size / median(gpu.seconds(memset, stream) for _ in range(1 + MEMSET_ROUNDS))
        progress("filling", 0, size)
        seconds = gpu.seconds(fill, stream)
        progress("filling", size, size)
        progress("copying", 0, size)
        values = np.frombuffer(gpu.read(block.ptr, size), dtype).reshape(job.shape)
        progress("copying", size, size)
    return examined(job, values, seconds, rate, "cuda", progress), values


def examined(
    job: Job,
    buffer: np.ndarray[Any, Any],
    seconds: float,
    rate: float | None,
    backend: str,
    progress: Progress,
) -> Report:
    """The report of a fill that took so long, of which these are the values; `rate` is memset's."""
    mean_expected = job.initializer.mean(job.shape)
    std_expected = job.initializer.std(job.shape)
    measured, digest = examine(buffer, mean_expected, partial(progress, "checking"))
    return Report(
        initializer=repr(job.initializer),
        shape=job.shape,
        values=buffer.size,
        bytes=buffer.nbytes,
        dtype=job.dtype,
        seed=job.seed,
        name=job.name,
        stream_version=ff.STREAM_VERSION,
        backend=backend,
        threads=job.threads,
        seconds=seconds,
        values_per_second=buffer.size / seconds,
        bytes_per_second=buffer.nbytes / seconds,
        memset_bytes_per_second=rate,
        memset_share=buffer.nbytes / seconds / rate if rate else None,
        mean=measured.mean,
        mean_expected=mean_expected,
        mean_standard_error=std_expected / math.sqrt(buffer.size) if buffer.size else None,
        std=measured.std,
        std_expected=std_expected,
        sha256=digest,
    )


def write_units(
    job: Job, dtype: np.dtype[Any], descriptor: int, start: int, progress: Callable[[int, int], None]
) -> None:
    """Draw the job's tensor into an open file, from a byte on, without holding more than a unit a thread."""
    size = math.prod(job.shape) * dtype.itemsize

    def make(first: int, unit: np.ndarray[Any, Any]) -> None:
        ff.fill(
            unit.view(dtype),
            job.initializer,
            seed=job.seed,
            name=job.name,
            global_shape=job.shape,
            offset=(first - start) // dtype.itemsize,
            backend=job.backend,
            threads=1,
        )

    writer.fill_units(
        descriptor, start, start + size, make, threads=job.threads, done=lambda done: progress(done, size)
    )
    os.fsync(descriptor)
    progress(size, size)


def prepare(job: Job, dtype: np.dtype[Any], most: int = cpu_run.NONTEMPORAL) -> None:
    """Fill the first values of the job's tensor in other memory, before the buffer is allocated.

    An invalid job is refused here, and the clock of the real fill covers neither compilation nor the start of
    threads. So it takes as many bytes, `most`, as the real fill's kernel takes at least.
    """
    enough = -(-most // dtype.itemsize)
    first = np.empty(min(math.prod(job.shape), enough), dtype)
    ff.fill(
        first,
        job.initializer,
        seed=job.seed,
        name=job.name,
        global_shape=job.shape,
        offset=0,
        backend=job.backend,
        threads=job.threads,
    )


def memset_rate(buffer: np.ndarray[Any, Any], progress: Callable[[int, int], None]) -> float | None:
    """Bytes per second of the C library's memset by one thread over the whole buffer: the median of several
    rounds.

    An untimed first round brings the pages into memory. None for an empty buffer.
    """
    if not buffer.nbytes:
        return None
    total = (1 + MEMSET_ROUNDS) * buffer.nbytes
    progress(0, total)
    for done in memset_round(buffer, TOUCHED_PIECE):
        progress(done, total)
    rounds: list[float] = []
    while len(rounds) < MEMSET_ROUNDS or sum(rounds) < MEMSET_SECONDS:
        started = perf_counter()
        deque(memset_round(buffer, MEMSET_PIECE), 0)
        rounds.append(perf_counter() - started)
        progress(min(total, (1 + len(rounds)) * buffer.nbytes), total)
    return buffer.nbytes / median(rounds)


def memset_round(buffer: np.ndarray[Any, Any], most: int) -> Iterator[int]:
    """Set every byte of a C-contiguous buffer to `MEMSET_BYTE`, in pieces; yield what is done after each."""
    for start in range(0, buffer.nbytes, most):
        piece = min(most, buffer.nbytes - start)
        ctypes.memset(buffer.ctypes.data + start, MEMSET_BYTE, piece)
        yield start + piece


def moments(buffer: np.ndarray[Any, Any], about: float, progress: Callable[[int, int], None]) -> Moments:
    """Mean and standard deviation of all values, in float64, block by block.

    It sums differences from `about`, the expected mean: a mean far larger than the standard deviation then
    cancels before anything is squared. Block sums are added exactly (``math.fsum``).
    """
    if not buffer.size:
        return Moments(None, None)
    values = buffer.reshape(-1)
    scratch = np.empty(min(MOMENTS_BLOCK, values.size))
    firsts: list[float] = []
    seconds: list[float] = []
    for start in range(0, values.size, MOMENTS_BLOCK):
        block = values[start : start + MOMENTS_BLOCK]
        differences = scratch[: block.size]
        differences[...] = block
        differences -= about
        firsts.append(float(differences.sum()))
        np.multiply(differences, differences, out=differences)
        seconds.append(float(differences.sum()))
        progress(start + block.size, values.size)
    shift = math.fsum(firsts) / values.size
    return Moments(about + shift, math.sqrt(max(math.fsum(seconds) / values.size - shift * shift, 0.0)))


class Hashing:
    """SHA-256 of a C-contiguous buffer's bytes, made on a thread; `done` says how many bytes it has seen."""

    def __init__(self, buffer: np.ndarray[Any, Any]) -> None:
        self.content = buffer.reshape(-1).view(np.uint8).data
        self.done = 0
        self.stop = threading.Event()

    def run(self) -> str:
        """The hash in hexadecimal; empty if `stop` is set before the end."""
        digest = hashlib.sha256()
        for start in range(0, len(self.content), HASH_BLOCK):
            if self.stop.is_set():
                return ""
            block = self.content[start : start + HASH_BLOCK]
            digest.update(block)
            self.done += len(block)
        return digest.hexdigest()


def examine(
    buffer: np.ndarray[Any, Any], about: float, progress: Callable[[int, int], None]
) -> tuple[Moments, str]:
    """Moments and hash, computed in parallel: both read every byte, and neither holds the GIL for long.

    As much is reported as the slower of the two has seen.
    """
    hashing, size = Hashing(buffer), buffer.nbytes
    progress(0, size)
    with ThreadPoolExecutor(1, thread_name_prefix="fanfill-sha256") as pool:
        digest = pool.submit(hashing.run)
        try:
            measured = moments(
                buffer, about, lambda done, _: progress(min(done * buffer.itemsize, hashing.done), size)
            )
            while not wait([digest], HASH_SECONDS).done:
                progress(hashing.done, size)
            progress(size, size)
            return measured, digest.result()
        finally:
            hashing.stop.set()
