"""docs/pytorch.md: every example runs, and what the page says of the surface is so."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from forked import forked  # noqa: E402

import fanfill.torch as ft  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs/pytorch.md"
EXAMPLES = re.findall(
    r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def torchrun(words: list[str], folder: Path) -> None:
    """The command, whose ranks are forks: to import torch once more takes each 4 s, all the rest one."""
    import torch.distributed.run as command

    launch = command.elastic_launch

    def launch_forks(config: Any, entrypoint: str) -> Any:
        assert entrypoint == sys.executable, entrypoint
        config.start_method = "fork"
        return lambda *words: launch(config, rank)(words[-1])

    def rank(script: str) -> None:
        torch.set_num_threads(1)
        runpy.run_path(script, run_name="__main__")

    os.chdir(folder)
    command.elastic_launch = launch_forks
    command.main(words)


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
        # All that the script asks for is imported here, once.
        for name in ("fsdp", "tensor"):
            importlib.import_module(f"torch.distributed.{name}")
        ended = forked(
            lambda: torchrun(words, tmp_path), seconds=300, GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1"
        )
        assert ended.code == 0, ended
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
