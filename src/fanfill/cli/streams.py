"""Stdout and stderr as the commands write to them, whatever they are and whatever happens to them.

This module meets these requirements:

* A closed stdout is refused before any work: the report would have nowhere to go.
* If stdout cannot be written (a full disk, a reader that has gone), the error is `Unwritable`. It is not an
  ``OSError``: click and rich end the process on those themselves, with their own exit codes.
* A character that stdout's encoding lacks is written escaped, as Python does on stderr.
* Stderr may be closed or full: then only the exit code reports the result.
* When the interpreter flushes both once more at exit, nothing is left that could fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

__all__ = ["Unwritable", "output", "standard_error", "writing"]


class Unwritable(Exception):
    """Stdout could not be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout: {error.strerror or error}")
        self.broken_pipe = isinstance(error, BrokenPipeError)


class Output:
    """A text stream in front of another one; raises `Unwritable` if that one cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:
        """The encoding of the stream behind this one; rich draws accordingly."""
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
    """Turn an ``OSError`` into `Unwritable`, in a block where only a write to stdout can fail."""
    try:
        yield
    except OSError as error:
        raise Unwritable(error) from error


@contextmanager
def output() -> Iterator[None]:
    """Make stdout such a stream, and flush it at the end.

    Raises
    ------
    ValueError
        If stdout is closed.
    Unwritable
        If it cannot be written.
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
    """Make stderr writable, and settle it at the end."""
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
    """Whether a standard stream is closed; it is None if it was closed from the start."""
    return stream is None or stream.closed


def settle(stream: TextIO) -> None:
    """Flush a stream; if that fails, discard the rest."""
    try:
        stream.flush()
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Redirect a stream's descriptor, if it has one, to the null device."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def occupy_standard_descriptors() -> None:
    """Occupy closed descriptors up to 2, so that no file gets one: a library's last words would go there."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
