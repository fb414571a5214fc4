"""What `fanfill.dask` promises beside `dask.array.random`: each ratio on one cluster, by turns.

    python benchmarks/dask_targets.py [--side 32768] [--rounds 3]

A LocalCluster of two workers of one thread; a square of float32, chunks "auto"; each task drops its values.
Medians of turns that alternate, after one that does not count. Exit code 1 if a promise is missed.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster
from targets import Target, show

import fanfill as ff
import fanfill.dask as fd
from fanfill.bench import report


def first(block: Any) -> Any:
    """A chunk's first value, so that the rest is dropped where it was drawn."""
    return block[:1, :1].copy()


def seconds_of(arrays: list[Callable[[int], Any]], rounds: int) -> list[float]:
    """The median seconds of each, computed by turns; each turn draws other values, so that none is kept."""
    spent: list[list[float]] = [[] for _ in arrays]
    for turn in range(rounds + 1):
        for array, kept in zip(arrays, spent, strict=True):
            lazy = da.map_blocks(first, array(turn), dtype=np.float32, chunks=(1, 1))
            began = perf_counter()
            lazy.compute()
            if turn:
                kept.append(perf_counter() - began)
    return [median(kept) for kept in spent]


def main() -> int:
    """Measure, print a line a promise, and return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    shape = (chosen.side, chosen.side)
    chunks = fd.draw(shape, "normal", seed=0).chunks

    def ours(law: ff.Initializer) -> Callable[[int], Any]:
        return lambda seed: fd.draw(shape, law, seed=seed, chunks=chunks)

    def dasks(kind: str, **options: Any) -> Callable[[int], Any]:
        return lambda seed: getattr(da.random.default_rng(seed), kind)(
            size=shape, chunks=chunks, **options
        ).astype(np.float32)

    rows = []
    settings: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**settings) as cluster, Client(cluster):
        for name, law, theirs, wanted in (
            ("normals", ff.normal(), dasks("standard_normal"), 5.0),
            ("uniforms", ff.uniform(0.0, 1.0), dasks("random"), 3.0),
        ):
            mine, peer = seconds_of([ours(law), theirs], chosen.rounds)
            values = chosen.side**2 / 1e9
            note = f"{values / mine:.2f} and {values / peer:.3f} G/s"
            rows.append(Target(f"{name}, over da.random's", wanted, peer / mine, "x", note=note))
    show(rows)
    found = report.surroundings(report.command_line(), [])
    print(f"\n{found.command}, {found.date}")
    print(f"{found.machine['cpu']}, dask {dask.__version__}")
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
