"""What neither a fork nor a signal may cut in two: the import of Numba, and a compilation.

* Both hold many locks (the import system's, Numba's, LLVM's) for a second or two. So the thread that does
  either holds `whole`, for which a fork on any other waits.
* An exception that a signal handler raises inside a callback of LLVM's is printed and lost, and what was
  being compiled is then in pieces; one inside an import leaves half a module. Python runs signal handlers on
  the main thread alone. So the work is done on another, and the exception comes when it is done. The main
  thread itself holds nothing: a handler may fill, or fork.
* Both need more stack than a thread may have: then, too, another does the work.
"""

import logging  # noqa: F401 - Numba imports it: its own part in forks must be set up before one waits here
import threading
from collections.abc import Callable
from typing import TypeVar

from fanfill_kernels.process import forks, stacks

Result = TypeVar("Result")

whole = forks.lock()
_worker: int | None = None  # the thread that holds it for its work


def undivided(function: Callable[[], Result]) -> Result:
    """Call a function to its end; what a signal handler raises meanwhile is raised then."""
    if inside():
        return function()
    if threading.get_ident() == threading.main_thread().ident or stacks.size() < stacks.COMPILER:
        return stacks.aside(lambda: _marked(function), stacks.COMPILER, whole)
    with whole:
        return _marked(function)


def inside() -> bool:
    """Whether this thread is at such work: a finalizer, an import hook or a trace function may ask.

    It finds half a module, or a compiler in the middle of something, and waiting would be for itself.
    """
    return _worker == threading.get_ident()


def _marked(function: Callable[[], Result]) -> Result:
    global _worker
    _worker = threading.get_ident()
    try:
        return forks.call(function)
    finally:
        _worker = None
