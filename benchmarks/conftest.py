"""One piece of memory and one measured limit for all benchmarks."""

import pytest

from fanfill.bench.measure import Arena, contest, limits, parse_size

LARGEST = parse_size("256Mi")


@pytest.fixture(scope="session")
def arena():
    """The buffer that every benchmark draws into, allocated once at the size of the largest."""
    found = Arena()
    found.view("float64", LARGEST)
    return found


@pytest.fixture(scope="session")
def limit(arena):
    """Seconds of memset and of numpy's fill on a case's buffer, measured once for each number of bytes."""
    known = {}

    def of(buffer):
        if buffer.nbytes not in known:
            runs = [entrant.run for entrant in limits(buffer)]
            known[buffer.nbytes] = [sample.seconds for sample in contest(runs, rounds=7, seconds=2.0)]
        return known[buffer.nbytes]

    return of


@pytest.fixture
def measured(benchmark, limit):
    """Run a call under pytest-benchmark, with rates and the share of the limit as extra info."""

    def run(call, case, buffer, **extra):
        memset, fill = limit(buffer)
        benchmark(call)
        benchmark.group = f"{case.distribution} {case.dtype} {case.values}"
        benchmark.extra_info.update(extra, **case._asdict(), memset_seconds=memset, numpy_fill_seconds=fill)
        if benchmark.disabled:
            return
        seconds = benchmark.stats.stats.median
        benchmark.extra_info.update(
            values_per_second=case.values / seconds,
            gigabytes_per_second=buffer.nbytes / seconds / 1e9,
            share_of_memset=memset / seconds,
            share_of_numpy_fill=fill / seconds,
        )

    return run
