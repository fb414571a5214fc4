"""The command line's frame: what all commands share.

This module meets these requirements:

* Any error ends in one line on stderr and exit code 2, never in a traceback. That includes missing typer or
  rich: this module imports neither.
* Ctrl-C ends with exit code 130 and SIGTERM with 143, after every ``finally`` on the way out has run.
* A reader that closes the pipe (``fanfill info | head -1``) is not an error and causes no message: the exit
  code is 141, as a shell reports for other tools.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from fanfill.cli import streams, terms

__all__ = ["main"]

USAGE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
EXTRA = ("typer", "rich")


class Terminated(BaseException):
    """SIGTERM or SIGHUP as an exception: it unwinds the stack just as Ctrl-C does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``fanfill``; the process's own by default.
    """
    with streams.standard_error():
        return guarded(arguments)


def guarded(arguments: Sequence[str] | None) -> int:
    """Run one command; turn any error into one line and an exit code."""
    try:
        with signals_as_exceptions(), one_line_warnings():
            return run(arguments)
    except streams.Unwritable as error:
        return BROKEN_PIPE if error.broken_pipe else complain(str(error))
    except Terminated:
        return complain("terminated", TERMINATED)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except terms.Spoken as error:
        return complain(str(error))
    except (ValueError, TypeError, MemoryError) as error:
        return complain(terms.spoken(str(error)) or type(error).__name__)
    except Exception as error:
        return complain(unexpected(error))


def run(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, then run the command that they name."""
    try:
        from fanfill.cli import app

        with streams.output():
            app.parse(sys.argv[1:] if arguments is None else arguments)()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        return complain(
            f"the command line needs typer and rich; {missing} is missing: pip install 'fanfill[cli]'"
        )
    return 0


def complain(message: str, code: int = USAGE) -> int:
    """Write one line to stderr, whatever the message looks like; if that fails, the code alone reports it."""
    with suppress(OSError):
        sys.stderr.write(f"fanfill: {' '.join(message.split())}\n")
    return code


def unexpected(error: Exception) -> str:
    """The line for an unexpected error, with the code location that a bug report needs."""
    import fanfill

    if isinstance(error, fanfill.BackendUnavailableError):
        return terms.spoken(str(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    first, _, _ = str(error).partition("\n")  # a compiler's message runs to pages
    return f"internal error: {type(error).__name__}: {first} ({place.filename}:{place.lineno})"


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does. Only the main thread can set that up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A signal that the caller ignores (nohup) stays ignored.
    numbers = [n for n in map(signal.Signals.__getitem__, names) if signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show a warning as its message only: its source line means nothing to someone who typed a command."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"fanfill: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
