"""Whose folder of compiled code is used: where its path leads, whose links it passes, what is said if not."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from processes import BEGIN, END, assert_fails, assert_right, child, fanfill, run

from fanfill_kernels.store import cache, place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links, owners and modes as Linux has them")

VARIABLES = ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def assert_not_used(reason: str) -> None:
    assert reason in (cache.refused() or "")
    assert cache.load("a") is None
    cache.store("b", b"code")
    assert cache.entries() == []


# Relative paths


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: somebody's repository, which ships code under the names of ours."""
    made = tmp_path / "clone"
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(made / ".cache" / "fanfill"))
    cache.store("a", b"somebody's code")
    monkeypatch.delenv("FANFILL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("FANFILL_CACHE_DIR", ".cache/fanfill", ".cache/fanfill"),
        ("FANFILL_CACHE_DIR", "./.cache/../.cache/fanfill", ".cache/../.cache/fanfill"),
        ("NUMBA_CACHE_DIR", ".cache", ".cache/fanfill"),
        ("HOME", ".", ".cache/fanfill"),
    ],
)
def test_a_relative_folder_is_not_used_and_the_reason_names_the_remedy(
    clone: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, shown: str
) -> None:
    before = sorted(clone.rglob("*"))
    monkeypatch.setenv(variable, value)
    reason = (
        f"'{shown}' depends on the folder that a process starts in; set FANFILL_CACHE_DIR to an absolute path"
    )
    assert_not_used(reason)
    assert cache.passed_over() == reason
    assert sorted(clone.rglob("*")) == before
    # The control: what lies there is whole, and would be run.
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(clone / ".cache" / "fanfill"))
    assert cache.load("a") == b"somebody's code"


def test_a_relative_xdg_cache_home_is_ignored(
    clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", ".cache")
    assert cache.folder() == tmp_path / "home" / ".cache" / "fanfill"
    assert cache.refused() is None
    assert cache.load("a") is None
    cache.store("b", b"mine")
    assert [file.name for file in (clone / ".cache" / "fanfill").iterdir()] == ["a.bin"]
    assert (tmp_path / "home" / ".cache" / "fanfill" / "b.bin").exists()


def test_a_relative_local_appdata_is_ignored(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", ".cache")
    assert cache.folder() == Path(os.environ["HOME"]) / "AppData/Local/fanfill/cache"


TOLD = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    right(); right(law=ff.uniform(-1, 1))
(warning,) = caught
assert warning.category is RuntimeWarning and warning.filename == "<string>", warning
assert str(warning.message).startswith(
    "fanfill compiles its kernels in each process anew, which takes seconds: "
    f"its folder for them, {place}, is not used: "
), warning
assert sys.argv[1] in str(warning.message), warning
"""


def assert_told(reason: str, where: str, **settings: object) -> None:
    """A process that fills is told once, and `fanfill info` says it too."""
    environment: dict[str, str | None] = dict.fromkeys(VARIABLES) | settings.pop("environment", {})  # type: ignore[operator]
    settings |= {"environment": environment}
    assert_right(run(f"{BEGIN}place = {where!r}\n{TOLD}{END}", reason, **settings))  # type: ignore[arg-type]
    info = fanfill("info", **settings)
    assert f"none: {where} is not used: " in (out := info.communicate()[0])
    assert reason in out


def test_a_fill_beside_a_relative_folder_has_the_right_bits_and_says_so_once(clone: Path) -> None:
    assert_told(
        "depends on the folder that a process starts in; set FANFILL_CACHE_DIR to an absolute path",
        ".cache/fanfill",
        environment={"NUMBA_CACHE_DIR": ".cache"},
        cwd=clone,
    )
    assert [file.name for file in (clone / ".cache" / "fanfill").iterdir()] == ["a.bin"]


# Folders that others may write


def test_a_folder_that_the_group_may_write_is_passed_over_and_said_once(folder: Path) -> None:
    """As images for OpenShift have it: group 0 may write what the image holds."""
    cache.store("a", b"code")
    folder.chmod(0o775)
    reason = "others may write to it (mode 775); chmod -R go-w it"
    assert cache.passed_over() == reason
    assert_told(reason, str(folder), environment={"FANFILL_CACHE_DIR": str(folder)})
    assert os.listdir(folder) == ["a.bin"]
    folder.chmod(0o755)
    assert cache.passed_over() is None
    child("right()", FANFILL_CACHE_DIR=str(folder))
    assert_fails(f"place = {str(folder)!r}\n{TOLD}", "ValueError", FANFILL_CACHE_DIR=str(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_named_folder_that_may_not_be_read_is_said_too(folder: Path, tmp_path: Path) -> None:
    """As an image has it that made its cache as root, and runs as somebody else."""
    cache.store("a", b"code")
    program = """
import os, sys
from fanfill_kernels.store import cache
os.setgid(65534)
os.setuid(65534)
print(cache.passed_over(), cache.load("a"))
"""
    above = tmp_path
    while above != Path(tempfile.gettempdir()):
        above.chmod(0o755)
        above = above.parent
    named = run(program, environment={"FANFILL_CACHE_DIR": str(folder)})
    assert named.out == "Permission denied; chmod -R a+rX it None\n"
    (tmp_path / "fanfill").symlink_to(folder)  # a home of somebody else's, which is none of one's business
    unnamed = run(program, environment={"FANFILL_CACHE_DIR": None, "NUMBA_CACHE_DIR": str(tmp_path)})
    assert unnamed.out == "None None\n"
    for file in (folder, *folder.iterdir()):
        file.chmod(0o755)
    assert run(program, environment={"FANFILL_CACHE_DIR": str(folder)}).out == "None b'code'\n"


# Links


def test_links_of_ones_own_are_followed_wherever_they_stand(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "scratch" / "deep" / "real"
    real.mkdir(parents=True, mode=0o700)
    (tmp_path / "absolute").symlink_to(tmp_path / "scratch")
    (tmp_path / "relative").symlink_to("absolute/deep/../deep")
    folder.symlink_to("relative/real")
    assert cache.refused() is None
    cache.store("a", b"code")
    assert os.listdir(real) == ["a.bin"]
    assert cache.load("a") == b"code"
    real.chmod(0o777)
    assert_not_used("others may write to it (mode 777)")


def test_a_link_to_nothing_or_in_a_ring_is_no_error(folder: Path, tmp_path: Path) -> None:
    folder.symlink_to(tmp_path / "nothing")
    assert cache.load("a") is None
    cache.store("a", b"code")
    folder.unlink()
    folder.symlink_to("kept")
    assert_not_used("more than 40 links are on its way")


@pytest.mark.parametrize("where", ["in place of the folder", "above it", "above what a link leads to"])
def test_a_link_of_another_user_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It leads to a folder of this user's, which holds what others wrote: a clone, say."""
    clone = tmp_path / "clone"
    (clone / "fanfill").mkdir(parents=True, mode=0o700)
    link = tmp_path / "link"
    named = {
        "in place of the folder": link,
        "above it": link / "fanfill",
        "above what a link leads to": tmp_path / "mine",
    }[where]
    (tmp_path / "mine").symlink_to(link / "fanfill")
    link.symlink_to(clone / "fanfill" if named == link else clone)
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(named))
    cache.store("a", b"somebody's code")
    assert cache.load("a") == b"somebody's code"  # the control: as this user's own link it leads there
    owners = os.stat

    def owned(path: object, **options: object) -> os.stat_result:
        found = owners(path, **options)  # type: ignore[call-overload]
        if not stat.S_ISLNK(found.st_mode) or Path(str(path)).name != "link":
            return found
        facts = list(found)
        facts[stat.ST_UID] = os.getuid() + 1
        return os.stat_result(facts)

    monkeypatch.setattr(os, "stat", owned)
    monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd | {owned})
    me = os.getuid()
    assert_not_used(
        f"the link 'link' leads there: it belongs to user {me + 1}, neither to this one ({me}) nor to root"
    )


