"""The picture of a run: throughput by peer under the memory limit, and scaling over size and threads."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from fanfill.bench.measure import DISTRIBUTIONS, Row, size_text
from fanfill.bench.report import Result

__all__ = ["best_rows", "draw"]

PANELS = ("uniform", "normal", "truncated")
OURS, THEIRS, LIMIT = "#1f6fb4", "#b9bec6", "#c0392b"
COLOURS = dict(zip(DISTRIBUTIONS, ("#7f8c8d", "#1f6fb4", "#c8741a", "#3a8f4d"), strict=True))


def draw(result: Result, folder: Path, name: str = "bench") -> list[Path]:
    """Write ``name.png`` and ``name.svg`` into a folder; ImportError without matplotlib."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(13, 8), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.25, 1))
    for k, distribution in enumerate(PANELS):
        bars(figure.add_subplot(grid[0, 2 * k : 2 * k + 2]), result, distribution)
    over_size(figure.add_subplot(grid[1, :3]), result)
    over_threads(figure.add_subplot(grid[1, 3:]), result)
    commit = f", commit {result.commit[:12]}" if result.commit else ""
    figure.suptitle(
        f"fanfill {result.versions['fanfill']}{commit}: {result.machine['cpu']}, "
        f"{result.machine['cpus']} CPUs, {result.date[:10]}",
        fontsize=10,
    )
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths


def best_rows(result: Result, distribution: str, dtype: str = "float32") -> list[Row]:
    """The fastest way of each peer, and each backend and number of threads of fanfill; fastest first.

    Only the largest of the measured sizes counts.
    """
    rows = [
        row
        for row in result.rows
        if row.group == "peers" and (row.distribution, row.dtype) == (distribution, dtype) and row.seconds
    ]
    largest = max((row.values for row in rows), default=0)
    best: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.seconds or 0.0):
        if row.values != largest and row.method != "numpy":  # the NumPy backend stops at a smaller size
            continue
        key = (row.subject, row.method, str(row.threads)) if row.subject == "fanfill" else (row.subject,)
        best.setdefault(key, row)
    return sorted(best.values(), key=lambda row: -(row.values_per_second or 0.0))


def limit_of(result: Result, distribution: str, dtype: str = "float32") -> Row | None:
    """Memset's row for the rows of `best_rows`."""
    rows = [
        row
        for row in result.rows
        if row.group == "limit"
        and row.method == "memset"
        and (row.distribution, row.dtype) == (distribution, dtype)
    ]
    return max(rows, key=lambda row: row.values, default=None)


def bars(axes: Any, result: Result, distribution: str) -> None:
    """One panel: a bar for each contestant, and the limit as a line."""
    rows = best_rows(result, distribution)[::-1]
    rates = [(row.values_per_second or 0.0) / 1e9 for row in rows]
    labels = [
        row.subject + (f" {row.method} x{row.threads}" if row.subject == "fanfill" else f"\n{row.method}")
        for row in rows
    ]
    colours = [OURS if row.subject == "fanfill" else THEIRS for row in rows]
    drawn = axes.barh(range(len(rows)), rates, color=colours)
    axes.bar_label(drawn, [f"{rate:.3g}" for rate in rates], padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), labels, fontsize=6)
    limit = limit_of(result, distribution)
    if limit is not None and limit.values_per_second:
        axes.axvline(limit.values_per_second / 1e9, color=LIMIT, label="memset, one thread")
        axes.legend(loc="lower right", fontsize=7)
    size = f", {size_text(max(row.values for row in rows))} values" if rows else ""
    axes.set_title(f"{distribution} float32{size}", fontsize=9)
    axes.set_xlabel("G values/s", fontsize=8)


def over_size(axes: Any, result: Result) -> None:
    """Throughput over size: solid lines for all threads, dashed ones for one thread."""
    rows = [row for row in result.rows if row.group == "scaling" and row.values_per_second]
    every = max((row.threads for row in rows), default=1)
    for distribution in DISTRIBUTIONS:
        for threads in sorted({1, every}):
            found = sorted(
                (row for row in rows if (row.distribution, row.threads) == (distribution, threads)),
                key=lambda row: row.values,
            )
            axes.plot(
                [row.values for row in found],
                [(row.values_per_second or 0.0) / 1e9 for row in found],
                color=COLOURS[distribution],
                linestyle="-" if threads == every else "--",
                marker=".",
                label=f"{distribution} x{threads}",
            )
    sizes = sorted({row.values for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [size_text(size) for size in sizes], fontsize=7)
    axes.set_ylim(bottom=0)
    axes.set_title("scaling over size, 32-bit", fontsize=9)
    axes.set_ylabel("G values/s", fontsize=8)
    axes.legend(fontsize=6, ncols=2)


def over_threads(axes: Any, result: Result) -> None:
    """Gain over one thread at the largest size."""
    rows = [row for row in result.rows if row.group == "scaling" and row.seconds]
    largest = max((row.values for row in rows), default=0)
    counts: set[int] = set()
    for distribution in DISTRIBUTIONS:
        found = {
            row.threads: row.seconds or 0.0
            for row in rows
            if (row.distribution, row.values) == (distribution, largest)
        }
        if 1 in found:
            counts |= found.keys()
            axes.plot(
                sorted(found),
                [found[1] / found[n] for n in sorted(found)],
                color=COLOURS[distribution],
                marker="o",
                label=distribution,
            )
    ideal = sorted(counts)
    axes.plot(ideal, ideal, color="black", linewidth=0.6, linestyle=":", label="ideal")
    axes.set_xticks(ideal)
    axes.set_title(f"scaling over threads, {size_text(largest)} values, 32-bit", fontsize=9)
    axes.set_ylabel("gain over one thread", fontsize=8)
    axes.set_xlabel("threads", fontsize=8)
    axes.legend(fontsize=6)
