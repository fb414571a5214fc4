"""``fanfill bench``: measure, show, keep, compare."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fanfill.arguments import number_of
from fanfill.backends import device_of
from fanfill.bench import cuda, picture, report, suite
from fanfill.bench.measure import Settings, parse_size
from fanfill.cli.fill import progress_bar

__all__ = ["chosen", "command", "show", "show_changes"]

GROUPS = {
    "limit": "The limit: what one thread, or the GPU's memset, can write",
    "peers": "Peers, on the same buffer in the same turns",
    "scaling": "Scaling over size and threads",
    "model": "A whole model: 1.1 billion parameters",
    "cold": 'Whole processes; the share is that of python -c "import numba"',
}
HEADINGS = ("what", "who", "how", "threads", "G values/s", "GB/s", "of the limit")


def chosen(quick: bool, peers: str | None, sizes: str | None, device: str = "auto") -> Settings:
    """The settings for the options; ``--peers none`` leaves all peers out."""
    names = None if peers is None else [] if peers == "none" else [name.strip() for name in peers.split(",")]
    values = None if sizes is None else [parse_size(size) for size in sizes.split(",")]
    if device == "auto":
        device = device_of(device, None)[0]
    if device == "cpu":
        return suite.settings(quick, names, values)
    number = re.fullmatch(r"cuda(?::([0-9]+))?", device)
    if number is None:
        raise ValueError(f"--device: expected auto, cpu, cuda or cuda:N; got {device!r}")
    return cuda.settings(number_of(number[1] or "0", "--device"), quick, names, values)


def measured(settings: Settings, progress: suite.Progress) -> report.Result:
    """The run that the settings describe, and what it ran on."""
    if settings.device is None:
        return report.surroundings(report.command_line(), suite.run(settings, progress))
    result = report.surroundings(report.command_line(), cuda.run(settings, progress))
    return replace(result, machine={**result.machine, **cuda.facts(settings.device)})


def command(settings: Settings, *, out: Path, old: Path | None, threshold: float) -> None:
    """Run ``fanfill bench``.

    Raises
    ------
    SystemExit
        With code 1, after everything is shown and kept, if any of fanfill's figures became slower than in the
        result `old` by more than the threshold.
    """
    before = None if old is None else report.load(old)  # a bad file is refused before minutes go by
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar(wanted=sys.stderr.isatty()) as progress:
        result = measured(settings, progress)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 132)
    show(result, console)
    report.save(result, out / "bench.json")
    try:
        # The picture shows threads, so it is for the host only.
        host = settings.device is None
        drawn = [str(path) for path in picture.draw(result, out)] if host else []
    except ImportError as error:
        drawn = [f"no picture: {error}; pip install 'fanfill[bench]'"]
    console.out("\n".join([str(out / "bench.json"), *drawn]), highlight=False)
    if before is not None and show_changes(before, result, threshold, console):
        sys.stdout.flush()
        raise SystemExit(1)


def show(result: report.Result, console: Console) -> None:
    """Print a result: a table for each group, and what it was measured on."""
    for group, title in GROUPS.items():
        rows = [row for row in result.rows if row.group == group]
        if rows:
            console.print(table(title, HEADINGS, [report.text_of(row) for row in rows]))
    facts = {
        **result.machine,
        "commit": result.commit or "none: not run from a git checkout",
        "date": result.date,
    }
    for name, fact in {**facts, **result.versions}.items():
        console.out(f"{name:18}{fact}", highlight=False)


def show_changes(old: report.Result, new: report.Result, threshold: float, console: Console) -> bool:
    """Print what changed by more than the threshold; return whether fanfill got slower by that much anywhere.

    Each run is compared with its own limit.
    """
    changes = report.compare(old, new)
    moved = [change for change in changes if not 1 - threshold <= change.ratio <= 1 / (1 - threshold)]
    slower = [change for change in moved if change.row.subject == "fanfill" and change.ratio < 1]
    cells = [
        (
            *report.text_of(change.row)[:4],
            f"{change.old:.3f}",
            f"{change.new:.3f}",
            f"{change.ratio:.2f}x {'slower' if change.ratio < 1 else 'faster'}",
        )
        for change in moved
    ]
    title = f"Against {old.date}, commit {old.commit}: shares of each run's limit"
    if cells:
        console.print(table(title, (*HEADINGS[:4], "then", "now", "change"), cells))
    console.out(
        f"{len(changes)} measurements compared, {len(moved)} moved by more than {threshold:.0%}, "
        f"{len(slower)} of fanfill's became slower",
        highlight=False,
    )
    if not changes:
        raise ValueError("expected an older result with some of the same measurements; got none in common")
    return bool(slower)


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with words aligned left and figures aligned right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for k, heading in enumerate(headings):
        made.add_column(heading, justify="left" if k < 3 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell.replace("[", r"\[") for cell in row))
    return made
