"""docs/numpy.md and docs/distributed.md: every example runs, those for clusters with -m slow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fanfill as ff

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("numpy.md", "distributed.md")
EXAMPLES = [
    (page, needs, example)
    for page in PAGES
    for needs, example in re.findall(
        r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
]
PLAIN = [
    pytest.param(page, example, id=f"{page}-{number}")
    for number, (page, needs, example) in enumerate(EXAMPLES)
    if not needs
]


@pytest.mark.parametrize(("page", "example"), PLAIN)
def test_an_example_runs(page: str, example: str) -> None:
    for library in ("scipy", "dask"):
        if re.search(rf"^(import|from) {library}\b", example, re.MULTILINE):
            pytest.importorskip(library, reason=f"{library} is not installed")
    exec(compile(example, page, "exec"), {})


def test_there_are_examples_of_every_kind() -> None:
    assert {page for page, _, _ in EXAMPLES} == set(PAGES)
    assert {needs for _, needs, _ in EXAMPLES} == {"", "cluster", "mpi", "ray"}


def recipe(folder: Path, kind: str) -> Path:
    """The example of a kind, as it stands on the page, as a program in a folder."""
    (example,) = (example for _, needs, example in EXAMPLES if needs == kind)
    program = folder / f"{kind}_recipe.py"
    program.write_text(example)
    return program


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ.copy(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_recipe_for_zarr_runs_on_a_cluster(tmp_path: Path) -> None:
    for library in ("distributed", "zarr"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    run([sys.executable, str(recipe(tmp_path, "cluster"))], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_recipe_for_mpi_writes_one_file_by_any_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")
    command = [mpiexec, "-n", str(ranks), sys.executable, str(recipe(tmp_path, "mpi")), "w.npy"]
    run(command, tmp_path)
    wanted = ff.draw((3000, 1111), ff.he_normal(), seed=0, name="w")
    assert np.load(tmp_path / "w.npy").tobytes() == wanted.tobytes()


@pytest.mark.slow
def test_the_recipe_for_ray_runs(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    run([sys.executable, str(recipe(tmp_path, "ray"))], tmp_path)
