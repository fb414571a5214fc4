"""``fanfill selftest``: compares what is drawn here with what every machine draws."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import fanfill as ff
from fanfill import machine, selftest
from fanfill.cli import tables
from fanfill.cli.outcome import DIFFERENT, Output
from fanfill.errors import BackendUnavailableError
from fanfill.selftest import Check, Subject, adapters, exhaustive, golden, grouped
from fanfill.selftest.adapters import Result
from fanfill.selftest.exhaustive import Tried

__all__ = ["command"]

SHOWN = 10  # differences that are shown one by one


def command(device: str, *, exhaustively: bool = False, output: Output) -> None:
    """Run ``fanfill selftest``.

    Raises
    ------
    BackendUnavailableError
        If every argument of a GPU's operations is asked for, and there is no GPU among what is tested.
    SystemExit
        With code 1, after everything was shown, if a fill, an adapter's values or an operation differed.
    """
    tested = selftest.subjects(device)
    devices = [subject for subject in tested if subject.number is not None]
    if exhaustively and not devices:
        raise BackendUnavailableError(
            "--exhaustive: expected a CUDA device, whose roots and quotients it tries; got --device "
            f"{device}, which has none here; leave --exhaustive out, or see fanfill info for what CUDA lacks"
        )
    total = len(selftest.LAYOUTS) * sum(len(list(selftest.cases(subject))) for subject in tested)
    total += sum(len(list(grouped.cases(subject))) for subject in devices)
    checks: list[Check] = []
    others: list[Result] = []
    tried: list[Tried] = []
    with output.phases("fills") as follow:
        follow("filling", 0, total)
        for subject in tested:
            through_many = grouped.run(subject) if subject in devices else ()
            for check in chain(selftest.run(subject), through_many):
                checks.append(check)
                follow("filling", len(checks), total)
        for name in adapters.ADAPTERS if device in ("auto", "cpu") else ():
            follow("adapters", len(others), len(adapters.ADAPTERS), "adapters")
            others.append(adapters.run(name))
        for subject in devices if exhaustively else ():
            follow("exhausting")
            tried += exhaustive.run(subject)
    failed = [check for check in checks if check.problem is not None]
    facts = facts_of(tested, checks, failed, others, tried)
    seconds = sum(follow.seconds.values())
    output.report("selftest", {**facts, "seconds": seconds, "phases": follow.seconds}, [])
    if not (output.json or output.quiet):
        show(tested, checks, failed, others, tried, seconds)
    if failed or any(other.problems for other in others) or any(found.differing for found in tried):
        sys.stdout.flush()
        raise SystemExit(DIFFERENT)


def facts_of(
    tested: Sequence[Subject],
    checks: Sequence[Check],
    failed: Sequence[Check],
    others: Sequence[Result],
    tried: Sequence[Tried],
) -> dict[str, Any]:
    """The result, for JSON."""
    return {
        "cpu": machine.cpu_model(),
        "tested": {str(subject): selftest.facts(subject) for subject in tested},
        "untested_dtypes": selftest.untested(),
        "checks": len(checks),
        "failed": len(failed),
        "exhaustive": [{**found._asdict(), "subject": str(found.subject)} for found in tried],
        "adapters": {
            other.name: {
                "checks": other.checks,
                "failures": other.problems,
                "untested": other.untested,
            }
            for other in others
        },
        "failures": [
            {
                "subject": str(check.subject),
                **check.case._asdict(),
                "layout": check.layout,
                "problem": check.problem,
            }
            for check in failed
        ],
    }


def show(
    tested: Sequence[Subject],
    checks: Sequence[Check],
    failed: Sequence[Check],
    others: Sequence[Result],
    tried: Sequence[Tried],
    seconds: float,
) -> None:
    """Show a table for each subject, what the adapters drew, the first differences, what was tried
    exhaustively, and the totals.
    """
    console = tables.console()
    for subject in tested:
        facts = ", ".join(f"{name} {fact}" for name, fact in selftest.facts(subject).items())
        console.print(tables.table(f"{subject}{f' ({facts})' if facts else ''}", *cells(subject, checks)))
    if selftest.untested():
        names = ", ".join(selftest.untested())
        console.out(f"not tested: {names}: ml_dtypes is missing; pip install ml_dtypes", highlight=False)
    for other in others:
        text = cell(other.checks, len(other.problems))
        if other.untested:
            text = f"{text + '; ' if text else ''}not tested: {other.untested}"
        console.out(f"fanfill.{other.name}: {text}", highlight=False)
        for problem in other.problems[:SHOWN]:
            console.out(f"fanfill.{other.name}: {problem}", highlight=False)
    for check in failed[:SHOWN]:
        console.out(f"{check.subject}: {check.case}, {check.layout}: {check.problem}", highlight=False)
    if len(failed) > SHOWN:
        console.out(f"... and {len(failed) - SHOWN} more", highlight=False)
    for found in tried:
        result = f"{found.differing:,} not IEEE's, WRONG" if found.differing else "each result IEEE's"
        console.out(
            f"{found.subject}: {found.operation.replace('_', ' ')}, {found.arguments:,} arguments: {result}",
            highlight=False,
        )
    wrong = len(failed) + sum(len(other.problems) for other in others)
    verdict = f"{wrong} differ" if wrong else "all as committed"
    together = any(check.layout == grouped.LAYOUT for check in checks)
    console.out(
        f"{len(checks)} fills in {len(selftest.LAYOUTS)} layouts"
        f"{' and in grouped launches' if together else ''}, stream version {ff.STREAM_VERSION}, "
        f"{seconds:.1f} s: {verdict}",
        highlight=False,
    )


def cells(subject: Subject, checks: Iterable[Check]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Headings and rows: how many fills of each initializer and dtype were right, or how many were wrong."""
    tried, wrong = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for check in checks:
        if check.subject == subject:
            tried[check.case[:2]] += 1
            wrong[check.case[:2]] += check.problem is not None
    rows = [
        (law, *(cell(tried[law, dtype], wrong[law, dtype]) for dtype in selftest.DTYPES))
        for law in ("words", *golden.INITIALIZERS, *golden.MATRICES)
    ]
    return ("initializer", *selftest.DTYPES), rows


def cell(tried: int, wrong: int) -> str:
    """One cell of the table."""
    if not tried:
        return ""
    return f"{wrong} of {tried} WRONG" if wrong else f"{tried} right"
