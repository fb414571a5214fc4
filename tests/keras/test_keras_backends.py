"""Each check of `keras_checks` on each backend; one set of bits; files from one backend to another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optional
import pytest
from processes import HELPERS

optional.needs("keras", "torch", "jax")
keras_checks = optional.Lazy("keras_checks")
# Read and not imported: Keras takes each worker that collects these 3 s.
CHECKS = re.findall(r"^def check_(\w+)", (HELPERS / "keras_checks.py").read_text(), re.MULTILINE)

# NumPy's, of how Keras' torch backend moves a SeedGenerator.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Ask = Callable[[str], dict[str, Any]]

OTHERS = ("jax", "numpy")
OURS = [f"fanfill.keras.initializers.{name}" for name in ("HeNormal", "GlorotUniform", "TruncatedNormal")]
FILES = ("load_without_fanfill", "load", "save")


@pytest.mark.parametrize("name", CHECKS)
def test_on_torch_which_this_process_has(name: str, results: Ask) -> None:
    failures = results("torch")["failures"]
    assert list(failures) == CHECKS
    assert not failures[name], failures[name]


@pytest.mark.parametrize("name", [*CHECKS, *FILES])
@pytest.mark.parametrize("backend", OTHERS)
def test_on_a_backend(backend: str, name: str, results: Ask) -> None:
    failure = results(backend)["failures"][name]
    assert not failure, failure


@pytest.mark.slow
def test_on_tensorflow(results: Ask) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    found = results("tensorflow")
    assert not any(found["failures"].values()), "\n".join(found["failures"].values())
    assert_same_values(found, results("torch"))
    assert_files(found)


@pytest.mark.parametrize("backend", OTHERS)
def test_one_hash(backend: str, results: Ask) -> None:
    assert_same_values(results(backend), results("torch"))


@pytest.mark.parametrize("backend", OTHERS)
def test_a_file_opens_elsewhere(backend: str, results: Ask, folder: Path) -> None:
    assert_files(results(backend))
    assert keras_checks.load(folder, backend) == OURS


def assert_same_values(one: dict[str, Any], other: dict[str, Any]) -> None:
    shared = [name for name, value in one["values"].items() if isinstance(value, str)]
    assert len(shared) == 2
    assert {name: one["values"][name] for name in shared} == {name: other["values"][name] for name in shared}


def assert_files(found: dict[str, Any]) -> None:
    """Ours with fanfill.keras; without it, silently, those of Keras that have the same names."""
    assert found["values"]["load"] == OURS
    without = found["values"]["load_without_fanfill"]
    assert [name.rpartition(".")[2] for name in without] == [name.rpartition(".")[2] for name in OURS]
    assert all(name.startswith("keras.") for name in without)
