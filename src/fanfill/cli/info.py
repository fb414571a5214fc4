"""``fanfill info``: what this installation runs on, what it has chosen, and why."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import numpy as np

import fanfill as ff
from fanfill import machine
from fanfill.backends import BackendStatus
from fanfill.cpu import threads

__all__ = ["command"]

LIBRARIES = (
    "numpy",
    "numba",
    "llvmlite",
    "ml_dtypes",
    "typer",
    "rich",
)
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")  # which of the wheels is installed, if any


def command() -> None:
    """Print the facts to stdout, one per line."""
    bits = machine.vector_bits()
    statuses = ff.backends()
    selection = ff.select_backend(np.empty(0, np.float32))
    lines = [
        ("fanfill", f"{ff.__version__}, stream version {ff.STREAM_VERSION}"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"),
        *((library, version(library)) for library in LIBRARIES),
        *gpu_libraries(),
        (
            "cpu",
            f"{machine.cpu_model()}, {'vector width unknown' if bits is None else f'{bits}-bit vectors'}",
        ),
        ("threads", f"{ff.get_threads()} ({threads.why()})"),
        *((f"backend {status.name}", usability(status)) for status in statuses),
        *devices(any(status.name == "cuda" and status.usable for status in statuses)),
        ("in memory", f"{selection.name} backend ({selection.why})"),
        ("cache", cache_folder()),
    ]
    sys.stdout.write("".join(f"{label:16}{text}\n" for label, text in lines))


def usability(status: BackendStatus) -> str:
    """Whether a backend can be used, and any note about it."""
    return status.reason or "; ".join(filter(None, ("usable", status.note)))


def gpu_libraries() -> list[tuple[str, str]]:
    """CuPy and NVRTC, if installed."""
    from fanfill.cuda import nvrtc

    found = [(wheel, version(wheel)) for wheel in CUPY]
    compilers = [f"{c.version[0]}.{c.version[1]} ({c.path})" for c in nvrtc.compilers()]
    return [
        *((wheel, text) for wheel, text in found if text != "not installed"),
        *(("nvrtc", text) for text in compilers),
    ]


def devices(usable: bool) -> list[tuple[str, str]]:
    """The CUDA devices."""
    if not usable:
        return []
    from fanfill.cuda import backend as cuda_backend

    driver = cuda_backend.driver()
    facts = [driver.facts(number) for number in range(driver.devices())]
    return [
        (f"cuda:{number}", ", ".join(f"{name} {fact}" for name, fact in found.items()))
        for number, found in enumerate(facts)
    ]


def version(distribution: str) -> str:
    """An installed distribution's version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def cache_folder() -> str:
    """Where compiled kernels are kept."""
    from fanfill_kernels.store import cache

    why = cache.refused()
    return str(cache.folder()) if why is None else f"none: {cache.folder()} is not used: {why}"
