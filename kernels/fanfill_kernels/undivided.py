"""What neither a fork nor a signal may cut in two: the import of Numba, and a compilation.

* A child that is forked while another thread holds a lock inherits the lock, and nobody who would let go of
  it. Importing and compiling hold many (the import system's, Numba's, LLVM's) for a second or two. So whoever
  does either holds `whole`, and a fork waits until it has it.
* An exception that a signal handler raises inside a callback of LLVM's is printed and lost, and what was
  being compiled is then in pieces; one inside an import leaves half a module. Python runs signal handlers on
  the main thread alone. So the work is done on another, and the exception comes when it is done.
"""

import logging  # noqa: F401 - Numba imports it: its own part in forks must be set up before one waits here
import os
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

whole = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=whole.acquire,
        after_in_parent=whole.release,
        after_in_child=whole.release,  # held by the thread that forked, which is the one that the child has
    )


def undivided(function: Callable[[], Result]) -> Result:
    """Call a function to its end; what a signal handler raises meanwhile is raised then."""
    with whole:
        if threading.current_thread() is not threading.main_thread():
            return function()
        return _aside(function)


def _aside(function: Callable[[], Result]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []
    gate = threading.Lock()
    gate.acquire()

    def run() -> None:
        sys.settrace(threading.gettrace())  # a debugger's, as on any thread that threading starts
        try:
            results.append(function())
        except BaseException as error:  # raised again by the caller
            errors.append(error)
        gate.release()

    interruptions: list[BaseException] = []
    try:
        start_new_thread(run, ())
    except RuntimeError:  # no more threads, or at exit
        run()
    except BaseException as error:  # a signal handler's, which runs when the thread has been started
        interruptions.append(error)
    while not (results or errors):
        try:
            gate.acquire()
        except BaseException as error:
            interruptions.append(error)
    for raised in interruptions + errors:
        raise raised
    return results[0]
