"""``fanfill cache``: what it shows of the folder of compiled kernels, and what it removes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from command_line import Capture, assert_refused

import fanfill as ff
from fanfill.cli import main
from fanfill_kernels.store import cache

HEAD = {"command": "cache", "fanfill": ff.__version__, "stream_version": ff.STREAM_VERSION}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    cache.store("a", bytes(300_000))
    cache.store("b", bytes(700_000))
    return tmp_path / "kept"


def shown(capsys: Capture, *words: str) -> str:
    assert main(["cache", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_it_shows_where_the_folder_is_whether_it_is_used_and_what_it_holds(
    folder: Path, capsys: Capture
) -> None:
    os.utime(folder / "a.bin", (0, 86400 * 3))
    out = shown(capsys)
    assert f"folder          {folder} (named by FANFILL_CACHE_DIR)\n" in out
    assert "used            yes\n" in out
    assert "kernels         2, 1 MB of at most 64 MB\n" in out
    assert re.search(r"last used       between 1970-01-0\d and 20\d\d-\d\d-\d\d\n", out)
    found = json.loads(shown(capsys, "--json"))
    assert [entry["name"] for entry in found["entries"]] == ["b.bin", "a.bin"]
    assert found["entries"][1] == {"name": "a.bin", "size": 300_042, "used": 86400 * 3}
    del found["entries"]
    assert found == {
        **HEAD,
        "folder": str(folder),
        "named_by": "FANFILL_CACHE_DIR",
        "used": True,
        "reason": None,
        "writable": True,
        "bytes": 1_000_084,
        "limit_bytes": 64_000_000,
    }


def test_it_says_why_a_folder_is_not_used(folder: Path, capsys: Capture) -> None:
    folder.chmod(0o775)
    out = shown(capsys)
    assert "used            no: others may write to it (mode 775); chmod -R go-w it\n" in out
    assert "kernels         0," in out
    found = json.loads(shown(capsys, "--json"))
    assert (found["used"], found["writable"]) == (False, False)
    assert found["reason"] == "others may write to it (mode 775); chmod -R go-w it"


def test_a_folder_that_can_only_be_read_is_used_and_said_to_be_that(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    assert "used            yes, for reading; it cannot be written\n" in shown(capsys)


def test_clearing_removes_what_is_ours_and_says_how_much(folder: Path, capsys: Capture) -> None:
    (folder / "model.bin").write_bytes(b"weights")
    out = shown(capsys, "--clear")
    assert out == f"folder          {folder}\nremoved         2 kernels, 1 MB\n"
    assert os.listdir(folder) == ["model.bin"]
    assert json.loads(shown(capsys, "--clear", "--json")) == {
        **HEAD,
        "folder": str(folder),
        "removed": {"entries": [], "bytes": 0},
    }


def test_a_folder_that_is_not_there_is_empty(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "nothing"))
    assert "kernels         0, 0 B" in shown(capsys)
    assert "removed         0 kernels, 0 B\n" in shown(capsys, "--clear")
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_is_not_used_is_not_cleared(folder: Path, capsys: Capture) -> None:
    folder.chmod(0o777)
    assert_refused(
        capsys,
        r"fanfill: expected a folder of compiled kernels that may be cleared; got .*kept: others may write "
        r"to it \(mode 777\); chmod -R go-w it\n",
        "cache",
        "--clear",
    )
    assert len(os.listdir(folder)) == 2
