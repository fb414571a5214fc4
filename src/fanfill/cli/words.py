"""``fanfill words``: the generator's raw words on stdout, for test suites that read a pipe.

Requirements answered here:

* as fast as a pipe takes them: one piece is drawn while the one before is being written;
* the bytes are the same on every machine: words of 32 bits, lowest byte first;
* nothing but words goes to stdout, and never to a terminal.
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

# Words in a piece, of which there are two: 2 MiB each, which a core's caches and the pipe pass on warm.
PIECE = 1 << 19
PIPE_BYTES = 1 << 20  # what Linux lets anybody ask for; the default of 64 KiB costs a switch for every 64 KiB

Words = NDArray[np.uint32]


def command(*, seed: int, name: str | int, start: int, count: int | None) -> None:
    """Write ``count`` words, from word ``start`` on, to stdout; None: as long as somebody reads.

    Raises
    ------
    ValueError
        The start or the count is out of range, or stdout is a terminal. Nothing has been written then.
    Unwritable
        The reader has gone, or the disk is full.
    """
    integer(start, "--start", 0, LARGEST_TENSOR, "[0, 2**63)")
    left = LARGEST_TENSOR - start
    if count is not None:
        left = integer(count, "--count", 0, left + 1, f"[0, {left}]: words end at 2**63")
    if sys.stdout.isatty():
        raise ValueError(
            "expected stdout to be a pipe or a file; got a terminal, which bytes would garble; "
            "show some with: fanfill words --count 8 | od -A d -t x4"
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
    """Write all of it: a pipe may take a part."""
    while data:
        with streams.writing():
            data = data[os.write(file, data) :]
