"""What a signal or a fork must not cut in two is done to its end, on the main thread and on others."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import assert_fails, child

from fanfill_kernels.process import stacks
from fanfill_kernels.process.undivided import undivided


class Struck(BaseException):
    """What the signal handler raises."""


@pytest.fixture
def struck() -> Iterator[list[int]]:
    """Signals that have come; each raises."""
    came: list[int] = []

    def handler(number: int, frame: object) -> None:
        came.append(number)
        raise Struck(len(came))

    before = signal.signal(signal.SIGINT, handler)
    yield came
    signal.signal(signal.SIGINT, before)


def work(done: list[str], struck: list[int]) -> None:
    """Work, while the main thread gets three signals, each when the one before has been handled."""
    for number in range(3):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        end = time.monotonic() + 30
        while len(struck) <= number and time.monotonic() < end:
            time.sleep(0.01)
    done.append("whole")


def test_signals_wait_for_the_work_and_the_first_is_raised(struck: list[int]) -> None:
    done: list[str] = []
    with pytest.raises(Struck, match="1"):
        undivided(lambda: work(done, struck))
    assert done == ["whole"]
    assert len(struck) == 3


def test_work_on_the_main_thread_would_be_cut_in_two(struck: list[int]) -> None:
    done: list[str] = []
    with pytest.raises(Struck):
        work(done, struck)
    assert done == []


def test_results_and_errors_come_back() -> None:
    assert undivided(lambda: 7) == 7
    with pytest.raises(KeyError, match="lost"):
        undivided(lambda: {}["lost"])


def test_other_threads_do_their_work_themselves() -> None:
    idents: list[int] = []
    thread = threading.Thread(target=lambda: undivided(lambda: idents.append(threading.get_ident())))
    thread.start()
    thread.join()
    assert idents == [thread.ident]


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_rests_meanwhile_and_is_then_as_it_was(collects: bool) -> None:
    def work() -> None:
        resting.append(not gc.isenabled())
        raise ValueError("a failure")

    resting: list[bool] = []
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ValueError, match="a failure"):
            undivided(work)
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
    assert resting == [True]


def test_what_the_garbage_collector_has_put_off_is_collected_by_the_thread_that_did_the_work() -> None:
    """On the main thread a signal handler's exception would come in a finalizer, and be lost."""

    class Loop:
        def __del__(self) -> None:
            deleted_by.append(threading.get_ident())

    def work() -> int:
        loop = Loop()
        loop.itself = loop  # type: ignore[attr-defined]
        return threading.get_ident()

    deleted_by: list[int] = []
    worker = undivided(work)
    assert deleted_by == [worker]
    assert worker != threading.get_ident()


def test_without_another_thread_the_main_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stacks, "start_new_thread", refuse)
    assert undivided(threading.get_ident) == threading.get_ident()


COMPILE = """
import signal
def strike():
    while came < 5:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
def interrupt(number, frame):
    # Not while the last one is dealt with: between two lines of the loop it would end the program.
    if filling:
        signal.default_int_handler(number, frame)
def fill():
    global filling
    try:
        filling = True
        ff.fill(buffer, LAW, seed=3)
        time.sleep(0.01)
    finally:
        filling = False
buffer = np.full(1000, 7, np.float32)
came, filling = 0, False
signal.signal(signal.SIGINT, interrupt)
thread = threading.Thread(target=strike, daemon=True)
thread.start()
end = time.monotonic() + 30
while came < 5 and time.monotonic() < end:
    try:
        fill()
    except KeyboardInterrupt:
        came += 1
assert came >= 5, came
thread.join()
right()
assert [t.name for t in threading.enumerate() if not t.name.startswith(("MainThread", "fanfill-"))] == []
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
def test_ctrl_c_again_and_again_during_the_first_fill_is_ctrl_c_and_breaks_nothing(tmp_path: Path) -> None:
    child(COMPILE, fresh=True, FANFILL_CACHE_DIR=str(tmp_path))  # Numba is imported, too
    unhurt = COMPILE.replace("os.kill(", "str(").replace("+ 30", "+ 1")
    assert_fails(unhurt, "AssertionError: 0", FANFILL_CACHE_DIR=os.devnull)
