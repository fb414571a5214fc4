"""Faults around a fill (threads, memory, processors): a clear error or the right bits, and a way on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from processes import assert_fails, child

from fanfill.cpu import threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults as Linux has them")


def test_the_check_of_bits_can_fail() -> None:
    assert_fails(
        "right(law=ff.normal(), name=7); draw = lambda **o: os.urandom(8); right()", "AssertionError"
    )


# Threads

THREADS_THAT_DIE = """
import ctypes
from fanfill.cpu import threads
def helpers():
    return list(threads._pool.staff.values())
def throw_into(ident):
    error = ctypes.py_object(SystemExit)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), error) == 1

right()
assert len(helpers()) == 2
assert {t.name for t in threading.enumerate()} == {"MainThread", "fanfill-0", "fanfill-1"}
# Into idle helpers: they die when the next fill wakes them, and others take their places.
for thread in helpers():
    throw_into(thread)
for _ in range(3):
    right()
time.sleep(0.2)
right()
before = set(helpers())
assert len(before) == 2, before

# Into a helper at work: its fill ends with the error, and the next one is right.
def busy(number):
    for _ in range(20):
        time.sleep(0.0005)
    return 1
stopped = 0
for _ in range(20):
    timer = threading.Timer(0.03, lambda: throw_into(helpers()[0]))
    timer.start()
    try:
        threads.share(40, lambda: busy, 3)
    except SystemExit:
        stopped += 1
    timer.join()
    right()
assert stopped >= 10, stopped
time.sleep(0.2)
right()
assert len(helpers()) == 2, helpers()
"""


def test_helpers_that_die_are_replaced_and_no_fill_waits_for_them() -> None:
    child(THREADS_THAT_DIE)


PROGRESS = """
class Stop(Exception): pass
def stopped(threads, at):
    buffer = np.zeros(8_000_000, np.float32)
    def progress(done, total):
        if done >= at * total:
            raise Stop
    try:
        ff.fill(buffer, LAW, seed=3, threads=threads, progress=progress)
    except Stop:
        pass
    else:
        raise SystemExit("went on")
    left = buffer.copy()
    time.sleep(0.05)
    assert left.tobytes() == buffer.tobytes(), "written after the call had ended"
    right()
    return np.count_nonzero(buffer) < buffer.size
assert stopped(1, 0.1) and stopped(1, 0.5) and not stopped(1, 1.0)
# Where the machine is busy, helpers may have done the rest before the calling thread reports: not each time.
for at in (0.1, 0.5):
    assert any(stopped(3, at) for attempt in range(20)), "helpers went on"
assert not stopped(3, 1.0)
"""


def test_an_error_in_progress_ends_the_fill_and_nothing_writes_afterwards() -> None:
    child(PROGRESS)
    late = PROGRESS.replace(
        "left = buffer.copy()", "left = buffer.copy(); threading.Timer(.01, buffer.fill, (1,)).start()"
    )
    assert_fails(late, "written after the call had ended")


# Memory and processors

MEMORY = """
import resource
def right_turned(n=500):
    turned = np.empty((n, n), np.float32).T
    assert ff.fill(turned, LAW, seed=3, threads=3).tobytes() == draw((n, n), backend="numpy", threads=1)
right()
right_turned(3000)
buffer, turned = np.empty(9_000_000, np.float32), np.empty((3000, 3000), np.float32).T
wanted = draw(9_000_000, backend="numpy", threads=1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {spare}, resource.RLIM_INFINITY))
try:
    bytearray(64 << 20)
except MemoryError:
    pass
else:
    raise SystemExit("there is no limit")
ended = 0
for threads in (1, 3, 64):  # the threads' stacks of 8 MiB find no room
    for view in (buffer, turned):
        try:
            ff.fill(view, LAW, seed=3, threads=threads)
        except MemoryError:  # no scratch for a strided fill: said, and nothing else happens
            assert view is turned
        else:
            ended += 1
            assert view is turned or (view[:-1] == np.frombuffer(wanted, np.float32)[:-1]).all()
assert ended >= 3, ended
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert buffer.tobytes() == wanted
right()
right_turned()
"""


@pytest.mark.parametrize("spare", [40 << 20, 24 << 20])
def test_a_memory_limit_after_the_first_fill_leaves_fills_that_need_none(spare: int) -> None:
    child(MEMORY.format(spare=spare))


def test_on_one_cpu_nobody_helps_and_the_bits_are_right() -> None:
    program = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
right(threads=None)
assert ff.get_threads() == 1
assert not [t for t in threading.enumerate() if t.name.startswith("fanfill-")]
right(threads=3)
"""
    unset = dict.fromkeys(("FANFILL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"))
    child(program, **unset)
    assert_fails(program.replace("os.sched_setaffinity", "print"), "AssertionError", **unset)


def quota_folder() -> Path | None:
    """A new cgroup with a quota of half a processor, if this user may make one; of version 1 or 2."""
    for mount, files in (
        ("/sys/fs/cgroup/cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
        ("/sys/fs/cgroup", {"cpu.max": "50000 100000"}),
    ):
        folder = Path(mount) / f"fanfill:test ü {os.getpid()}"  # the kernel escapes neither
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            for name, text in files.items():
                (folder / name).write_text(text)
            return folder
        except OSError:
            folder.rmdir()
    return None


def test_a_real_cgroup_quota_is_found_and_filled_under() -> None:
    folder = quota_folder()
    if folder is None:
        pytest.skip("no cgroup can be made here; test_cgroup.py reads the files of made-up ones")
    program = f"""
Path({str(folder / "cgroup.procs")!r}).write_text(str(os.getpid()))
right(threads=None)
right(threads=3)
from fanfill.cpu import threads
assert (ff.get_threads(), threads.why()) == (1, "CPU quota of this process's cgroup"), threads.why()
"""
    unset = dict.fromkeys(("FANFILL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"))
    try:
        child(program, **unset)
        if threads.usable_cpus() > 1:
            assert_fails(program.replace("write_text", "with_name"), "CPUs this process may use", **unset)
    finally:
        folder.rmdir()
