"""Copies of the kernels' sources, and programs that import them from there."""

from __future__ import annotations

import compileall
import importlib.util
import os
import py_compile
import shutil
from functools import cache
from pathlib import Path

import shared
from processes import Child, begin

# Python checks its own bytecode by the source's time and size, which an edit at once may not change.
NO_BYTECODE = "import sys; sys.dont_write_bytecode = True\n"


@cache
def _compiled() -> Path:
    """The sources with bytecode that is checked by their digests, compiled once in a run."""
    found = importlib.util.find_spec("fanfill_kernels")
    assert found is not None
    assert found.origin is not None
    made = shared.folder() / "kernel sources"
    with shared.alone("kernel-sources"):
        if not made.exists():
            shutil.copytree(Path(found.origin).parent, made, ignore=shutil.ignore_patterns("__pycache__"))
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            assert compileall.compile_dir(made, quiet=1, invalidation_mode=mode)
    return made


def copy_kernels(folder: Path) -> Path:
    """A copy of the package in a folder."""
    return Path(shutil.copytree(_compiled(), folder / "fanfill_kernels"))


def begin_with(place: Path, program: str, cwd: Path, settings: dict[str, str], fresh: bool = False) -> Child:
    """Start a program that imports the kernels from a place, and knows no settings but these."""
    ours = ("NUMBA_", "FANFILL_")
    environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith(ours)}
    environment |= {"PYTHONPATH": str(place)} | settings
    return begin(NO_BYTECODE + program, environment=environment, cwd=cwd, fresh=fresh)
