"""Translated kernels compiled by the host's C compiler, and called through ctypes."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


@functools.cache
def folder() -> str:
    """Where this process compiles: made when something is."""
    made = tempfile.TemporaryDirectory(prefix="ptx-")
    atexit.register(made.cleanup)  # before it is collected, which would be a warning
    return made.name


def distinct() -> int:
    """How many distinct functions this process has compiled."""
    return len(functions)


def compile_together(sources: dict[str, str], workers: int, optimize: bool) -> None:
    """Compile C functions by name, in as many compilers at once as `workers`, unless they are compiled."""
    with lock:
        missing = sorted(
            (name for name in sources if name not in functions), key=lambda name: -len(sources[name])
        )
        parts = [part for k in range(workers) if (part := missing[k::workers])]
        with ThreadPoolExecutor(workers) as pool:
            for library, part in zip(
                pool.map(lambda p: library_of([sources[n] for n in p], optimize), parts), parts, strict=True
            ):
                for name in part:
                    functions[name] = getattr(library, name)
                    functions[name].argtypes = ARGUMENTS
                    functions[name].restype = None


def library_of(texts: Iterable[str], optimize: bool) -> ctypes.CDLL:
    """A shared library of C functions."""
    handle, source = tempfile.mkstemp(".c", dir=folder())
    with os.fdopen(handle, "w") as file:
        file.write("\n".join([RUNTIME.read_text(), *texts]))
    target = source[:-2] + ".so"
    level = "-O1" if optimize else "-O0"
    subprocess.run([os.environ.get("CC", "gcc"), level, *OPTIONS, source, "-o", target, "-lm"], check=True)
    return ctypes.CDLL(target)
