"""``fanfill words``: the bytes on stdout, and how the command ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command_line import Capture

import fanfill as ff
from fanfill.cli import main
from fanfill.cli import words as wording

COMMAND = [sys.executable, "-m", "fanfill", "words"]


def expected(seed: int, name: str | int, start: int, count: int) -> bytes:
    """The words in Python's own integers, the lowest byte first."""
    drawn = ff.words(np.empty(count, np.uint32), seed=seed, name=name, start=start)
    return b"".join(word.to_bytes(4, "little") for word in drawn.tolist())


def written(seed: int, name: str | int, start: int, count: int) -> bytes:
    """What `write_words` puts into a pipe."""
    out, into = os.pipe()
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(out, 1 << 16):
            found.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wording.write_words(into, seed=seed, name=name, start=start, count=count)
    finally:
        os.close(into)
        reader.join()
        os.close(out)
    return b"".join(found)


def test_the_words_on_stdout_are_the_librarys(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for options, words in (
        (["--count", "5"], (0, 0, 0, 5)),
        (
            ["--seed", "7", "--name", "decoder.0.wq", "--start", "3", "--count", "1001"],
            (7, "decoder.0.wq", 3, 1001),
        ),
        (["--name", "12", "--start", str(2**40 + 1), "--count", "6"], (0, 12, 2**40 + 1, 6)),
        (["--count", "0"], (0, 0, 0, 0)),
    ):
        assert main(["words", *options]) == 0
        assert capfdbinary.readouterr() == (expected(*words), b"")


@pytest.mark.parametrize("count", [1, 255, 256, 257, 512, 1000])
def test_pieces_join_without_a_seam(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "PIECE", 256)
    assert written(3, "a", 5, count) == expected(3, "a", 5, count)


def test_words_end_at_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "PIECE", 64)
    start = 2**63 - 130
    assert written(1, 2, start, 130) == expected(1, 2, start, 130)


def test_a_big_endian_machine_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    swapped = np.frombuffer(written(0, 0, 0, 8), np.uint32).byteswap()
    assert swapped.tobytes() == expected(0, 0, 0, 8)


def test_a_write_that_takes_a_part_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = bytearray()

    def take_three(file: int, data: memoryview) -> int:
        taken.extend(data[:3])
        return min(3, len(data))

    monkeypatch.setattr(os, "write", take_three)
    wording.write_all(1, memoryview(bytes(range(100))))
    assert taken == bytes(range(100))


def test_words_go_on_until_nobody_reads_and_then_end_quietly() -> None:
    with subprocess.Popen(
        [*COMMAND, "--seed", "9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(12 << 20) == ff.words(np.empty(3 << 20, np.uint32), seed=9).tobytes()
        process.stdout.close()
        assert process.wait(30) == 141  # 128 + SIGPIPE, as a shell reports it for other tools
        assert process.stderr.read() == b""


def test_a_signal_ends_a_blocked_writer() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(4)  # it writes; soon the pipe is full and stays so
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert process.stderr.read() == b"fanfill: terminated\n"


def test_a_terminal_is_refused(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    try:
        monkeypatch.setattr(sys, "stdout", open(theirs, "w", closefd=False))  # noqa: SIM115
        assert main(["words", "--count", "8"]) == 2
        err = capsys.readouterr().err
        assert "expected stdout to be a pipe or a file; got a terminal" in err
        assert "fanfill words --count 8 | od -A d -t x4" in err
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_full_disk_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["words", "--count", "8"]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], r"--seed: expected an integer in \[0, 2\*\*64\); got -1"),
        (["--start", "-1"], r"--start: expected an integer in \[0, 2\*\*63\); got -1"),
        (["--start", str(2**63)], r"--start: expected an integer in \[0, 2\*\*63\)"),
        (["--count", "-1"], r"--count: expected an integer in \[0, 9223372036854775808\].*; got -1"),
        (
            ["--start", str(2**63 - 5), "--count", "6"],
            r"--count: expected .* \[0, 5\]: words end at 2\*\*63; got 6",
        ),
        (["--name", str(2**64), "--count", "1"], r"name: expected an integer in \[0, 2\*\*64\), or text"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    words: list[str], message: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["words", *words]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert re.search(message, err.decode()), err
