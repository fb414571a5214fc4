"""``fanfill fill --out`` under faults: the file is whole or not there, nothing else is written or left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import Child, Ended, assert_ends, assert_refused, assert_whole, begin, fanfill, fill

from fanfill.files import npy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults as Linux has them")

BYTES = 128 + 4 * 1_000_000


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_the_older_file(small_disk: Path) -> None:
    out = small_disk / "w.npy"
    fill(out)
    assert_whole(out, 1_000_000)
    before = out.read_bytes()
    assert_refused(fill(out), "No space left on device; 4,000,128 bytes are needed")  # both find no room
    assert out.read_bytes() == before
    assert os.listdir(small_disk) == ["w.npy"]
    out.unlink()
    assert fill(out).code == 0


def test_a_cache_on_a_full_disk_is_no_error(small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((6 << 20) - 8192))
    ended = fill(tmp_path / "w.npy", environment={"FANFILL_CACHE_DIR": str(small_disk / "kept")})
    assert (ended.code, ended.err) == (0, "")
    assert_whole(tmp_path / "w.npy", 1_000_000)
    assert all(path.stat().st_size < 8192 for path in (small_disk / "kept").rglob("*"))
    assert not list(small_disk.rglob("*.bin.*"))


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path) -> None:
    def limit(size: int) -> str:
        return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"

    (tmp_path / "w.npy").write_text("older")
    assert_refused(
        fill(tmp_path / "w.npy", before=limit(BYTES - 1)), "File too large; 4,000,128 bytes are needed"
    )
    assert os.listdir(tmp_path) == ["w.npy"]
    assert (tmp_path / "w.npy").read_text() == "older"
    assert fill(tmp_path / "w.npy", before=limit(BYTES)).code == 0
    assert_whole(tmp_path / "w.npy", 1_000_000)


def test_a_full_device_for_the_report_is_an_error_and_the_file_is_whole(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = fill(tmp_path / "w.npy", stdout=full)
    assert ended.code != 0
    assert ended.err == "fanfill: stdout: No space left on device\n"
    assert_whole(tmp_path / "w.npy", 1_000_000)
    assert os.listdir(tmp_path) == ["w.npy"]


# Signals

ENDS = {signal.SIGINT: (130, "fanfill: interrupted\n"), signal.SIGTERM: (143, "fanfill: terminated\n")}


def assert_stopped(ended: Ended, number: signal.Signals) -> None:
    """Ended by the signal, in one line and with its code."""
    assert (ended.code, ended.out, ended.err) == (ENDS[number][0], "", ENDS[number][1])


def moments(count: int) -> list[tuple[signal.Signals, float]]:
    """Signals and fractions of a second, the same in every run."""
    chance = random.Random(7)
    return [(signal.Signals(2 if k % 2 else 15), chance.random()) for k in range(count)]


def strike(child: Child, begun: Callable[[], bool], number: int, after: float) -> Ended:
    """Wait until it has begun and a while longer, send the signal, see it end."""
    limit = time.monotonic() + 60
    while not begun() and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    time.sleep(after)
    child.send_signal(number)
    return assert_ends(child)


def assert_file_or_nothing(folder: Path, number: signal.Signals, after: float) -> bool:
    """One file write, struck `after` seconds from the temporary file's creation; whether it ended well."""
    folder.mkdir()
    out = folder / "w.npy"
    words = ("fill", "normal", "40000000", "--seed", "4", "--threads", "2", "--out", str(out))
    child = fanfill(*words)
    ended = strike(child, lambda: any(folder.iterdir()), number, after)
    if out.exists():  # the signal came when the file had its name, or later
        assert os.listdir(folder) == ["w.npy"]
        assert np.load(out, mmap_mode="r").shape == (40_000_000,)
        assert ended.code in (0, ENDS[number][0], -number), ended
        return True
    assert_stopped(ended, number)
    assert os.listdir(folder) == []
    return False


def test_a_signal_during_a_file_write_leaves_the_whole_file_or_none(tmp_path: Path) -> None:
    ends = [
        assert_file_or_nothing(tmp_path / str(k), number, after * 0.4)
        for k, (number, after) in enumerate(moments(4))
    ]
    assert not all(ends)


