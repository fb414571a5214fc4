"""``fanfill info``: what this installation runs on and why it chose what it chose."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import numpy as np

import fanfill as ff
from fanfill import machine, threads

__all__ = ["command"]

LIBRARIES = ("numpy", "numba", "llvmlite", "ml_dtypes", "typer", "rich")


def command() -> None:
    """Print the facts on stdout, one a line."""
    bits = machine.vector_bits()
    statuses = ff.backends()
    selection = ff.select_backend(np.empty(0, np.float32))
    lines = [
        ("fanfill", f"{ff.__version__}, stream version {ff.STREAM_VERSION}"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"),
        *((library, version(library)) for library in LIBRARIES),
        (
            "cpu",
            f"{machine.cpu_model()}, {'vector width unknown' if bits is None else f'{bits}-bit vectors'}",
        ),
        ("threads", f"{ff.get_threads()} ({threads.why()})"),
        *((f"backend {status.name}", status.reason or "usable") for status in statuses),
        ("in memory", f"{selection.name} backend ({selection.why})"),
        ("cache", cache_folder(any(status.name == "numba" and status.usable for status in statuses))),
    ]
    sys.stdout.write("".join(f"{label:16}{text}\n" for label, text in lines))


def version(distribution: str) -> str:
    """An installed distribution's version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def cache_folder(numba_usable: bool) -> str:
    """Where Numba keeps compiled kernels, asked of one of them."""
    if not numba_usable:
        return "none, for want of Numba"
    from fanfill_kernels import cpu

    stats = getattr(cpu.kernels("uniform", "float32").run, "stats", None)
    return (
        getattr(stats, "cache_path", None)
        or "none: no folder for it can be written, or Numba's compiler is switched off"
    )
