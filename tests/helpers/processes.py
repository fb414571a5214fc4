"""Child processes for tests of faults and load: each leads a group, ends in time, and leaves none behind.

Programs run in forks of the process that ``prepared.py`` describes, unless they need a new interpreter.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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


def surroundings(extra: dict[str, str | None]) -> dict[str, str]:
    """The environment of a child: this process's and more, None takes one away."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    for name, value in ({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | extra).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return environment


def start(words: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """A child that leads a process group; `environment` is added to this process's, None takes one away."""
    environment = surroundings(options.pop("environment", {}))  # type: ignore[arg-type]
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        words, text=True, start_new_session=True, env=environment, **(defaults | options)
    )


class Fork:
    """A program in a fork of the prepared process, with as much of `subprocess.Popen` as tests ask for."""

    def __init__(self, connection: socket.socket, asked: dict[str, object], stdout: int | None) -> None:
        self.returncode: int | None = None
        self._read: dict[int, bytes] = {}
        theirs = []
        for number in range(3):  # what it prints, what it complains of, how it ends
            if number == 0 and stdout is not None:
                theirs.append(os.dup(stdout))
                continue
            ours, its = os.pipe()
            self._read[ours] = b""
            theirs.append(its)
        self._open = set(self._read)
        socket.send_fds(connection, [json.dumps(asked).encode()], theirs)
        for file in theirs:
            os.close(file)
        self.pid = int(connection.recv(100))

    def _receive(self, timeout: float | None, report: int) -> None:
        """Read what comes until all files are closed, or only until the fork has ended."""
        limit = time.monotonic() + (1e6 if timeout is None else timeout)
        with selectors.DefaultSelector() as events:
            for file in self._open:
                events.register(file, selectors.EVENT_READ)
            while self._open if report < 0 else report in self._open:
                ready = events.select(max(0.0, limit - time.monotonic()))
                if not ready:
                    raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    self._read[key.fd] += data
                    if not data:
                        events.unregister(key.fd)
                        self._open.remove(key.fd)
                        os.close(key.fd)
        last = list(self._read)[-1]
        if last not in self._open:
            self.returncode = int(self._read[last])

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._receive(timeout, -1)
        *out, err, _ = self._read.values()
        return b"".join(out).decode(), err.decode()

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._receive(0.0, list(self._read)[-1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


Child = subprocess.Popen[str] | Fork


class Ending(Protocol):
    """What `assert_ends` needs of a child, whoever started it."""

    pid: int
    returncode: int | None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]: ...


def _early(environment: dict[str, str]) -> dict[str, str]:
    """Settings that are read before a fork begins: by Python's start, the loader, or an import."""
    owners, later = ("NUMBA_", "OPENBLAS_", "PYTHON", "LD_", "GLIBC_"), ("NUMBA_CACHE_DIR", "PYTHONPATH")
    return {k: v for k, v in environment.items() if k.startswith(owners) and k not in later}


@cache
def _prepared(number: int) -> tuple[socket.socket, dict[str, str]]:
    """A connection to the prepared process of this one, and the settings that it began with."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = surroundings({"PYTHONPATH": None})
    process = subprocess.Popen(
        python(str(HELPERS / "prepared.py"), str(its.fileno()), *sys.path),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=[its.fileno()],
    )
    its.close()

    def end() -> None:
        if os.getpid() == number:  # and not a fork of it
            ours.close()
            process.wait()

    atexit.register(end)
    return ours, _early(environment)


def begin(program: str, *words: str, strict: bool = True, fresh: bool = False, **options: Any) -> Child:
    """Start a Python program, with warnings as errors if `strict`.

    It runs in a new interpreter if `fresh`, or where a fork cannot stand in for one.
    """
    environment = surroundings(options.get("environment", {}))
    if not fresh and sys.platform == "linux" and options.keys() <= {"environment", "cwd", "umask", "stdout"}:
        connection, settings = _prepared(os.getpid())
        if settings == _early(environment):
            os.umask(umask := os.umask(0))
            asked = {
                "program": program,
                "words": words,
                "strict": strict,
                "environment": environment,
                "cwd": str(options.get("cwd", os.getcwd())),
                "umask": options.get("umask", umask),
            }
            stdout = options.get("stdout")
            return Fork(connection, asked, None if stdout is None else stdout.fileno())
    flags = ("-W", "error") if strict else ()
    return start(python(*flags, "-c", program, *words), **options)


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


def assert_ends(child: Ending | Child, seconds: float = 60.0) -> Ended:
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
    assert child.returncode is not None
    return Ended(child.returncode, out, err)


def run(program: str, *words: str, seconds: float = 60.0, **options: Any) -> Ended:
    """Run a Python program, warnings as errors, as `begin` does; how it ended."""
    return assert_ends(begin(program, *words, **options), seconds)


def assert_right(ended: Ended, out: str = "right\n") -> None:
    """The child found everything as it should be: its own checks held, and it complained of nothing."""
    assert (ended.code, ended.out, ended.err) == (0, out, "")


# What every child begins with: `right()` fails unless a fill has the bits of the NumPy backend, and
# `right_reversed()` unless one does that goes by way of a scratch and another kernel. That is the cheapest to
# compile, at 0.3 s; one that transposes takes 0.9 s.
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
def right_reversed(n=250_000):
    backwards = np.empty(n, np.float32)[::-1]
    assert ff.fill(backwards, LAW, seed=3, threads=3).tobytes() == draw(n, backend="numpy", threads=1)
"""
END = "\nprint('right')\n"


def child(program: str, seconds: float = 60.0, *, fresh: bool = False, **environment: str | None) -> None:
    """Run a child that checks itself."""
    assert_right(run(BEGIN + program + END, seconds=seconds, fresh=fresh, environment=environment))


def assert_fails(program: str, message: str, *, fresh: bool = False, **environment: str | None) -> None:
    """The negative control: a child that does not have its fault, or not its mending, notices."""
    ended = run(BEGIN + program + END, fresh=fresh, environment=environment)
    assert ended.code == 1
    assert message in ended.err, ended


def fanfill(*words: str, before: str = "", **options: Any) -> Child:
    """Start the command ``fanfill``; `before` is a program that its process runs first."""
    module = "import runpy; runpy.run_module('fanfill', run_name='__main__', alter_sys=True)"
    return begin(f"{before}\n{module}", *words, strict=False, **options)


def fill(out: Path, values: int = 1_000_000, **options: Any) -> Ended:
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
