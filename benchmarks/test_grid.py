"""fanfill over its whole grid: distribution, dtype, size, threads, backend."""

import pytest

import fanfill as ff
from fanfill.backends import get
from fanfill.bench.measure import (
    DISTRIBUTIONS,
    LAWS,
    Case,
    contest,
    filler,
    itemsize,
    numpy_dtype,
    parse_size,
)

DTYPES = ("float32", "float64", "float16", "bfloat16")
SIZES = ("1Ki", "64Ki", "1Mi", "64Mi", "256Mi")
KINDS = [(d, t) for d in DISTRIBUTIONS for t in (("uint32",) if d == "words" else DTYPES)]
NUMPY_MOST = parse_size("64Mi")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", ["1", "all"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("distribution", "dtype"), KINDS)
def test_fill(measured, arena, distribution, dtype, backend, threads, size):
    case = Case(distribution, dtype, parse_size(size))
    if backend == "numpy" and case.values > NUMPY_MOST:
        pytest.skip("the NumPy backend is measured up to 64Mi values")
    if reason := get(backend).unusable():
        pytest.skip(reason)
    count = 1 if threads == "1" else ff.get_threads()
    buffer = arena.view(dtype, case.values)
    measured(filler(case, buffer, backend, count), case, buffer, backend=backend, threads=count)


@pytest.mark.cuda
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("distribution", "dtype"), KINDS)
def test_fill_on_a_gpu(benchmark, distribution, dtype, size):
    """The limit is the device's own memset, on the same buffer."""
    if reason := get("cuda").unusable():
        pytest.skip(reason)
    import cupy

    values = parse_size(size)
    stop = cupy.cuda.get_current_stream().synchronize
    if distribution == "words":
        pytest.skip("words are measured on the host")
    buffer = cupy.zeros(values, numpy_dtype(dtype))

    def call():
        ff.fill(buffer, LAWS[distribution], seed=1)
        stop()

    def memset():
        buffer.data.memset(0, buffer.nbytes)
        stop()

    call()
    (limit,) = contest([memset], rounds=7, seconds=1.0)
    benchmark(call)
    if not benchmark.disabled:
        seconds = benchmark.stats.stats.median
        benchmark.extra_info.update(
            values_per_second=values / seconds,
            gigabytes_per_second=values * itemsize(dtype) / seconds / 1e9,
            share_of_memset=limit.seconds / seconds,
        )
