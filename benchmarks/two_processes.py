"""What a second core gives on this machine to two processes that share nothing, each pinned to its own CPU.

    python benchmarks/two_processes.py [--values 128Mi] [--rounds 9]

Each process fills memory of its own on one thread, alone and then both at once, in turns. The gain is 2 where
neither slows the other; clocks that fall under load, a shared cache or memory bus, and whoever else uses the
machine keep it below. A pool of threads that loses nothing gains as much, but for the noise of both figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from time import perf_counter
from typing import Any

from fanfill.bench.measure import Arena, Case, filler, parse_size

SECONDS = 300.0  # for which one process waits for the other

Times = tuple[list[float], list[float]]  # of each round: alone, and beside the other

met: Any = None  # in each of the two: the barrier where they meet


def meet_at(barrier: Any) -> None:
    """Begin a process: the barrier comes with it, since it cannot be sent later."""
    global met
    met = barrier


def work(place: int, case: Case, backend: str, rounds: int) -> Times:
    """One of the two: how long its fills took."""
    try:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})
        run = filler(case, Arena().view(case.dtype, case.values), backend, 1)
        run()
        alone: list[float] = []
        together: list[float] = []
        for _ in range(rounds):
            for turn, times in ((0, alone), (1, alone), (2, together)):  # the first, the second, both
                met.wait(SECONDS)
                began = perf_counter()
                if turn in (place, 2):
                    run()
                    times.append(perf_counter() - began)
                met.wait(SECONDS)
    except BaseException:
        met.abort()  # the other need not wait
        raise
    return alone, together


def ratio(one: Times, other: Times) -> float:
    """How many times as much both fill at once as one alone; both at once end when the later one does."""
    return (median(one[0]) + median(other[0])) / median(map(max, one[1], other[1]))


def gain(case: Case, backend: str = "numba", rounds: int = 9) -> float | None:
    """Measure the ratio; None where there are no two CPUs to pin processes to."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    with ProcessPoolExecutor(2, context, initializer=meet_at, initargs=(barrier,)) as pool:
        both = [pool.submit(work, place, case, backend, rounds) for place in (0, 1)]
        return ratio(both[0].result(), both[1].result())


def main() -> None:
    """Print the gain for each distribution and backend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=parse_size, default=1 << 27)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    for backend, values in (("numba", chosen.values), ("numpy", chosen.values // 8)):
        for kind in ("uniform", "normal", "truncated"):
            found = gain(Case(kind, "float32", values), backend, chosen.rounds)
            print(f"{backend:6} {kind:10}", "no two CPUs" if found is None else f"{found:.2f}x")


if __name__ == "__main__":
    main()
