"""Modules that are imported when they are first needed, by a thread that a fork waits for.

A child that is forked while another thread is in the middle of importing a module can never import it.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from fanfill_kernels.process import forks

__all__ = ["module"]

_lock = forks.lock()


@functools.cache
def module(name: str) -> Any:
    """Return a module, imported if need be."""
    with _lock:
        return forks.call(lambda: importlib.import_module(name))
