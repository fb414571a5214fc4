"""Huge pages for memory that a fill is about to touch for the first time.

A fresh buffer has no pages yet: the system makes them, zeroed, one fault each. With pages of 4 KiB that takes
twice as long as the draws themselves. Linux makes pages of 2 MiB where a program says that it wants them
(``transparent_hugepage`` set to ``madvise``, as most distributions have it). NumPy says so for its own
arrays, other frameworks do not; and who fills a buffer will touch all of it, whoever allocated it.

It is a hint: no value depends on it, pages that exist stay as they are, and where the system cannot follow
nothing is lost.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from numpy.lib.array_utils import byte_bounds

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
        page = _page()
        first, end = -(-first // page) * page, end // page * page
        advise(first, end - first, _MADV_HUGEPAGE)


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    """Linux' ``madvise``; None elsewhere, or if FANFILL_HUGE_PAGES, which is read once, is 0."""
    if sys.platform != "linux" or os.environ.get("FANFILL_HUGE_PAGES") == "0":
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # a C library without it
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return function


@functools.cache
def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")
