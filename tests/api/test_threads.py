"""How many threads, and what becomes of them when the process forks or ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fanfill import system
from fanfill.cpu import threads

NAMES = ("FANFILL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@pytest.fixture
def environment(monkeypatch):
    """Sets the thread variables (all others gone), as a process that starts with them would see them."""

    def put(**variables):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        threads._environment.cache_clear()

    put()
    yield put
    threads.set_threads(None)
    threads._environment.cache_clear()


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("variables", "count", "why"),
    [
        ({"FANFILL_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "4"}, 3, "FANFILL_NUM_THREADS"),
        ({"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "5"}, 4, "NUMBA_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "5,3,2"}, 5, "OMP_NUM_THREADS"),
        ({"NUMBA_NUM_THREADS": "many", "OMP_NUM_THREADS": "6"}, 6, "OMP_NUM_THREADS"),
        ({"NUMBA_NUM_THREADS": "0", "OMP_NUM_THREADS": "-2", "FANFILL_NUM_THREADS": ""}, None, "CPU"),
        ({}, None, "CPU"),
    ],
)
def test_the_first_variable_that_holds_a_count_decides(environment, variables, count, why):
    environment(**variables)
    assert threads.get_threads() == (threads.usable_cpus() if count is None else count)
    assert why in threads.why()


def test_set_threads_beats_the_environment_and_the_argument_beats_both(environment):
    environment(FANFILL_NUM_THREADS="3")
    threads.set_threads(5)
    assert (threads.get_threads(), threads.why(), threads.resolve(7)) == (5, "set_threads", 7)
    threads.set_threads(None)
    assert threads.get_threads() == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1,2"])
def test_a_bad_value_of_our_own_variable_is_an_error_every_time(environment, value):
    environment(FANFILL_NUM_THREADS=value)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=rf"FANFILL_NUM_THREADS: expected an integer >= 1; got '{value}'"
        ):
            threads.get_threads()


@pytest.mark.parametrize(
    ("bad", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_counts_below_one_and_other_things_are_refused(bad, error):
    for refuse in (threads.set_threads, threads.resolve):
        with pytest.raises(error, match=r"threads: expected an integer in \[1, 2\*\*31\); got"):
            refuse(bad)


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(system, "affinity", lambda: 64)


def cgroup(root, line, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("line", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "max 1"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "400000 100000"}, 1),
        ("0::/host/path\n", {"cpu.max": "700000 100000"}, 7),
        ("0::/../other\n", {"cpu.max": "500000 100000", "other/cpu.max": "100000 100000"}, 5),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "350000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpuset:/\n2:memory:/\n", {"cpuset/cpu.max": "100000 100000"}, 64),
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("nonsense", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "100000 0"}, 64),
    ],
)
def test_quotas_of_both_cgroup_versions_are_found_on_the_way_to_the_root(
    tmp_path, many_cpus, line, files, cpus
):
    cgroup(tmp_path, line, files)
    assert threads.usable_cpus(tmp_path) == cpus


def test_without_a_cgroup_the_affinity_counts(tmp_path):
    assert threads.usable_cpus(tmp_path) == system.affinity() >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is a Linux call")
def test_affinity_is_respected():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from fanfill.cpu import threads; print(threads.usable_cpus())"
    )
    assert run_python(code).stdout.strip() == "1"


FORK = """
import os, sys, threading, time
from fanfill.cpu import threads
def work(number):
    time.sleep(0.0005)
    return 1
going = threading.Event()
def busy():
    for _ in range(20):
        going.set()
        threads.share(200, lambda: work, 3)
filler = threading.Thread(target=busy)
filler.start()
going.wait()
for _ in range(10):
    child = os.fork()
    if child == 0:
        idents = set()
        def note(number):
            idents.add(threading.get_ident()); time.sleep(0.001); return 1
        threads.share(40, lambda: note, 3)
        os._exit(0 if len(idents) > 1 else 7)
    end = time.monotonic() + 20
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, 9); print("deadlock"); break
        time.sleep(0.005)
    print(os.waitstatus_to_exitcode(status))
filler.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_fill_has_a_pool_of_its_own():
    code = FORK if sys.version_info < (3, 12) else "import warnings; warnings.simplefilter('ignore')\n" + FORK
    result = run_python(code)
    assert result.stdout.split() == ["0"] * 10, result.stderr


FORK_INSIDE = """
import os, threading
from fanfill.cpu import threads
pid = os.getpid()
took_part = threading.Event()  # the calling thread reports after tasks of its own, and helpers could take all
def work(number):
    took_part.set() if threading.current_thread() is threading.main_thread() else took_part.wait(60)
    return 1
def report(done):
    if os.getpid() == pid and not children:
        children.append(os.fork())
children = []
try:
    threads.share(100, lambda: work, 3, report)
except RuntimeError as error:
    os._exit(5 if "forked inside a fill" in str(error) and os.getpid() != pid else 6)
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_by_a_report_gets_an_error_and_its_parent_goes_on():
    code = (
        FORK_INSIDE
        if sys.version_info < (3, 12)
        else "import warnings; warnings.simplefilter('ignore')\n" + FORK_INSIDE
    )
    assert run_python(code).stdout.split() == ["5"]


@pytest.mark.parametrize("started", [True, False])
def test_sharing_works_at_interpreter_exit(started):
    code = f"""
import atexit, concurrent.futures.thread
from fanfill.cpu import threads
def last():
    ran = []
    threads.share(50, lambda: lambda number: ran.append(number) or 1, 4)
    print(sorted(ran) == list(range(50)))
if {started}:
    threads.share(50, lambda: lambda number: 1, 4)
atexit.register(last)
"""
    result = run_python(code)
    assert (result.stdout.strip(), result.stderr, result.returncode) == ("True", "", 0)


def test_idle_helpers_hold_up_no_exit():
    result = run_python(
        "from fanfill.cpu import threads; threads.share(50, lambda: lambda n: 1, 4); print('end')"
    )
    assert (result.stdout.strip(), result.stderr, result.returncode) == ("end", "", 0)
