"""What every command has in common: how its outcome is printed, and how one follows it.

A report for people is one fact a line. The same as JSON is one object: the command, the versions of the
package and of the stream, and the facts; sizes in bytes, times in seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import fanfill as ff
from fanfill import progress
from fanfill.amounts import amount

__all__ = ["DIFFERENT", "Output", "took"]

DIFFERENT = 1
"""The exit code of a command that did its work and found a difference: of bits, bytes or speed."""

LABEL = 16


class Output(NamedTuple):
    """How a command's outcome is wanted: as JSON, as text, or not at all."""

    json: bool = False
    quiet: bool = False

    def phases(self, unit: str = "B") -> AbstractContextManager[progress.Phases]:
        """What the command calls as it goes on: a bar on stderr, unless JSON or silence is wanted."""
        return progress.phases(wanted=not (self.json or self.quiet), unit=unit)

    def report(self, command: str, facts: Mapping[str, Any], lines: Sequence[tuple[str, str]]) -> None:
        """Print the outcome: the facts as JSON, or the lines."""
        if self.json:
            head = {"command": command, "fanfill": ff.__version__, "stream_version": ff.STREAM_VERSION}
            sys.stdout.write(json.dumps({**head, **facts}) + "\n")
        elif not self.quiet:
            sys.stdout.write("".join(f"{label:{LABEL}}{text}\n" for label, text in lines))


def took(seconds: Mapping[str, float]) -> tuple[str, str]:
    """The line that ends a report: how long all of it took, and each of its phases."""
    each = ", ".join(f"{phase} {short(spent)}" for phase, spent in seconds.items())
    return "took", f"{short(sum(seconds.values()))}{f': {each}' if len(seconds) > 1 else ''}"


def short(seconds: float) -> str:
    """Seconds in three digits."""
    return amount(seconds, "s") if seconds >= 1.0 else amount(1e3 * seconds, "ms")
