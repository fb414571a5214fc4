"""Imports modules when they are first needed, in a way that forks wait for.

A child forked while another thread is importing a module could never import that module.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from fanfill_kernels.process import forks

__all__ = ["module", "require"]

_lock = forks.lock()


@functools.cache
def module(name: str) -> Any:
    """Return a module; import it if necessary."""
    with _lock:
        return forks.call(lambda: importlib.import_module(name))


def require(adapter: str, package: str, title: str, oldest: tuple[int, int], remedy: str) -> None:
    """Raise an ImportError that says what to install, unless a package, new enough, can be imported."""
    expected = f"{adapter}: expected {title} {'.'.join(map(str, oldest))} or newer"
    try:
        version = str(importlib.import_module(package).__version__)
    except ImportError as error:
        raise ImportError(f"{expected}; got none that can be imported ({error}); {remedy}") from error
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < oldest:
        raise ImportError(f"{expected}; got {version}; {remedy}")
