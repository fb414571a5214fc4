"""Forks beside, within and from signal handlers of what a fork must not cut in two. Nothing here races."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import assert_fails, child

pytestmark = pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="forks")

BEGIN = """
import signal
from fanfill_kernels.process import forks, stacks
from fanfill_kernels.process.undivided import undivided, whole
warnings.simplefilter("ignore", DeprecationWarning)
main = threading.main_thread().ident
def code(child):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    return "hung"
def until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()
"""

HANDLER = """
parent, children, begun = os.getpid(), [], threading.Event()
def fork(number, frame):
    begun.set()
    children.append(os.fork())
    if not children[-1]:
        assert undivided(lambda: 7) == 7
signal.signal(signal.SIGUSR1, fork)
def work():
    if os.getpid() == parent:
        signal.pthread_kill(main, signal.SIGUSR1)
        begun.wait(20)
        until(lambda: forks._waits or children)
    return "whole"
found = undivided(work)
if os.getpid() != parent:
    os._exit(0 if found == "whole" else 3)
assert found == "whole"
assert [code(pid) for pid in children] == [0]
"""


def test_a_fork_in_a_signal_handler_during_the_main_threads_work_waits_for_it() -> None:
    child(BEGIN + HANDLER)


BEFORE_IT_BEGINS = """
parent, children, go, real = os.getpid(), [], threading.Event(), stacks.start
def fork(number, frame):
    children.append(os.fork())
    go.set()
signal.signal(signal.SIGUSR1, fork)
def late(function):
    if os.getpid() != parent:
        return real(function)
    def strike():
        until(lambda: sys._current_frames()[main].f_code.co_name == "aside")
        signal.pthread_kill(main, signal.SIGUSR1)
    return real(strike) and real(lambda: go.wait(20) and function())
stacks.start = late
done = []
assert undivided(lambda: done.append(os.getpid()) or 7) == 7
assert done == [os.getpid()], done
if os.getpid() != parent:
    os._exit(0)
assert [code(pid) for pid in children] == [0]
"""


def test_a_child_forked_before_the_work_has_begun_does_it_itself() -> None:
    child(BEGIN + BEFORE_IT_BEGINS)


WITHIN = """
def work():
    pid = os.fork()
    if not pid:
        os._exit(0 if undivided(lambda: 7) == 7 else 3)
    return code(pid)
assert undivided(work) == 0
thread_says = []
thread = threading.Thread(target=lambda: thread_says.append(undivided(work)))
thread.start()
thread.join()
assert thread_says == [0]
"""


def test_the_thread_that_works_may_fork_itself() -> None:
    child(BEGIN + WITHIN)


FILL_WITHIN = """
wanted = draw(1000, backend="numpy", threads=1)
from fanfill_kernels.compile import cpu
run = cpu.kernels("normal", "float32").run
assert undivided(lambda: draw(1000, backend="numba")) == wanted
assert run._call is None  # the backend has compiled its tiny kernel, but not this one
assert draw(1000, backend="numba") == wanted
assert run._call is not None
"""


def test_a_fill_within_a_compilation_runs_as_python_and_later_ones_are_compiled(tmp_path: Path) -> None:
    child(BEGIN + FILL_WITHIN, FANFILL_CACHE_DIR=str(tmp_path))


# A module that is imported while a fork waits: by the thread that works, and by another.
MEANWHILE = """
import gc
locks = [threading.Lock(), threading.Lock()]
def module(lock):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
original, holding, waiting = os.register_at_fork, threading.Event(), threading.Event()
def work():
    holding.set()
    module(locks[0])
    until(lambda: forks._waits)
    other = threading.Thread(target=lambda: module(locks[1]))
    other.start()
    other.join()
worker = threading.Thread(target=lambda: undivided(work))
worker.start()
holding.wait()
for _ in range(2):  # the second fork finds them registered
    pid = os.fork()
    assert [lock.locked() for lock in locks] == [False, False]
    if not pid:
        as_before = os.register_at_fork is original and gc.isenabled()
        os._exit(0 if not whole.acquire(False) or as_before else 3)
    assert code(pid) == 0
