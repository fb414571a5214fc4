"""Huge pages for memory that a fill is about to touch for the first time.

A fresh buffer has no pages yet: the system makes them, zeroed, one fault each. With pages of 4 KiB that takes
twice as long as the draws themselves. Linux makes pages of 2 MiB where a program says that it wants them
(``transparent_hugepage`` set to ``madvise``, as most distributions have it). NumPy says so for its own
arrays, other frameworks do not; and who fills a buffer will touch all of it, whoever allocated it.

It is a hint: no value depends on it, pages that exist stay as they are, and where the system cannot follow
nothing is lost.
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

# As NumPy: from here on at least one whole huge page lies inside, wherever the buffer begins.
LEAST = 1 << 22
_MADV_HUGEPAGE = 14


def ask(view: NDArray[Any]) -> None:
    """Ask for huge pages under a view that is about to be written whole.

    A view with gaps is left alone: nobody said that the memory between will be touched, and huge pages would
    make it resident.
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
    """The system's ``madvise``, if it has one and FANFILL_HUGE_PAGES, which is read once, is not 0."""
    return None if os.environ.get("FANFILL_HUGE_PAGES") == "0" else system.madvise()
