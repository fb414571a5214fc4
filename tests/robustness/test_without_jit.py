"""The compiled kernels' Python text, run by Python: what Numba compiles is what is written."""

from __future__ import annotations

import os
import subprocess
import sys

# Small sizes, for Python's sake; but some runs are longer than a tile or cross the carry at word 2^34.
PROGRAM = """
import math
import sys
import numpy as np
from numba import config
from fanfill import initializers as init
from fanfill.cpu.numba import BACKEND
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.recipes import Recipe
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.compile import cpu, loops

assert config.DISABLE_JIT
key = (1, 2, 3, 2**32 - 1)
laws = [
    init.uniform(-0.3, 0.3),
    init.uniform(-0.7, 1.6),
    init.normal(0.1, 0.6),
    init.truncated_normal(0.1, 0.6, -1.9, 1.3),
    init.truncated_normal(0.1, 0.6, -2.7, math.inf),
]
cases = [(recipe(law, (1,), dtype), s.lanes) for law in laws for dtype, s in STORAGES.items()]
cases.append((Recipe("words", "uint32", ()), np.dtype(np.uint32)))
forms = set()
for made, lanes in cases:
    forms.add(made.form)
    compiled, expected = cpu.kernels(made.form, made.dtype), blocks.kernels(made.form, made.dtype)

    def assert_same(name, count, start, *box):
        found, wanted = np.zeros(count, lanes), np.ones(count, lanes)
        with np.errstate(all="ignore"):
            getattr(compiled, name)(found, start, *box, key, made.params)
        getattr(expected, name)(wanted, start, *box, key, made.params)
        assert found.tobytes() == wanted.tobytes(), (made, name, count, start)

    for start in (0, 1, 2, 3, 2**34 - 3, 2**33 - 3):
        for count in (0, 1, 2, 5):
            assert_same("run", count, start)
    assert_same("box", 12, 5, np.array([3, 4]), np.array([7, 1]))
    assert_same("box", 12, 5, np.array([2, 3, 2]), np.array([1, 50, 9]))
    if made.dtype in ("float32", "float64"):
        assert_same("run", 4 * loops.GROUP + 7, 1)
        assert_same("box", 1800, 6, np.array([45, 40]), np.array([43, 1]))
        assert_same("box", 600, 2, np.array([600]), np.array([9]))
assert len(forms) == 7

for steps in ((1, 1), (1, 2), (1, -1), (-1, 1)):
    for shape in ((40, 35), (40, 3)):
        memory = np.zeros([abs(k) * n for k, n in zip(steps, shape)], np.uint32)
        view = memory[:: steps[0], :: steps[1]]
        for target in (view, view.T):
            values = np.arange(target.size, dtype=np.uint32) + np.uint32(1)
            BACKEND.scatter(target)(tuple(slice(0, n) for n in target.shape), values)
            assert (target == values.reshape(target.shape)).all()
            assert np.count_nonzero(memory) == target.size
assert "fanfill_kernels.compile.compiler" not in sys.modules
print("the same", len(cases))
"""


def test_the_loops_run_by_python_give_the_bytes_of_the_numpy_kernels() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same 41\n"


def test_the_program_can_fail() -> None:
    wrong = PROGRAM.replace("cases =", "loops.MASK = np.uint64(255)\ncases =", 1)
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", wrong], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
