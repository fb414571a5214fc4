"""The documentation site: its navigation, its diagram, its hooks; ci/site.sh builds and looks at it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "ci/site/mkdocs.yml").read_text()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    specification = importlib.util.spec_from_file_location("site_hooks", ROOT / "ci/site/hooks.py")
    assert specification is not None
    assert specification.loader is not None
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": ([\w/]+\.md)$", CONFIGURATION, re.MULTILINE))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages <= named
    made = {"index.md", "contributing.md", "changelog.md", "security.md"}
    assert {name for name in named - pages if not name.startswith("api/")} == made


def test_the_drawn_diagram_is_that_of_the_page() -> None:
    (source,) = re.findall(
        r"^```mermaid\n(.*?)^```$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE | re.DOTALL
    )
    # Mermaid takes these for keywords, wherever they stand.
    assert not re.search(r"^\s*(call|end|default|style|class|click)\b", source, re.MULTILINE)
    drawn = (ROOT / "docs/pictures/architecture.svg").read_text()
    assert hashlib.sha256(source.encode()).hexdigest() in drawn


def test_nothing_is_asked_of_other_hosts() -> None:
    assert re.search(r"^  font: false$", CONFIGURATION, re.MULTILINE)
    assert "\nrepo_url:" not in CONFIGURATION  # for it every page asks GitHub
    assert "http" not in re.sub(r"site_url: .*|link: \S+", "", CONFIGURATION)


@pytest.mark.parametrize(
    ("link", "folder", "page"),
    [
        ("docs/cuda.md", "", "cuda.md"),
        ("docs/trust.md#what", "", "trust.md#what"),
        ("../CONTRIBUTING.md", "docs", "contributing.md"),
        ("../docs/trust.md", ".github", "trust.md"),
        ("stream.md", "docs", "stream.md"),
        ("pictures/keras.svg", "docs", "pictures/keras.svg"),
        ("#where-it-runs", "", "#where-it-runs"),
        ("https://example.org/x.md", "docs", "https://example.org/x.md"),
        ("https://github.com/fanfill/fanfill/blob/main/docs/jax.md#keys", "", "jax.md#keys"),
        ("https://raw.githubusercontent.com/fanfill/fanfill/main/docs/pictures/x.svg", "", "pictures/x.svg"),
        ("LICENSE", "", "https://github.com/fanfill/fanfill/blob/main/LICENSE"),
    ],
)
def test_a_link_leads_to_the_page_of_its_file(hooks: ModuleType, link: str, folder: str, page: str) -> None:
    assert hooks.target(link, Path(folder)) == page


def test_the_reference_has_all_public_names_that_are_defined_here(hooks: ModuleType) -> None:
    page = hooks.reference("fanfill")
    for line in ("fanfill.fill.fill", "fanfill.many.fill_many", "fanfill.initializers.Initializer"):
        assert f"::: {line}\n" in page
    assert "STREAM_VERSION" not in page
    assert "jax.initializers.he_normal" in hooks.reference("fanfill.jax")
    assert ".constant\n" not in hooks.reference("fanfill.jax")  # JAX's own


@pytest.mark.slow
def test_the_site_builds_strictly(hooks: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "site")}
    done = subprocess.run([ROOT / "ci/site.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site/search/search_index.json").stat().st_size > 100_000
