"""The files of the cache folder: whatever lies in their place, and which are removed in time."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import assert_ends, assert_right, python, run, start

from fanfill_kernels.store import cache

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="files as Linux has them")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir(mode=0o700)
    return tmp_path / "kept"


@pytest.fixture
def descriptors() -> Iterator[None]:
    """No descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


# What lies in a file's place


@LINUX
def test_a_fifo_is_neither_waited_for_nor_read(folder: Path) -> None:
    os.mkfifo(folder / "a.bin", 0o600)
    program = """
from fanfill_kernels.store import cache
assert cache.load("a") is None
assert cache.entries() == cache.clear() == []
cache.store("a", b"code")
assert cache.load("a") == b"code"
print("right")
"""
    assert_right(run(program, seconds=20.0))


@LINUX
@pytest.mark.usefixtures("descriptors")
def test_a_folder_a_device_or_a_link_is_not_read_and_leaves_no_descriptor(folder: Path) -> None:
    (folder / "a.bin").mkdir()
    (folder / "b.bin").symlink_to("/dev/zero")
    (folder / "c.bin").symlink_to("c.bin")
    for key in "abcabc":
        assert cache.load(key) is None
    cache.store("a", b"code")  # a folder stays where it is
    assert cache.load("a") is None
    assert cache.entries() == []
    assert sorted(os.listdir(folder)) == ["a.bin", "b.bin", "c.bin"]
    cache.store("b", b"code")
    assert cache.load("b") == b"code"


@LINUX
@pytest.mark.usefixtures("descriptors")
def test_a_file_without_bounds_is_not_read_whole(folder: Path) -> None:
    with open(folder / "a.bin", "wb") as file:
        file.truncate(1 << 40)
    (folder / "a.bin").chmod(0o600)
    assert cache.load("a") is None
    cache.store("a", b"code")
    assert cache.load("a") == b"code"


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"fanfill 1\n", b"fanfill 1\n" + bytes(1000)])
def test_what_no_store_has_left_is_not_loaded_and_is_replaced(folder: Path, data: bytes) -> None:
    cache.store("a", b"code")
    (folder / "a.bin").write_bytes(data)
    assert cache.load("a") is None
    cache.store("a", b"code")
    assert cache.load("a") == b"code"


def test_an_entry_that_is_cut_short_or_has_another_bit_anywhere_is_not_loaded(folder: Path) -> None:
    cache.store("a", b"code")
    kept = (folder / "a.bin").read_bytes()
    flipped = [kept[:k] + bytes([kept[k] ^ 1 << k % 8]) + kept[k + 1 :] for k in range(len(kept))]
    for damaged in (*flipped, *(kept[:k] for k in range(len(kept)))):
        (folder / "a.bin").write_bytes(damaged)
        assert cache.load("a") is None, damaged
    (folder / "a.bin").write_bytes(kept)
    assert cache.load("a") == b"code"


def test_an_entry_that_would_not_be_read_is_not_kept(folder: Path) -> None:
    largest = cache._LARGEST - cache._HEAD
    cache.store("a", bytes(largest + 1))
    assert list(folder.iterdir()) == []
    cache.store("a", bytes(largest))
    assert cache.load("a") == bytes(largest)


# What is removed


def aged(file: Path, days: float) -> None:
    os.utime(file, (time.time() - days * 86400,) * 2)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_was_not_used_for_longest_is_removed_when_there_is_too_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = cache._HEAD + 1000
    monkeypatch.setattr(cache, "LIMIT", 4 * size)
    for days, key in enumerate("abcd"):
        cache.store(key, bytes(1000))
        aged(folder / f"{key}.bin", days + 2)
    assert cache.load("d") == bytes(1000)  # the oldest, which is used now
    cache.store("e", bytes(1000))
    assert names(folder) == ["a.bin", "b.bin", "d.bin", "e.bin"]
    cache.store("f", bytes(3000))
    assert names(folder) == ["e.bin", "f.bin"]
    assert [entry.name for entry in cache.entries()] == ["f.bin", "e.bin"]


