"""The clock and the limit: cases, buffers, fills checked against the oracle, contests."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fanfill as ff
from fanfill import regions
from fanfill.arguments import UNITS, size_of
from fanfill.backends import default_host, resolve
from fanfill.cpu import run as cpu_run
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.recipes import Recipe
from fanfill.report import MEMSET_BYTE, MEMSET_PIECE

__all__ = [
    "BOUND",
    "DISTRIBUTIONS",
    "HOST",
    "LAWS",
    "STD",
    "Arena",
    "Case",
    "Clock",
    "Entrant",
    "Race",
    "Row",
    "Run",
    "Sample",
    "Settings",
    "assert_window",
    "contest",
    "filler",
    "itemsize",
    "limits",
    "numpy_dtype",
    "parse_size",
    "repeat",
    "size_text",
    "timed",
    "windows",
]

BOUND = 0.05  # uniform draws lie in +-BOUND
STD = 0.02  # of normal draws; truncated ones are cut at two standard deviations
LAWS = {
    "uniform": ff.uniform(-BOUND, BOUND),
    "normal": ff.normal(0.0, STD),
    "truncated": ff.truncated_normal(0.0, STD),
}
DISTRIBUTIONS = ("words", *LAWS)
SEED = 1
BEYOND = 1.1  # times its threads: the most that a figure can be of one thread's limit
CALL_SECONDS = 1e-4
WINDOW = 4096  # values compared with the oracle at the beginning, in the middle and at the end

Run = Callable[[], object]


class Case(NamedTuple):
    """What is drawn: one of `DISTRIBUTIONS`, a storage type ("uint32" for words), the number of values."""

    distribution: str
    dtype: str
    values: int


class Entrant(NamedTuple):
    """One way to do a case: who, how, on how many threads, and the call; or why there is no call."""

    subject: str
    method: str
    threads: int
    run: Run | None
    missing: str | None = None


class Sample(NamedTuple):
    """The median seconds of one call, the number of rounds, and how far they differ (see `Row`)."""

    seconds: float
    rounds: int
    spread: float | None = None


Race = Callable[[list[Run]], list[Sample]]


@dataclass(frozen=True)
class Row:
    """One figure: who did what, how fast, and at what share of the limit; or what is missing.

    Attributes
    ----------
    group
        "limit", "peers", "scaling", "model" or "cold".
    subject, method
        Who (fanfill, numpy, torch, ...), and by which call; for "cold", which process.
    distribution, dtype, values, threads
        What was drawn; values is 0 for processes.
    seconds, rounds
        The median, and of how many rounds.
    share
        Throughput over that of memset by one thread on the same buffer in the same turns; for a process, the
        seconds of ``python -c "import numba"`` over its own. None if there is nothing to compare it with.
    missing
        Why there is no figure, or None.
    spread
        How far the rounds differ: the distance of their quartiles over their median. None for fewer than
        four.
    """

    group: str
    subject: str
    method: str
    distribution: str
    dtype: str
    values: int
    threads: int
    seconds: float | None = None
    rounds: int = 0
    share: float | None = None
    missing: str | None = None
    spread: float | None = None

    @property
    def values_per_second(self) -> float | None:
        """Throughput, None where nothing was drawn."""
        return self.values / self.seconds if self.seconds and self.values else None

    @property
    def bytes_per_second(self) -> float | None:
        """Throughput in bytes written."""
        return self.values_per_second and self.values_per_second * itemsize(self.dtype)

    @property
    def is_beyond_limit(self) -> bool:
        """Whether so many threads cannot have written so much: then the limit was measured on a busy machine.

        A call of some microseconds is no evidence: it is the call that is timed.
        """
        if self.group not in ("peers", "scaling", "model") or self.share is None or self.seconds is None:
            return False
        return self.share > BEYOND * self.threads and self.seconds > CALL_SECONDS

    @property
    def key(self) -> tuple[str, str, str, str, str, int, int]:
        """What makes two rows of two runs the same measurement."""
        return (
            self.group,
            self.subject,
            self.method,
            self.distribution,
            self.dtype,
            self.values,
            self.threads,
        )


@dataclass(frozen=True)
class Settings:
    """How large and how long a run is.

    Attributes
    ----------
    peers
        Names of the peers that take part.
    sizes
        How many values each contest draws.
    scaling
        How many values the fills that show scaling draw.
    rounds, seconds, least
        Turns of each contest, after how many seconds an entrant sits out, and the turns it gets in any case;
        see `contest`.
    device
        Number of the CUDA device; None on the host. The fields below are the host's.
    left_out
        Peers that the run leaves out by itself; each gets a row that says so.
    total
        Seconds after which contests are cut short.
    processes
        Rounds of cold processes.
    model
        Dtypes in which the whole model is initialised.
    """

    peers: tuple[str, ...]
    sizes: tuple[int, ...]
    scaling: tuple[int, ...]
    rounds: int
    seconds: float = math.inf
    least: int = 3
    device: int | None = None
    left_out: tuple[str, ...] = ()
    total: float = math.inf
    processes: int = 0
    model: tuple[str, ...] = ()


class Arena:
    """One piece of memory that every case draws into, grown (never shrunk) to the largest case so far."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def view(self, dtype: str, values: int) -> NDArray[Any]:
        """A contiguous vector in that memory, pages touched; its type is ml_dtypes' if NumPy has none."""
        needed = values * itemsize(dtype)
        if needed > self._bytes.size:
            self._bytes = np.empty(0, np.uint8)  # released first: two large buffers may not fit
            self._bytes = np.empty(needed, np.uint8)
            self._bytes.fill(0)
        return self._bytes[:needed].view(numpy_dtype(dtype))


