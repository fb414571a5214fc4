"""Locks that a fork waits for.

A child that is forked while another thread holds a lock inherits the lock, and nobody who would let go of it.
So a fork takes the locks of this module first, and lets go of them afterwards, in the parent and in the
child, in which the thread that forked alone is left.

Modules that are imported meanwhile may have a part in forks, too (``logging``, ``concurrent.futures``).

* What they register while a fork waits is run after it, but CPython does not run what belongs before it:
  locks would be released that were never taken. So that is noticed here and made up for.
* A fork that begins then takes their locks before it waits, and the import that it waits for may need them.
  So what the holder registers comes into force when it is done (`call`).
"""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

# By thread at work: what it has registered since.
_put_off: dict[int, list[dict[str, Any]]] = {}
# By waiting fork: what has been registered meanwhile to run before a fork, the latest last.
_waits: dict[int, list[Callable[[], object]]] = {}
_os: Any = os  # which has no forks on Windows
_register: Any = getattr(os, "register_at_fork", None)


class _Own(threading.local):
    """What a thread's forks have taken of a lock."""

    def __init__(self) -> None:
        self.taken: list[bool] = []


def lock() -> Any:
    """A reentrant lock that forks wait for.

    Its holder may fork, and its child holds it, too. The lock that was made last is taken first: so whoever
    holds an earlier one must not wait for a later one.
    """
    made, own = threading.RLock(), _Own()

    def before() -> None:
        # To take the lock and to note it is one call: no signal handler strikes between.
        depth = len(own.taken)
        own.taken.extend(filter(None, map(made.acquire, (False,))))
        if len(own.taken) == depth:
            _wait(made, own, depth)

    def after() -> None:
        if own.taken:  # not where this fork began before these were registered
            own.taken.pop()
            made.release()

    if _register is not None:
        _os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
    return made


def call(function: Callable[[], Result]) -> Result:
    """Call what needs such a lock, which this thread holds."""
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
    """Take a lock that another thread holds, after all that a fork which began only now would run first.

    The exception of a signal handler does not end that. CPython prints what a hook raises, and goes on.
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
                    except BaseException as error:  # no reason not to run the others
                        errors.append(error)
    finally:
        _waits.pop(id(missed), None)
        _restore()
    if errors:
        raise errors[0]


def _registered(**hooks: Any) -> None:
    """What stands for ``os.register_at_fork`` while there is a fork that waits, or somebody at work."""
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
    if _waits or _put_off:  # of another thread, since those two lines
        _os.register_at_fork = _registered


def _in_child() -> None:
    """Forget the other threads."""
    _waits.clear()
    for thread in [key for key in _put_off if key != threading.get_ident()]:
        del _put_off[thread]
    _restore()


if _register is not None:
    _os.register_at_fork(after_in_child=_in_child)
