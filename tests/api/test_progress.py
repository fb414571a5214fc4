"""Progress bars: what they say, where they are shown, and the functions that take ``progress=True``."""

from __future__ import annotations

import io
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Terminal

import fanfill as ff
from fanfill import progress
from fanfill.amounts import amount, duration
from fanfill.checkpoints import ModelRecipe, TensorRecipe
from fanfill.progress import State

LAW = ff.normal()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the module sees."""
    now = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; not a fixture, since pytest sets stderr anew before each test's body."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (80_000, "B", "80 kB"),
        (999_600, "values", "1 M values"),
        (12, "values", "12 values"),
        (0, "B", "0 B"),
        (1.0737e9, "B/s", "1.07 GB/s"),
        (3.2e9, "values/s", "3.2 G values/s"),
        (2.0e22, "B", "2e+04 EB"),
    ],
)
def test_amounts_have_a_prefix_that_suits_them(number: float, unit: str, text: str) -> None:
    assert amount(number, unit) == text


def test_durations_are_whole_seconds() -> None:
    assert [duration(s) for s in (0.9, 75.0, 3605.2)] == ["0:00", "1:15", "1:00:05"]


def test_a_state_has_rate_and_time_left_as_soon_as_anything_is_done() -> None:
    assert State("writing", "B", 0, 100_000, 2.0).facts() == "  0 %  0 B of 100 kB  0:02"
    begun = State("writing", "B", 1000, 100_000, 0.1)
    assert begun.facts() == "  1 %  1 kB of 100 kB  10 kB/s  0:09 left"
    assert begun.facts(since=5.0).endswith("10 kB/s  0:04 left")  # goes on while nothing is reported
    assert State("writing", "B", 99_999, 100_000, 1.0).facts().startswith(" 99 %")
    assert State("compiling", "kernels", 3, 12, 6.0).facts() == " 25 %  3 of 12 kernels  0:18 left"
    assert State("planning", "B", 0, 0, 3.2).facts() == "0:03"


class Seen:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def show(self, state: State) -> None:
        self.states.append(state)

    def close(self, *, keep: bool) -> None: ...


def test_each_phase_is_shown_at_its_ends_and_twenty_times_a_second_between(clock: list[float]) -> None:
    seen = Seen()
    follow = progress.Phases(seen, "B")
    follow("warming", 1, 10)
    for done in range(2, 10):
        clock[0] += 0.005
        follow("warming", done, 10)
    assert [state.done for state in seen.states] == [1]  # eight calls within a twentieth of a second
    follow("warming", 10, 10)
    clock[0] += 2.0
    follow("filling", 3, 30)
    clock[0] += 0.06
    follow("filling", 4, 30)
    clock[0] += 1.0
    follow.end()
    assert [(state.phase, state.done) for state in seen.states[1:]] == [
        ("warming", 10),
        ("filling", 3),
        ("filling", 4),
    ]
    # What passes between two phases belongs to the first.
    assert follow.seconds == pytest.approx({"warming": 2.04, "filling": 1.06})


def test_rich_shows_one_bar_and_the_phase_that_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress.phases(keep=True) as follow:
        follow("planning")
        follow("writing", 0, 4000)
        follow("writing", 4000, 4000)
    shown = terminal.getvalue()
    assert re.search(r"writing .*100 %  4 kB of 4 kB  .*0:00 left", shown.splitlines()[-2]), shown
    assert "\x1b" in shown


@pytest.mark.usefixtures("no_rich")
def test_without_rich_it_is_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress.phases(keep=True) as follow:
        follow("planning")
        follow("writing", 2000, 4000)
        follow("writing", 4000, 4000)
    shown = terminal.getvalue()
    assert shown.endswith("\n")
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    assert re.search(r"\rwriting    \[##########          \]  50 %  2 kB of 4 kB", shown)
    with suppress(ValueError), progress.phases(keep=True) as follow:
        follow("writing", 2000, 4000)
        raise ValueError
    assert terminal.getvalue().endswith(" \r")  # nothing stays of what failed


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich would take it for a terminal
    with progress.phases() as follow:
        for second in range(1, 101):
            clock[0] += 1.0
            follow("writing", 100 * second, 20_000)
    assert log.getvalue().splitlines() == [
        "writing 15 %  3 kB of 20 kB  103 B/s  2:44 left",
        "writing 30 %  6 kB of 20 kB  102 B/s  2:17 left",
        "writing 45 %  9 kB of 20 kB  101 B/s  1:48 left",
    ]


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_a_stderr_there_is_no_bar(monkeypatch: pytest.MonkeyPatch, stream: str | None) -> None:
    closed = Terminal()
    closed.close()
    monkeypatch.setattr(sys, "stderr", stream and closed)
    with progress.phases() as follow:
        follow("writing", 1, 1)
    assert set(follow.seconds) == {"writing"}


@pytest.mark.usefixtures("no_rich")
def test_a_terminal_that_goes_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    assert ff.fill(np.empty(9, np.float32), LAW, seed=0, progress=True).any()


# The functions

RECIPE = ModelRecipe({"w": TensorRecipe.drawn((30, 2), "float32", LAW)})


@pytest.mark.usefixtures("no_rich")
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda _, how: ff.fill(np.empty(60, np.float32), LAW, seed=0, progress=how),
            "filling .* 60 values of",
        ),
        (lambda _, how: ff.draw(60, LAW, seed=0, progress=how), "filling .* 60 values of"),
        (
            lambda _, how: ff.fill_many([(np.empty(60), LAW, "a")], seed=0, progress=how),
            "filling .* 60 values of",
        ),
        (
            lambda _, how: RECIPE.fill({"w": np.empty((30, 2), np.float32)}, 0, progress=how),
            "filling .* 60 values of",
        ),
        (lambda path, how: RECIPE.write(path / "out", 0, progress=how), "writing .*B of .*B"),
    ],
)
def test_true_is_a_bar_a_callable_is_called_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Any, text: str
) -> None:
    terminal = on_terminal(monkeypatch)
    call(tmp_path, False)
    assert terminal.getvalue() == ""
    call(tmp_path / "more", True)
    assert re.search(rf"{text}.*\n$", terminal.getvalue()), terminal.getvalue()
    before, steps = terminal.getvalue(), []
    call(tmp_path / "most", lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] > 0
    assert terminal.getvalue() == before
    with pytest.raises(
        TypeError, match=r"progress: expected a callable of \(\w+ done, \w+ in all\), or True for a"
    ):
        call(tmp_path, "yes")


def test_a_file_counts_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit counts when it has been waited for, so that the cache never holds more than four of a thread;
    the file when it was synced.
    """
    from fanfill.files import writer

    monkeypatch.setattr(writer, "UNIT", 4096)
    calls: list[Any] = []
    monkeypatch.setattr(
        writer.system,
        "write_behind",
        lambda: (lambda *_: None, lambda file, place, size: calls.append(("flushed", place + size))),
    )
    monkeypatch.setattr(writer.os, "fsync", lambda file: calls.append(("synced", 0)))
    monkeypatch.setattr(writer.system, "sync_folder", lambda folder: None)
    writer.create(
        tmp_path / "f",
        5 * 4096,
        lambda first, unit: unit.fill(1),
        threads=1,
        done=lambda done: calls.append(("done", done)),
        is_there=lambda: False,
    )
    assert calls == [
        *[("done", 0)] * 3,
        ("flushed", 4096),
        ("done", 4096),
        ("flushed", 8192),
        ("done", 8192),
        ("synced", 0),
        ("done", 20480),
    ]
