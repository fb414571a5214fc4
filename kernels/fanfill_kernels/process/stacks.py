"""Threads with enough stack: whether this one has it, and how to start one that does.

``threading.stack_size`` lets a program give its threads 32 KiB, and musl gives them 128. A shortage of a few
KiB may go unnoticed: a kernel's scratch may begin beyond the guard page, in other memory.
"""

import ctypes
import os
import sys
import threading
from _thread import stack_size, start_new_thread
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import call
from typing import Any, TypeVar

Result = TypeVar("Result")

# Bytes of stack, including all callers. Measured with CPython 3.11 on x86-64: a thread that does nothing has
# used 11 KiB, one that fills a range 24, one that fills a box 25 to 32, one that compiles 71.
KERNEL = 1 << 16
COMPILER = 1 << 19
STARTED = 1 << 20  # the least that a thread started here has

# Seconds. In any program, a signal that arrives between Python's last check for signals and the system's wait
# for a lock does not end that wait: its handler would run only when the work is done, or at the next signal.
UNNOTICED = 0.1

_forks = 0  # between this process and the first one
_gates: list[Any] = []  # locks on which threads wait for a worker


class _Own(threading.local):
    size = 0  # not known yet


_own = _Own()


def size() -> int:
    """Bytes of this thread's stack; ``sys.maxsize`` if the system does not say."""
    if not _own.size:  # takes 4 us, or a few ms on the main thread: the C library reads its memory map
        _own.size = _asked() or sys.maxsize
    return _own.size


def _asked() -> int:
    if sys.platform == "linux":
        library, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(512)  # 56 bytes on x86-64
        first, found = ctypes.c_void_p(), ctypes.c_size_t()
        if library.pthread_getattr_np(ctypes.c_ulong(threading.get_ident()), attributes) == 0:
            library.pthread_attr_getstack(attributes, ctypes.byref(first), ctypes.byref(found))
            library.pthread_attr_destroy(attributes)
            return found.value
    return 0 if threading.get_ident() == threading.main_thread().ident else _chosen()


def _chosen() -> int:
    """The size that the program has chosen for new threads, or 0; ``threading.stack_size()`` resets it."""
    function = ctypes.pythonapi.PyThread_get_stacksize
    function.restype = ctypes.c_size_t
    chosen: int = function()
    return chosen


def start(function: Callable[..., object], *arguments: Any) -> bool:
    """Start a thread that has enough stack, whatever the program chose for its own; False if none can start.

    It is a thread of ``_thread``: starting one of ``threading`` waits for it, under a lock of that module.
    """
    chosen = _chosen()
    enough = max(chosen, STARTED) if chosen else 0  # 0: the system's own choice
    # One call, during which neither another thread nor a signal handler can run (as long as there is a GIL):
    # no other thread can start or choose a size in between.
    steps = (
        partial(stack_size, enough),
        partial(start_new_thread, function, arguments),
        partial(stack_size, chosen),
    )
    try:
        before = next(iter([*map(call, steps)]))
    except RuntimeError:  # no more threads, or at exit
        stack_size(chosen)
        return False
    if before != chosen:
        stack_size(before)
    return True


def aside(
    function: Callable[[], Result], stack: int, guard: AbstractContextManager[Any] | None = None
) -> Result:
    """Call a function on another thread and wait for it. If a signal handler raises an exception in the
    meantime, it is raised at the end.

    Parameters
    ----------
    stack
        How many bytes of stack the function needs. If no thread can be started, this one must have them.
    guard
        A context that the function runs in. When it is left, this thread sees the result, too.

    Raises
    ------
    RuntimeError
        If no thread has that much stack.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    interruptions: list[BaseException] = []
    turns: list[None] = []  # one item, which a worker takes: if two were started, only one does the work
    gate = threading.Lock()
    gate.acquire()

    def run() -> None:
        sys.settrace(threading.gettrace())  # a debugger's hook, as on any thread that threading starts
        with guard or nullcontext():
            try:
                if turns:
                    turns.pop()
                    results.append(function())
            except BaseException as error:  # raised again by the caller
                errors.append(error)
            finally:
                if (results or errors) and gate.locked():
                    gate.release()

    started, process = False, -1
    _gates.append(gate)
    while not (results or errors):
        try:
            if process != _forks:  # a signal handler has forked, and the child has no worker
                turns[:], started, process = [None], False, _forks
            started = started or start(run)
            if started:
                gate.acquire(timeout=UNNOTICED)
            elif size() < stack:
                errors.append(_refusal(stack))
            else:
                turns[:] = [None]
                run()
        except BaseException as error:  # a signal handler's
            interruptions.append(error)
    _gates.remove(gate)
    for raised in interruptions + errors:
        raise raised
    return results[0]


def _refusal(stack: int) -> RuntimeError:
    return RuntimeError(
        f"stack: expected {stack >> 10} KiB on the thread that fills, or a thread that can be started; got "
        f"{size() >> 10} KiB, and none can be; pass more to threading.stack_size before you start that thread"
    )


def _in_child() -> None:
    """Wake threads that wait for a worker: it does not exist in this process."""
    global _forks
    _forks += 1
    for gate in _gates:
        if gate.locked():
            gate.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
