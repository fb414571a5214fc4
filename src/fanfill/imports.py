"""Imports modules when they are first needed, in a way that forks wait for.

A child forked while another thread is importing a module could never import that module.
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
    """Return a module; import it if necessary."""
    with _lock:
        return forks.call(lambda: importlib.import_module(name))
