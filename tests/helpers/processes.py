"""Child processes for tests of faults and load: each leads a group, ends in time, and leaves none behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fanfill as ff

HELPERS = Path(__file__).parent


class Ended(NamedTuple):
    """How a child ended, and what it wrote."""

    code: int
    out: str
    err: str


def python(*words: str) -> list[str]:
    """The command that runs this interpreter."""
    return [sys.executable, *words]


def start(words: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """A child that leads a process group; `environment` is added to this process's, None takes one away."""
    extra: dict[str, str | None] = options.pop("environment", {})  # type: ignore[assignment]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    for name, value in ({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | extra).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        words, text=True, start_new_session=True, env=environment, **(defaults | options)
    )


def members(group: int) -> list[int]:
    """The processes of a group that are alive: a zombie, whom only its parent can take away, is not."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):  # gone meanwhile
                state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state not in "ZX":
                    found.append(int(folder.name))
    return found


def assert_ends(child: subprocess.Popen[str], seconds: float = 60.0) -> Ended:
    """The child ends in time, and within a few seconds of that so does all that it started."""
    try:
        out, err = child.communicate(timeout=seconds)
        limit = time.monotonic() + 3.0
        while members(child.pid) and time.monotonic() < limit:
            time.sleep(0.02)
        left = members(child.pid)
        assert not left, f"left running: {left}\n{out}\n{err}"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        raise AssertionError(f"not ended within {seconds} s\n{out}\n{err}") from None
    finally:
        for process in members(child.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    return Ended(child.returncode, out, err)


def run(program: str, *words: str, seconds: float = 60.0, **options: object) -> Ended:
    """Run a Python program, warnings as errors; how it ended."""
    return assert_ends(start(python("-W", "error", "-c", program, *words), **options), seconds)


def assert_right(ended: Ended, out: str = "right\n") -> None:
    """The child found everything as it should be: its own checks held, and it complained of nothing."""
    assert (ended.code, ended.out, ended.err) == (0, out, "")


# What every child begins with: `right()` fails unless a fill of each kind has the bits of the NumPy backend.
BEGIN = """
import os, sys, threading, time, warnings
from pathlib import Path
import numpy as np
import fanfill as ff

LAW = ff.normal(0.1, 0.5)
def draw(n=300_001, threads=3, law=LAW, **options):
    return ff.fill(np.empty(n, np.float32), law, seed=3, threads=threads, **options).tobytes()
def right(law=LAW, **options):
    assert draw(law=law, **options) == draw(law=law, backend="numpy", threads=1)
def right_turned(n=500):
    turned = np.empty((n, n), np.float32).T
    assert ff.fill(turned, LAW, seed=3, threads=3).tobytes() == draw((n, n), backend="numpy", threads=1)
"""
END = "\nprint('right')\n"


def child(program: str, seconds: float = 60.0, **environment: str | None) -> None:
    """Run a child that checks itself."""
    assert_right(run(BEGIN + program + END, seconds=seconds, environment=environment))


def assert_fails(program: str, message: str, **environment: str | None) -> None:
    """The negative control: a child that does not have its fault, or not its mending, notices."""
    ended = run(BEGIN + program + END, environment=environment)
    assert ended.code == 1
    assert message in ended.err, ended


def fanfill(*words: str, **options: object) -> subprocess.Popen[str]:
    return start(python("-m", "fanfill", *words), **options)


def fill(out: Path, values: int = 1_000_000, **options: object) -> Ended:
    return assert_ends(fanfill("fill", "normal", str(values), "--seed", "4", "--out", str(out), **options))


def assert_refused(ended: Ended, message: str) -> None:
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("fanfill: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def assert_whole(file: Path, values: int) -> None:
    """The file holds the values that it should hold."""
    stored = np.load(file)
    wanted = ff.draw(values, ff.normal(), seed=4, device="cpu")
    assert hashlib.sha256(stored.tobytes()).digest() == hashlib.sha256(wanted.tobytes()).digest()