def test_the_limit_is_one_that_is_kept(folder: Path) -> None:
    for number in range(20):
        cache.store(str(number), bytes(4 << 20))
    assert cache.LIMIT * 0.9 < sum(entry.size for entry in cache.entries()) <= cache.LIMIT


def test_use_is_noted_once_a_day_and_not_at_each_load(folder: Path) -> None:
    cache.store("a", b"code")
    aged(folder / "a.bin", 0.5)
    before = (folder / "a.bin").stat().st_mtime_ns
    assert cache.load("a") == b"code"
    assert (folder / "a.bin").stat().st_mtime_ns == before
    aged(folder / "a.bin", 1.5)
    assert cache.load("a") == b"code"
    assert time.time() - (folder / "a.bin").stat().st_mtime < 3600


def test_what_is_not_ours_is_neither_counted_nor_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may name a folder that holds other things, a model's weights among them."""
    (folder / "model.bin").write_bytes(bytes(5000))
    (folder / "run_normal_float32-0123456789abcdef.bin").write_bytes(b"somebody's own")
    (folder / "more").mkdir()
    aged(folder / "model.bin", 100)
    monkeypatch.setattr(cache, "LIMIT", 2 * (cache._HEAD + 1000))
    for key in "ab":
        cache.store(key, bytes(1000))
    others = ["model.bin", "more", "run_normal_float32-0123456789abcdef.bin"]
    assert names(folder) == sorted(["a.bin", "b.bin", *others])
    cache.store("c", bytes(1000))
    assert len(names(folder)) == 5
    assert {entry.name for entry in cache.clear()} <= {"a.bin", "b.bin", "c.bin"}
    assert names(folder) == others


def test_what_killed_processes_left_is_removed_in_time(folder: Path) -> None:
    for name, days in (("a.bin.123-0123abcd", 1.0), ("b.bin.124-0123abcd", 0.0), ("notes.123", 9.0)):
        (folder / name).write_bytes(b"fanf")
        aged(folder / name, days)
    cache.store("c", b"code")
    assert names(folder) == ["b.bin.124-0123abcd", "c.bin", "notes.123"]
    cache.clear()
    assert names(folder) == ["notes.123"]


def test_entries_of_other_versions_are_ours(folder: Path) -> None:
    (folder / "old.bin").write_bytes(b"fanfill 0\nsomething")
    (folder / "old.bin").chmod(0o600)
    assert cache.load("old") is None
    assert [entry.name for entry in cache.clear()] == ["old.bin"]


def test_clearing_a_folder_that_is_not_used_is_an_error(folder: Path) -> None:
    cache.store("a", b"code")
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match=re.escape("others may write to it (mode 777); chmod")):
        cache.clear()
    assert names(folder) == ["a.bin"]


BUSY = """
import sys, random, time
from fanfill_kernels.store import cache
cache.LIMIT = 20 * 2000
chance = random.Random(int(sys.argv[1]))
until, loaded = time.monotonic() + 3.0, 0
while time.monotonic() < until or not loaded:
    number = chance.randrange(40)
    wanted = bytes([number]) * 2000
    found = cache.load(str(number))
    if found is None:
        cache.store(str(number), wanted)
    else:
        loaded += 1
        assert found == wanted
print("right")
"""


def test_processes_that_store_load_and_remove_at_once_find_whole_entries_or_none(folder: Path) -> None:
    together = [start(python("-W", "error", "-c", BUSY, str(number))) for number in range(4)]
    for process in together:
        assert_right(assert_ends(process))
    cache.store("last", b"")
    assert all(name.endswith(".bin") for name in names(folder))
    assert sum(entry.size for entry in cache.entries()) <= 21 * 2100 + 4 * 2100
