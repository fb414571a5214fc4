"""PyInstaller's hooks for fanfill and its kernels, which it finds by the entry point ``pyinstaller40``."""

from __future__ import annotations

import os

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """The folders that hold ``hook-*.py``."""
    return [os.path.dirname(__file__)]
