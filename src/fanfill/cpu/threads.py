"""The threads that fill: how many, and one pool that all simultaneous fills share.

This module meets these requirements:

* Results never depend on threads, so any number of helpers may turn up, or none. The calling thread takes
  tasks like the others. A busy pool, a failed thread start or an interpreter about to exit only mean fewer
  helpers.
* When `share` has returned or raised, none of its helpers is running, and none will start.
* Ctrl-C, and any exception in a task or a report, stops all threads after their current tasks.
* After a fork the child has no helper threads. It gets a new pool, whatever the parent's threads were doing.
* A signal handler, a finalizer or a trace function may fill while its own thread is anywhere in this module:
  a caller waits only for helpers' current tasks and for a lock that is never held across a call.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fanfill import cgroup, system
from fanfill.arguments import integer
from fanfill_kernels.process import stacks

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[int], int]

_MOST = 2**31
# A caller that waits for a helper checks this often (in seconds) whether a signal handler has forked: the
# child has no helper.
_PATIENCE = 0.2
_chosen: int | None = None


def set_threads(n: int | None) -> None:
    """Set how many threads fills use from now on (>= 1); None goes back to the environment's choice."""
    global _chosen
    _chosen = None if n is None else integer(n, "threads", 1, _MOST, "[1, 2**31)")


def get_threads() -> int:
    """Return how many threads a fill uses by default, the calling thread included.

    The first of these that is set counts: `set_threads`; the environment variables FANFILL_NUM_THREADS,
    NUMBA_NUM_THREADS and OMP_NUM_THREADS (its first number, if it is a list); the number of CPUs that this
    process may use (affinity and cgroup quota). The environment is read once per process.

    Raises ValueError if FANFILL_NUM_THREADS is not an integer >= 1. Bad values of the other two are ignored.
    """
    return resolve(None)


def resolve(threads: int | None) -> int:
    """Return the number of threads for one fill: its argument, or else the value of `get_threads`."""
    if threads is not None:
        return integer(threads, "threads", 1, _MOST, "[1, 2**31)")
    return _environment()[0] if _chosen is None else _chosen


def why() -> str:
    """Say where the number of `get_threads` comes from, in a few words."""
    return _environment()[1] if _chosen is None else "set_threads"


@functools.cache
def _environment() -> tuple[int, str]:
    own = os.environ.get("FANFILL_NUM_THREADS", "").strip()
    if own:
        if count := _positive(own):
            return count, "FANFILL_NUM_THREADS"
        raise ValueError(f"FANFILL_NUM_THREADS: expected an integer >= 1; got {own!r}; correct or unset it")
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if count := _positive(os.environ.get(name, "").split(",")[0]):
            return count, name
    cpus = usable_cpus()
    return (
        cpus,
        "CPUs this process may use" if cpus == system.affinity() else "CPU quota of this process's cgroup",
    )


