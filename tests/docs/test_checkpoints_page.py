"""docs/checkpoints.md: every example runs, and every command of the page is one."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import warnings
from pathlib import Path

import pytest

from fanfill.cli import main

PAGE = Path(__file__).parents[2] / "docs/checkpoints.md"
EXAMPLES = re.findall(
    r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
COMMANDS = [
    line.partition("#")[0].partition("&&")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
REFUSALS = "SOURCE: expected|can be imported|with the recipe"
if importlib.util.find_spec("torch") is None:
    REFUSALS += "|a module needs torch, which is not installed"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs, example = EXAMPLES[number]
    if "import torch" in example or needs:
        pytest.importorskip("torch", reason="torch is not installed")
    if needs == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        if needs:
            warnings.simplefilter("ignore")
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), {})


def test_the_recipe_that_the_page_shows_is_the_one_of_its_example() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from fanfill.checkpoints import ModelRecipe

    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    space: dict[str, ModelRecipe] = {}
    exec(compile(EXAMPLES[0][1], PAGE.name, "exec"), space)
    assert ModelRecipe.from_table(json.loads(shown)) == space["recipe"]


def test_the_commands_of_the_page_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        name, *words = shlex.split(command.partition(">")[0])
        assert name == "fanfill"
        # Without the files that they name they are refused, but not as commands that there are not.
        assert main(words) == 2
        error = capsys.readouterr().err
        assert re.search(REFUSALS, error), (command, error)
