"""What objects to a new distribution that has no cases yet: as ``docs/architecture.md`` says, each suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATCH = ROOT / "tests" / "data" / "laplace.txt"
SUITES = {
    "golden": "tests/api/test_golden.py::test_every_distribution_and_every_form_has_a_golden_case",
    "the page": "tests/docs/test_stream_doc.py::test_every_distribution_has_its_section",
    "recipes": "tests/api/test_recipes.py::test_every_distribution_and_every_form_is_here",
    "initializers": "tests/api/test_initializers.py::test_every_distribution_has_facts_of_others_here",
    "distributions": "tests/api/test_distributions.py::test_every_distribution_is_drawn_here",
    "accuracy": "tests/kernels/test_accuracy.py::test_every_distribution_that_is_computed_is_measured",
    "bits": "tests/kernels/test_bits.py::test_every_distribution_is_drawn_here",
    "quality": "tests/bench/test_quality.py::test_every_distribution_is_counted_here",
    "CUDA's source": "tests/cuda/test_cuda_source.py::test_every_form_has_its_laws",
}
# What a golden case, once it is there, asks for.
HASHES = "tests/api/test_golden.py::test_the_golden_file_covers_every_case"
# It works, and so what objects does so for its lack of cases.
DRAWS = """
import numpy as np
import fanfill as ff
law = ff.Initializer("laplace", (0.5, 2.0))
for dtype in ("float32", "float64", "float16"):
    x = ff.fill(np.empty(1_000_000, dtype), law, seed=1, backend="numpy").astype(np.float64)
    assert abs(x.mean() - law.mean(())) < 0.02 and abs(x.std() / law.std(()) - 1) < 0.01, (x.mean(), x.std())
    assert abs(np.abs(x - 0.5).mean() - 2.0) < 0.01
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that tests need, bytecode included, with the distribution added."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("src", "kernels", "tests", "docs", "benchmarks"):
        # Another worker may be writing bytecode, under such a name until it is whole.
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    parts = re.split(r"^=== (\S+)\n", PATCH.read_text(), flags=re.MULTILINE)
    for path, text in zip(parts[1::2], parts[2::2], strict=True):
        with (copy / path).open("a") as file:
            file.write(text)
    return copy


def python(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join(str(tree / name) for name in ("src", "kernels"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env=environment | {"PYTHONPATH": places, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def failing(tree: Path, *tests: str) -> set[str]:
    """Which of these tests fail, out of those that run."""
    done = python(
        tree,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",
        "-o",
        "addopts=",
        "-q",
        "-rA",
        *tests,
    )
    ends = {name: end for end, name in re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)}
    assert ends.keys() == set(tests), done.stdout + done.stderr
    assert "ERROR" not in ends.values(), done.stdout
    return {name for name, end in ends.items() if end == "FAILED"}


def test_each_suite_objects_until_it_has_its_cases(tree: Path) -> None:
    """Without the distribution none objects, as the suites' own runs show."""
    drawn = python(tree, "-c", DRAWS)
    assert drawn.returncode == 0, drawn.stderr
    assert failing(tree, *SUITES.values(), HASHES) == set(SUITES.values())


def test_a_golden_case_asks_for_its_hashes(tree: Path) -> None:
    file = tree / "src/fanfill/distributions.py"
    text = file.read_text()
    assert text.count("golden={},") == 1
    file.write_text(text.replace("golden={},", 'golden={"laplace": (0.5, 2.0)},'))
    try:
        assert failing(tree, SUITES["golden"], HASHES) == {HASHES}
    finally:
        file.write_text(text)