def itemsize(dtype: str) -> int:
    """Bytes of one value; 0 for rows that draw nothing."""
    return STORAGES[dtype].itemsize if dtype in STORAGES else 4 if dtype == "uint32" else 0


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of this name, by the rules of `fanfill.draw`; also uint32, for words."""
    if dtype == "uint32":
        return np.dtype(np.uint32)
    return dtype_of(dtype)


def parse_size(text: str) -> int:
    """The number that "64Mi", "1Ki" or "1000" names; ValueError for others, and for none."""
    count = size_of(text, "size")
    if not count:
        raise ValueError(f"size: expected a size such as 64Ki, of one value at least; got {text!r}")
    return count


def size_text(values: int) -> str:
    """The shortest of "64Mi", "64Ki", "1000"."""
    for unit in ("g", "m", "k"):
        if values and values % UNITS[unit] == 0:
            return f"{values // UNITS[unit]}{unit.upper()}i"
    return str(values)


def limits(buffer: NDArray[Any]) -> tuple[Entrant, Entrant]:
    """The most that one thread can write: the C library's memset and ``numpy.ndarray.fill``, on the buffer.

    They write a byte other than zero: some machines write zeros at twice the rate of anything else (58 GB/s
    against 25 on a virtual Zen 4), and draws are not zero.
    """
    address, size = buffer.ctypes.data, buffer.nbytes
    pieces = [(address + k, min(MEMSET_PIECE, size - k)) for k in range(0, size, MEMSET_PIECE)]
    lanes = buffer.view(f"u{buffer.itemsize}")

    def memset() -> None:
        for place, count in pieces:
            ctypes.memset(place, MEMSET_BYTE, count)

    def numpy_fill() -> None:
        lanes.fill(MEMSET_BYTE)

    return Entrant("limit", "memset", 1, memset), Entrant("limit", "numpy fill", 1, numpy_fill)


def filler(case: Case, buffer: NDArray[Any], backend: str, threads: int) -> Run:
    """The fill of a case, compiled and checked against the NumPy oracle.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot be used here.
    RuntimeError
        If its values are not those of the oracle: wrong values are not worth timing.
    """
    run = _call(case, buffer, backend, threads)
    _assert_right(case, buffer, run)
    return run


def _call(case: Case, buffer: NDArray[Any], backend: Any, threads: int) -> Run:
    engine = resolve("cpu", backend)
    if case.distribution == "words":
        region = regions.region(buffer.shape)
        recipe = Recipe("words", "uint32", ())
        return lambda: cpu_run.fill_lanes(buffer, region, recipe, (SEED, 0, 0, 0), engine, threads)
    law = LAWS[case.distribution]
    # As a user would call it: a small fill that names neither backend nor threads takes a short cut.
    usual = engine is default_host() and (case.values <= cpu_run.SMALL or threads == ff.get_threads())
    if usual:
        return lambda: ff.fill(buffer, law, seed=SEED)
    return lambda: ff.fill(buffer, law, seed=SEED, backend=backend, threads=threads)


def _assert_right(case: Case, buffer: NDArray[Any], run: Run) -> None:
    content = buffer.view(np.uint8)
    spans = windows(case)
    for start, count in spans:
        content[start * buffer.itemsize : (start + count) * buffer.itemsize] = 0xA5
    run()
    for start, count in spans:
        assert_window(case, start, buffer[start : start + count].tobytes())


def windows(case: Case) -> list[tuple[int, int]]:
    """(first value, number of values) at the beginning, in the middle and at the end."""
    count = min(WINDOW, case.values)
    middle = (case.values - count) // 2 | 1 if case.values > 2 * count else 0
    return [(start, count) for start in sorted({0, middle, case.values - count})]


def assert_window(case: Case, start: int, found: bytes, law: ff.Initializer | None = None) -> None:
    """Raise RuntimeError unless these are the bytes of the case's values from ``start`` on.

    A case whose distribution is none of `DISTRIBUTIONS` brings its initializer.
    """
    count = len(found) // itemsize(case.dtype)
    part = np.empty(count, numpy_dtype(case.dtype))
    if case.distribution == "words":
        ff.words(part, seed=SEED, start=start, backend="numpy")
    else:
        whole: dict[str, Any] = {"global_shape": case.values, "offset": start}
        ff.fill(part, law or LAWS[case.distribution], seed=SEED, backend="numpy", threads=1, **whole)
    if part.tobytes() != found:
        raise RuntimeError(
            f"expected the values of the NumPy oracle; got others for {case.distribution}, {case.dtype}, "
            f"in elements {start} to {start + count - 1} of {case.values}; run the tests before this"
        )


class Clock(NamedTuple):
    """How calls are timed.

    Attributes
    ----------
    seconds
        ``seconds(run, count)`` calls ``run`` that many times and returns how long all the calls took.
    sample
        One sample lasts at least this long, by repeating the call: the clock's own cost and grain are lost in
        it.
    grain
        The shortest time that the clock can tell.
    """

    seconds: Callable[[Run, int], float]
    sample: float
    grain: float


def repeat(run: Run, count: int) -> None:
    """Call ``count`` times."""
    for _ in range(count):
        run()


def _elapsed(run: Run, count: int) -> float:
    began = perf_counter()
    repeat(run, count)
    return perf_counter() - began


HOST = Clock(_elapsed, sample=1e-3, grain=1e-7)


def contest(
    runs: Sequence[Run],
    *,
    rounds: int,
    seconds: float = math.inf,
    least: int = 3,
    deadline: float = math.inf,
    clock: Clock = HOST,
) -> list[Sample]:
    """Time calls in turns, after one turn to warm up; return the median of each.

    Parameters
    ----------
    runs
        The calls.
    rounds
        How many turns.
    seconds
        A call that has taken this long in total sits out the turns beyond the first `least`.
    least
        Turns that every call gets, unless the deadline passes: then one.
    deadline
        On the clock of ``time.perf_counter``.
    clock
        What times the calls.
    """
    repeats = [_warm(run, clock) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    spent_by = [0.0] * len(runs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            for k, run in enumerate(runs):
                late = turn >= 1 and perf_counter() > deadline
                if late or (turn >= least and spent_by[k] >= seconds):
                    continue
                spent = clock.seconds(run, repeats[k])
                times[k].append(spent / repeats[k])
                spent_by[k] += spent
    finally:
        if collecting:
            gc.enable()
    return [Sample(median(found), len(found), _spread(found)) for found in times]


def _spread(seconds: Sequence[float]) -> float | None:
    if len(seconds) < 4:
        return None
    low, middle, high = quantiles(seconds, n=4)
    return (high - low) / middle if middle else None


def _warm(run: Run, clock: Clock) -> int:
    """Call once and, if that was quick, once more; return how many calls make one sample."""
    spent = clock.sample
    for _ in range(2):
        spent = clock.seconds(run, 1)
        if spent > 5 * clock.sample:
            break
    return math.ceil(clock.sample / min(clock.sample, max(spent, clock.grain)))


def timed(group: str, entrants: Sequence[tuple[Case, Entrant]], race: Race) -> list[Row]:
    """Rows of a contest; the others are compared with the first entrant, which is the limit."""
    samples = iter(race([entrant.run for _, entrant in entrants if entrant.run is not None]))
    rows = []
    limit = None
    for case, (subject, method, threads, run, missing) in entrants:
        if run is None:
            rows.append(Row(group, subject, method, "", "", 0, threads, missing=missing))
            continue
        sample = next(samples)
        limit = limit or sample.seconds
        kind = "limit" if subject == "limit" else group
        rows.append(
            Row(
                kind,
                subject,
                method,
                *case,
                threads,
                sample.seconds,
                sample.rounds,
                limit / sample.seconds,
                spread=sample.spread,
            )
        )
    return rows
