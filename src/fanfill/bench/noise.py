"""How far a run's figures can be trusted: the limit before and after it, how much repeats differ, the load.

A benchmark on a busy machine prints figures like any other, and shares of a limit that was itself disturbed:
nine times what memory can take, at a load of 12 on two CPUs. So a run looks at the machine before and after,
and what it has seen stays in its result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fanfill.amounts import amount
from fanfill.bench.measure import Row, limits, repeat
from fanfill.bench.report import Result
from fanfill.report import MEMSET_BYTE

__all__ = ["Look", "doubts", "facts", "look"]

BYTES = 1 << 26  # past the caches of most processors, and some milliseconds
ROUNDS = 9
# A load of more than this share of the CPUs is somebody else's work: it is taken before the run.
MOST_LOAD = 0.25
# The limit's relative change over the run, and the relative distance of its quartiles, beyond which figures
# say more about the machine's other work.
MOST_CHANGE = 0.1
MOST_SPREAD = 0.15


class Look(NamedTuple):
    """What a look at the machine saw: memset in bytes per second, how far repeats differ, and the load."""

    limit: float
    spread: float
    load: float | None


def look(device: int | None) -> Look:
    """Time memset, on the host or on a GPU, and read the load."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    seconds = _on_host() if device is None else _on_device(device)
    return Look(BYTES / median(seconds), spread(seconds), load)


def _on_host() -> Sequence[float]:
    buffer = np.full(BYTES, MEMSET_BYTE, np.uint8)
    memset = limits(buffer)[0].run
    assert memset is not None
    found = []
    for _ in range(ROUNDS):
        began = perf_counter()
        memset()
        found.append(perf_counter() - began)
    return found


def _on_device(number: int) -> Sequence[float]:
    from fanfill.cuda import backend

    gpu = backend.driver()
    with gpu.use(number):
        block, stream = gpu.allocate(BYTES), gpu.stream(number)
        memset = partial(gpu.memset, block.ptr, MEMSET_BYTE, BYTES, stream)
        run: Callable[[], None] = partial(repeat, memset, 10)
        return [gpu.seconds(run, stream) / 10 for _ in range(1 + ROUNDS)][1:]


def spread(seconds: Sequence[float]) -> float:
    """How far repeats differ: the distance of their quartiles over their median."""
    low, middle, high = quantiles(seconds, n=4)
    return (high - low) / middle


def facts(before: Look, after: Look) -> dict[str, Any]:
    """What a result keeps of two looks."""
    return {"before": before._asdict(), "after": after._asdict()}


def doubts(result: Result) -> list[str]:
    """Why a result's figures are not to be published: one line for each reason, none for a good run."""
    found = []
    noise = result.machine.get("noise")
    if noise is not None:
        before, after = (Look(**noise[when]) for when in ("before", "after"))
        cpus = result.machine["cpus"]
        if before.load is not None and before.load > MOST_LOAD * cpus:
            found.append(f"the machine was busy before the run: load {before.load:.2f} on {cpus} CPUs")
        if abs(after.limit / before.limit - 1.0) > MOST_CHANGE:
            rates = (amount(each.limit, "B/s") for each in (before, after))
            found.append(f"the limit moved during the run: memset {' before, '.join(rates)} after")
        worst = max(before.spread, after.spread)
        if worst > MOST_SPREAD:
            found.append(f"repeats of memset differ by {worst:.0%}, of which {MOST_SPREAD:.0%} is usual")
    beyond = [row for row in result.rows if row.is_beyond_limit]
    if beyond:
        found.append(f"{len(beyond)} figures are beyond what so many threads can write: {_first(beyond)}")
    return found


def _first(rows: Sequence[Row]) -> str:
    row = max(rows, key=lambda row: row.share or 0.0)
    return f"{row.subject} {row.method} at {row.share:.1f} of one thread's limit, on {row.threads}"
