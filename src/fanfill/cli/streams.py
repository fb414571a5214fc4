"""Stdout and stderr as the commands write to them, whatever they are and whatever becomes of them.

Requirements answered here:

* A closed stdout is refused before any work: the report would have nowhere to go.
* What stdout does not take (a full disk, a reader that has gone) is one kind of error, `Unwritable`. It is no
  ``OSError``: click and rich end the process over those by themselves, with codes of their own.
* A character that stdout's encoding lacks is written escaped, as Python does on stderr.
* Stderr may be closed or full: then the exit code says what there is to say.
* The interpreter, which flushes both once more on its way out, finds nothing left that could fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

__all__ = ["Unwritable", "output", "standard_error", "writing"]


class Unwritable(Exception):
    """Stdout did not take what was written to it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout: {error.strerror or error}")
        self.broken_pipe = isinstance(error, BrokenPipeError)


class Output:
    """A text stream in front of another, whose failures are `Unwritable`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:
        """The encoding of the stream behind: rich draws by it."""
        return self.stream.encoding or "utf-8"

    @property
    def closed(self) -> bool:
        return self.stream.closed

    def write(self, text: str) -> int:
        with writing():
            try:
                return self.stream.write(text)
            except UnicodeEncodeError:  # before anything was written
                self.stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with writing():
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


@contextmanager
def writing() -> Iterator[None]:
    """Where all that can fail is a write to stdout."""
    try:
        yield
    except OSError as error:
        raise Unwritable(error) from error


@contextmanager
def output() -> Iterator[None]:
    """Let stdout be such a stream, and be flushed at the end.

    Raises
    ------
    ValueError
        Stdout is closed.
    Unwritable
        It does not take what was written.
    """
    stream = sys.stdout
    if missing(stream):
        raise ValueError(
            "expected stdout to be open, since the output goes there; got a closed one; redirect it, to "
            f"{os.devnull} if nobody is to read it"
        )
    sys.stdout = cast("TextIO", Output(stream))
    try:
        yield
        sys.stdout.flush()
    except Unwritable:
        silence(stream)
        raise
    finally:
        sys.stdout = stream


@contextmanager
def standard_error() -> Iterator[None]:
    """Let stderr be something that can be written to, and be done with at the end."""
    stream = sys.stderr
    if not missing(stream):
        try:
            yield
        finally:
            settle(stream)
        return
    occupy_standard_descriptors()
    with open(os.devnull, "w") as nowhere:
        sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stderr = stream


def missing(stream: TextIO | None) -> bool:
    """Whether a standard stream is closed: Python has None for one that was so from the start."""
    return stream is None or stream.closed


def settle(stream: TextIO) -> None:
    """Flush a stream, or give up what it does not take."""
    try:
        stream.flush()
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Lead a stream's descriptor to nowhere, if it has one."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def occupy_standard_descriptors() -> None:
    """Keep closed descriptors up to 2 from files: a library's last words would go into one."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
