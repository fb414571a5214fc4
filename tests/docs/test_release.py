"""Publishing: the release script's refusals and files, the citation, workflows that call ci/ alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fanfill as ff

ROOT = Path(__file__).parents[2]
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "ci/release.sh", ".github/CITATION.cff", ".gitignore")
WORKFLOWS = [
    *sorted((ROOT / ".github/workflows").glob("*.yml")),
    *sorted((ROOT / ".forgejo/workflows").glob("*.yml")),
    ROOT / ".gitlab-ci.yml",
]
ENTRY = f"## [{ff.__version__}] - 2026-01-01\n"


def git(folder: Path, *words: str) -> None:
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, env=environment)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository that could be released."""
    folder = tmp_path / "tree"
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for place in ("src/fanfill", "kernels/fanfill_kernels"):
        (folder / place).mkdir(parents=True)
        shutil.copy(ROOT / place / "__init__.py", folder / place)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{ENTRY}")
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return folder


def release(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [tree / "ci/release.sh", *words], env=environment, capture_output=True, text=True, timeout=300
    )


def changed(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    git(tree, "commit", "-qam", "changed")


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("release: expected ")
    assert re.search(message, done.stderr), done.stderr
    assert "build" not in done.stdout


def test_what_is_not_ready_is_refused_before_anything_is_built(tree: Path) -> None:
    assert_refused(release(tree, "--upload"), "--tag, --publish or nothing; got --upload")
    assert_refused(release(tree, "--publish"), rf"the tag v{ff.__version__}; got none: ci/release.sh --tag")
    git(tree, "tag", f"v{ff.__version__}")
    assert_refused(release(tree, "--publish"), "origin to be pyproject.toml's Homepage, https://.*; got ''")
    (tree / "new.txt").touch()
    assert_refused(release(tree), "a clean tree; got changes")
    (tree / "new.txt").unlink()
    changed(tree, ".github/CITATION.cff", f"version: {ff.__version__}", "version: 9.9")
    assert_refused(release(tree), rf"version: {ff.__version__} in \.github/CITATION\.cff; got version: 9\.9")
    changed(tree, ".github/CITATION.cff", "version: 9.9", f"version: {ff.__version__}")
    assert_refused(release(tree), rf"no tag v{ff.__version__} on another commit; got one at")
    changed(tree, "CHANGELOG.md", ENTRY, "## [Unreleased]\n")
    assert_refused(release(tree), rf"'## \[{ff.__version__}\] - YYYY-MM-DD' in CHANGELOG\.md; got none")


@pytest.mark.slow
def test_a_release_is_built_checked_and_tagged(tree: Path) -> None:
    pytest.importorskip("twine", reason="twine is not installed")
    done = release(tree, "--tag")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.suffix for path in (tree / "dist").iterdir()} == {".whl", ".gz"}
    assert done.stdout.count("PASSED") == 2
    git(tree, "rev-parse", f"v{ff.__version__}")
    assert "nothing was uploaded" in done.stdout
    assert "expected an empty folder dist" in release(tree).stderr
    git(tree, "remote", "add", "origin", "https://github.com/fanfill/fanfill.git")
    # So far, and no further: there is no network, and no password.
    assert "expected an empty folder dist" in release(tree, "--publish").stderr


def test_the_citation_has_what_the_format_requires() -> None:
    text = (ROOT / ".github/CITATION.cff").read_text()
    top = dict(re.findall(r"^([a-z-]+): *(.*)$", text, re.MULTILINE))
    assert top.keys() >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert top["cff-version"] == "1.2.0"
    assert top["version"] == ff.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert top["license"] == project["license"]
    assert top["repository-code"] == project["urls"]["Homepage"]


@pytest.mark.slow
def test_the_citation_is_valid_by_its_schema() -> None:
    cffconvert = pytest.importorskip("cffconvert", reason="cffconvert is not installed")
    text = (ROOT / ".github/CITATION.cff").read_text()
    cffconvert.Citation(text).validate()
    invalid = pytest.importorskip("jsonschema").exceptions.ValidationError
    with pytest.raises(invalid, match="'writers' was unexpected"):
        cffconvert.Citation(text.replace("\nauthors:", "\nwriters:")).validate()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_workflow_runs_the_scripts_of_ci_and_nothing_else(path: Path) -> None:
    text = path.read_text()
    lines = re.findall(r"^ *- run: (.*)$|^ {4}- (?!run:|uses:)(\S.*)$", text, re.MULTILINE)
    commands = [first or second for first, second in lines]
    assert commands
    for command in commands:
        script = command.split()[0]
        assert script.startswith(("ci/", ".ci/"))
        assert os.access(ROOT / script, os.X_OK), command
    assert not re.search(r"run: *[|>]|script: *[|>\[]|before_script", text)


def test_there_is_a_workflow_for_each_forge() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in WORKFLOWS} == {
        ".github",
        ".forgejo",
        ".gitlab-ci.yml",
    }