def test_a_second_signal_does_not_keep_the_first_from_removing_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck = []
    unlink = Path.unlink

    def strike_first(path: Path, missing_ok: bool = False) -> None:
        struck.append(path)
        if len(struck) == 1:
            raise KeyboardInterrupt("the second")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", strike_first)
    with (
        pytest.raises(KeyboardInterrupt, match="the second"),
        npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")),
    ):
        raise KeyboardInterrupt("the first")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_signal_at_any_of_twenty_moments_of_a_file_write_leaves_the_whole_file_or_none(
    tmp_path: Path,
) -> None:
    ends = [
        assert_file_or_nothing(tmp_path / str(k), number, after * 1.2)
        for k, (number, after) in enumerate(moments(20))
    ]
    assert 0 < sum(ends) < 20


def assert_fill_stops(begun: Path, number: signal.Signals, after: float) -> None:
    """One endless fill, struck `after` seconds from its first report."""
    program = """
import sys
import numpy as np
import fanfill as ff
from fanfill.cli import signals_as_exceptions, Terminated
buffer = np.empty(4_000_000, np.float32)
wanted = ff.draw(4_000_000, ff.normal(), seed=4, device="cpu", backend="numpy")
with open(sys.argv[1], "w") as begun, signals_as_exceptions():
    begun.write("begun")
    begun.flush()
    try:
        while True:
            ff.fill(buffer, ff.normal(), seed=4, threads=3, progress=lambda done, total: None)
    except Terminated:
        code = 143
    except KeyboardInterrupt:
        code = 130
ff.fill(buffer, ff.normal(), seed=4, threads=3)
assert buffer.tobytes() == wanted.tobytes()
sys.exit(code)
"""
    child = begin(program, str(begun))
    ended = strike(child, lambda: begun.exists() and begun.stat().st_size > 0, number, after)
    assert (ended.code, ended.out, ended.err) == (ENDS[number][0], "", "")


def test_a_signal_ends_a_fill_and_the_next_one_is_right(tmp_path: Path) -> None:
    for k, (number, after) in enumerate(moments(4)):
        assert_fill_stops(tmp_path / str(k), number, after * 0.1)


@pytest.mark.slow
def test_a_signal_at_any_of_twenty_moments_ends_a_fill_and_the_next_one_is_right(
    tmp_path: Path,
) -> None:
    for k, (number, after) in enumerate(moments(20)):
        assert_fill_stops(tmp_path / str(k), number, after * 0.3)


@pytest.mark.slow
def test_a_signal_at_any_of_twenty_moments_of_a_first_run_leaves_file_and_cache_whole_or_not_there(
    tmp_path: Path,
) -> None:
    """From the interpreter's start to its end, through imports and compilation; then a run after it."""
    codes = []
    for k, (number, after) in enumerate(moments(20)):
        folder, kept = tmp_path / f"{k}", tmp_path / f"{k} kept"
        folder.mkdir()
        words = ("fill", "normal", "20000000", "--seed", "4", "--out", str(folder / "w.npy"))
        child = fanfill(*words, environment={"FANFILL_CACHE_DIR": str(kept)}, fresh=True)
        ended = strike(child, lambda: True, number, after * 3.0)
        # Before and after the command proper a signal does what it does to any Python.
        assert ended.code in (0, ENDS[number][0], -number), ended
        assert ended.code != ENDS[number][0] or ended.err == ENDS[number][1]
        codes.append(ended.code)
        assert os.listdir(folder) == (["w.npy"] if (folder / "w.npy").exists() else [])
        assert not list(kept.rglob("*.bin.*"))
        assert fill(folder / "w.npy", 1000, environment={"FANFILL_CACHE_DIR": str(kept)}).code == 0
        assert_whole(folder / "w.npy", 1000)
    assert len(set(codes)) > 2


def test_a_file_that_is_left_behind_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: SIGKILL, which nobody can answer, leaves the temporary file."""
    monkeypatch.setitem(ENDS, signal.SIGKILL, (-9, ""))
    with pytest.raises(AssertionError, match=r"\.fanfill-[0-9a-f]+\.tmp"):
        assert_file_or_nothing(tmp_path / "w", signal.SIGKILL, 0.0)
