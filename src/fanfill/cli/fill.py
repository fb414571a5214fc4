"""``fanfill fill``: one fill and the work around it, from arguments to a report."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

import fanfill as ff
from fanfill import machine, report, system
from fanfill.arguments import SIZE, number_of, size_of
from fanfill.files import npy

__all__ = ["command", "parse_axes", "parse_name", "parse_shape", "render"]

REFRESH_SECONDS = 0.05


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that ``4096x1024``, ``4096,1024``, ``(64Ki, 4)`` or ``3*4`` names."""
    bare = text.strip()
    if bare[:1] + bare[-1:] in ("()", "[]"):
        bare = bare[1:-1].strip().removesuffix(",")
    marks = set(re.findall(r"[x*,]", bare.lower()))
    sizes = [size.strip() for size in re.split(r"[xX*,]", bare)]
    # 1,000x2 may mean 1000 x 2, or 1 x 0 x 2.
    if ("," in marks and len(marks) > 1) or not all(map(SIZE.fullmatch, sizes)):
        raise ValueError(f"SHAPE is sizes joined by x or by commas, as in 4096x1024 or 64Kix4; got {text!r}")
    return tuple(size_of(size, "SHAPE") for size in sizes)


def parse_axes(option: str, text: str | None) -> int | tuple[int, ...] | None:
    """The axis or axes that ``-2`` or ``0,1`` names."""
    if text is None:
        return None
    axes = text.split(",")
    if not all(re.fullmatch(r"-?[0-9]+", axis.strip()) for axis in axes):
        raise ValueError(f"{option} is one axis, or axes joined by commas, as in 0,1; got {text!r}")
    found = tuple(number_of(axis, option) for axis in axes)
    return found[0] if len(axes) == 1 else found


def parse_name(text: str) -> int | str:
    """The name of a tensor: an integer substream if the text is all digits, as in Python; else a string."""
    return number_of(text, "name") if re.fullmatch(r"[0-9]+", text) else text


def command(
    initializer: str,
    options: Mapping[str, Any],
    shape: tuple[int, ...],
    *,
    dtype: str,
    seed: int,
    name: str | int,
    backend: str | None,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run ``fanfill fill`` and print its report to stdout."""
    # Draws an empty tensor: `draw` refuses a wrong dtype or backend before anything large begins.
    numpy_dtype = ff.draw(0, ff.constant(0), seed=seed, dtype=dtype, device="cpu", backend=backend).dtype
    job = report.Job(
        initializer=ff.initializer(initializer, **options),
        shape=shape,
        dtype=numpy_dtype.name,
        seed=seed,
        name=name,
        backend=backend,
        threads=ff.get_threads() if threads is None else threads,
    )
    report.prepare(job, numpy_dtype)
    with progress_bar(wanted=not as_json and sys.stderr.isatty()) as progress:
        if out is None:
            refuse_too_large(math.prod(shape) * numpy_dtype.itemsize)
            result = report.run(job, np.empty(shape, numpy_dtype), progress)
        else:
            result = into_file(job, out, numpy_dtype, progress)
    text = (
        json.dumps({**asdict(result), "out": None if out is None else str(out)})
        if as_json
        else render(result, out)
    )
    sys.stdout.write(text + "\n")


def into_file(job: report.Job, out: Path, dtype: np.dtype[Any], progress: report.Progress) -> report.Report:
    """Write the tensor by units, and look at the values through a map of the file before it gets its name."""
    if not system.RENAMES_MAPPED:
        with npy.create(out, job.shape, dtype) as array:
            return report.run(job, array, progress, warm=False)
    with npy.opened(out, job.shape, dtype) as (file, start):
        memory = npy.mapped(file, start + math.prod(job.shape) * dtype.itemsize)
        values = np.ndarray(job.shape, dtype, buffer=memory, offset=start)
        write = partial(report.write_units, job, dtype, file.fileno(), start)
        return report.run(job, values, progress, warm=False, write=write)


def refuse_too_large(needed: int) -> None:
    """Refuse a tensor that would get a process killed, if the system says how much memory is available."""
    available = machine.available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"the tensor must fit into memory: it takes {needed / 1e9:.2f} GB, and {available / 1e9:.2f} GB "
            "are available; take a smaller shape or a narrower --dtype, or write it to a file with "
            "--out FILE.npy"
        )


@contextmanager
def progress_bar(*, wanted: bool, rate: bool = False) -> Iterator[report.Progress]:
    """A callable that shows (phase, done, total) as one bar on stderr, or nothing; bytes have a rate."""
    if not wanted:
        yield lambda phase, done, total: None
        return
    speed = (TransferSpeedColumn(),) if rate else ()
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TaskProgressColumn(),
        *speed,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield throttled(bar)


def throttled(bar: Progress) -> report.Progress:
    """Forward a phase's first and last step and, between them, at most 20 a second.

    The fill calls this hundreds of times a second, thousands on many cores, and each update of the bar costs
    the fill microseconds.
    """
    task = bar.add_task("")
    shown, due = "", 0.0

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal shown, due
        now = perf_counter()
        if phase != shown:
            bar.reset(task, description=phase, total=total, completed=done)
            shown = phase
        elif now >= due or done == total:
            bar.update(task, completed=done)
        else:
            return
        due = now + REFRESH_SECONDS

    return progress


def render(result: report.Report, out: Path | None) -> str:
    """The report for people: one line per fact."""
    size = " x ".join(map(str, result.shape))
    lines = [
        ("values", f"{result.values:,} ({size}), {result.dtype}, {result.bytes / 1e9:.3g} GB"),
        ("initializer", f"{result.initializer}, std {result.std_expected:.8g}"),
        ("seed, name", f"{result.seed}, {result.name!r} (stream version {result.stream_version})"),
        ("backend", f"{result.backend}, {result.threads} thread{'s' * (result.threads != 1)}"),
        ("seconds", f"{result.seconds:.4g}"),
        (
            "rate",
            f"{result.values_per_second / 1e9:.4g} G values/s, {result.bytes_per_second / 1e9:.4g} GB/s",
        ),
        ("memset", memset_line(result)),
        ("mean", moment_line(result.mean, result.mean_expected, result.mean_standard_error)),
        ("std", moment_line(result.std, result.std_expected, None)),
        ("SHA-256", result.sha256),
    ]
    if out is not None:
        lines.append(("file", f"{out}{file_note(result.dtype)}"))
    return "\n".join(f"{label:12}{text}" for label, text in lines)


def memset_line(result: report.Report) -> str:
    """The memory limit and how both figures were measured, or why there is none."""
    if result.memset_share is None or result.memset_bytes_per_second is None:
        return "not measured; the pages were new, in memory or in the file, when the clock started"
    return (
        f"the fill runs at {result.memset_share:.2f} of one thread's memset on the same buffer "
        f"({result.memset_bytes_per_second / 1e9:.4g} GB/s, median; pages touched, kernels compiled first)"
    )


def moment_line(measured: float | None, expected: float, error: float | None) -> str:
    """A measured moment and the theoretical one."""
    if measured is None:
        return f"none without values (theory {expected:.8g})"
    return f"{measured:.8g} (theory {expected:.8g}{f', standard error {error:.2g}' if error else ''})"


def file_note(dtype: str) -> str:
    """How to read a file whose format has no name for the dtype."""
    if hasattr(np, dtype):
        return ""
    return f" (bits as unsigned integers: numpy.load(...).view(ml_dtypes.{dtype}))"
