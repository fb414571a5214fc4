"""Runs of the command for tests of it: in this process, and in one of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from fanfill.cli import main

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def run_json(capsys: Capture, *words: str) -> dict[str, object]:
    """The object that a fill prints with --json, and nothing beside it."""
    assert main(["fill", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, object] = json.loads(out)
    return found


def assert_refused(capsys: Capture, message: str, *words: str) -> None:
    """One line on stderr that matches, nothing on stdout, exit code 2."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fanfill: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


def process(*words: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "fanfill", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def sha256(array: np.ndarray) -> str:
    """The hash that a report of these values shows."""
    return hashlib.sha256(array.tobytes()).hexdigest()
