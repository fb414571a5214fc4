"""docs/numpy.md and docs/distributed.md: every example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("numpy.md",)
EXAMPLES = [
    pytest.param(page, example, id=f"{page}-{number}")
    for page in PAGES
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_an_example_runs(page: str, example: str) -> None:
    for library in ("scipy", "dask", "distributed", "zarr"):
        if re.search(rf"^(import|from) {library}\b", example, re.MULTILINE):
            pytest.importorskip(library, reason=f"{library} is not installed")
    exec(compile(example, page, "exec"), {})


def test_each_page_has_examples() -> None:
    assert {parameter.values[0] for parameter in EXAMPLES} == set(PAGES)
