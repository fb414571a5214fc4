"""docs/pytorch.md: every example runs, and what the page says of the surface is so."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs/pytorch.md"
EXAMPLES = re.findall(
    r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)

# torchrun, whose ranks are forks: they would import torch once more each, for 4 s, to do what takes one.
TORCHRUN = """
import runpy, sys
import torch.distributed.fsdp, torch.distributed.tensor
import torch.distributed.run as torchrun
import fanfill.torch

launch = torchrun.elastic_launch

def forked(config, entrypoint):
    assert entrypoint == sys.executable, entrypoint
    config.start_method = "fork"

    def rank(script):
        runpy.run_path(script, run_name="__main__")

    return lambda *words: launch(config, rank)(words[-1])

torchrun.elastic_launch = forked
torchrun.main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path) -> None:
    needs, example = EXAMPLES[number]
    if needs == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    if needs == "ranks":
        # As the page says it, in a folder that holds nothing else.
        (command,) = re.findall(r"^torchrun .*$", PAGE.read_text(), re.MULTILINE)
        launcher, *words = command.split()
        assert (launcher, words[-1]) == ("torchrun", "script.py")
        (tmp_path / "script.py").write_text(example)
        done = subprocess.run(
            [sys.executable, "-c", TORCHRUN, *words],
            cwd=tmp_path,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return
    with warnings.catch_warnings():
        if needs:
            warnings.simplefilter("ignore")
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), {})


def test_there_are_examples_of_every_kind() -> None:
    assert {needs for needs, _ in EXAMPLES} == {"", "ranks", "transformers"}
    assert len(EXAMPLES) >= 8


def test_the_page_names_the_public_surface() -> None:
    text = PAGE.read_text()
    for name in ft.__all__:
        assert re.search(rf"\b{name}\b", text), name


def test_the_signatures_begin_with_torchs() -> None:
    for name in (
        "uniform_",
        "normal_",
        "trunc_normal_",
        "xavier_uniform_",
        "xavier_normal_",
        "kaiming_uniform_",
    ):
        theirs = inspect.signature(getattr(torch.nn.init, name)).parameters.values()
        ours = inspect.signature(getattr(ft, name)).parameters.values()
        assert [(p.name, p.default) for p in ours][: len(theirs)] == [(p.name, p.default) for p in theirs]
        assert [p.name for p in ours][len(theirs) :] == ["seed", "name", "global_shape", "offset"]
        assert all(p.kind is p.KEYWORD_ONLY for p in list(ours)[len(theirs) :])
