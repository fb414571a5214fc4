"""What `fanfill.Philox` promises beside NumPy's own Philox: each ratio in one process, warm, by turns.

    python benchmarks/bitgenerator.py [--values 2Mi] [--rounds 11]

CPU time, medians of turns that alternate; both draw into the same array. Exit code 1 if a promise is missed.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
from targets import Target, show

import fanfill as ff
from fanfill.bench import report
from fanfill.bench.measure import parse_size

# What is drawn, and how many times as fast as NumPy's Philox it must be (None: shown alone).
WANTED: dict[str, float | None] = {
    "random float64": 1.5,
    "random float32": 1.2,
    "standard_normal float64": None,
    "standard_normal float32": None,
    "integers(100) int32": None,
    "random_raw": None,
    "permutation": None,
}


def draws(rng: np.random.Generator, values: int) -> dict[str, Callable[[], object]]:
    """Each of `WANTED` as a call."""
    long, short = np.empty(values), np.empty(values, np.float32)
    return {
        "random float64": lambda: rng.random(out=long),
        "random float32": lambda: rng.random(out=short, dtype=np.float32),
        "standard_normal float64": lambda: rng.standard_normal(out=long),
        "standard_normal float32": lambda: rng.standard_normal(out=short, dtype=np.float32),
        "integers(100) int32": lambda: rng.integers(100, size=values, dtype=np.int32),
        "random_raw": lambda: rng.bit_generator.random_raw(values),
        "permutation": lambda: rng.permutation(values),
    }


def seconds_of(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The median CPU seconds of each, called by turns; one turn before the clock counts."""
    spent: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, kept in zip(calls, spent, strict=True):
            began = process_time()
            call()
            if turn:
                kept.append(process_time() - began)
    return [median(kept) for kept in spent]


def main() -> int:
    """Measure, print a line a promise and a table, and return 1 if a promise is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=parse_size, default=parse_size("2Mi"))
    parser.add_argument("--rounds", type=int, default=11)
    chosen = parser.parse_args()
    kinds = {
        "fanfill.Philox": ff.Philox(0),
        "NumPy's Philox": np.random.Philox(0),
        "PCG64": np.random.PCG64(0),
        "SFC64": np.random.SFC64(0),
    }
    named = {name: draws(np.random.Generator(bits), chosen.values) for name, bits in kinds.items()}
    rows = []
    print(f"{'M values/s':26}" + "".join(f"{name:>16}" for name in kinds))
    for what, wanted in WANTED.items():
        times = seconds_of([calls[what] for calls in named.values()], chosen.rounds)
        print(f"{what:26}" + "".join(f"{chosen.values / t / 1e6:16.0f}" for t in times))
        if wanted is not None:
            rows.append(Target(f"{what}, over NumPy's Philox", wanted, times[1] / times[0], "x"))
    print()
    show(rows)
    found = report.surroundings(report.command_line(), [])
    print(f"\n{found.command}, {found.date}")
    print(f"{found.machine['cpu']}, NumPy {np.__version__}")
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
