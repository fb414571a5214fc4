"""What a second core gives at most on this machine: to two processes that share nothing, each on its own CPU.

    python benchmarks/two_processes.py [--values 128Mi] [--rounds 9]

Each process fills memory of its own on one thread, alone and then both at once, in turns. The gain is 2 where
neither slows the other; clocks that fall under load, a shared cache or memory bus, and whoever else uses the
machine keep it below. A pool of threads that loses nothing gains as much.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from statistics import median
from time import perf_counter
from typing import Any

import fanfill as ff
from fanfill.bench.measure import Arena, Case, filler, parse_size

SECONDS = 300.0  # after which a process that has died is no longer waited for


def worker(place: int, case: Case, backend: str, rounds: int, met: Any, results: Any) -> None:
    """One of the two: says for each round how long its fill took alone, and how long beside the other."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})
    run = filler(case, Arena().view(case.dtype, case.values), backend, 1)
    run()
    for _ in range(rounds):
        times = []
        for turn in (0, 1, 2):  # the first alone, the second alone, both
            met.wait(SECONDS)
            began = perf_counter()
            if turn in (place, 2):
                run()
                times.append(perf_counter() - began)
            met.wait(SECONDS)
        results.put((place, *times))


def gain(case: Case, backend: str = "numba", rounds: int = 9) -> float | None:
    """How many times as much two processes fill at once as one alone; None where there are no two CPUs."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    context = multiprocessing.get_context("spawn")
    met, results = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=worker, args=(place, case, backend, rounds, met, results)) for place in (0, 1)
    ]
    for process in both:
        process.start()
    found = [results.get(timeout=SECONDS) for _ in range(2 * rounds)]
    for process in both:
        process.join()
    alone = [median(one for place, one, _ in found if place == mine) for mine in (0, 1)]
    together = [[both for place, _, both in found if place == mine] for mine in (0, 1)]
    return sum(alone) / median(max(pair) for pair in zip(*together, strict=True))


def main() -> int:
    """Print the gain for each distribution and backend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=parse_size, default=1 << 27)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    for backend, values in (("numba", chosen.values), ("numpy", chosen.values // 8)):
        for kind in ("uniform", "normal", "truncated"):
            found = gain(Case(kind, "float32", values), backend, chosen.rounds)
            text = "no two CPUs" if found is None else f"{found:.2f}x"
            sys.stdout.write(f"{backend:6} {kind:10} two processes over one: {text}\n")
    sys.stdout.write(f"fanfill {ff.__version__}, {os.cpu_count()} CPUs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
