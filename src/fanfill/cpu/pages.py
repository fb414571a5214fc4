"""Huge pages for memory that a fill is about to touch for the first time.

A fresh buffer has no pages yet: the system makes them, zeroed, with one fault each. With pages of 4 KiB that
takes twice as long as drawing the values. Linux makes pages of 2 MiB if a program asks for them
(``transparent_hugepage`` set to ``madvise``, as in most distributions). NumPy asks for its own arrays, other
frameworks do not. A fill touches the whole buffer, whoever allocated it, so it asks.

It is a hint: no value depends on it, existing pages stay as they are, and a system that cannot follow it
loses nothing.
"""

from __future__ import annotations

import functools
import os
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any

from numpy.lib.array_utils import byte_bounds

from fanfill import system

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# As in NumPy: a buffer of this size holds at least one whole huge page, wherever it begins.
LEAST = 1 << 22
_MADV_HUGEPAGE = 14


def ask(view: NDArray[Any]) -> None:
    """Ask for huge pages under a view that is about to be written completely.

    A view with gaps is left alone: the memory in the gaps may never be touched, and huge pages would make it
    resident.
    """
    if view.nbytes < LEAST:
        return
    advise = _advise()
    if advise is None:
        return
    first, end = byte_bounds(view)
    if end - first == view.nbytes:
        first, end = -(-first // PAGESIZE) * PAGESIZE, end // PAGESIZE * PAGESIZE
        advise(first, end - first, _MADV_HUGEPAGE)


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    """The system's ``madvise``; None if it has none or FANFILL_HUGE_PAGES (read only once) is 0."""
    return None if os.environ.get("FANFILL_HUGE_PAGES") == "0" else system.madvise()
