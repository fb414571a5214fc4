"""The folder of compiled code: where it is, what is trusted, what comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fanfill_kernels.store import cache, objects


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_was_stored_comes_back_whole_under_its_key_alone(folder: Path) -> None:
    assert cache.load("a") is None
    for data in (b"", b"code" * 1000):
        cache.store("a", data)
        assert cache.load("a") == data
    assert cache.load("b") is None
    assert [file.name for file in folder.iterdir()] == ["a.bin"]
    assert cache.refused() is None


def test_folder_and_file_are_the_users_alone(folder: Path) -> None:
    cache.store("a", b"code")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "a.bin").stat().st_mode & 0o777 == 0o600


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache.folder() == Path("/home/me/.cache/fanfill")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.folder() == Path("/x/fanfill")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/n")
    assert cache.folder() == Path("/n/fanfill")
    monkeypatch.setenv("FANFILL_CACHE_DIR", "/f")
    assert cache.folder() == Path("/f")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_their_own_place_for_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    wanted = {"darwin": "Library/Caches/fanfill", "win32": "AppData/Local/fanfill/cache"}
    assert cache.folder() == Path("/home/me") / wanted[platform]


def assert_not_used(reason: str) -> None:
    assert reason in (cache.refused() or "")
    assert cache.load("a") is None
    cache.store("b", b"code")
    assert not list(cache.folder().glob("b*"))


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_neither_read_nor_written(folder: Path, mode: int) -> None:
    cache.store("a", b"code")
    folder.chmod(mode)
    assert_not_used(f"others may write to it (mode {mode:o}); chmod -R go-w it")
    folder.chmod(0o700)
    assert cache.load("a") == b"code"


def test_a_folder_of_another_user_is_neither_read_nor_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store("a", b"code")
    me = os.getuid()
    if me == 0:  # root's own folders are anybody's to read
        os.chown(folder, 12345, -1)
        assert_not_used("it belongs to user 12345, neither to this one (0) nor to root")
    else:
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
        assert_not_used(f"it belongs to user {me}, neither to this one ({me + 1}) nor to root")


def test_a_file_in_place_of_the_folder_is_no_error(folder: Path) -> None:
    folder.touch()
    assert "Not a directory" in (cache.refused() or "")
    assert cache.load("a") is None
    cache.store("a", b"code")
    assert cache.entries() == []


def test_a_file_that_others_may_write_or_that_is_a_link_is_not_read(folder: Path) -> None:
    cache.store("a", b"code")
    (folder / "c.bin").symlink_to("a.bin")
    assert cache.load("c") is None
    (folder / "a.bin").chmod(0o666)
    assert cache.load("a") is None
    cache.store("a", b"more")
    assert cache.load("a") == b"more"


def test_object_code_without_the_function_is_refused() -> None:
    from fanfill_kernels.compile import cpu

    code = cpu.kernels("words", "uint32").run.compile()
    assert code.object_code is not None
    assert objects.load(code.symbol, code.object_code)
    with pytest.raises(ValueError, match="expected object code with a function other; got one without it"):
        objects.load("other", code.object_code)
