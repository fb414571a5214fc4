"""A program that PyInstaller froze: every backend is in it, and all that they read."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fanfill import _pyinstaller

ROOT = Path(__file__).resolve().parents[2]
HOOKS = Path(_pyinstaller.__file__).parent

PROGRAM = """
import hashlib, sys
import numpy as np
import fanfill as ff
from fanfill.selftest import golden
from fanfill_kernels.cuda.choice import source_of

assert getattr(sys, "frozen", False)
for backend in ("numba", "numpy"):
    for case in list(golden.cases())[:40]:
        if case.dtype in ("uint32", "float32"):
            buffer = np.empty(case.shape, case.dtype)
            golden.draw(case, buffer, backend=backend)
            assert hashlib.sha256(buffer.tobytes()).hexdigest() == golden.expected()[str(case)], case
assert "philox" in source_of("normal_float32")
print(*(f"{status.name}: {status.reason}" for status in ff.backends()), sep="\\n")
"""


def test_pyinstaller_is_told_of_the_hooks() -> None:
    (found,) = (e for e in entry_points(group="pyinstaller40") if e.value.startswith("fanfill."))
    assert found.load()() == [str(HOOKS)]
    assert {file.name for file in HOOKS.glob("hook-*.py")} == {"hook-fanfill.py", "hook-fanfill_kernels.py"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_frozen_program_has_every_backend_and_its_data(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pyinstaller>=6", ROOT], check=True)
    freeze_and_run(python, tmp_path)


def freeze_and_run(python: Path, folder: Path) -> None:
    (folder / "program.py").write_text(PROGRAM)
    build = [python, "-m", "PyInstaller", "--log-level", "ERROR", "program.py"]
    subprocess.run(build, cwd=folder, check=True)
    done = subprocess.run(
        [folder / "dist" / "program" / "program"],
        env={"FANFILL_CACHE_DIR": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    numba, numpy, cuda = done.stdout.splitlines()
    assert (numba, numpy) == ("numba: None", "numpy: None")
    assert cuda.startswith("cuda: CuPy cannot be imported (No module named 'cupy')")
