"""Whole processes, from the interpreter's start to its end: the cost of an import and of a first fill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import NamedTuple

__all__ = ["FIRST_FILL", "Process", "measure", "processes"]

FIRST_FILL = (
    "import numpy as np, fanfill as ff; "
    "ff.fill(np.empty((1024, 1024), np.float32), ff.he_normal(in_axis=-2), seed=0)"
)


class Process(NamedTuple):
    """One process: whose it is, what it does, its code, and whether each run gets an empty kernel cache."""

    subject: str
    method: str
    code: str
    cache: str  # "empty", "warm"


def processes() -> tuple[Process, ...]:
    """The processes to measure: fanfill's, and the imports that they are compared with."""
    imports = [Process(name, "import", f"import {name}", "warm") for name in ("numpy", "numba", "torch")]
    return (
        *(process for process in imports if find_spec(process.subject) is not None),
        Process("fanfill", "import", "import fanfill", "warm"),
        Process("fanfill", "first fill, cache warm", FIRST_FILL, "warm"),
        Process("fanfill", "first fill, cache empty", FIRST_FILL, "empty"),
    )


def measure(rounds: int, seconds: float = math.inf) -> Iterator[dict[Process, float]]:
    """Yield, after each round in which every process ran once, the median seconds of each so far.

    A first round, which does not count, brings files into memory and fills the warm cache. No round begins
    after `seconds`, except the first one that counts.
    """
    wanted = processes()
    times: dict[Process, list[float]] = {process: [] for process in wanted}
    with tempfile.TemporaryDirectory(prefix="fanfill-bench-") as scratch:
        began = perf_counter()
        for turn in range(rounds + 1):
            if turn > 1 and perf_counter() - began > seconds:
                return
            for process in wanted:
                folder = os.path.join(scratch, "warm" if process.cache == "warm" else f"empty-{turn}")
                if turn == 0 and process.cache == "empty":
                    continue
                spent = _run(process.code, folder)
                if turn:
                    times[process].append(spent)
            if turn:
                yield {process: median(found) for process, found in times.items()}


def _run(code: str, cache: str) -> float:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    # Installed packages have their bytecode; a checkout must be allowed to keep its own. NUMBA_CACHE_DIR
    # names the folder of kernels unless FANFILL_CACHE_DIR is set.
    for name in ("PYTHONDONTWRITEBYTECODE", "FANFILL_CACHE_DIR"):
        environment.pop(name, None)
    began = perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdin=subprocess.DEVNULL)
    return perf_counter() - began