def _positive(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and 1 <= int(text) < _MOST else None


def usable_cpus(root: str | os.PathLike[str] = "/") -> int:
    """Return how many CPUs this process may use: the affinity or the cgroup quota (rounded up), if smaller.

    A quota may be set on the process's own cgroup or any ancestor (version 2's ``cpu.max``, version 1's
    ``cpu.cfs_quota_us``). Files that are missing or make no sense are ignored.

    ``root`` is the folder that holds ``proc`` and ``sys``.
    """
    return min([system.affinity(), *map(_quota, cgroup.folders("cpu", root))])


def _quota(folder: bytes) -> int:
    """Return the quota of one cgroup in CPUs, or `_MOST` if it has none ("max", -1)."""
    try:
        if os.path.exists(os.path.join(folder, b"cpu.max")):
            quota, period = map(int, _read(folder, b"cpu.max").split())
        else:
            quota, period = (int(_read(folder, b"cpu.cfs_%s_us" % name)) for name in (b"quota", b"period"))
    except (OSError, ValueError):
        return _MOST
    return -(-quota // period) if quota > 0 and period > 0 else _MOST


def _read(folder: bytes, name: bytes) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def share(
    tasks: int, worker: Callable[[], Work], threads: int, report: Callable[[int], object] | None = None
) -> None:
    """Run tasks 0 .. tasks-1, each once, on the calling thread and at most ``threads - 1`` helpers.

    Parameters
    ----------
    tasks
        How many tasks there are.
    worker
        Called once on each thread that takes part; returns its task function (which may own a scratch). A
        task function gets the task's number and returns how much it did, in the caller's units.
    threads
        The most threads to use, the calling one included.
    report
        Called on the calling thread after each of its own tasks, with the amount done so far by all threads.

    Raises
    ------
    BaseException
        Whatever a task or ``report`` raised, KeyboardInterrupt included. By then no task is running.
    """
    if threads <= 1 or tasks <= 1:
        work, done = worker(), 0
        for number in range(tasks):
            done += work(number)
            if report is not None:
                report(done)
        return
    pool = _pool
    job = _Job(tasks, worker, pool)
    tickets = [_Ticket(job) for _ in range(min(threads, tasks) - 1)]
    # Closing the job is a plain store, and CPython runs no signal handler between an exception's arrival and
    # a handler's first store: however often Ctrl-C is pressed, helpers stop after their current tasks. The
    # wait for them is written twice: if a second Ctrl-C arrives just before the first wait, the second waits.
    try:
        try:
            pool.enlist(tickets)
            job.pull(report)
        finally:
            job.open = False
            _collect(pool, tickets)
    finally:
        job.open = False
        _collect(pool, tickets)
    if job.error is not None:
        raise job.error


class _Job:
    """Tasks to share: a counter that every thread takes from."""

    __slots__ = ("done", "error", "lock", "next", "open", "pool", "tasks", "worker")

    def __init__(self, tasks: int, worker: Callable[[], Work], pool: _Pool) -> None:
        self.tasks, self.worker, self.pool = tasks, worker, pool
        self.next = self.done = 0
        self.open = True
        self.error: BaseException | None = None
        self.lock = threading.Lock()

    def pull(self, report: Callable[[int], object] | None = None) -> None:
        work, units = self.worker(), 0
        while True:
            with self.lock:
                self.done += units
                done, number = self.done, self.next
                last = number >= self.tasks or not self.open
                self.next = number if last else number + 1
            if report is not None and units:
                report(done)
                self.pool.assert_ours()
            if last:
                return
            units = work(number)

    def help(self) -> None:
        try:
            self.pull()
        except BaseException as error:  # raised again by the calling thread
            self.error = error
            self.open = False


class _Ticket:
    """A helper's permission to join a job. The helper locks it to work, the caller to revoke it.

    Waiting for a working helper and revoking an unused ticket are the same act: locking it. The lock is
    reentrant, so locking it again, after an interruption at any point, is harmless.
    """

    __slots__ = ("job", "lock")

    def __init__(self, job: _Job) -> None:
        self.job: _Job | None = job
        self.lock = threading.RLock()

    def redeem(self) -> None:
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self.job is not None:
                self.job.help()
        finally:  # whatever is raised in this thread, the caller waits for the lock
            self.lock.release()


def _collect(pool: _Pool, tickets: list[_Ticket]) -> None:
    """Lock every ticket: wait for working helpers, one task at most, and keep the others from starting."""
    interruption: BaseException | None = None
    for ticket in tickets:
        while ticket.job is not None:
            pool.assert_ours()
            try:
                if ticket.lock.acquire(timeout=_PATIENCE):
                    ticket.job = None  # a ticket still queued must not keep the buffer alive
            except BaseException as error:  # whatever a signal handler raises
                interruption = error
    if interruption is not None:
        raise interruption


class _Pool:
    """Helper threads, as many as the largest request so far; daemons, so that they delay no exit.

    Nothing here takes a lock: the staff is changed by single operations, and a caller that meets another one
    adding to it does without more helpers.
    """

    def __init__(self) -> None:
        self.staff: dict[object, int] = {}  # its helpers: a mark for each, and its thread
        self.queue: SimpleQueue[_Ticket] = SimpleQueue()

    def assert_ours(self) -> None:
        if self is not _pool:
            raise RuntimeError("this process was forked inside a fill, which only its parent can finish")

    def enlist(self, tickets: list[_Ticket]) -> None:
        while len(self.staff) < len(tickets):
            mark = object()
            self.staff[mark] = 0
            try:
                if len(self.staff) > len(tickets) or not stacks.start(self.serve, mark):
                    del self.staff[mark]
                    break
            except BaseException:  # a signal handler's: if the helper has been started, it enters itself
                self.staff.pop(mark, None)
                raise
        for ticket in tickets[: len(self.staff)]:
            self.queue.put(ticket)

    def serve(self, mark: object) -> None:
        self.staff[mark] = threading.get_ident()
        try:
            # As on any thread that threading starts: its name, and a debugger's or a profiler's hooks.
            threading.current_thread().name = f"fanfill-{list(self.staff).index(mark)}"
            sys.setprofile(threading.getprofile())
            sys.settrace(threading.gettrace())
            while True:
                self.queue.get().redeem()
        finally:  # ended by a debugger's or a timeout library's asynchronous exception: make room
            self.staff.pop(mark, None)


_pool = _Pool()


def _after_fork() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
