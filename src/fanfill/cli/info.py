"""``fanfill info``: what this installation runs on, what it has chosen, and why."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import numpy as np

import fanfill as ff
from fanfill import machine
from fanfill.backends import BackendStatus
from fanfill.cli.outcome import Output
from fanfill.cpu import threads
from fanfill_kernels.store import cache

__all__ = ["command"]

LIBRARIES = (
    "numpy",
    "numba",
    "llvmlite",
    "ml_dtypes",
    "typer",
    "rich",
)
MISSING = "not installed"
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")  # which of the wheels is installed, if any


def command(output: Output) -> None:
    """Print the facts to stdout, one per line."""
    bits = machine.vector_bits()
    statuses = ff.backends()
    selection = ff.select_backend(np.empty(0, np.float32))
    gpus = devices(any(status.name == "cuda" and status.usable for status in statuses))
    libraries = {**{library: version(library) for library in LIBRARIES}, **gpu_libraries()}
    why = cache.refused()
    facts = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": sys.platform,
        "libraries": {name: None if found == MISSING else found for name, found in libraries.items()},
        "cpu": machine.cpu_model(),
        "vector_bits": bits,
        "threads": ff.get_threads(),
        "threads_why": threads.why(),
        "backends": [status._asdict() for status in statuses],
        "devices": gpus,
        "in_memory": selection.name,
        "in_memory_why": selection.why,
        "cache": {"folder": str(cache.folder()), "used": why is None, "reason": why},
    }
    lines = [
        ("fanfill", f"{ff.__version__}, stream version {ff.STREAM_VERSION}"),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"),
        *libraries.items(),
        (
            "cpu",
            f"{machine.cpu_model()}, {'vector width unknown' if bits is None else f'{bits}-bit vectors'}",
        ),
        ("threads", f"{ff.get_threads()} ({threads.why()})"),
        *((f"backend {status.name}", usability(status)) for status in statuses),
        *(
            (device, ", ".join(f"{name} {fact}" for name, fact in found.items()))
            for device, found in gpus.items()
        ),
        ("in memory", f"{selection.name} backend ({selection.why})"),
        ("cache", str(cache.folder()) if why is None else f"none: {cache.folder()} is not used: {why}"),
    ]
    output.report("info", facts, lines)


def usability(status: BackendStatus) -> str:
    """Whether a backend can be used, and any note about it."""
    return status.reason or "; ".join(filter(None, ("usable", status.note)))


def gpu_libraries() -> dict[str, str]:
    """CuPy and NVRTC, if installed."""
    from fanfill.cuda import nvrtc

    found = {wheel: version(wheel) for wheel in CUPY}
    compilers = [f"{c.version[0]}.{c.version[1]} ({c.path})" for c in nvrtc.compilers()]
    return {
        **{wheel: text for wheel, text in found.items() if text != MISSING},
        **({"nvrtc": ", ".join(compilers)} if compilers else {}),
    }


def devices(usable: bool) -> dict[str, dict[str, Any]]:
    """The CUDA devices, and the driver's facts of each."""
    if not usable:
        return {}
    from fanfill.cuda import backend as cuda_backend

    driver = cuda_backend.driver()
    return {f"cuda:{number}": driver.facts(number) for number in range(driver.devices())}


def version(distribution: str) -> str:
    """An installed distribution's version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return MISSING
