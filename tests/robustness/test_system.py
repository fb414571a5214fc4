"""What macOS and Windows lack is hidden: fills and files are the same without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import child

from fanfill import system
from fanfill.files import npy

# What Windows has not, and the first line's of it macOS neither.
LACKED = (
    *("posix_fallocate", "sched_getaffinity", "sched_setaffinity", "process_cpu_count"),
    *("pwrite", "register_at_fork", "getuid", "geteuid", "fchown", "fchmod", "O_NOFOLLOW", "O_DIRECTORY"),
    *("confstr", "sysconf", "getloadavg", "fork"),
)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_fills_and_files_without_what_linux_has(platform: str, tmp_path: Path) -> None:
    lacked = LACKED[:4] if platform == "darwin" else LACKED
    child(
        f"""
for name in [name for name in sys.modules if name.startswith("fanfill")]:
    del sys.modules[name]
for name in {lacked!r}:
    if hasattr(os, name):
        delattr(os, name)
real, sys.platform = sys.platform, {platform!r}
import fanfill as ff
from fanfill import machine, system
from fanfill.files import npy
from fanfill.cpu import pages, threads
system.RENAMES_MAPPED = {platform == "darwin"}
assert threads.usable_cpus() >= 1
assert pages._advise() is None
machine.available_memory(), machine.cpu_model()
right(ff.normal(0.1, 0.5), backend="numpy")
out = {str(tmp_path / "w.npy")!r}
for law in (ff.he_normal(), ff.he_uniform()):
    with npy.create(out, (700, 900), np.dtype("f4")) as array:
        ff.fill(array, law, seed=1, backend="numpy")
    assert np.load(out).tobytes() == ff.draw((700, 900), law, seed=1, device="cpu", backend="numpy").tobytes()
assert os.listdir({str(tmp_path)!r}) == ["w.npy"]
sys.platform = real
"""
    )


def held(path: str) -> bool:
    """Whether this process has a file open, or mapped."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    opened = {os.readlink(link) for link in links if os.path.islink(link)}
    return path in opened or path in Path("/proc/self/maps").read_text()


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renaming and removing refuse what is open or mapped, as on Windows."""
    for name in ("replace", "unlink"):
        real = getattr(os, name)

        def refusing(path, *others, real=real, **options):
            if held(os.fspath(path)):
                raise PermissionError(13, "The process cannot access the file because it is being used", path)
            return real(path, *others, **options)

        monkeypatch.setattr(os, name, refusing)
    monkeypatch.setattr(system, "RENAMES_MAPPED", False)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
@pytest.mark.usefixtures("windows")
def test_a_file_is_closed_and_unmapped_before_it_is_renamed(tmp_path: Path) -> None:
    kept = []
    for value in (1.0, 2.0):
        with npy.create(tmp_path / "w.npy", (3, 500_000), np.dtype("f4")) as array:
            array[...] = value
            kept.append(array)
        assert (np.load(tmp_path / "w.npy") == value).all()
    assert os.listdir(tmp_path) == ["w.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
@pytest.mark.usefixtures("windows")
def test_a_file_is_closed_before_it_is_removed(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError, match="by zero"),
        npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")) as array,
    ):
        array[...] = 1 / 0
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
@pytest.mark.usefixtures("windows")
def test_the_check_of_what_is_held_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "RENAMES_MAPPED", True)
    with (
        pytest.raises(PermissionError, match="being used"),
        npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")) as array,
    ):
        array[...] = 1


def test_a_file_is_written_whole_whatever_a_write_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:77_777]))
    data = bytearray(os.urandom(3_000_000))
    with system.new_file(tmp_path / "data", 0o600) as file:
        file.write(b"\0" * len(data))
        system.write_from(file.fileno(), data)
    assert (tmp_path / "data").read_bytes() == data


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_c_library_that_does_not_say_what_it_is_is_not_glibc(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def confstr(name: str) -> str:
        raise error

    monkeypatch.setattr(os, "confstr", confstr)
    assert not system.glibc()
    monkeypatch.delattr(os, "confstr")
    assert not system.glibc()
