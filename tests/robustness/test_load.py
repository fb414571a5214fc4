"""Many fill at once, in threads and processes, by every common pool: no crash, no hang, the right bits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from processes import Ended, assert_ends, begin, python, run, start

pytestmark = pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="forks, and reads /proc")


def load(*words: str, seconds: float = 120.0, fresh: bool = False, **environment: str) -> Ended:
    """One run of the program, in a group of processes that is killed if it does not end in time."""
    program = "import load_program, sys; load_program.main(*sys.argv[1:])"
    return assert_ends(begin(program, *words, strict=False, fresh=fresh, environment=environment), seconds)


def assert_right_bits(ended: Ended, fills: int | None = None) -> None:
    """All fills were right, at least one of them, and nobody complained."""
    assert ended.code == 0, ended
    count, word = ended.out.split()
    assert word == "right"
    assert int(count) == fills if fills else int(count) > 0
    assert ended.err == ""


def test_many_threads_fill_while_others_import_fork_and_spawn() -> None:
    assert_right_bits(load("threads", "2", "32"))


@pytest.mark.slow
def test_many_threads_fill_for_half_a_minute_while_others_import_fork_and_spawn() -> None:
    assert_right_bits(load("threads", "30", "32"))


def test_one_wrong_fill_among_many_is_noticed() -> None:
    ended = load("threads", "0.2", "4", "6")
    assert ended.code == 1
    assert "RuntimeError: small: other bits" in ended.err
    with pytest.raises(AssertionError):
        assert_right_bits(ended)


def test_a_fork_waits_for_a_first_fill_in_another_thread(tmp_path: Path) -> None:
    """Importing Numba and compiling hold locks that a child would inherit, with nobody to let go of them.

    A child that hangs is found by its using no processor; to compile takes a busy machine minutes.
    """
    for fresh in (True, False):  # Numba is imported and kernels are compiled; kernels come from disk
        assert_right_bits(load("first", seconds=600.0, fresh=fresh, FANFILL_CACHE_DIR=str(tmp_path)))


def test_a_child_that_hangs_is_told_from_one_that_is_slow() -> None:
    program = """
import itertools, os, time
import load_program
def code(seconds):
    pid = os.fork()
    if not pid:
        time.sleep(seconds)
        os._exit(7)
    return load_program.ended(pid, 0.1)
real, ticks = load_program.processor_time, itertools.count(1)
load_program.processor_time = lambda child: next(ticks)
assert code(1.0) == 7
load_program.processor_time = lambda child: 5
assert code(60.0) == -9
before = real(os.getpid())
while time.process_time() < 0.3 + before / 100:
    pass
assert real(os.getpid()) > before
print("right")
"""
    ended = run(program)
    assert (ended.code, ended.out) == (0, "right\n"), ended


def test_a_fork_that_does_not_wait_hangs() -> None:
    """The negative control: a child that needs a lock which another thread held."""
    program = """
import os, threading, time
lock = threading.RLock()
threading.Thread(target=lambda: (lock.acquire(), time.sleep(1.0), lock.release())).start()
time.sleep(0.3)
if os.fork() == 0:
    lock.acquire()
os.waitpid(-1, 0)
"""
    with pytest.raises(AssertionError, match="not ended within 2"):
        run(program, seconds=2.5)


def test_a_process_that_is_left_behind_is_noticed() -> None:
    program = "import subprocess, sys; subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3)"
    with pytest.raises(AssertionError, match="left running"):
        assert_ends(start(python("-c", program)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools_of_the_standard_library(method: str) -> None:
    assert_right_bits(load("processes", method), 30)


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend: str) -> None:
    needs("joblib")
    assert_right_bits(load("joblib", backend), 30)


def test_dask_on_threads() -> None:
    needs("dask")
    assert_right_bits(load("dask"), 30)


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_of_a_torch_data_loader(method: str) -> None:
    needs("torch")
    assert_right_bits(load("torch", method), 30)
