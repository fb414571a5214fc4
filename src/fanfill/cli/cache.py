"""``fanfill cache``: shows or clears the folder of compiled kernels."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime

from fanfill_kernels.store import cache

__all__ = ["command", "megabytes"]


def command(clear: bool, *, as_json: bool) -> None:
    """Show the folder, or clear it."""
    if clear:
        cleared(as_json=as_json)
    else:
        shown(as_json=as_json)


def shown(*, as_json: bool) -> None:
    """Show where the folder is, whether it is used (or why not), and what it holds."""
    folder, why, found = cache.folder(), cache.refused(), cache.entries()
    writable = why is None and (os.access(folder, os.W_OK) or not folder.exists())
    if as_json:
        facts = {
            "folder": str(folder),
            "named_by": cache.named_by(),
            "used": why is None,
            "reason": why,
            "writable": writable,
            **listed(found),
            "limit_bytes": cache.LIMIT,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    use = f"no: {why}" if why is not None else "yes" if writable else "yes, for reading; it cannot be written"
    lines = [
        ("folder", f"{folder} ({f'named by {cache.named_by()}' if cache.named_by() else 'the default'})"),
        ("used", use),
        ("entries", f"{len(found):,}, {megabytes(found)} of at most {cache.LIMIT / 1e6:.0f} MB"),
    ]
    if found:
        first, last = found[-1].used, found[0].used
        lines.append(("last used", f"between {day(first)} and {day(last)}"))
    sys.stdout.write("".join(f"{label:12}{text}\n" for label, text in lines))


def cleared(*, as_json: bool) -> None:
    """Remove the folder's entries."""
    folder = cache.folder()
    try:
        found = cache.clear()
    except FileNotFoundError:  # nothing has been stored yet
        found = []
    except OSError as error:
        raise ValueError(
            f"expected a folder of compiled kernels that may be cleared; got {folder}: {cache.reason(error)}"
        ) from error
    if as_json:
        sys.stdout.write(json.dumps({"folder": str(folder), "removed": listed(found)}) + "\n")
    else:
        sys.stdout.write(f"removed {len(found):,} entries, {megabytes(found)}, from {folder}\n")


def listed(found: Sequence[cache.Entry]) -> dict[str, object]:
    """Entries and their size, for JSON."""
    return {"entries": [entry._asdict() for entry in found], "bytes": sum(entry.size for entry in found)}


def megabytes(found: Sequence[cache.Entry]) -> str:
    """The size of entries, for people."""
    return f"{sum(entry.size for entry in found) / 1e6:.3g} MB"


def day(used: float) -> str:
    """The local date of a time."""
    return datetime.fromtimestamp(used).date().isoformat()
