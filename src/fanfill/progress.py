"""How far a job is, for people: one bar that the functions' ``progress=True`` and the command line share.

A job has phases, one after another: compiling, filling, checking. Each has a name, an amount in all (or none,
if it cannot be known), and what is done of it. On a terminal they are one bar on stderr, with rate and time
left as soon as anything is done: rich's if it is installed, else a plain line. Elsewhere, in a log, there is
a line every half minute. Nothing of this is imported unless somebody asks for a bar.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import perf_counter
from typing import Any, NamedTuple, Protocol, TextIO

from fanfill.amounts import amount, duration
from fanfill.messages import shown

__all__ = ["Follow", "Phases", "following", "phases"]

Follow = Callable[[int, int], object]

# A fill reports hundreds of times a second, thousands on many cores, and each update of a bar costs it some
# microseconds.
_REFRESH_SECONDS = 0.05
_LOG_SECONDS = 30.0
# Below this many of anything but bytes and values, a rate says nothing that the count and the time do not.
_COUNTED = ("B", "values")


class State(NamedTuple):
    """Where a job is: the phase, what is done of how much (0: not known), and the seconds it took so far."""

    phase: str
    unit: str
    done: int
    total: int
    seconds: float

    def facts(self, since: float = 0.0) -> str:
        """Share, amounts, rate and time left, `since` seconds after this state was reached."""
        if not self.total:
            return duration(self.seconds + since)
        # Rounded down: 100 % is all of it.
        found = [f"{100 * self.done // self.total:3} %", self.amounts()]
        if self.done and self.seconds > 0.0:
            rate = self.done / self.seconds
            if self.unit in _COUNTED:
                found.append(amount(rate, f"{self.unit}/s"))
            found.append(f"{duration(max(0.0, (self.total - self.done) / rate - since))} left")
        else:
            found.append(duration(self.seconds + since))
        return "  ".join(found)

    def amounts(self) -> str:
        """What is done, of how much."""
        if self.unit in _COUNTED:
            return f"{amount(self.done, self.unit)} of {amount(self.total, self.unit)}"
        return f"{self.done:,} of {self.total:,} {self.unit}"


class View(Protocol):
    """Where states are shown."""

    def show(self, state: State) -> None:
        """Show a state; called at most 20 times a second, and at the end of each phase."""

    def close(self, *, keep: bool) -> None:
        """End; `keep` leaves the last state to be seen."""


class Phases:
    """Follows a job: called with a phase, the amount done and that in all; knows each phase's seconds.

    Attributes
    ----------
    seconds : dict of str to float
        What each phase took; the last one's so far.
    """

    def __init__(self, view: View | None, unit: str) -> None:
        self.seconds: dict[str, float] = {}
        self._view, self._unit = view, unit
        self._phase, self._began, self._due = "", perf_counter(), 0.0

    def __call__(self, phase: str, done: int = 0, total: int = 0, unit: str | None = None) -> None:
        now = perf_counter()
        if phase != self._phase:
            self.end()
            self._phase, self._began, self._due = phase, now - self.seconds.get(phase, 0.0), now
        self.seconds[phase] = now - self._began
        if self._view is not None and (now >= self._due or done == total):
            self._due = now + _REFRESH_SECONDS
            self._view.show(State(phase, unit or self._unit, done, total, self.seconds[phase]))

    def end(self) -> None:
        """Count the last phase up to now."""
        if self._phase:
            self.seconds[self._phase] = perf_counter() - self._began


class _Rich:
    """rich's bar, which its own thread draws ten times a second."""

    def __init__(self, console: Any) -> None:
        from rich import progress

        view = self
        self.state, self.at = State("", "", 0, 0, 0.0), perf_counter()

        class Facts(progress.ProgressColumn):
            max_refresh = None

            def render(self, task: progress.Task) -> Any:
                from rich.text import Text

                return Text(view.state.facts(perf_counter() - view.at))

        text = progress.TextColumn("{task.description:10}")
        self.bar = progress.Progress(text, progress.BarColumn(20), Facts(), console=console)
        self.task = self.bar.add_task("", total=None)
        self.bar.start()

    def show(self, state: State) -> None:
        before, self.state, self.at = self.state.phase, state, perf_counter()
        if state.phase != before:
            # What is shown of a phase must not be the bar of the one before.
            self.bar.reset(self.task, description=state.phase, total=state.total or None)
        self.bar.update(self.task, total=state.total or None, completed=state.done)

    def close(self, *, keep: bool) -> None:
        self.bar.live.transient = not keep
        self.bar.stop()


class _Line:
    """A bar without rich: one line that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.width = stream, 0

    def show(self, state: State) -> None:
        filled = 20 * state.done // state.total if state.total else 0
        text = f"{state.phase:10} [{'#' * filled:20}] {state.facts()}"
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        self._put(f"\r{text:{self.width}}")
        self.width = len(text)

    def close(self, *, keep: bool) -> None:
        self._put("\n" if keep else f"\r{'':{self.width}}\r")

    def _put(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a terminal that went away is no reason to stop
            self.stream.write(text)
            self.stream.flush()


class _Log:
    """No terminal: a line now and then, so that a log of hours shows that the job goes on."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.due = stream, perf_counter() + _LOG_SECONDS

    def show(self, state: State) -> None:
        if perf_counter() >= self.due:
            self.due = perf_counter() + _LOG_SECONDS
            with suppress(OSError, ValueError):
                self.stream.write(f"{state.phase} {state.facts().strip()}\n")
                self.stream.flush()

    def close(self, *, keep: bool) -> None:
        pass


def _view() -> View | None:
    """The best that stderr can show, or None where there is no stderr."""
    stream = sys.stderr
    if stream is None or stream.closed:
        return None
    try:
        from rich.console import Console
    except ImportError:
        return _Line(stream) if stream.isatty() else _Log(stream)
    # Decided here: rich takes a log for a terminal if an environment variable says so.
    console = Console(stderr=True)
    return _Rich(console) if stream.isatty() or console.is_jupyter else _Log(stream)


@contextmanager
def phases(*, wanted: bool = True, unit: str = "B", keep: bool = False) -> Iterator[Phases]:
    """What a job calls as it goes on; shown on stderr while the block runs, if wanted.

    Parameters
    ----------
    wanted
        Whether it is to be shown; its seconds are counted in any case.
    unit
        Of the amounts, unless a call names another: "B", "values", "kernels", ...
    keep
        Leave the bar's last state on the terminal.
    """
    view = _view() if wanted else None
    followed = Phases(view, unit)
    done = False
    try:
        yield followed
        done = True
    finally:
        followed.end()
        if view is not None:
            view.close(keep=keep and done)  # of what failed, the error alone stays


def following(progress: object, phase: str, unit: str) -> AbstractContextManager[Follow | None]:
    """What a function with an argument ``progress`` hands on: the caller's callable, a bar for True, or None.

    Raises
    ------
    TypeError
        If it is none of True, False, None and a callable.
    """
    if progress is None or progress is False:
        return nullcontext()
    if progress is True:
        return _bar(phase, unit)
    if not callable(progress):
        what = "bytes" if unit == "B" else unit
        raise TypeError(
            f"progress: expected a callable of ({what} done, {what} in all), or True for a bar; got "
            f"{shown(progress)}"
        )
    return nullcontext(progress)


@contextmanager
def _bar(phase: str, unit: str) -> Iterator[Follow]:
    with phases(unit=unit, keep=True) as follow:
        follow(phase)
        yield lambda done, total: follow(phase, done, total)
