"""Sharing tasks among threads is safe: errors, Ctrl-C, many callers, and no helper at all."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from fanfill.cpu import threads
from fanfill_kernels.process import stacks


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 100])
def test_every_task_runs_once(count, tasks):
    ran = []
    threads.share(tasks, lambda: lambda number: ran.append(number) or 1, count)
    assert sorted(ran) == list(range(tasks))


def test_the_calling_thread_works_too_and_helpers_are_few():
    idents = set()

    def work(number):
        idents.add(threading.get_ident())
        time.sleep(0.002)
        return 1

    threads.share(60, lambda: work, 3)
    assert threading.get_ident() in idents
    assert 2 <= len(idents) <= 3


def test_one_task_or_one_thread_starts_no_pool(monkeypatch):
    monkeypatch.setattr(threads._Pool, "enlist", None)
    threads.share(1, lambda: lambda number: 1, 8)
    threads.share(9, lambda: lambda number: 1, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_reports_come_from_the_calling_thread_and_never_go_back(count):
    seen, here = [], threading.get_ident()

    def report(done):
        assert threading.get_ident() == here
        seen.append(done)

    threads.share(50, lambda: lambda number: (time.sleep(0.0005), 2)[1], count, report)
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= 100


def test_an_error_in_a_helper_reaches_the_caller_and_stops_all():
    here, ran = threading.get_ident(), []

    def work(number):
        ran.append(number)
        time.sleep(0.001)
        if threading.get_ident() != here:
            raise MemoryError("no scratch")
        return 1

    with pytest.raises(MemoryError, match="no scratch"):
        threads.share(10_000, lambda: work, 2)
    assert len(ran) < 5_000
    assert_quiet(ran)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_error_in_a_report_stops_all(count):
    ran = []

    def report(done):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.share(
            10_000, lambda: lambda number: (ran.append(number), time.sleep(0.001), 1)[2], count, report
        )
    assert_quiet(ran)
    assert len(ran) < 1_000


def assert_quiet(ran):
    """Nothing has been added since, nor is."""
    before = len(ran)
    time.sleep(0.05)
    assert len(ran) == before


def test_the_check_for_quiet_can_fail():
    ran = []
    thread = threading.Thread(target=lambda: [(time.sleep(0.01), ran.append(k)) for k in range(10)])
    thread.start()
    with pytest.raises(AssertionError):
        assert_quiet(ran)
    thread.join()


def interrupted(signals, count):
    """Seconds of endless sharing that Ctrl-C ends, a tenth of which pass before it."""
    ran, ended = [], []

    def work(number):
        ran.append(number)
        time.sleep(0.03) if threading.get_ident() != threading.main_thread().ident else time.sleep(0.001)
        ended.append(number)
        return 1

    inside = [True]

    def on_signal(number, frame):
        if inside[0]:
            raise KeyboardInterrupt

    def interrupt():
        time.sleep(0.1)
        for _ in range(signals):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.004)

    before = signal.signal(signal.SIGINT, on_signal)
    sender = threading.Thread(target=interrupt)
    sender.start()
    began = time.monotonic()
    stopped = False
    try:
        threads.share(10**9, lambda: work, count)
    except KeyboardInterrupt:
        inside[0] = False
        stopped = True
    running = set(ran) - set(ended)
    took = time.monotonic() - began
    sender.join()
    signal.signal(signal.SIGINT, before)
    assert stopped
    assert len(running) <= 1  # the task in which the calling thread itself was interrupted
    assert_quiet(ran)
    return took


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals as POSIX does")
@pytest.mark.parametrize("signals", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_stops_within_a_task_and_leaves_nothing_running(signals, count):
    """Further signals come while the first is waiting for the helpers, whose tasks here are long (30 ms).

    In time at one of at most five: a busy machine may stall for longer.
    """
    assert any(interrupted(signals, count) < 0.4 for _ in range(5))


def test_many_callers_share_one_pool_without_deadlock():
    threads.share(2, lambda: lambda number: 1, 3)
    sums = []

    def caller():
        for _ in range(20):
            done = np.zeros(40, np.int64)

            def work(number, done=done):
                done[number] += 1
                return 1

            threads.share(40, lambda work=work: work, 3)
            sums.append(int(done.sum()) == 40 == int((done == 1).sum()))

    callers = [threading.Thread(target=caller) for _ in range(16)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert sums == [True] * 320


def test_a_task_may_share_tasks_itself():
    ran = []

    def outer(number):
        threads.share(5, lambda: lambda inner: ran.append((number, inner)) or 1, 3)
        return 1

    threads.share(6, lambda: outer, 3)
    assert sorted(ran) == [(i, j) for i in range(6) for j in range(5)]


def test_a_buffer_is_let_go_when_its_fill_has_ended_even_if_no_helper_came():
    release = threading.Event()
    blocker = threading.Thread(
        target=lambda: threads.share(8, lambda: lambda number: release.wait(20) and 1, 8)
    )
    blocker.start()
    time.sleep(0.05)

    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    threads.share(10, lambda thing=thing: lambda number: 1, 4)
    del thing
    gc.collect()
    try:
        assert gone() is None
    finally:
        release.set()
        blocker.join()


def test_without_any_helper_the_caller_does_all(monkeypatch):
    pool = threads._Pool()
    monkeypatch.setattr(threads, "_pool", pool)

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stacks, "start_new_thread", refuse)
    ran = []
    threads.share(30, lambda: lambda number: ran.append(number) or 1, 4)
    assert ran == list(range(30))
    assert pool.staff == {}
