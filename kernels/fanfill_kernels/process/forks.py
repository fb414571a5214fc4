"""Locks that a fork waits for.

A child that is forked while another thread holds a lock inherits the lock, but not the thread that would
release it. So a fork takes the locks of this module first. It releases them afterwards in the parent and in
the child, where only the forking thread is left.

Modules that are imported in the meantime may register fork hooks, too (``logging``, ``concurrent.futures``).

* If they register hooks while a fork waits, CPython runs the hooks for after the fork, but not those for
  before it: locks would be released that were never taken. This module notices that and makes up for it.
* A fork that begins later takes their locks before it waits, and the import that it waits for may need those
  locks. So hooks that the holder registers take effect only when it is done (`call`).
"""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

# For each working thread: the hooks that it has registered since it began.
_put_off: dict[int, list[dict[str, Any]]] = {}
# For each waiting fork: the hooks registered in the meantime to run before a fork, the latest last.
_waits: dict[int, list[Callable[[], object]]] = {}
_os: Any = os  # which has no forks on Windows
_register: Any = getattr(os, "register_at_fork", None)


class _Own(threading.local):
    """How often a thread's forks have taken a lock."""

    def __init__(self) -> None:
        self.taken: list[bool] = []


def lock() -> Any:
    """A reentrant lock that forks wait for.

    Its holder may fork, and the child then holds it, too. A fork takes the newest lock first: so whoever
    holds an older one must not wait for a newer one.
    """
    made, own = threading.RLock(), _Own()

    def before() -> None:
        # The lock is taken and noted in one call: no signal handler can run in between.
        depth = len(own.taken)
        own.taken.extend(filter(None, map(made.acquire, (False,))))
        if len(own.taken) == depth:
            _wait(made, own, depth)

    def after() -> None:
        if own.taken:  # empty if this fork began before these hooks were registered
            own.taken.pop()
            made.release()

    if _register is not None:
        _os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
    return made


def call(function: Callable[[], Result]) -> Result:
    """Call a function that needs such a lock, which this thread holds."""
    thread, mine = threading.get_ident(), list[dict[str, Any]]()
    if _register is None:
        return function()
    outer = _put_off.get(thread)
    _put_off[thread] = mine
    _os.register_at_fork = _registered
    try:
        return function()
    finally:
        if outer is None:
            _put_off.pop(thread, None)
        else:
            _put_off[thread] = outer
        for hooks in mine:
            _registered(**hooks)
        _restore()


def _wait(made: Any, own: _Own, depth: int) -> None:
    """Take a lock that another thread holds, and run the hooks that a fork beginning now would run first.

    A signal handler's exception does not end the wait. CPython prints what a hook raises, and goes on.
    """
    missed: list[Callable[[], object]] = []
    errors: list[BaseException] = []
    _waits[id(missed)] = missed
    _os.register_at_fork = _registered
    try:
        while len(own.taken) == depth:
            try:
                own.taken.extend(map(made.acquire, (True,)))
            except BaseException as error:  # a signal handler's
                errors.append(error)
            if missed and len(own.taken) > depth:
                own.taken.pop()
                made.release()
                while missed:
                    try:
                        missed.pop()()
                    except BaseException as error:  # the others must still run
                        errors.append(error)
    finally:
        _waits.pop(id(missed), None)
        _restore()
    if errors:
        raise errors[0]


def _registered(**hooks: Any) -> None:
    """Replaces ``os.register_at_fork`` while a fork waits or a thread is at work."""
    mine = _put_off.get(threading.get_ident())
    if mine is not None:
        mine.append(hooks)
        return
    _register(**hooks)
    if "before" in hooks:
        for missed in tuple(_waits.values()):
            missed.append(hooks["before"])


def _restore() -> None:
    if not (_waits or _put_off) and _os.register_at_fork is _registered:
        _os.register_at_fork = _register
    if _waits or _put_off:  # another thread has changed them since the lines above
        _os.register_at_fork = _registered


def _in_child() -> None:
    """Forget the other threads."""
    _waits.clear()
    for thread in [key for key in _put_off if key != threading.get_ident()]:
        del _put_off[thread]
    _restore()


if _register is not None:
    _os.register_at_fork(after_in_child=_in_child)
