"""The clock and the limit: cases, buffers, fills checked against the oracle, contests."""

from __future__ import annotations

import ctypes
import gc
import math
import re
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fanfill as ff
from fanfill import regions
from fanfill.arguments import number_of
from fanfill.backends import default_host, resolve
from fanfill.cpu import run as cpu_run
from fanfill.dtypes import STORAGES
from fanfill.recipes import Recipe
from fanfill.report import MEMSET_BYTE, MEMSET_PIECE

__all__ = [
    "BOUND",
    "DISTRIBUTIONS",
    "LAWS",
    "STD",
    "Arena",
    "Case",
    "Entrant",
    "Sample",
    "assert_window",
    "contest",
    "filler",
    "itemsize",
    "limits",
    "numpy_dtype",
    "parse_size",
    "size_text",
    "windows",
]

BOUND = 0.05  # of the uniform draws: +-BOUND
STD = 0.02  # of the normal ones; truncated ones are cut at two of them
LAWS = {
    "uniform": ff.uniform(-BOUND, BOUND),
    "normal": ff.normal(0.0, STD),
    "truncated": ff.truncated_normal(0.0, STD),
}
DISTRIBUTIONS = ("words", *LAWS)
SEED = 1
WINDOW = 4096  # values compared with the oracle at the front, in the middle and at the end
# One sample lasts this long at least, by repeating the call: the clock's own cost and grain are lost in it.
SAMPLE_SECONDS = 1e-3
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Case(NamedTuple):
    """What is drawn: one of `DISTRIBUTIONS`, a storage type ("uint32" for words), and how many values."""

    distribution: str
    dtype: str
    values: int


class Entrant(NamedTuple):
    """One way to do a case: who, how, on how many threads, and the call; or why there is none."""

    subject: str
    method: str
    threads: int
    run: Callable[[], object] | None
    missing: str | None = None


class Sample(NamedTuple):
    """Median seconds of one call, and of how many rounds."""

    seconds: float
    rounds: int


class Arena:
    """One piece of memory that every case draws into, grown (never shrunk) to the largest case so far."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def view(self, dtype: str, values: int) -> NDArray[Any]:
        """A contiguous vector in that memory, pages touched; of ml_dtypes' type where NumPy has none."""
        needed = values * itemsize(dtype)
        if needed > self._bytes.size:
            self._bytes = np.empty(0, np.uint8)  # first let go: two large buffers may not fit
            self._bytes = np.empty(needed, np.uint8)
            self._bytes.fill(0)
        return self._bytes[:needed].view(numpy_dtype(dtype))


def itemsize(dtype: str) -> int:
    """Bytes of one value; 0 for rows that draw nothing."""
    return STORAGES[dtype].itemsize if dtype in STORAGES else 4 if dtype == "uint32" else 0


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of a name, by the rules of `fanfill.draw`; also uint32, for words."""
    if dtype == "uint32":
        return np.dtype(np.uint32)
    found: np.dtype[Any] = ff.draw(0, ff.constant(0.0), seed=0, dtype=dtype, device="cpu").dtype
    return found


def parse_size(text: str) -> int:
    """The number that "64Mi", "1Ki" or "1000" names; ValueError for others."""
    match = re.fullmatch(r"([0-9]+)(?:([kmg])i)?", text.strip().lower())
    count = 0 if match is None else number_of(match[1], "size")
    if match is None or count == 0:
        raise ValueError(f"expected a size such as 64Ki, 64Mi or 1000; got {text!r}")
    return count * UNITS[match[2] or ""]


def size_text(values: int) -> str:
    """The shortest of "64Mi", "64Ki", "1000"."""
    for unit in ("g", "m", "k"):
        if values and values % UNITS[unit] == 0:
            return f"{values // UNITS[unit]}{unit.upper()}i"
    return str(values)


def limits(buffer: NDArray[Any]) -> tuple[Entrant, Entrant]:
    """What one thread can write at most: the C library's memset and ``numpy.ndarray.fill``, on the buffer.

    Of a byte that is not zero: some machines write zeros at twice the rate of anything else (58 GB/s against
    25 on a virtual Zen 4), and a draw is never zero.
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


