"""docs/keras.md: every example runs, and what the page says of the surface is so."""

from __future__ import annotations

import os
import re
from pathlib import Path

import optional
import pytest

# As tests/keras: Keras reads them once.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", str(Path(os.devnull) / "keras"))
optional.needs("torch", "keras")

# NumPy's, of how Keras' torch backend makes arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PAGE = Path(__file__).parents[2] / "docs/keras.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"{PAGE.name}, example {number}", "exec"), {})


def test_the_page_names_the_public_surface() -> None:
    import fanfill.keras as fk

    assert len(EXAMPLES) == 4
    text = PAGE.read_text()
    for name in fk.__all__:
        assert re.search(rf"\b{name}\b", text), name
