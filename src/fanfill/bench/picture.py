"""The pictures of a run: throughput by peer beside the memory limit, and scaling over size and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fanfill.bench.measure import DISTRIBUTIONS, Row, size_text
from fanfill.bench.report import Result
from fanfill.show import pictures
from fanfill.show.pictures import DASHES, LINES, Contestant

__all__ = ["best_rows", "contestants", "draw"]

PANELS = ("uniform", "normal", "truncated")
COLOURS = dict(zip(DISTRIBUTIONS, LINES, strict=False))


def draw(result: Result, folder: Path, name: str = "bench") -> list[Path]:
    """Write the scaling and, last, the throughput into a folder, each as PNG and SVG; ImportError without
    matplotlib.
    """
    commit = f", commit {result.commit[:12]}" if result.commit else ""
    title = (
        f"32-bit; fanfill {result.versions['fanfill']}{commit}\n"
        f"{result.machine['cpu']}, {result.machine['cpus']} CPUs, {result.date[:10]}"
    )
    figures = {f"{name}-scaling": scaling(result), name: pictures.throughput(title, contestants(result))}
    paths = []
    for stem, figure in figures.items():
        for kind in ("png", "svg"):
            paths.append(folder / f"{stem}.{kind}")
            pictures.save(figure, paths[-1])
    return paths


def contestants(result: Result) -> list[Contestant]:
    """The lines of the picture of throughput: memset, the best way of each peer, and fanfill's ways."""
    rates: dict[tuple[str, str], dict[str, float]] = {}
    for distribution in PANELS:
        limit = limit_of(result, distribution)
        for row in [*([limit] if limit else []), *best_rows(result, distribution)]:
            if row is limit:
                key = ("memset, one thread", "limit")
            elif row.subject == "fanfill":
                key = (f"fanfill {row.method} x{row.threads}", "fanfill")
            else:
                key = (row.subject, "peer")
            rates.setdefault(key, {})[distribution] = (row.values_per_second or 0.0) / 1e9
    return [Contestant(name, kind, found) for (name, kind), found in rates.items()]


@pictures.styled
def scaling(result: Result) -> Any:
    """Throughput over size, and gain over threads."""
    figure, ((left, right),) = pictures.canvas(1, 2, 3.6)
    over_size(left, result)
    over_threads(right, result)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


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
                linestyle=DASHES[threads != every],
                marker=".",
                label=f"{distribution} x{threads}",
            )
    sizes = sorted({row.values for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_title("G values/s over size, 32-bit")


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
    axes.plot(ideal, ideal, color=pictures.INK, linewidth=1, linestyle=":")
    axes.set_xticks(ideal)
    axes.set_title(f"gain over threads, {size_text(largest)} values")
