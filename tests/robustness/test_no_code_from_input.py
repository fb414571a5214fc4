"""What a user passes is data: nothing here unpickles, evaluates or runs it."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import fanfill as ff
from fanfill.bench import report
from fanfill.cli import main

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("src", "kernels") for path in (ROOT / folder).rglob("*.py"))

# Built-in functions that run text, modules that make objects or code of bytes, and calls that start a shell.
RUN = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "code"}
CALLS = {"os.system", "os.popen"}


def dangers(source: str) -> set[str]:
    """What a source calls or imports that could run a user's words."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module.partition(".")[0]} & MODULES
        elif isinstance(node, ast.Name):
            found |= {node.id} & RUN
        elif isinstance(node, ast.Attribute):
            found |= {ast.unparse(node)} & CALLS
        elif isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            found.add(node.arg)
    return found


def test_no_source_unpickles_or_evaluates() -> None:
    found = {path: dangers(path.read_text()) for path in SOURCES}
    assert {path: danger for path, danger in found.items() if danger} == {}


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("def f(x):\n    return eval(x)", "eval"),
        ("call = exec", "exec"),
        ("compile(text, 'file', 'exec')", "compile"),
        ("import pickle", "pickle"),
        ("def f():\n    from marshal import loads", "marshal"),
        ("import os\nos.system(name)", "os.system"),
        ("subprocess.run(name, shell=True)", "shell"),
        ("numpy.load(path, allow_pickle=True)", "allow_pickle"),
    ],
)
def test_the_look_at_the_sources_can_fail(source: str, danger: str) -> None:
    assert dangers(source) == {danger}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every expression below would make."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "marker"


EXPRESSION = "__import__('pathlib').Path('marker').touch()"
WORDS = [
    ["fill", EXPRESSION, "3x3"],
    ["fill", f"he_normal({EXPRESSION})", "3x3"],
    ["fill", "normal", EXPRESSION],
    ["fill", "normal", "3", "--dtype", EXPRESSION],
    ["fill", "normal", "3", "--seed", EXPRESSION],
    ["fill", "normal", "3", "--std", EXPRESSION],
    ["fill", "normal", "3", "--backend", EXPRESSION],
    ["fill", "he_normal", "3x3", "--in-axis", EXPRESSION],
    ["words", "--count", EXPRESSION],
    ["selftest", "--device", EXPRESSION],
    ["bench", "--sizes", EXPRESSION],
    ["bench", "--peers", EXPRESSION],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_an_expression_on_the_command_line_is_refused_and_not_evaluated(
    words: list[str], marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("fanfill: ")
    assert list(marker.parent.iterdir()) == []


def test_an_expression_as_a_name_is_a_name_like_any_other(marker: Path) -> None:
    found = ff.draw(10, "normal", seed=0, name=EXPRESSION, device="cpu")
    assert not np.array_equal(found, ff.draw(10, "normal", seed=0, device="cpu"))
    for call in (
        lambda: ff.draw(10, EXPRESSION, seed=0),
        lambda: ff.initializer(EXPRESSION),
        lambda: ff.gain(EXPRESSION),
        lambda: ff.draw(10, "normal", seed=0, dtype=EXPRESSION),
        lambda: ff.draw(10, "normal", seed=0, device=EXPRESSION),
        lambda: ff.draw(10, "normal", seed=0, backend=EXPRESSION),
    ):
        with pytest.raises((ValueError, TypeError), match="expected"):
            call()
    assert not marker.exists()


class Trap:
    """What makes the file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return eval, (EXPRESSION,)


def test_an_older_result_that_is_a_pickle_is_refused_and_not_loaded(marker: Path) -> None:
    old = marker.parent / "old.json"
    old.write_bytes(pickle.dumps(Trap(), protocol=0))
    with pytest.raises(ValueError, match=f"expected a result of fanfill bench.*{re.escape(str(old))}"):
        report.load(old)
    assert not marker.exists()
    pickle.loads(old.read_bytes())
    assert marker.exists()  # the trap is one
