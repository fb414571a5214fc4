"""docs/pictures: each is made from the JSON beside it, and the figures of those are the pages'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pictures import DRAWN, FOLDER, MEASURED, draw, note, rounded

DOCS = FOLDER.parent
# What a picture calls a line, and what the page does.
PAGE = {
    "memset, one thread": "memset, one thread",
    "fanfill, 2 threads": "fanfill, numba, 2 threads",
    "fanfill, 1 thread": "fanfill, numba, 1 thread",
    "oneMKL": "onemkl",
    "NumPy": "numpy",
}


def test_every_picture_has_its_source_and_every_source_its_picture() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DRAWN)
    assert {path.stem for path in FOLDER.glob("*.svg")} >= set(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_that_of_its_source(name: str) -> None:
    svg = (FOLDER / f"{name}.svg").read_text()
    assert note(FOLDER / f"{name}.json") in svg
    assert "prefers-color-scheme: dark" in svg
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
    assert min(sizes) * 800 / 576 >= 12  # pixels, of a picture 576 points wide that is shown 800 pixels wide


@pytest.mark.parametrize("name", ["throughput-h200", "histogram"])
def test_a_picture_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert note(FOLDER / f"{name}.json") in draw(name, tmp_path).read_text()


def test_a_histogram_is_what_is_drawn_today() -> None:
    found = json.loads((FOLDER / "histogram.json").read_text())
    assert rounded(json.loads(json.dumps(MEASURED["histogram"]()))) == found


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of a page's table, by their first cells, without bold and what stands in brackets."""
    rest = (DOCS / page).read_text().partition(heading)[2].split("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \|(.*)\|$", rest, re.MULTILINE)
    return {
        re.sub(r"\*", "", name): [re.sub(r"\(.*?\)", "", cell).strip() for cell in cells.split("|")]
        for name, cells in rows
    }


def rates(name: str) -> dict[str, dict[str, float]]:
    rows: list[Any] = json.loads((FOLDER / f"{name}.json").read_text())["rows"]
    return {line: found for line, _, found in rows}


def test_the_picture_of_the_cpu_shows_the_figures_of_the_page() -> None:
    page = table("performance.md", "| uniform float32 | normal float32 ")
    for line, found in rates("throughput-cpu").items():
        cells = page[PAGE.get(line, line)]
        for column, cell in zip(("uniform", "normal", "truncated normal"), cells, strict=False):
            assert found.get(column, 0) == float(cell or 0), (line, column)


def test_the_picture_of_the_gpu_shows_the_figures_of_the_page() -> None:
    page = table("cuda.md", "| | fanfill | torch | cuRAND Philox | JAX threefry / rbg |")
    found = rates("throughput-h200")
    for column, row in (("uniform", "uniform float32"), ("normal", "normal float32")):
        ours, torch, curand, jax = page[row]
        assert found["fanfill"][column] == float(ours.split()[0].replace(",", ""))
        assert found["torch"][column] == float(torch)
        assert found["cuRAND Philox"][column] == float(curand.split()[0])
        assert [found[f"JAX {name}"][column] for name in ("threefry", "rbg")] == [
            float(each) for each in jax.split(" / ")
        ]
    assert round(found["fanfill"]["uniform"] / found["memset"]["uniform"], 2) == 0.89
