"""``fanfill cache``: shows or clears the folder of compiled kernels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime

from fanfill.amounts import amount
from fanfill.cli.outcome import Output
from fanfill_kernels.store import cache

__all__ = ["command"]


def command(clear: bool, output: Output) -> None:
    """Show the folder, or clear it."""
    if clear:
        cleared(output)
    else:
        shown(output)


def shown(output: Output) -> None:
    """Show where the folder is, whether it is used (or why not), and what it holds."""
    folder, why, found = cache.folder(), cache.refused(), cache.entries()
    writable = why is None and (os.access(folder, os.W_OK) or not folder.exists())
    facts = {
        "folder": str(folder),
        "named_by": cache.named_by(),
        "used": why is None,
        "reason": why,
        "writable": writable,
        **listed(found),
        "limit_bytes": cache.LIMIT,
    }
    use = f"no: {why}" if why is not None else "yes" if writable else "yes, for reading; it cannot be written"
    lines = [
        ("folder", f"{folder} ({f'named by {cache.named_by()}' if cache.named_by() else 'the default'})"),
        ("used", use),
        ("kernels", f"{len(found):,}, {size(found)} of at most {amount(cache.LIMIT, 'B')}"),
    ]
    if found:
        first, last = found[-1].used, found[0].used
        lines.append(("last used", f"between {day(first)} and {day(last)}"))
    output.report("cache", facts, lines)


def cleared(output: Output) -> None:
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
    facts = {"folder": str(folder), "removed": listed(found)}
    output.report(
        "cache", facts, [("folder", str(folder)), ("removed", f"{len(found):,} kernels, {size(found)}")]
    )


def listed(found: Sequence[cache.Entry]) -> dict[str, object]:
    """Entries and their size, for JSON."""
    return {"entries": [entry._asdict() for entry in found], "bytes": sum(entry.size for entry in found)}


def size(found: Sequence[cache.Entry]) -> str:
    """The size of entries, for people."""
    return amount(sum(entry.size for entry in found), "B")


def day(used: float) -> str:
    """The local date of a time."""
    return datetime.fromtimestamp(used).date().isoformat()
