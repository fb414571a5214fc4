"""Translated kernels compiled by the host's C compiler, and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import shared

RUNTIME = Path(__file__).with_name("runtime.h")
OPTIONS = ("-std=gnu11", "-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-w", "-shared", "-fPIC")


class Launch(ctypes.Structure):
    """`struct launch` of runtime.h."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("params", ctypes.c_char_p),
        ("param_bytes", ctypes.c_uint64),
        ("memory", ctypes.c_void_p),
        ("ranges", ctypes.c_uint64),
        ("kept", ctypes.c_uint32),
    )


class TrapRecord(ctypes.Structure):
    """`struct trap` of runtime.h."""

    _fields_ = (
        ("reason", ctypes.c_uint32),
        ("instruction", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("tid", ctypes.c_uint32 * 3),
        ("ctaid", ctypes.c_uint32 * 3),
    )


ARGUMENTS = (ctypes.POINTER(Launch), ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(TrapRecord))
functions: dict[str, Any] = {}
lock = threading.Lock()


def distinct() -> int:
    """How many distinct functions this process has compiled."""
    return len(functions)


def compile_together(sources: dict[str, str], workers: int, optimize: bool) -> None:
    """Compile C functions by name, in as many compilers at once as `workers`, unless this run has them.

    A name is a hash of what the function does, so any process's library will do, optimized or not.
    """
    with lock:
        if sources.keys() <= functions.keys():
            return
        with shared.alone("gcc") as folder:
            missing = []
            for name in sources.keys() - functions.keys():
                library = folder / f"{name}.so"
                if library.exists():
                    load(library, [name])
                else:
                    missing.append(name)
            missing.sort(key=lambda name: (-len(sources[name]), name))
            parts = [part for k in range(workers) if (part := missing[k::workers])]
            with ThreadPoolExecutor(workers) as pool:
                made = pool.map(lambda part: library_of([sources[n] for n in part], folder, optimize), parts)
                for library, part in zip(made, parts, strict=True):
                    load(library, part)
                    for name in part:
                        shared.link(library, folder / f"{name}.so")


def load(library: Path, names: Iterable[str]) -> None:
    """Let this process call functions of a library; one that has several names is loaded once."""
    loaded = ctypes.CDLL(str(library))
    for name in names:
        functions[name] = getattr(loaded, name)
        functions[name].argtypes = ARGUMENTS
        functions[name].restype = None


def library_of(texts: Iterable[str], folder: Path, optimize: bool) -> Path:
    """A shared library of C functions."""
    handle, source = tempfile.mkstemp(".c", dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write("\n".join([RUNTIME.read_text(), *texts]))
    target = Path(source).with_suffix(".so")
    level = "-O1" if optimize else "-O0"
    command = [os.environ.get("CC", "gcc"), level, *OPTIONS, source, "-o", str(target), "-lm"]
    subprocess.run(command, check=True)
    return target
