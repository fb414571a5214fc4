"""The measured fill behind ``fanfill fill``: what was drawn, how fast, and whether theory agrees.

The clock covers one fill of a buffer whose pages are in memory, with the kernels compiled: what a training
program sees when it initialises parameters that it holds. Before and after, outside the clock, the same
buffer gives the memory limit (memset by one thread), the moments and the hash.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fanfill as ff
from fanfill.cpu import run as cpu_run
from fanfill.files import writer

__all__ = ["Job", "Moments", "Report", "memset_rate", "moments", "prepare", "run", "write_units"]

Progress = Callable[[str, int, int], None]

MOMENTS_BLOCK = 1 << 20  # values: a float64 scratch of 8 MiB
HASH_BLOCK = 1 << 23  # bytes: Ctrl-C waits for one block
# Large enough that the C library's choice of store (cached or streaming) is the one it would make for the
# whole buffer; small enough that Ctrl-C, which is answered between two pieces, does not wait long.
MEMSET_PIECE = 1 << 28
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
    backend: str | None
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
    rate = memset_rate(buffer, lambda done, total: progress("warming", done, total)) if warm else None
    started = perf_counter()
    follow = partial(progress, "filling")
    if write is not None:
        write(follow)
    else:
        ff.fill(
            buffer,
            job.initializer,
            seed=job.seed,
            name=job.name,
            backend=job.backend,
            threads=job.threads,
            progress=follow,
        )
    seconds = perf_counter() - started
    mean_expected = job.initializer.mean(job.shape)
    std_expected = job.initializer.std(job.shape)
    measured, digest = examine(buffer, mean_expected, lambda done, total: progress("checking", done, total))
    return Report(
        initializer=repr(job.initializer),
        shape=job.shape,
        values=buffer.size,
        bytes=buffer.nbytes,
        dtype=job.dtype,
        seed=job.seed,
        name=job.name,
        stream_version=ff.STREAM_VERSION,
        backend=job.backend or ff.select_backend(buffer).name,
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
    progress(size, size)


def prepare(job: Job, dtype: np.dtype[Any]) -> None:
    """Fill the first values of the job's tensor in other memory, before the buffer is allocated.

    An invalid job is refused here, and the clock of the real fill covers neither compilation nor the start of
    threads.
    """
    enough = -(-cpu_run.NONTEMPORAL // dtype.itemsize)  # for the kernel that fills the whole buffer
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
    memset_round(buffer, progress)
    rounds: list[float] = []
    while len(rounds) < MEMSET_ROUNDS or sum(rounds) < MEMSET_SECONDS:
        started = perf_counter()
        memset_round(buffer, lambda done, total: None)
        rounds.append(perf_counter() - started)
    return buffer.nbytes / median(rounds)


def memset_round(buffer: np.ndarray[Any, Any], progress: Callable[[int, int], None]) -> None:
    """Set every byte of a C-contiguous buffer to `MEMSET_BYTE`, in pieces."""
    for start in range(0, buffer.nbytes, MEMSET_PIECE):
        piece = min(MEMSET_PIECE, buffer.nbytes - start)
        ctypes.memset(buffer.ctypes.data + start, MEMSET_BYTE, piece)
        progress(start + piece, buffer.nbytes)


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


def sha256(buffer: np.ndarray[Any, Any], stop: threading.Event) -> str:
    """SHA-256 of a C-contiguous buffer's bytes, in hexadecimal; empty if `stop` is set before the end."""
    content = buffer.reshape(-1).view(np.uint8).data
    digest = hashlib.sha256()
    for start in range(0, len(content), HASH_BLOCK):
        if stop.is_set():
            return ""
        digest.update(content[start : start + HASH_BLOCK])
    return digest.hexdigest()


def examine(
    buffer: np.ndarray[Any, Any], about: float, progress: Callable[[int, int], None]
) -> tuple[Moments, str]:
    """Moments and hash, computed in parallel: both read every byte, and neither holds the GIL for long."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="fanfill-sha256") as pool:
        digest = pool.submit(sha256, buffer, stop)
        try:
            return moments(buffer, about, progress), digest.result()
        finally:
            stop.set()
