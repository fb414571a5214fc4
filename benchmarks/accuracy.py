"""How far the values are from the exact formulas on the same words, and whether the stated bounds hold.

    python benchmarks/accuracy.py [--words N] [--double-words N] [--scan N] [--processes N] [--seed N]

Needs the extra ``test`` (SciPy, mpmath). Prints a table with a line for each distribution, interval and
compute type: random words, and all extreme ones (for pairs, all pairs of extreme ones). ``--words`` is for
float32's normal and its +-2 truncated normal, the other float32 lines take a tenth of it; ``--double-words``
is for each float64 line.

The last lines are adversarial: a float32 normal is a radius times a cosine or a sine of another word, so its
worst cases can be put together. Of ``--scan`` radius words and as many angles (by default of all there are)
the worst are taken, in each of 1024 slices of the mantissa and of either sign, and multiplied out. Where
every word was scanned, the slices' worst errors also make a ceiling for all 2^64 pairs.

Exit code 1 if a bound is broken, whether by random, extreme or adversarial words.
"""

from __future__ import annotations

import argparse
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from adversary import adversarial
from reference import (
    COUNT,
    FLOOR,
    NORMAL_BOUND,
    RANGE_BOUND,
    ULP,
    Array,
    Finding,
    extreme_words,
    kernel_values,
    merged,
    normal_double,
    normal_single,
    range_exact,
    shares,
    truncated_double,
    truncated_single,
    ulps,
    uniform_exact,
    worst_of,
)

import fanfill as ff
from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill.machine import cpu_model

INF = math.inf
CHUNK = {"float32": 1 << 18, "float64": 1000}
SHARE = {"float32": "2^-20", "float64": "2^-48"}  # of max(1, |z|)


class Line(NamedTuple):
    """A line of the table: what is drawn, and whether it takes all the float32 words or a tenth."""

    name: str
    law: init.Initializer
    main: bool = False


def _cut(name: str, lower: float, upper: float, main: bool = False) -> Line:
    return Line(f"{name} [{lower:.10g}, {upper:.10g}]", init.truncated_normal(lower=lower, upper=upper), main)


LINES = (
    Line("uniform +-0.1", init.uniform(-0.1, 0.1)),
    Line("uniform [-0.7, 1.6]", init.uniform(-0.7, 1.6)),
    Line("normal", init.normal(), True),
    _cut("truncated, two-sided", -2.0, 2.0, True),
    _cut("truncated, one-sided", -1.0, INF),
    _cut("truncated, half", 0.0, INF),
    _cut("truncated, far", 5.29, INF),
    _cut("truncated, far below", -INF, -5.29),
    _cut("truncated, far, two-sided", 3.0, 5.0),
    _cut("truncated, wide", -9.0, 8.0),
    _cut("truncated, both infinite", -INF, INF),
    _cut("truncated, narrow", 0.5, 0.50000017),
    _cut("truncated, narrow in a tail", -2.5000036, -2.5),
    _cut("truncated, tail from the switch", 2.0, 9.0),
    _cut("truncated, across the switch", 1.99, 2.0001),
    _cut("truncated, just past both switches", -2.0000005, 2.0000005),
)


def measure(line: Line, dtype: str, words: tuple[Array, ...]) -> list[Finding]:
    """Errors of one line on words; of uniforms also the count of values not rounded as they must be."""
    made, single = recipe(line.law, (1,), dtype), dtype == "float32"
    found = kernel_values(made, *words)
    if made.form == "normal":
        exact = (normal_single if single else normal_double)(*words)
        error = np.maximum(*(ulps(z, x, FLOOR) for z, x in zip(found, exact, strict=True)))
        return [worst_of(2 * error.size, error, ULP, NORMAL_BOUND, words)]
    if made.form.startswith("truncated"):
        reference = truncated_single if single else truncated_double
        error = shares(found, reference(words[0], *line.law.params[2:]))
        return [worst_of(error.size, error, SHARE[dtype], 1.0, words)]
    low, high = line.law.params
    # Two roundings make a symmetric uniform; one the other, of a point that is near the exact one.
    if made.form == "uniform":
        exact, rounded = uniform_exact(made, words[0])
        error, bound = ulps(found, exact), 1.5
    else:
        exact, rounded = range_exact(made, low, high, words[0])
        error, bound = ulps(found, exact, max(-low, high)), RANGE_BOUND
    wrong = (found != rounded) | (found.astype(np.float64) < low) | (found.astype(np.float64) > high)
    return [
        worst_of(error.size, error, ULP, bound, words),
        Finding(error.size, float(wrong.sum()), COUNT, 0.0, int(wrong.sum())),
    ]