def test_what_was_looked_at_is_what_is_used(folder: Path, tmp_path: Path) -> None:
    cache.store("a", b"code")
    with place.Folder(folder) as held:
        folder.rename(tmp_path / "moved")
        folder.mkdir(mode=0o700)
        (folder / "a.bin").write_bytes(b"somebody's")
        assert held.read("a.bin", 10) == b"fanfill 1\n"


# Systems without descriptors of folders, owners and some flags


@pytest.fixture
def by_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows has it: `os.open` opens no folder and knows no ``dir_fd``, and files have no owners."""
    real = os.open

    def only_files(path: str, flags: int, mode: int = 0o777, *, dir_fd: None = None) -> int:
        assert dir_fd is None, "dir_fd unavailable on this platform"
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", only_files)
    monkeypatch.setattr(os, "supports_dir_fd", set())
    monkeypatch.setattr(os, "supports_fd", set())
    monkeypatch.delattr(os, "getuid")
    for flag in ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_PATH"):
        monkeypatch.delattr(os, flag)


@pytest.mark.usefixtures("by_paths")
def test_without_descriptors_of_folders_everything_goes_by_paths(folder: Path, tmp_path: Path) -> None:
    assert cache.load("a") is None
    assert cache.refused() is None
    for data in (b"", b"code\r\n" * 1000):
        cache.store("a", data)
        assert cache.load("a") == data
    assert [file.name for file in folder.iterdir()] == ["a.bin"]
    assert [entry.name for entry in cache.entries()] == ["a.bin"]
    assert len(cache.clear()) == 1
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.touch()
    assert_not_used(f"{folder} is not a folder")


@pytest.mark.usefixtures("by_paths")
def test_without_descriptors_of_folders_a_relative_one_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FANFILL_CACHE_DIR", "kept")
    assert_not_used("'kept' depends on the folder that a process starts in")
    assert list(tmp_path.iterdir()) == []
