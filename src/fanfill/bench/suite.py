"""One run of ``fanfill bench``: peers, scaling, a whole model, and whole processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

import fanfill as ff
from fanfill.backends import get
from fanfill.bench import cold, model
from fanfill.bench.measure import (
    DISTRIBUTIONS,
    Arena,
    Case,
    Entrant,
    Race,
    Row,
    Settings,
    contest,
    filler,
    limits,
    parse_size,
    timed,
)
from fanfill.bench.peers import PEERS, entrants

__all__ = ["run", "settings"]

# Cases in which every contestant takes part; others are in benchmarks/.
CONTESTS = (
    ("uniform", "float32"),
    ("normal", "float32"),
    ("truncated", "float32"),
    ("normal", "bfloat16"),
    ("normal", "float64"),
)
NUMPY_MOST = parse_size("64Mi")  # beyond that, the NumPy backend takes minutes and shows nothing new
# XLA's generators write about 30 M values per second on a CPU core, and each compiles for a second.
SLOW = ("jax",)
QUICK_SECONDS = 50.0  # leaves ten for imports and compilation

Progress = Callable[[str, int, int], None]


def settings(
    quick: bool = False, peers: Sequence[str] | None = None, sizes: Sequence[int] | None = None
) -> Settings:
    """The settings for the command's options; ValueError for an unknown peer."""
    unknown = [name for name in peers or () if name not in PEERS]
    if unknown:
        raise ValueError(
            f"expected peers among {', '.join(PEERS)}; got {', '.join(unknown)}; leave --peers out for all"
        )
    left_out = SLOW if quick and peers is None else ()
    taken = tuple(name for name in PEERS if name not in left_out) if peers is None else tuple(peers)
    largest = tuple(sizes) if sizes else (parse_size("16Mi" if quick else "256Mi"),)
    steps = ("1Ki", "64Ki", "1Mi") if quick else ("1Ki", "16Ki", "64Ki", "256Ki", "1Mi", "16Mi", "64Mi")
    scaling = tuple(size for size in map(parse_size, steps) if size < max(largest))
    return Settings(
        peers=taken,
        left_out=left_out,
        sizes=largest,
        scaling=(*scaling, max(largest)),
        rounds=5 if quick else 9,
        seconds=0.2 if quick else 4.0,
        least=2 if quick else 5,
        total=QUICK_SECONDS if quick else math.inf,
        processes=3 if quick else 9,
        model=() if quick else ("bfloat16", "float32"),
    )


def run(chosen: Settings, progress: Progress = lambda phase, done, total: None) -> list[Row]:
    """Measure everything that the settings name.

    Parameters
    ----------
    chosen
        What to measure.
    progress
        Gets (phase, steps done, total steps).

    Raises
    ------
    RuntimeError
        If a kernel's values are not those of the oracle.
    """
    began = perf_counter()
    arena = Arena()
    rows: list[Row] = []
    # Processes come first: a deadline would cut them off entirely, whereas contests only lose rounds.
    rows += processes(chosen.processes, 0.25 * chosen.total, progress)
    cases = [Case(*kind, size) for size in chosen.sizes for kind in CONTESTS]
    arena.view("float64", max(chosen.sizes))  # the whole at once: growing later would take new pages
    for done, case in enumerate(cases):
        progress("peers", done, len(cases))
        rows += peers_of(case, arena, chosen, began + chosen.total * (0.5 + 0.35 * (done + 1) / len(cases)))
    for name in chosen.left_out:
        why = f"left out of --quick for its pace; --peers {name} asks for it"
        rows.append(Row("peers", name, "", "", "", 0, 1, missing=why))
    steps = [(kind, size) for kind in DISTRIBUTIONS for size in chosen.scaling]
    for done, (kind, size) in enumerate(steps):
        progress("scaling", done, len(steps))
        rows += scaling_of(
            Case(kind, "uint32" if kind == "words" else "float32", size), arena, chosen, began + chosen.total
        )
    progress("scaling", len(steps), len(steps))
    for done, dtype in enumerate(chosen.model):
        progress("model", done, len(chosen.model))
        rows += model.rows(dtype, arena, "torch" in chosen.peers)
    return unrepeated(rows)


def ours(case: Case, buffer: NDArray[Any]) -> Iterator[Entrant]:
    """fanfill's own entrants: each backend, on one thread and on all."""
    for backend in ("numba", "numpy"):
        if backend == "numpy" and case.values > NUMPY_MOST:
            continue
        reason = get(backend).unusable()
        if reason is not None:
            yield Entrant("fanfill", backend, 1, None, reason)
            continue
        for count in sorted({1, ff.get_threads()}):
            yield Entrant("fanfill", backend, count, filler(case, buffer, backend, count))


def peers_of(case: Case, arena: Arena, chosen: Settings, deadline: float) -> list[Row]:
    """One contest: the limits, fanfill, every peer."""
    buffer = arena.view(case.dtype, case.values)
    taking_part = [*limits(buffer), *ours(case, buffer)]
    for name in chosen.peers:
        taking_part += entrants(name, case, buffer)
    return timed("peers", [(case, entrant) for entrant in taking_part], race(chosen, deadline))


def scaling_of(case: Case, arena: Arena, chosen: Settings, deadline: float) -> list[Row]:
    """One size of one distribution on one thread, two, four, ... and all."""
    buffer = arena.view(case.dtype, case.values)
    every = ff.get_threads()
    counts = sorted({1 << k for k in range(every.bit_length())} | {every})
    backend = ff.select_backend(buffer).name
    taking_part = [
        limits(buffer)[0],
        *(Entrant("fanfill", backend, count, filler(case, buffer, backend, count)) for count in counts),
    ]
    return timed("scaling", [(case, entrant) for entrant in taking_part], race(chosen, deadline))


def race(chosen: Settings, deadline: float) -> Race:
    """A contest by the settings."""
    return partial(
        contest, rounds=chosen.rounds, seconds=chosen.seconds, least=chosen.least, deadline=deadline
    )


def processes(rounds: int, seconds: float, progress: Progress) -> list[Row]:
    """Rows of cold processes, each compared with ``import numba``."""
    progress("cold", 0, rounds)
    medians: dict[cold.Process, float] = {}
    done = 0
    for found in cold.measure(rounds, seconds):
        medians = found
        done += 1
        progress("cold", done, rounds)
    reference = next((found for process, found in medians.items() if process.subject == "numba"), None)
    return [
        Row(
            "cold",
            process.subject,
            process.method,
            "",
            "",
            0,
            1,
            median,
            done,
            reference / median if reference else None,
        )
        for process, median in medians.items()
    ]


def unrepeated(rows: Sequence[Row]) -> list[Row]:
    """Rows without duplicates of a limit or of a missing peer."""
    return list({row.key: row for row in reversed(rows)}.values())[::-1]
