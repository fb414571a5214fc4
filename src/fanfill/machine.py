"""What this machine is and how much it can hold: facts to read along with a figure."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from fanfill import cgroup

__all__ = ["available_memory", "cpu_model", "vector_bits"]

CPUINFO = Path("/proc/cpuinfo")
WIDTHS = {"avx512f": 512, "avx2": 256, "avx": 256, "sse2": 128, "asimd": 128}


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name as the system states it, or its architecture if the system states no name."""
    return first_field(cpuinfo, "model name") or platform.processor() or platform.machine()


def vector_bits(cpuinfo: Path = CPUINFO) -> int | None:
    """The width in bits of the processor's widest vector registers, or None if the system does not say."""
    flags = (first_field(cpuinfo, "flags") or first_field(cpuinfo, "Features") or "").split()
    return max((WIDTHS[flag] for flag in flags if flag in WIDTHS), default=None)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes beyond which an allocation leads to swapping or a kill, or None if the system does not say.

    A cgroup's limit counts in full: what the cgroup already holds may be file cache, which gives way. The
    limit may be set on this process's own cgroup or any ancestor. `root` is the folder that holds ``proc``
    and ``sys``.
    """
    stated = first_field(root / "proc/meminfo", "MemAvailable")
    if stated is None:
        return None
    limits = [int(stated.split()[0]) * 1024]
    for folder in cgroup.folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
            try:
                limits.append(int(Path(os.fsdecode(folder), name).read_bytes()))
            except (OSError, ValueError):  # not there, or "max": no limit
                continue
    return min(limits)


def first_field(path: Path, name: str) -> str | None:
    """The value of the first line ``name: value`` in a file of such lines."""
    try:
        # Vendors choose the names of processors. Whatever the locale, a byte that is not UTF-8 must not fail.
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
