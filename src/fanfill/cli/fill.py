"""``fanfill fill``: one fill and the work around it, from arguments to a report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fanfill as ff
from fanfill import machine, report, system
from fanfill.amounts import amount
from fanfill.arguments import SIZE, number_of, size_of
from fanfill.backends import device_of
from fanfill.cli.outcome import Output, short, took
from fanfill.files import npy, writer
from fanfill.progress import Phases

__all__ = ["command", "lines_of", "parse_axes", "parse_name", "parse_shape"]


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
    """The axis or axes that ``-2``, ``0,1`` or ``none`` names."""
    if text is None:
        return None
    if text.strip() in ("none", "()"):
        return ()
    axes = text.split(",")
    if not all(re.fullmatch(r"-?[0-9]+", axis.strip()) for axis in axes):
        raise ValueError(f"{option} is one axis, or axes joined by commas, as in 0,1, or none; got {text!r}")
    found = tuple(number_of(axis, option) for axis in axes)
    return found[0] if len(axes) == 1 else found


def parse_name(text: str) -> int | str:
    """The name of a tensor: an integer substream if the text is all digits, as in Python; else a string."""
    return number_of(text, "--name") if re.fullmatch(r"[0-9]+", text) else text


def command(
    initializer: str,
    options: Mapping[str, Any],
    shape: tuple[int, ...],
    *,
    dtype: Any,
    seed: int,
    name: str | int,
    device: str,
    backend: Any,
    threads: int | None,
    out: Path | None,
    output: Output,
) -> None:
    """Run ``fanfill fill`` and print its report to stdout. Dtype and backend are what was typed."""
    kind, number = device_of(device, backend)
    # Draws an empty tensor: `draw` refuses a wrong dtype or backend before anything large begins.
    numpy_dtype = ff.draw(
        0, ff.constant(0), seed=seed, dtype=dtype, device="cpu", backend=backend if kind == "cpu" else None
    ).dtype
    job = report.Job(
        initializer=ff.initializer(initializer, **options),
        shape=shape,
        dtype=numpy_dtype.name,
        seed=seed,
        name=name,
        backend=backend,
        threads=ff.get_threads() if threads is None else threads,
    )
    size = math.prod(shape) * numpy_dtype.itemsize
    with output.phases() as follow:
        if kind == "cuda":
            result = on_device(job, number, numpy_dtype, out, follow)
        else:
            follow("compiling")
            if out is None or not system.RENAMES_MAPPED:
                report.prepare(job, numpy_dtype)
            else:
                report.prepare(job, numpy_dtype, writer.UNIT)
            if out is None:
                refuse_too_large(size)
                result = report.run(job, np.empty(shape, numpy_dtype), follow)
            else:
                result = into_file(job, out, numpy_dtype, follow)
    facts = {**asdict(result), "out": None if out is None else str(out), "phases": follow.seconds}
    output.report("fill", facts, lines_of(result, out, follow.seconds))


def on_device(
    job: report.Job, number: int | None, dtype: np.dtype[Any], out: Path | None, follow: Phases
) -> report.Report:
    """Fill a GPU's memory; the values come to the host to be looked at, and into a file if one is named."""
    part: dict[str, Any] = {"global_shape": job.shape, "offset": 0}  # none of it: only checked
    ff.fill(np.empty(0, dtype), job.initializer, seed=job.seed, name=job.name, threads=job.threads, **part)
    refuse_too_large(math.prod(job.shape) * dtype.itemsize)
    if out is None:
        return report.run_on_device(job, number, dtype, follow)[0]
    with npy.create(out, job.shape, dtype) as array:
        result, values = report.run_on_device(job, number, dtype, follow)
        follow("writing")
        array[...] = values
    return result


def into_file(job: report.Job, out: Path, dtype: np.dtype[Any], follow: Phases) -> report.Report:
    """Write the tensor by units, and look at the values through a map of the file before it gets its name."""
    if not system.RENAMES_MAPPED:
        with npy.create(out, job.shape, dtype) as array:
            return report.run(job, array, follow, warm=False)
    with npy.opened(out, job.shape, dtype) as (file, start):
        memory = npy.mapped(file, start + math.prod(job.shape) * dtype.itemsize)
        values = np.ndarray(job.shape, dtype, buffer=memory, offset=start)
        write = partial(report.write_units, job, dtype, file.fileno(), start)
        return report.run(job, values, follow, warm=False, write=write)


def refuse_too_large(needed: int) -> None:
    """Refuse a tensor that would get a process killed, if the system says how much memory is available."""
    available = machine.available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"the tensor must fit into memory: it takes {amount(needed, 'B')}, and {amount(available, 'B')} "
            "are available; take a smaller shape or a narrower --dtype, or write it to a file with "
            "--out FILE.npy"
        )


def lines_of(
    result: report.Report, out: Path | None, seconds: Mapping[str, float]
) -> Sequence[tuple[str, str]]:
    """The report for people: one line per fact."""
    size = " x ".join(map(str, result.shape))
    lines = [
        ("values", f"{result.values:,} ({size}), {result.dtype}, {amount(result.bytes, 'B')}"),
        ("initializer", f"{result.initializer}, std {result.std_expected:.8g}"),
        ("seed, name", f"{result.seed}, {result.name!r} (stream version {result.stream_version})"),
        ("backend", f"{result.backend}, {result.threads} thread{'s' * (result.threads != 1)}"),
        ("mean", moment_line(result.mean, result.mean_expected, result.mean_standard_error)),
        ("std", moment_line(result.std, result.std_expected, None)),
        ("SHA-256", result.sha256),
    ]
    if out is not None:
        lines.append(("file", f"{out}{file_note(result.dtype)}"))
    lines += [
        (
            "rate",
            f"{amount(result.values_per_second, 'values/s')}, {amount(result.bytes_per_second, 'B/s')}: "
            f"{short(result.seconds)} for the fill",
        ),
        ("memset", memset_line(result)),
        took(seconds),
    ]
    return lines


def memset_line(result: report.Report) -> str:
    """The memory limit and how both figures were measured, or why there is none."""
    if result.memset_share is None or result.memset_bytes_per_second is None:
        return "not measured; the pages were new, in memory or in the file, when the clock started"
    whose = "the device's" if result.backend == "cuda" else "one thread's"
    return (
        f"the fill runs at {result.memset_share:.2f} of {whose} memset on the same buffer "
        f"({amount(result.memset_bytes_per_second, 'B/s')}, median; pages touched, kernels compiled first)"
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
