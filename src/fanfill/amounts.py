"""Amounts as people read them: three digits, and a prefix that suits the size."""

from __future__ import annotations

__all__ = ["amount", "duration"]

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def amount(number: float, unit: str) -> str:
    """``80 kB``, ``1.07 GB/s``, ``3.2 G values/s``, ``12 values``."""
    prefix = 0
    # Compared as it is shown: 999,600 is 1 M, not 1e+03 k.
    while float(f"{number:.3g}") >= 1000.0 and prefix < len(_PREFIXES) - 1:
        number /= 1000.0
        prefix += 1
    gap = " " if prefix and not unit.startswith("B") else ""
    return f"{number:.3g} {_PREFIXES[prefix]}{gap}{unit}"


def duration(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``2:00:05``: whole seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
