"""docs/show.md: every example runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import Capture

from fanfill import show
from fanfill.cli import main

PAGE = (Path(__file__).parents[2] / "docs/show.md").read_text()
EXAMPLES = re.findall(r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^(fanfill show [^#\n]*)", PAGE, re.MULTILINE)
BUILD = "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())\n"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int) -> None:
    needs, example = EXAMPLES[number]
    if needs:
        pytest.importorskip(needs, reason=f"{needs} is not installed")
    exec(compile(example, f"show.md, example {number}", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    if " -o " in command:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    if "--model" in command:
        pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(BUILD)
    small = [] if "--model" in command or "histogram" in command else ["--width", "16", "--batch", "4"]
    assert main([*shlex.split(command)[1:], *small]) == 0, capsys.readouterr().err
    assert len(list(tmp_path.glob("*.svg"))) == (" -o " in command)


def test_the_page_names_the_public_surface() -> None:
    assert (len(EXAMPLES), len(COMMANDS)) == (3, 5)
    for name in ("propagation", "propagation_of", "histogram"):
        assert f"show.{name}(" in PAGE
        assert name in show.__all__
