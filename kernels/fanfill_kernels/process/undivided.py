"""Runs work that neither a fork nor a signal may cut in two: the import of Numba, and compilations.

* Both hold many locks (the import system's, Numba's, LLVM's) for a second or two. So the thread that does
  either holds `whole`, and forks on other threads wait for it.
* If a signal handler raises an exception inside a callback of LLVM, it is printed and lost, and the
  compilation is left unfinished; inside an import, it leaves half a module. Python runs signal handlers only
  on the main thread. So another thread does the work, and the exception is raised when it is done. The main
  thread itself holds nothing: a handler may fill, or fork.
* Both may need more stack than a thread has. In that case, too, another thread does the work.
* Both make many objects that live on, which Python's garbage collector visits again and again: a sixth of the
  import and of a compilation. So it rests meanwhile, and is then as it was; a fork that waits finds it so.
  What it has put off is collected by the thread that did the work: on the main thread, an exception of a
  signal handler would now come in some finalizer, where it is printed and lost.
"""

import gc
import logging  # noqa: F401 - Numba imports it: its own part in forks must be set up before one waits here
import threading
from collections.abc import Callable
from typing import TypeVar

from fanfill_kernels.process import forks, stacks

Result = TypeVar("Result")

whole = forks.lock()
_worker: int | None = None  # the thread that holds `whole` for its work


def undivided(function: Callable[[], Result]) -> Result:
    """Run a function to its end. If a signal handler raises an exception meanwhile, it is raised then."""
    if inside():
        return function()
    if threading.get_ident() == threading.main_thread().ident or stacks.size() < stacks.COMPILER:
        return stacks.aside(lambda: _marked(function), stacks.COMPILER, whole)
    with whole:
        return _marked(function)


def inside() -> bool:
    """Whether this thread is doing such work: finalizers, import hooks and trace functions run in it, too.

    They may meet half a module or a busy compiler, and if they waited, they would wait for themselves.
    """
    return _worker == threading.get_ident()


def _marked(function: Callable[[], Result]) -> Result:
    global _worker
    _worker = threading.get_ident()
    collects = gc.isenabled()
    gc.disable()
    try:
        return forks.call(function)
    finally:
        if collects:
            gc.enable()
            gc.collect(0)
        _worker = None
