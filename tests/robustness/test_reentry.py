"""Fills within fills on one thread: from signal handlers, finalizers, reports; with Ctrl-C and forks between.

Nothing here races: a profiler's hook, or another thread that looks where the main one is, says when.
"""

from __future__ import annotations

import sys
import threading

import pytest
from processes import assert_fails, child

from fanfill.cpu import threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and forks as Linux has them")

# `at(point, strike, run)` calls `strike` when the main thread has passed so many of the places in `run` at
# which CPython runs signal handlers, the begins of functions and the ends of calls. It returns whether there
# were as many.
AT = """
from fanfill.cpu import threads
def at(point, strike, run):
    passed = [0]
    def hook(frame, event, argument):
        if event in ("call", "c_return") and frame.f_code is not run.__code__:
            passed[0] += 1
            if passed[0] == point:
                sys.setprofile(None)
                strike()
    sys.setprofile(hook)
    try:
        run()
    finally:
        sys.setprofile(None)
    return passed[0] >= point
main, at_work = threading.get_ident(), []
def work(number):
    if threading.get_ident() == main:
        time.sleep(0.0005)
        return 1
    at_work.append(number)
    try:
        time.sleep(0.0005)
    finally:
        at_work.pop()
    return 1
def points(strike, run):
    point = 1
    while True:
        threads._pool = threads._Pool()  # so that helpers are started
        if not at(point, strike, run):
            return point
        point += 1
"""

FILL_ANYWHERE = """
inner, ran = [], []
def note(number):
    ran.append(number)
    return work(number)
def strike():
    inner.clear()
    threads.share(4, lambda: lambda number: inner.append(number) or 1, 3)
    assert sorted(inner) == [0, 1, 2, 3]
def run():
    ran.clear()
    threads.share(6, lambda: note, 3)
    assert sorted(ran) == [0, 1, 2, 3, 4, 5]
assert points(strike, run) > 40
"""


def test_a_fill_in_a_signal_handler_at_any_point_of_one_that_starts_helpers() -> None:
    child(AT + FILL_ANYWHERE)


CTRL_C_ANYWHERE = """
stopped = [0]
def strike():
    raise KeyboardInterrupt
def run():
    try:
        threads.share(6, lambda: work, 3)
    except KeyboardInterrupt:
        stopped[0] += 1
    sys.setprofile(None)
    assert not at_work, "helpers go on"
    threads.share(6, lambda: work, 3)
    assert not at_work
last = points(strike, run)
assert stopped[0] > 40, (stopped, last)
"""


def test_ctrl_c_at_any_point_stops_all_helpers_and_the_next_fill_is_whole() -> None:
    child(AT + CTRL_C_ANYWHERE)
    late = CTRL_C_ANYWHERE.replace("    sys.setprofile(None)", "    at_work.append(0)")
    assert_fails(AT + late, "AssertionError: helpers go on")


FORK_WHILE_WAITING = """
import os, signal
from fanfill.cpu import threads
main, go, children = threading.main_thread().ident, threading.Event(), []
def work(number):
    if threading.get_ident() != main:
        go.wait(60)
    else:
        time.sleep(0.01)
    return 1
def fork(number, frame):
    children.append(os.fork())
def strike():
    while sys._current_frames()[main].f_code.co_name != "_collect":
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGUSR1)
    while not children:
        time.sleep(0.001)
    end = time.monotonic() + 20
    while not (done := os.waitpid(children[0], os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if not done[0]:
        os.kill(children[0], 9)
    codes.append(os.waitstatus_to_exitcode(done[1]) if done[0] else "hung")
    go.set()
codes = []
signal.signal(signal.SIGUSR1, fork)
warnings.simplefilter("ignore", DeprecationWarning)
threading.Thread(target=strike).start()
parent = os.getpid()
try:
    threads.share(20, lambda: work, 2)
except RuntimeError as error:
    os._exit(5 if "forked inside a fill" in str(error) and os.getpid() != parent else 6)
while not codes:
    time.sleep(0.01)
assert codes == [5], codes
"""


def test_a_child_forked_by_a_signal_handler_while_a_fill_waits_for_its_helper_gets_an_error() -> None:
    child(FORK_WHILE_WAITING)


@pytest.mark.parametrize("count", [1, 3])
def test_a_report_may_fill(count: int) -> None:
    inner: list[int] = []

    def report(done: int) -> None:
        threads.share(3, lambda: lambda number: inner.append(number) or 1, count)

    outer: list[int] = []
    took_part = threading.Event()

    def work(number: int) -> int:
        # The calling thread reports after tasks of its own, and on a busy machine helpers may take them all.
        if threading.current_thread() is threading.main_thread():
            took_part.set()
        assert took_part.wait(60)
        outer.append(number)
        return 1

    threads.share(4, lambda: work, count, report)
    assert sorted(outer) == [0, 1, 2, 3]
    assert inner
    assert inner.count(0) == inner.count(1) == inner.count(2)


def test_a_finalizer_may_fill_within_a_task() -> None:
    inner: list[int] = []

    class Last:
        def __del__(self) -> None:
            threads.share(3, lambda: lambda number: inner.append(number) or 1, 3)

    def work(number: int) -> int:
        last = Last()
        del last
        return 1

    threads.share(4, lambda: work, 2)
    assert sorted(inner) == sorted([0, 1, 2] * 4)


def test_an_exit_does_not_wait_for_fills_of_daemons_and_survives_them() -> None:
    child(
        """
buffer = np.empty(1 << 22, np.float32)
right()
begun = threading.Event()
def fill():
    while True:
        ff.fill(buffer, LAW, seed=3, threads=3, progress=lambda done, total: begun.set())
threading.Thread(target=fill, daemon=True).start()
begun.wait()
""",
        fresh=True,
    )
