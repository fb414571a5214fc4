"""What a run found, as values: rows, JSON, comparison of two runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import fanfill as ff
from fanfill import machine
from fanfill.bench.measure import Row, size_text
from fanfill.cpu import threads

__all__ = ["Change", "Result", "compare", "load", "save", "surroundings", "text_of"]

FORMAT = 1
LATER = ("spread",)  # fields that older results of this format lack
LIBRARIES = (
    "numpy",
    "numba",
    "llvmlite",
    "ml_dtypes",
    "torch",
    "jax",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "mkl",
    "mkl_random",
    "randomgen",
)


@dataclass(frozen=True)
class Result:
    """A run: its rows, and everything that its figures depend on."""

    command: str
    date: str
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: tuple[Row, ...]
    format: int = FORMAT


class Change(NamedTuple):
    """The same measurement in two runs, each as a share of its own run's limit; ratio is new over old."""

    row: Row
    old: float
    new: float

    @property
    def ratio(self) -> float:
        return self.new / self.old


def surroundings(command: str, rows: Iterable[Row]) -> Result:
    """The result with these rows on this machine, now."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Result(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine={
            "cpu": machine.cpu_model(),
            "vector_bits": machine.vector_bits(),
            "cpus": threads.usable_cpus(),
            "threads": ff.get_threads(),
            "memory_available": machine.available_memory(),
            "load": load,
            "torch_threads": torch_threads(),
            "system": f"{platform.system()} {platform.release()}",
        },
        versions={
            "fanfill": ff.__version__,
            "stream": str(ff.STREAM_VERSION),
            "python": platform.python_version(),
            **{name: found for name in LIBRARIES if (found := version(name))},
        },
        rows=tuple(rows),
    )


def torch_threads() -> int | None:
    """How many threads torch may use, if it took part; its generators use one, the rest of it all."""
    torch: Any = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def version(distribution: str) -> str | None:
    """An installed distribution's version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def commit(source: Path = Path(__file__)) -> str | None:
    """The commit of the git checkout that this code runs from, with "+changes" if it has any; else None."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(source.parent), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # Is the package's first file tracked? In an environment inside someone's checkout it is not.
        git("ls-files", "--error-unmatch", str(Path(ff.__file__).resolve()))
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def save(result: Result, path: Path) -> None:
    """Write a result as JSON, with the rates that follow from its rows."""
    found = asdict(result)
    for row, kept in zip(result.rows, found["rows"], strict=True):
        kept["values_per_second"] = row.values_per_second
        kept["bytes_per_second"] = row.bytes_per_second
    path.write_text(json.dumps(found, indent=1) + "\n")


def load(path: Path) -> Result:
    """Read what `save` wrote; ValueError for anything else."""
    expectation = f"expected a result of fanfill bench, format {FORMAT}; got {path}"
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"{expectation}, format {found['format']}; measure that version again")
        rows = tuple(
            Row(**{k: row[k] for k in Row.__dataclass_fields__ if k in row or k not in LATER})
            for row in found.pop("rows")
        )
        return Result(**found, rows=rows)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{expectation}, which is not one ({error!r}); name a bench.json") from error


def compare(old: Result, new: Result) -> list[Change]:
    """The measurements that both runs have, slower ones first.

    It compares shares of the limit, so the runs may come from machines of different speed. Peers' rows are
    included: if they moved, too, the machine is the cause.
    """
    before = {row.key: row.share for row in old.rows}
    changes = [
        Change(row, share, row.share)
        for row in new.rows
        if row.share and row.group != "limit" and (share := before.get(row.key))
    ]
    return sorted(changes, key=lambda change: change.ratio)


def text_of(row: Row) -> tuple[str, ...]:
    """A row's cells: what, who, threads, G values/s (a process: seconds), GB/s, share, spread."""
    what = " ".join(filter(None, (row.distribution, row.dtype, size_text(row.values) if row.values else "")))
    who = (what or row.group, row.subject, row.method, str(row.threads))
    if row.seconds is None:
        return (*who, row.missing or "missing", "", "", "")
    rate, bandwidth = row.values_per_second, row.bytes_per_second
    return (
        *who,
        f"{row.seconds:.3f} s" if rate is None else f"{rate / 1e9:.4g}",
        "" if bandwidth is None else f"{bandwidth / 1e9:.4g}",
        "" if row.share is None else f"{row.share:.3f}{'!' * row.is_beyond_limit}",
        "" if row.spread is None else f"{row.spread:.0%}",
    )


def command_line(words: Sequence[str] | None = None) -> str:
    """The command that started this process, as one would type it."""
    name, *rest = sys.argv if words is None else words
    path = Path(name)
    if path.name == "__main__.py":
        return " ".join(["python -m", path.parent.name, *rest])
    return " ".join([path.name if path.name == "fanfill" else f"python {name}", *rest])