def filler(case: Case, buffer: NDArray[Any], backend: str, threads: int) -> Callable[[], object]:
    """The fill of a case, compiled, and checked against the NumPy oracle.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot be used here.
    RuntimeError
        If its values are not those of the oracle: what is wrong is not worth timing.
    """
    run = _call(case, buffer, backend, threads)
    _assert_right(case, buffer, run)
    return run


def _call(case: Case, buffer: NDArray[Any], backend: str, threads: int) -> Callable[[], object]:
    engine = resolve("cpu", backend)
    if case.distribution == "words":
        region = regions.region(buffer.shape)
        recipe = Recipe("words", "uint32", ())
        return lambda: cpu_run.fill_lanes(buffer, region, recipe, (SEED, 0, 0, 0), engine, threads)
    law = LAWS[case.distribution]
    # As a user would call it: a small fill that names neither backend nor threads takes a shorter way.
    usual = engine is default_host() and (case.values <= cpu_run.SMALL or threads == ff.get_threads())
    if usual:
        return lambda: ff.fill(buffer, law, seed=SEED)
    return lambda: ff.fill(buffer, law, seed=SEED, backend=backend, threads=threads)


def _assert_right(case: Case, buffer: NDArray[Any], run: Callable[[], object]) -> None:
    content = buffer.view(np.uint8)
    spans = windows(case)
    for start, count in spans:
        content[start * buffer.itemsize : (start + count) * buffer.itemsize] = 0xA5
    run()
    for start, count in spans:
        assert_window(case, start, buffer[start : start + count].tobytes())


def windows(case: Case) -> list[tuple[int, int]]:
    """(first value, values) at the front, in the middle and at the end."""
    count = min(WINDOW, case.values)
    middle = (case.values - count) // 2 | 1 if case.values > 2 * count else 0
    return [(start, count) for start in sorted({0, middle, case.values - count})]


def assert_window(case: Case, start: int, found: bytes) -> None:
    """Raise RuntimeError unless these are the bytes of the case's values from ``start`` on."""
    count = len(found) // itemsize(case.dtype)
    part = np.empty(count, numpy_dtype(case.dtype))
    if case.distribution == "words":
        ff.words(part, seed=SEED, start=start, backend="numpy")
    else:
        whole: dict[str, Any] = {"global_shape": case.values, "offset": start}
        ff.fill(part, LAWS[case.distribution], seed=SEED, backend="numpy", threads=1, **whole)
    if part.tobytes() != found:
        raise RuntimeError(
            f"expected the values of the NumPy oracle; got others for {case.distribution}, {case.dtype}, "
            f"in elements {start} to {start + count - 1} of {case.values}; run the tests before this"
        )


def contest(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    least: int = 3,
    deadline: float = math.inf,
) -> list[Sample]:
    """Time calls in turns, after one turn to warm up; the median of each.

    Parameters
    ----------
    runs
        The calls.
    rounds
        How many turns.
    seconds
        A call that has taken so long in all sits out the turns beyond the first `least`.
    least
        Turns that everyone gets, unless the deadline passes: then one.
    deadline
        On the clock of ``time.perf_counter``.
    """
    repeats = [_warm(run) for run in runs]
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
                count = repeats[k]
                began = perf_counter()
                for _ in range(count):
                    run()
                spent = perf_counter() - began
                times[k].append(spent / count)
                spent_by[k] += spent
    finally:
        if collecting:
            gc.enable()
    return [Sample(median(found), len(found)) for found in times]


def _warm(run: Callable[[], object]) -> int:
    """Call once and, if that was quick, once more: how many calls make one sample."""
    spent = SAMPLE_SECONDS
    for _ in range(2):
        began = perf_counter()
        run()
        spent = perf_counter() - began
        if spent > 5 * SAMPLE_SECONDS:
            break
    return math.ceil(SAMPLE_SECONDS / min(SAMPLE_SECONDS, max(spent, 1e-7)))