worker.join()
assert os.register_at_fork is original
assert not forks._waits and not forks._put_off
"""


def test_what_is_registered_while_a_fork_waits_has_its_whole_part_in_it() -> None:
    child(BEGIN + MEANWHILE)
    # The control: CPython alone releases locks that were never taken.
    unnoticed = "forks._registered = forks._register\n" + MEANWHILE
    assert_fails(BEGIN + unnoticed + "sys.exit('done')", "release unlocked lock")


NEEDED = """
lock, registered = threading.Lock(), threading.Event()
def work():
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    registered.set()
    until(lambda: forks._waits)
    assert lock.acquire(timeout=20), "a fork that waits holds it"
    lock.release()
results = []
worker = threading.Thread(target=lambda: results.append(undivided(work)))
worker.start()
registered.wait()
pid = os.fork()
if not pid:
    os._exit(0)
assert code(pid) == 0
worker.join()
assert results == [None]
"""


def test_a_fork_that_waits_holds_no_lock_that_the_work_has_registered() -> None:
    child(BEGIN + NEEDED)


STRUCK = """
holding, printed = threading.Event(), []
sys.unraisablehook = lambda error: printed.append(error.exc_type)
def work():
    holding.set()
    until(lambda: forks._waits)
    for number in range(2):
        signal.pthread_kill(main, signal.SIGINT)
        until(lambda: len(came) > number)
came = []
def strike(number, frame):
    came.append(number)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, strike)
worker = threading.Thread(target=lambda: undivided(work))
worker.start()
holding.wait()
pid = os.fork()
assert len(came) == 2 and whole.acquire(False)
whole.release()
if not pid:
    os._exit(0)
assert code(pid) == 0
assert printed == [KeyboardInterrupt], printed
worker.join()
"""


def test_ctrl_c_while_a_fork_waits_is_printed_as_cpython_does_and_the_fork_goes_on_waiting() -> None:
    child(BEGIN + STRUCK)


# A first fill on another thread, which is held in the middle of importing a module until the main thread's
# fork has ended, or has waited for so many seconds; then the child needs that module.
FIRST_IMPORTS = """
warnings.simplefilter("ignore", DeprecationWarning)
importing, forked = threading.Event(), threading.Event()
class Held:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and threading.current_thread() is filler:
            importing.set()
            forked.wait({seconds})
sys.meta_path.insert(0, Held())
def fill():
    return ff.fill(np.empty(100, np.float32), LAW, seed=3, name="a", backend={backend!r}).tobytes()
filler = threading.Thread(target=fill)
filler.start()
assert importing.wait(20)
pid = os.fork()
forked.set()
if not pid:
    fill()
    os._exit(0)
end = time.monotonic() + 20
while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
    time.sleep(0.01)
if not done[0]:
    os.kill(pid, 9)
    raise SystemExit("hung")
assert done[1] == 0
filler.join()
"""


@pytest.mark.parametrize(
    ("module", "backend"),
    [
        ("hashlib", "numpy"),
        ("fanfill.cpu.numpy", "numpy"),
        ("fanfill_kernels.blocks.tape", "numpy"),
        ("fanfill.cpu.numba", "numba"),
        ("fanfill_kernels.process.undivided", "numba"),
        ("fanfill_kernels.compile.cpu", "numba"),
    ],
)
def test_a_fork_waits_for_the_modules_that_a_first_fill_imports(module: str, backend: str) -> None:
    program = FIRST_IMPORTS.format(module=module, backend=backend, seconds=0.3)
    child(program, fresh=module == "hashlib")  # which a prepared process has imported


# A module whose body waits for the fork: no finder does, since those hold a lock that a fork waits for.
SLOW = """
from importlib.machinery import ModuleSpec
class Slow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, Slow()) if name == "slow" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        importing.set()
        forked.wait(60)
sys.meta_path.insert(0, Slow)
def fill():
    import slow"""


def test_a_fork_in_the_middle_of_an_import_that_nobody_guards_hangs() -> None:
    unguarded = FIRST_IMPORTS.format(module="none", backend="numpy", seconds=0.3)
    unguarded = unguarded.replace("def fill():", SLOW).replace("monotonic() + 20", "monotonic() + 2")
    assert_fails(unguarded, "hung")
