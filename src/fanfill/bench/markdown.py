"""A result as Markdown: the table and the lines that README and docs/performance.md quote."""

from __future__ import annotations

from fanfill.bench import picture, report
from fanfill.bench.measure import Row, size_text

__all__ = ["text"]

COLUMNS = (
    ("uniform", "float32"),
    ("normal", "float32"),
    ("truncated", "float32"),
    ("normal", "bfloat16"),
    ("normal", "float64"),
)
MACHINE = "{cpu}, {cpus} CPUs, {vector_bits}-bit vectors, {system}, load {load:.2f} at the end"


def contestant(row: Row) -> str:
    """The name of a line: a peer's is its best way's, whichever that is in each column."""
    if row.subject != "fanfill":
        return row.subject
    return f"**fanfill**, {row.method}, {row.threads} thread{'s' * (row.threads > 1)}"


def table(result: report.Result) -> list[str]:
    """G values/s and, in brackets, the share of the limit; a line a contestant, the fastest first."""
    cells: dict[str, dict[tuple[str, str], Row]] = {}
    for column in COLUMNS:
        for row in picture.best_rows(result, *column):
            cells.setdefault(contestant(row), {})[column] = row

    def cell(row: Row | None) -> str:
        rate = None if row is None else row.values_per_second
        if row is None or rate is None:
            return ""
        return f"{rate / 1e9:.3g}" + ("" if row.share is None else f" ({row.share:.2g})")

    lines = [
        "| G values/s (share of memset) | " + " | ".join(f"{d} {t}" for d, t in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    limit = [picture.limit_of(result, *column) for column in COLUMNS]
    lines.append(f"| memset, one thread | {' | '.join(cell(row) for row in limit)} |")
    lines += [
        f"| {name} | {' | '.join(cell(found.get(column)) for column in COLUMNS)} |"
        for name, found in cells.items()
    ]
    missing = {row.subject: row.missing for row in result.rows if row.group == "peers" and row.missing}
    lines += [f"| {name} | {why} |{' |' * (len(COLUMNS) - 1)}" for name, why in missing.items()]
    return lines


def others(result: report.Result) -> list[str]:
    """One line for the whole model and one for whole processes, where the run had them."""
    model = [
        f"{row.subject} {row.distribution} {row.dtype} {row.seconds:.2f} s"
        for row in result.rows
        if row.group == "model" and row.seconds
    ]
    cold = [
        f"{row.subject} {row.method} {row.seconds:.2f} s"
        for row in result.rows
        if row.group == "cold" and row.seconds
    ]
    lines = []
    if model:
        lines += ["", f"A 1.1-billion-parameter network: {', '.join(model)}."]
    if cold:
        lines += ["", f"Whole processes: {', '.join(cold)}."]
    return lines


def text(result: report.Result, shown: str | None) -> str:
    """The table, the other figures, the picture, and what all of it was measured by and on."""
    sizes = sorted({size_text(row.values) for row in result.rows if row.group == "peers" and row.values})
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    machine = MACHINE.format(**{**result.machine, "load": result.machine["load"] or 0.0})
    lines = [*table(result), *others(result)]
    if shown:
        lines += ["", f"![Throughput by peer, and scaling over size and threads]({shown})"]
    lines += [
        "",
        f"`{result.command}`, {', '.join(sizes)} values, {result.date[:10]},",
        f"commit {result.commit or 'none'}.",
        f"{machine}. {versions}.",
    ]
    return "\n".join(lines) + "\n"
