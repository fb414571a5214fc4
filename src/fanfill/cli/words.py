"""``fanfill words``: the generator's raw words on stdout, for test suites that read a pipe.

This module meets these requirements:

* Words come as fast as a pipe takes them: one piece is drawn while the previous one is being written.
* The bytes are the same on every machine: words of 32 bits, lowest byte first.
* Nothing but words goes to stdout, and nothing at all to a terminal.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fanfill as ff
from fanfill import system
from fanfill.arguments import LARGEST_TENSOR, integer
from fanfill.cli import streams

__all__ = ["command"]

# Words in each of the two pieces: 2 MiB, so that they stay in a core's caches on their way to the pipe.
PIECE = 1 << 19
PIPE_BYTES = 1 << 20  # the most that any user may ask for; the default costs a switch for every 64 KiB

Words = NDArray[np.uint32]


def command(*, seed: int, name: str | int, start: int, count: int | None) -> None:
    """Write ``count`` words, from word ``start`` on, to stdout; None: until the reader closes it.

    Raises
    ------
    ValueError
        If the start or the count is out of range, or stdout is a terminal. Nothing has been written then.
    Unwritable
        If the reader has gone, or the disk is full.
    """
    integer(start, "--start", 0, LARGEST_TENSOR, "[0, 2**63)")
    left = LARGEST_TENSOR - start
    if count is not None:
        left = integer(count, "--count", 0, left + 1, f"[0, {left}]: words end at 2**63")
    if sys.stdout.isatty():
        raise ValueError(
            "expected stdout to be a pipe or a file; got a terminal, which raw bytes would garble; "
            "to show a few words: fanfill words --count 8 | od -A d -t x4"
        )
    sys.stdout.flush()
    write_words(sys.stdout.fileno(), seed=seed, name=name, start=start, count=left)


def write_words(file: int, *, seed: int, name: str | int, start: int, count: int) -> None:
    """Write words ``start`` to ``start + count - 1`` to a file descriptor, the lowest byte first."""
    system.widen(file, PIPE_BYTES)
    pieces = [np.empty(PIECE, np.uint32) for _ in range(2)]

    def drawn(number: int) -> Words:
        words = pieces[number % 2][: max(0, min(PIECE, count - number * PIECE))]
        ff.words(words, seed=seed, name=name, start=min(start + number * PIECE, LARGEST_TENSOR - 1))
        return words if sys.byteorder == "little" else words.byteswap(inplace=True)

    with ThreadPoolExecutor(1, "fanfill-words") as ahead:
        following: Future[Words] = ahead.submit(drawn, 0)
        number = 0
        while (words := following.result()).size:
            number += 1
            following = ahead.submit(drawn, number)
            write_all(file, words.data.cast("B"))


def write_all(file: int, data: memoryview[Any]) -> None:
    """Write all data: a pipe may take only a part at a time."""
    while data:
        with streams.writing():
            data = data[os.write(file, data) :]
