"""docs/jax.md: every example runs, and what the page says of the surface is so."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")

import fanfill.jax as fj  # noqa: E402
from fanfill.backends import _host_choice  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs/jax.md"
EXAMPLES = re.findall(
    r"^(?:<!-- (\w+) -->\n)?```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(autouse=True)
def compiling_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw by NumPy: half of the kernels that the page would have compiled are of no other test."""
    monkeypatch.setenv("FANFILL_BACKEND", "numpy")
    _host_choice.cache_clear()
    yield
    _host_choice.cache_clear()


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=lambda k: f"{k} {EXAMPLES[k][0] or 'jax'}")
def test_an_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs, example = EXAMPLES[number]
    monkeypatch.chdir(tmp_path)
    if "safetensors" in example:
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    with warnings.catch_warnings():
        if needs:
            warnings.simplefilter("ignore")
            pytest.importorskip(needs, reason=f"{needs} is not installed")
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), {"__name__": "example"})


def test_there_are_examples_of_every_kind() -> None:
    assert {needs for needs, _ in EXAMPLES} == {"", "flax", "equinox", "haiku", "torch"}
    assert len(EXAMPLES) >= 8


def test_the_page_names_the_public_surface() -> None:
    text = PAGE.read_text()
    for name in fj.__all__:
        assert re.search(rf"\b{name}\b", text), name
