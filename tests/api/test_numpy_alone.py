"""NumPy alone: every golden hash, and the reason that is given, where Numba is not installed.

This file needs NumPy and pytest, so that it also runs where nothing else is installed (``ci/numpy_only.sh``).
In an environment that has Numba, each test runs in a child that cannot find it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from fanfill import system
from fanfill.cpu import numba

# What a child begins with: nothing but NumPy and the standard library can be found.
ALONE = """
import sys

HIDDEN = ("numba", "llvmlite", "ml_dtypes", "cupy", "torch")

class Hide:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide)
import hashlib
import warnings
import numpy as np
import fanfill as ff
"""

# The dtypes of ml_dtypes are drawn as the integers that hold their bits.
GOLDEN = """
from fanfill import regions
from fanfill.cpu.run import fill_lanes
from fanfill.selftest import golden
from fanfill.backends import get
from fanfill.dtypes import STORAGES
from fanfill.streams import key_of
from fanfill.distributions import recipe

wrong, drawn = [], {}
for case in golden.cases():
    if case.dtype in ("uint32", "float32", "float64", "float16"):
        buffer = np.empty(case.shape, case.dtype)
        golden.draw(case, buffer)
    else:
        law, place, name = golden.drawn_by(case)
        buffer = np.empty(case.shape, STORAGES[case.dtype].lanes)
        region = regions.region(place.shape, place.global_shape, place.offset)
        made = recipe(law, region.shape, case.dtype)
        fill_lanes(buffer, region, made, key_of(golden.SEED, name), get("numpy"), 2)
    digest = hashlib.sha256(buffer.tobytes()).hexdigest()
    drawn[case.dtype] = drawn.get(case.dtype, 0) + 1
    if digest != golden.expected()[str(case)]:
        wrong.append(str(case))
print(drawn, wrong)
"""

# A buffer that compiled kernels would write past the caches, and one that they would transpose.
LARGE = """
whole = ff.fill(np.empty((1500, 2000), np.float32), ff.he_normal(), seed=1, threads=2)
part = np.empty((700, 300), np.float32).T
ff.fill(part, ff.he_normal(), seed=1, global_shape=whole.shape, offset=(100, 200), threads=2)
assert (part == whole[100:400, 200:900]).all()
print("the same")
"""


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees NumPy alone."""
    return subprocess.run(
        [sys.executable, *options, "-c", ALONE + program], capture_output=True, text=True, timeout=300
    )


def output(program: str, *options: str) -> str:
    done = run(program, "-W", "error", "-W", "ignore:fanfill fills with NumPy:RuntimeWarning", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_numpy_alone_draws_every_golden_hash() -> None:
    counts = "{'uint32': 4, 'float32': 138, 'float64': 138, 'float16': 138, 'bfloat16': 138, "
    counts += "'float8_e4m3fn': 138, 'float8_e5m2': 138, 'float8_e4m3fnuz': 138, 'float8_e5m2fnuz': 138}"
    assert output(GOLDEN) == f"{counts} []\n"


def test_the_golden_program_can_fail() -> None:
    few = "(case for case in golden.cases() if case.initializer == 'he_normal')"
    program = GOLDEN.replace("golden.cases()", few)
    assert output(program).endswith(" []\n")
    wrong = output(program.replace("key_of(golden.SEED,", "key_of(golden.SEED + 1,"))
    assert "'he_normal / bfloat16 / box'" in wrong


def test_numpy_alone_fills_large_and_transposed_buffers() -> None:
    assert output(LARGE) == "the same\n"


def test_the_backends_say_that_numba_is_missing_and_what_to_do() -> None:
    shown = output("numba, numpy, _ = ff.backends(); print(numpy[1:3], numba.reason)")
    assert shown.startswith("(True, None) Numba cannot be imported (No module named 'llvmlite')")
    remedy = "pip install numba" if system.without_numba() is None else "set FANFILL_BACKEND=numpy"
    assert f"; {remedy}" in shown


def test_the_first_fill_warns_once_and_a_choice_of_numpy_does_not() -> None:
    twice = "\nfor _ in range(2): ff.draw(3, ff.normal(), seed=0, device='cpu')"
    assert run(twice).stderr.count("fanfill fills with NumPy, several times slower than with Numba") == 1
    chosen = "import os; os.environ['FANFILL_BACKEND'] = 'numpy'" + twice
    assert run(chosen, "-W", "error").stderr == ""


@pytest.mark.parametrize(
    ("function", "value", "said"),
    [
        ("python_implementation", "PyPy", "PyPI has none for PyPy;"),
        ("machine", "riscv64", "PyPI has none for riscv64;"),
        ("machine", "ppc64le", "PyPI has none for ppc64le;"),
        ("glibc", False, "PyPI has none for a C library other than glibc, such as musl;"),
    ],
)
def test_where_pypi_has_no_numba_the_reason_says_so(
    function: str, value: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = system if function == "glibc" else system.platform
    monkeypatch.setattr(system.platform, "python_implementation", lambda: "CPython")
    monkeypatch.setattr(system.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(system, "glibc", lambda: True)
    monkeypatch.setattr(system.sys, "platform", "linux")
    monkeypatch.setattr(module, function, lambda: value)

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite")

    monkeypatch.setattr(numba, "_tried", missing)
    reason = numba._unusable.__wrapped__()
    assert reason is not None
    assert reason.startswith(f"Numba cannot be imported (No module named 'llvmlite'), and {said}")
    assert reason.endswith("set FANFILL_BACKEND=numpy to choose NumPy, which draws the same bits")
