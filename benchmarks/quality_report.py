"""The results as Markdown: a row for each stream, and below it what departs, and by how much."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from quality_checks import LEVEL, Check
from quality_sources import Stream
from quality_tally import Tally

import fanfill as ff
from fanfill.machine import cpu_model

GROUPS = (
    "finite",
    "chi-square",
    "KS",
    "moments",
    "tails",
    "bounds",
    "zeros",
    "small",
    "last bits",
    "lags",
    "pairs",
    "neighbours",
)
# What departs is listed in this order, what can be seen in single values first; so many of a stream.
ORDER = ("finite", "bounds", "zeros", "tails", "small", "last bits")
SHOWN = 6


class Row(NamedTuple):
    """One stream, its counts and its statistics."""

    stream: Stream
    tally: Tally
    checks: list[Check]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.failed]


def table(rows: Sequence[Row]) -> list[str]:
    """The least p-value of each group of statistics; bold where the stream departs from its law."""
    lines = [
        f"| | drawn by | dtype | draws | statistics | {' | '.join(GROUPS)} | departs |",
        f"|---|---|---|---:|---:|{'---:|' * (len(GROUPS) + 1)}",
    ]
    for stream, tally, checks in rows:
        failed = sum(check.failed for check in checks)
        cells = [worst([check for check in checks if check.group == group]) for group in GROUPS]
        lines.append(
            f"| {stream.library} | `{stream.call}` | {stream.law.dtype} | {power(tally.values)} "
            f"| {len(checks)} | {' | '.join(cells)} | {f'**{failed}**' if failed else 'no'} |"
        )
    return lines


def worst(checks: Sequence[Check]) -> str:
    """The least p-value of some statistics."""
    if not checks:
        return ""
    least = min(check.p for check in checks)
    if not least >= LEVEL:
        return "**0**" if least < 1e-99 else f"**{least:.0e}**"
    return f"{least:.2g}"


def power(draws: int) -> str:
    """A number of draws, to two places."""
    return f"{draws:.2g}".replace("e+", "e").replace("e0", "e")


def tails(rows: Sequence[Row]) -> list[str]:
    """Found and expected counts of the normals' tails, the largest value, exact zeros, distinct values."""
    normals = [row for row in rows if row.stream.law.kind == "normal"]
    if not normals:
        return []
    names = [check.name for check in normals[0].checks if check.group == "tails"]
    lines = [
        f"| | drawn by | dtype | draws | {' | '.join(names)} | exact zeros | distinct values |",
        f"|---|---|---|---:|{'---:|' * (len(names) + 2)}",
    ]
    for stream, tally, checks in normals:
        found = {check.name: check for check in checks if check.group in ("tails", "zeros")}
        cells = [short(found[name]) for name in (*names, "exact zeros")]
        distinct = f"{np.count_nonzero(tally.cells):,}" if stream.law.narrow else ""
        lines.append(
            f"| {stream.library} | `{stream.call}` | {stream.law.dtype} | {power(tally.values)} | "
            f"{' | '.join(cells)} | {distinct} |"
        )
    return lines


def short(check: Check) -> str:
    """What was found, and in brackets what was expected; bold where that is no chance."""
    text = check.found.replace(", expected ", " (") + ")" * (", expected " in check.found)
    text = text.replace(", none expected", " (0)")
    return f"**{text}**" if check.failed else text


def departures(rows: Iterable[Row]) -> list[str]:
    """For each stream that departs, the statistics with the least p-values, one of a name and group."""
    lines = []
    for row in rows:
        stream = row.stream
        order = [*ORDER, *(group for group in GROUPS if group not in ORDER)]
        failures = sorted(row.failures, key=lambda check: order.index(check.group))
        if failures:
            shown = [f"{check.group}, {check.name}: {check.found}" for check in failures[:SHOWN]]
            more = len(failures) - len(shown)
            rest = f"; and {more} more" if more else ""
            lines.append(f"* {stream.library} `{stream.call}` {stream.law.dtype}: {'; '.join(shown)}{rest}.")
    return lines


def rate(rows: Sequence[Row]) -> str:
    """How many statistics there were, and how often ideal streams would fail."""
    count = sum(len(row.checks) for row in rows)
    return (
        f"{count} statistics on {len(rows)} streams; a stream departs if a p-value is below {LEVEL:g}. "
        f"Ideal streams would show a departure in one run out of {1 / (count * LEVEL):,.0f}."
    )


def setting(command: str) -> str:
    """The command, the commit, the versions and the machine."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    found = []
    for package in ("numpy", "numba", "scipy", "ml_dtypes", "torch", "jax"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, commit {commit}. {cpu_model()}. "
        f"fanfill {ff.__version__}, stream version {ff.STREAM_VERSION}, "
        f"Python {platform.python_version()}, {', '.join(found)}."
    )
