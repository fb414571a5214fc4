"""``fanfill bench``: measure, show, keep, compare."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fanfill.amounts import amount
from fanfill.arguments import number_of
from fanfill.backends import device_of
from fanfill.bench import cuda, markdown, noise, picture, report, suite
from fanfill.bench.measure import Settings, parse_size
from fanfill.cli import complain, tables
from fanfill.cli.outcome import DIFFERENT, Output, took
from fanfill.cli.tables import table

__all__ = ["chosen", "command", "show", "show_changes"]

GROUPS = {
    "limit": "The limit: what one thread, or the GPU's memset, can write",
    "peers": "Peers, on the same buffer in the same turns",
    "scaling": "Scaling over size and threads",
    "model": "A whole model: 1.1 billion parameters",
    "cold": 'Whole processes; the share is that of python -c "import numba"',
}
HEADINGS = ("what", "who", "how", "threads", "G values/s", "GB/s", "of the limit", "spread")
BEYOND = "! is beyond what so many threads can write: the limit was measured while the machine was busy"


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
    """The run that the settings describe, what it ran on, and how quiet that was."""
    host = settings.device is None
    progress("looking", 0, 0)
    before = noise.look(settings.device)
    rows = suite.run(settings, progress) if host else cuda.run(settings, progress)
    progress("looking", 0, 0)
    seen = noise.facts(before, noise.look(settings.device))
    result = report.surroundings(report.command_line(), rows)
    facts = {} if settings.device is None else cuda.facts(settings.device)
    return replace(result, machine={**result.machine, **facts, "noise": seen})


def command(
    settings: Settings,
    *,
    out: Path,
    old: Path | None,
    threshold: float,
    readme: bool,
    force: bool,
    output: Output,
) -> None:
    """Run ``fanfill bench``.

    Raises
    ------
    ValueError
        If README's figures are asked for, and the machine was too busy for figures that are to be published.
        The result is kept all the same.
    SystemExit
        With code 1, after everything is shown and kept, if any of fanfill's figures became slower than in the
        result `old` by more than the threshold.
    """
    before = None if old is None else report.load(old)  # a bad file is refused before minutes go by
    out.mkdir(parents=True, exist_ok=True)
    with output.phases("steps") as follow:
        result = measured(settings, follow)
    report.save(result, out / "bench.json")
    doubts = noise.doubts(result)
    for doubt in doubts:
        complain(f"{doubt}; compare such figures with nothing")
    published = force or not doubts
    files, why_none = [str(out / "bench.json")], None
    try:
        # The picture shows threads, so it is for the host only.
        if published and settings.device is None:
            files += [str(path) for path in picture.draw(result, out)]
    except ImportError as error:
        why_none = f"no picture: {error}; pip install 'fanfill[bench]'"
    if not published:
        why_none = "no picture of a busy machine's figures: wait until it is idle, or add --force"
    kept = asdict(result)
    kept["command_line"] = kept.pop("command")
    facts = {**kept, "doubts": doubts, "files": files, "phases": follow.seconds}
    lines = [
        ("files", ", ".join(files)),
        *([("picture", why_none)] if why_none else []),
        took(follow.seconds),
    ]
    if readme and not published:
        raise ValueError(
            f"--readme: expected a machine that is idle; got one of which {'; '.join(doubts)}; run it again, "
            f"or add --force; {files[0]} has the figures"
        )
    loud = not (output.json or output.quiet)
    console = tables.console()
    if readme:
        sys.stdout.write(markdown.text(result, None))
        return
    if loud:
        show(result, console)
    output.report("bench", facts, lines)
    if before is not None and show_changes(before, result, threshold, console, loud=loud):
        sys.stdout.flush()
        raise SystemExit(DIFFERENT)


def show(result: report.Result, console: Console) -> None:
    """Print a result: a table for each group, and what it was measured on."""
    for group, title in GROUPS.items():
        rows = [row for row in result.rows if row.group == group]
        if rows:
            console.print(table(title, HEADINGS, [report.text_of(row) for row in rows]))
    if any(row.is_beyond_limit for row in result.rows):
        console.out(BEYOND, highlight=False)
    facts = {
        **result.machine,
        "commit": result.commit or "none: not run from a git checkout",
        "date": result.date,
    }
    for name, fact in {**facts, **result.versions}.items():
        console.out(f"{name:18}{fact_text(fact)}", highlight=False)


def fact_text(fact: Any) -> str:
    """A fact about the machine, in a line."""
    if not isinstance(fact, dict):
        return str(fact)
    looks = ((when, noise.Look(**seen)) for when, seen in fact.items())
    return ", ".join(
        f"{when} the run memset {amount(seen.limit, 'B/s')} (repeats differ by {seen.spread:.0%}), "
        f"load {'unknown' if seen.load is None else f'{seen.load:.2f}'}"
        for when, seen in looks
    )


def show_changes(
    old: report.Result, new: report.Result, threshold: float, console: Console, *, loud: bool = True
) -> bool:
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
    if cells and loud:
        console.print(table(title, (*HEADINGS[:4], "then", "now", "change"), cells))
    if loud:
        console.out(
            f"{len(changes)} measurements compared, {len(moved)} moved by more than {threshold:.0%}, "
            f"{len(slower)} of fanfill's became slower",
            highlight=False,
        )
    if not changes:
        raise ValueError("expected an older result with some of the same measurements; got none in common")
    return bool(slower)
