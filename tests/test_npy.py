"""Writing .npy files by memory map: whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

import ml_dtypes
import numpy as np
import pytest

from fanfill import npy


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
        npy.create(tmp_path / "w", (1 << 58,), np.dtype("f4")),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_a_file_system_without_reservation_gets_its_zeros_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    def unsupported(descriptor: int, offset: int, size: int) -> NoReturn:
        raise AttributeError if code is None else OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(npy, "ZEROS", 1000)
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
    with pytest.raises(OSError, match="not a regular file"):
        assert_created(Path(os.devnull))


def assert_created(path: Path) -> None:
    with npy.create(path, (1000,), np.dtype("f4")):
        pass
