"""Writing .npy files: whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import pytest

from fanfill import system
from fanfill.files import npy


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (5, 4, 3)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_file_is_the_one_that_numpy_saves(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    with npy.create(tmp_path / "ours.npy", shape, np.dtype(dtype)) as array:
        array[...] = values
    np.save(tmp_path / "theirs.npy", values)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_types_without_a_name_in_the_format_are_stored_as_their_bits(tmp_path: Path, dtype: type) -> None:
    values = np.array([1.5, -2.0, 0.25]).astype(dtype)
    with npy.create(tmp_path / "bits.npy", (3,), np.dtype(dtype)) as array:
        assert array.dtype == dtype
        array[...] = values
    stored = np.load(tmp_path / "bits.npy")
    assert stored.dtype == np.dtype(f"u{stored.itemsize}")
    assert (stored.view(dtype) == values).all()


def test_the_array_starts_as_zeros_and_the_file_has_no_name_before_the_end(tmp_path: Path) -> None:
    with npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")) as array:
        assert not array.any()
        assert not (tmp_path / "w.npy").exists()
    assert sorted(os.listdir(tmp_path)) == ["w.npy"]


def test_a_file_of_that_name_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "w.npy").write_text("before")
    with npy.create(tmp_path / "w.npy", (2,), np.dtype("f4")) as array:
        array[...] = 1.0
        assert (tmp_path / "w.npy").read_text() == "before"
    assert np.load(tmp_path / "w.npy").tolist() == [1.0, 1.0]


def test_a_link_of_that_name_is_replaced_and_what_it_names_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "w.npy").symlink_to(tmp_path / "elsewhere")
    with npy.create(tmp_path / "w.npy", (2,), np.dtype("f4")):
        pass
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "w.npy").is_symlink()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_early_end_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "w.npy").write_text("before")
    with pytest.raises(error), npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")):
        raise error
    assert os.listdir(tmp_path) == ["w.npy"]
    assert (tmp_path / "w.npy").read_text() == "before"


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with npy.create(tmp_path / "w.npy", (2,), np.dtype("f4")):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w.npy").stat().st_mode) == 0o640


def test_space_is_reserved_before_the_array_is_handed_out(tmp_path: Path) -> None:
    with npy.create(tmp_path / "w.npy", (1 << 20,), np.dtype("f4")):
        (temporary,) = tmp_path.iterdir()
        found = temporary.stat()
        assert found.st_size == 128 + (4 << 20)
        assert found.st_blocks * 512 >= found.st_size  # a sparse file would have none


def test_a_full_disk_is_an_error_that_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device; 4,128 bytes are needed: .*w\.npy"):
        assert_created(tmp_path / "w.npy")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the platform reserves no space")
def test_more_than_any_disk_holds_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="bytes are needed"),
        npy.create(tmp_path / "w.npy", (1 << 58,), np.dtype("f4")),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_a_file_system_without_reservation_gets_its_zeros_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    def unsupported(descriptor: int, offset: int, size: int) -> NoReturn:
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(system, "ZEROS", 1000)
    with npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")) as array:
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_blocks * 512 >= 4128
        array[...] = 2.0
    assert (np.load(tmp_path / "w.npy") == np.full(1000, 2.0, np.float32)).all()


def test_the_written_zeros_meet_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, offset: int, size: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    written = os.write

    def nearly_full(descriptor: int, content: memoryview) -> int:
        if os.fstat(descriptor).st_size >= 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, content[:700])  # short writes come before the refusal

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(OSError, match="No space left on device"):
        assert_created(tmp_path / "w.npy")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent"):
        assert_created(tmp_path / "absent" / "w.npy")


def test_what_is_not_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "w.npy").mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        assert_created(tmp_path / "w.npy")
    os.mkfifo(tmp_path / "fifo.npy")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "socket.npy"))
    (tmp_path / "device.npy").symlink_to(os.devnull)
    (tmp_path / "to the fifo.npy").symlink_to("fifo.npy")
    before = sorted(os.listdir(tmp_path))
    for name in ("fifo.npy", "socket.npy", "to the fifo.npy"):
        with pytest.raises(OSError, match=f"not a regular file, .*: '.*{name}'"):
            assert_created(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISFIFO((tmp_path / "fifo.npy").stat().st_mode)


@pytest.mark.skipif(sys.platform != "linux", reason="the system's folders as Linux has them")
def test_the_systems_own_names_are_not_replaced_whatever_leads_there(tmp_path: Path) -> None:
    own = tmp_path / "own.npy"
    own.write_text("mine")
    with own.open() as file:
        number = file.fileno()
        (tmp_path / "link.npy").symlink_to("/dev/stdout")
        (tmp_path / "links.npy").symlink_to("link.npy")
        (tmp_path / "dangling.npy").symlink_to("/proc/self/fd/no such")
        (tmp_path / "to own.npy").symlink_to(f"/proc/self/fd/{number}")  # a file of one's own, in the end
        (tmp_path / "folder").symlink_to("/dev")
        (tmp_path / "other").mkdir()
        (tmp_path / "other/up").symlink_to("/sys/kernel")
        for path, system in (
            ("/dev/stdout", "/dev"),
            ("/dev/fd/1", "/proc"),
            ("/dev/null", "/dev"),
            ("/dev/w.npy", "/dev"),
            (f"/proc/self/fd/{number}", "/proc"),
            ("/proc/../dev/w.npy", "/dev"),
            ("/sys/w.npy", "/sys"),
            ("link.npy", "/dev"),
            ("links.npy", "/dev"),
            ("dangling.npy", "/proc"),
            ("to own.npy", "/proc"),
            ("folder/w.npy", "/dev"),
            ("folder/shm/../w.npy", "/dev"),
            ("other/up/../w.npy", "/sys"),  # not other/w.npy
        ):
            # Asked, not tried: as root a mistake here would cost the system its name.
            with pytest.raises(OSError, match=f"leads into {system}, where nothing is replaced.*{path}'"):
                npy.replaceable(tmp_path / path)
        with pytest.raises(OSError, match="leads into /dev"):
            assert_created(tmp_path / "link.npy")
    assert own.read_text() == "mine"
    assert Path("/dev/stdout").is_symlink()
    assert not list(tmp_path.glob(".fanfill-*"))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no shared memory as files")
def test_shared_memory_is_a_place_for_files() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert_created(Path(folder, "w.npy"))
        assert os.listdir(folder) == ["w.npy"]


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz", "w", "npy", "w.npy.gz", "w.npy "])
def test_other_endings_are_refused_and_npy_is_offered(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected a file name that ends in \.npy, .*got '.*/{name}'; call it .*\.npy"
    ):
        assert_created(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["w.npy", "W.NPY", "w.pt.npy", ".npy"])
def test_these_endings_are_npy(tmp_path: Path, name: str) -> None:
    assert_created(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


# What an older file's permissions say

PERMISSIONS = pytest.mark.skipif(not hasattr(os, "fchown"), reason="owners and modes as POSIX has them")


@PERMISSIONS
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o555, 0])
def test_a_write_protected_file_is_not_replaced(tmp_path: Path, mode: int, linked: bool) -> None:
    kept, out = tmp_path / "kept.npy", tmp_path / "w.npy"
    kept.write_text("mine")
    kept.chmod(mode)
    if linked:
        out.symlink_to(kept)
    else:
        kept.rename(out)
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(PermissionError, match=r"write-protected, so it is not replaced; chmod.*w\.npy'"):
        assert_created(out)
    assert sorted(os.listdir(tmp_path)) == names
    out.chmod(0o644)
    assert out.read_text() == "mine"


@PERMISSIONS
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o222, 0o755])
def test_the_new_file_has_the_older_ones_mode_from_the_start(tmp_path: Path, mode: int, linked: bool) -> None:
    older, out = tmp_path / "older", tmp_path / "w.npy"
    older.write_text("before")
    older.chmod(mode)
    if linked:
        out.symlink_to(older)
    else:
        older.rename(out)
    with npy.create(out, (2,), np.dtype("f4")):
        (temporary,) = tmp_path.glob(".fanfill-*")
        assert stat.S_IMODE(temporary.stat().st_mode) == mode
    assert not out.is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == mode


@PERMISSIONS
def test_the_new_file_belongs_to_whom_the_older_one_belonged(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    (tmp_path / "w.npy").write_text("before")
    os.chown(tmp_path / "w.npy", 1234, 5678)
    (tmp_path / "w.npy").chmod(0o640)
    assert_created(tmp_path / "w.npy")
    found = (tmp_path / "w.npy").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)


@PERMISSIONS
@pytest.mark.parametrize(("mode", "left"), [(0o660, 0o600), (0o664, 0o644), (0o606, 0o666)])
def test_a_group_that_cannot_be_kept_gets_no_more_than_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, left: int
) -> None:
    real = os.stat

    def of_another_group(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        found = real(path, *arguments, **options)
        return os.stat_result((*found[:4], found.st_uid + 1, found.st_gid + 1, *found[6:]))

    def refused(descriptor: int, owner: int, group: int) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    out = tmp_path / "w.npy"
    out.write_text("before")
    out.chmod(mode)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fchown", refused)
        patched.setattr(os, "stat", of_another_group)
        assert_created(out)
    assert stat.S_IMODE(out.stat().st_mode) == left


@pytest.mark.parametrize("call", ["open", "posix_fallocate", "fsync", "replace"])
def test_errors_name_the_target_and_not_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refused(*arguments: object, **options: object) -> NoReturn:
        names = [str(each) for each in arguments if isinstance(each, Path)]
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), *names[:1])

    monkeypatch.setattr(os, call, refused)
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        assert_created(tmp_path / "w.npy")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "w.npy"), None)
    assert ".fanfill" not in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_callers_own_names_what_it_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="'elsewhere'"),
        npy.create(tmp_path / "w.npy", (2,), np.dtype("f4")),
    ):
        raise FileNotFoundError(errno.ENOENT, "no", "elsewhere")


def assert_created(path: Path) -> None:
    with npy.create(path, (1000,), np.dtype("f4")):
        pass
