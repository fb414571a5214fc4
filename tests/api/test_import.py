"""`import fanfill` is light: NumPy alone, little time, the public names and no others."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import fanfill

HEAVY = (
    "numba",
    "llvmlite",
    "cupy",
    "torch",
    "ml_dtypes",
    "jax",
    "keras",
    "fanfill_kernels.lanes",
    "logging",
    "concurrent.futures",
    "asyncio",
    "dask",
    "numpy.random.bit_generator",
    "fanfill.bitgenerator",
)

NAMES = (
    "BackendUnavailableError",
    "Initializer",
    "Philox",
    "STREAM_VERSION",
    "__version__",
    "backends",
    "constant",
    "delta_orthogonal",
    "dirac",
    "draw",
    "eye",
    "fans",
    "fill",
    "fill_many",
    "gain",
    "get_threads",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "initializer",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "seed_from",
    "select_backend",
    "set_threads",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "words",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
)


def assert_light(code):
    """None of the heavy modules is loaded after `code` beyond those that a bare interpreter loads."""
    script = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_importing_loads_numpy_only():
    assert_light("import fanfill")


@pytest.mark.parametrize("name", ["ml_dtypes", "fanfill_kernels.lanes", "logging"])
def test_the_check_of_what_is_loaded_can_fail(name):
    with pytest.raises(AssertionError):
        assert_light(f"import fanfill, {name}")


def test_asking_and_describing_load_nothing_either():
    assert_light(
        "import fanfill as ff; ff.he_normal().std((4, 8)); ff.get_threads(); ff.initializer('glorot_uniform')"
    )


def seconds(code):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
    return time.perf_counter() - began


def test_importing_takes_at_most_half_as_long_again_as_numpy():
    """The whole process is timed, the least of many runs taking turns: noise only ever adds."""
    ours, numpys = 9.0, 9.0
    for _ in range(30):
        numpys, ours = min(numpys, seconds("import numpy")), min(ours, seconds("import fanfill"))
        if ours <= 1.5 * numpys:
            break
    assert ours <= 1.5 * numpys


def test_the_public_names_are_these():
    assert sorted(fanfill.__all__) == sorted(NAMES)
    assert all(hasattr(fanfill, name) for name in NAMES)


def test_second_names_are_the_same_objects():
    for ours, theirs in (("xavier", "glorot"), ("he", "kaiming")):
        for kind in ("uniform", "normal"):
            assert getattr(fanfill, f"{ours}_{kind}") is getattr(fanfill, f"{theirs}_{kind}")


def test_the_functions_that_share_a_name_with_a_module_are_functions():
    import fanfill.cpu.numpy
    import fanfill.fill

    for name in ("backends", "fans", "fill"):
        assert callable(getattr(fanfill, name))


def test_the_stream_is_version_1():
    assert fanfill.STREAM_VERSION == 2
    assert fanfill.__version__ == "0.1.0"
