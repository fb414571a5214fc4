"""``fanfill fill --out`` writes the file that it is told to write, with the umask's mode, and no other."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import assert_ends, assert_refused, assert_whole, fill, python, start

from fanfill import npy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links and modes as Linux has them")


def test_links_at_the_files_name_are_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / "link.npy").symlink_to(elsewhere / "mine")
    (folder / "dangling.npy").symlink_to(elsewhere / "not there")
    (folder / "folder.npy").symlink_to(elsewhere)
    os.link(elsewhere / "mine", folder / "second name.npy")
    for name in ("link.npy", "dangling.npy", "second name.npy"):
        assert fill(folder / name, 1000).code == 0
        assert not (folder / name).is_symlink()
        assert_whole(folder / name, 1000)
    assert_refused(fill(folder / "folder.npy", 1000), "not a regular file")
    assert (elsewhere / "mine").read_text() == "mine"
    assert os.listdir(elsewhere) == ["mine"]
    assert sorted(os.listdir(folder)) == ["dangling.npy", "folder.npy", "link.npy", "second name.npy"]


@pytest.mark.parametrize("kind", ["a link", "a file"])
def test_what_already_has_the_temporary_files_name_is_neither_written_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    mine, guessed = tmp_path / "mine", tmp_path / ".fanfill-guessed.tmp"
    mine.write_text("mine")
    if kind == "a link":
        guessed.symlink_to(mine)
    else:
        guessed.write_text("mine")
    with (
        pytest.raises(FileExistsError, match="File exists"),
        npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")),
    ):
        pass
    assert mine.read_text() == guessed.read_text() == "mine"
    assert guessed.is_symlink() == (kind == "a link")
    assert sorted(os.listdir(tmp_path)) == [".fanfill-guessed.tmp", "mine"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_new_files_mode_is_what_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    assert fill(tmp_path / "w.npy", 1000, umask=umask).code == 0
    assert stat.S_IMODE((tmp_path / "w.npy").stat().st_mode) == mode


def test_nothing_is_written_but_the_file_and_the_cache(tmp_path: Path) -> None:
    """All that the process opens for writing, as Python's audit hooks are told."""
    program = """
import os, sys
opened = []
def hook(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append("" if isinstance(arguments[0], int) else os.fsdecode(arguments[0]))
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.symlink", "os.link", "os.truncate"):
        opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(hook)
from fanfill.cli import main
code = main(sys.argv[1:])
sys.stderr.write("\\n".join(opened))
sys.exit(code)
"""
    out, kept = tmp_path / "told" / "w.npy", tmp_path / "kept"
    out.parent.mkdir()
    child = start(
        python("-B", "-c", program, "fill", "normal", "1000", "--out", str(out)),
        environment={"FANFILL_CACHE_DIR": str(kept), "HOME": str(tmp_path / "no home")},
        cwd=tmp_path,
    )
    ended = assert_ends(child)
    assert ended.code == 0, ended
    places = set(ended.err.split("\n"))
    ours = {place for place in places if place.startswith(str(out.parent) + "/.fanfill-")}
    # The cache's files are opened by their names alone, in a folder that is held open.
    cached = {place for place in places if place.startswith(("run_", "proof-", str(kept)))}
    assert ours
    assert cached
    assert places - ours - cached <= {"/dev/null", ""}
    assert sorted(os.listdir(tmp_path)) == ["kept", "told"]
