"""A fork of the prepared process begins and ends as a new interpreter does that runs the same program."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from processes import Fork, assert_ends, begin, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and descriptors as Linux has them")

SEEN = """
import json, os, sys, warnings
print(json.dumps({
    "argv": sys.argv,
    "environment": sorted(os.environ.items()),
    "name": __name__,
    "folder": os.getcwd(),
    "path": [p for p in sys.path if p and "zip" not in p],
    "group": os.getpgrp() == os.getsid(0) == os.getpid(),
    "umask": os.umask(0),
    "ours": sorted(m for m in sys.modules if m.split(".")[0] in ("numba", "fanfill", "fanfill_kernels")),
    "main": sorted(k for k in vars(sys.modules["__main__"]) if not k.startswith("__")),
    "warnings": sys.warnoptions,
}))
"""


def test_it_has_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    given = {"environment": {"FANFILL_GIVEN": "a", "HOME": None}, "cwd": tmp_path, "umask": 0o027}
    found = [begin(SEEN, "one", "two", fresh=fresh, **given) for fresh in (False, True)]
    assert [isinstance(child, Fork) for child in found] == [True, False]
    forked, fresh = map(assert_ends, found)
    assert (fresh.code, fresh.err) == (0, "")
    assert forked == fresh


def test_numba_is_the_one_that_the_path_leads_to(tmp_path: Path) -> None:
    program = "import sys; assert 'numba' not in sys.modules; import numba; print(numba.__version__)"
    assert run(program) == run(program, fresh=True)
    (tmp_path / "numba.py").write_text("__version__ = 'another'")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    assert run(program, environment=environment) == (0, "another\n", "")


@pytest.mark.parametrize("setting", ["NUMBA_DISABLE_JIT", "NUMBA_CPU_NAME", "NUMBA_OPT"])
def test_what_numba_reads_at_its_import_asks_for_a_new_interpreter(setting: str) -> None:
    child = begin("pass", environment={setting: "1"})
    assert not isinstance(child, Fork)
    assert assert_ends(child) == (0, "", "")


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('broken')", 1, "broken\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2, "KeyboardInterrupt\n"),
        ("import warnings; warnings.warn('heard')", 1, "UserWarning: heard\n"),
        ("import atexit, sys; atexit.register(lambda: sys.stderr.write('last'))", 0, "last"),
    ],
)
def test_it_ends_as_an_interpreter_does(program: str, code: int, said: str) -> None:
    ended = run(program)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.endswith(said)
    fresh = run(program, fresh=True)
    assert (fresh.code, fresh.out) == (code, "")
    assert fresh.err.endswith(said)


def test_several_run_at_once_and_are_told_apart() -> None:
    program = "import time; time.sleep(60)"
    first, second = begin(program), begin(program)
    assert first.poll() is second.poll() is None
    second.send_signal(signal.SIGKILL)
    assert assert_ends(second)[0] == -9
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert assert_ends(first)[0] == -15