def some_words(line: Line, dtype: str, seed: tuple[int, ...], count: int) -> tuple[Array, ...]:
    """Random words: one array, or two for normals; `count` words in all."""
    rng, bits = np.random.default_rng(seed), 32 if dtype == "float32" else 64
    rows = 2 if line.law.distribution == "normal" else 1
    kind = np.uint32 if bits == 32 else np.uint64
    return tuple(rng.integers(0, 2**bits, (rows, count // rows), dtype=kind))


def all_extremes(line: Line, dtype: str) -> tuple[Array, ...]:
    """The extreme words, or all pairs of them."""
    w = extreme_words(32 if dtype == "float32" else 64)
    return (np.repeat(w, w.size), np.tile(w, w.size)) if line.law.distribution == "normal" else (w,)


def task(job: tuple[int, str, int, int, int]) -> list[Finding]:
    """Measure one chunk of a line; the chunk with a negative number holds the extreme words."""
    index, dtype, seed, number, count = job
    line = LINES[index]
    if number < 0:
        return measure(line, dtype, all_extremes(line, dtype))
    key = (seed, index, 0 if dtype == "float32" else 1, number)
    return measure(line, dtype, some_words(line, dtype, key, count))


def lines(
    pool: ProcessPoolExecutor, words: int, double_words: int, seed: int
) -> Iterator[tuple[str, str, Finding]]:
    """Name, compute type and finding of every line of random and extreme words."""
    for dtype in ("float32", "float64"):
        for index, line in enumerate(LINES):
            total = double_words if dtype == "float64" else words if line.main else -(-words // 10)
            size = CHUNK[dtype]
            jobs = [(index, dtype, seed, k, min(size, total - k * size)) for k in range(-(-total // size))]
            found = list(pool.map(task, [(index, dtype, seed, -1, 0), *jobs]))
            for kind in zip(*found, strict=True):
                yield line.name, dtype, merged(list(kind))


def show(name: str, dtype: str, f: Finding) -> None:
    """Print a row; the bound stands in the unit of the error."""
    worst, beyond = f"{f.worst:.0f}" if f.unit == COUNT else f"{f.worst:.3f}", f"{f.beyond:,}"
    bound = "" if f.bound == INF else f"{f.bound:g}"
    at = " ".join(f"{w:#x}" for w in f.words)
    print(f"| {name} | {dtype} | {f.values:,} | {f.unit} | {worst} | {bound} | {beyond} | {at} |", flush=True)


def setting(arguments: Sequence[str]) -> str:
    """The command, the commit, the versions and the machine, to stand above the table."""
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpy", "scipy", "mpmath", "numba"))
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return (
        f"command: {' '.join(['python benchmarks/accuracy.py', *arguments])}\n"
        f"fanfill: {ff.__version__}, stream version {ff.STREAM_VERSION}, commit {commit}\n"
        f"with: Python {platform.python_version()}, {packages}\n"
        f"machine: {cpu_model()}\n"
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure the values against the exact formulas.")
    parser.add_argument("--words", type=int, default=10**8, help="float32 words (default: 10^8)")
    parser.add_argument(
        "--double-words", type=int, default=20_000, help="float64 words a line (default: 20000)"
    )
    parser.add_argument("--scan", type=int, default=2**32, help="radii and angles searched (default: all)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    began, broken = time.monotonic(), []
    print(setting(arguments))
    print("| line | type | values | unit | worst | bound | beyond | at words |")
    print("|---|---|---:|---|---:|---:|---:|---|")
    with ProcessPoolExecutor(given.processes) as pool:
        for rows in (
            lines(pool, given.words, given.double_words, given.seed),
            adversarial(pool, given.scan, given.processes),
        ):
            for name, dtype, f in rows:
                show(name, dtype, f)
                if not f.worst <= f.bound:
                    broken.append(f"{name} ({dtype})")
    print(f"\n{time.monotonic() - began:.0f} s; bounds broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
