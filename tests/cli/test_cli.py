"""The command line: how it fails, how signals and pipes end it, and what a terminal sees."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from command_line import Capture, assert_refused, process

import fanfill as ff
from fanfill import report
from fanfill.cli import main

# What is refused


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (r"SHAPE is sizes joined by x or by commas.*got '3xx4'", "fill he_normal 3xx4"),
        (r"SHAPE is sizes", "fill he_normal -- -3x4"),
        (
            r"expected the name of an initializer; got 'he_norml' \(did you mean 'he_normal'",
            "fill he_norml 3x4",
        ),
        (
            r"some of the arguments .* for he_normal; got .*leave out gain",
            "fill he_normal 3x4 --gain 2",
        ),
        (r"expected the arguments .* for uniform; got .*add high", "fill uniform 3x4 --low 2"),
        (r"fans need an input and an output axis", "fill he_normal 12"),
        (r"seed: expected", "fill he_normal 3x4 --seed -1"),
        (r"expected one of the dtypes", "fill he_normal 3x4 --dtype int32"),
        (r"dtype: expected one of float32", "fill he_normal 3x4 --dtype float33"),
        (r"expected a backend among", "fill he_normal 3x4 --backend abacus"),
        (
            r"expected a backend for a buffer in host memory; got 'cuda'",
            "fill he_normal 3x4 --backend cuda",
        ),
        (r"threads: expected|threads", "fill he_normal 3x4 --threads 0"),
        (r"low=3\.0, high=2\.0", "fill uniform 9 --low 3 --high 2"),
        (r"--in-axis is one axis, or axes joined by commas.*got '0;1'", "fill he_normal 3x4 --in-axis 0;1"),
        # typer's own words, which change with its releases: what counts is what they name, and our remedy.
        (r"--sed\b.*\(fanfill --help shows", "fill he_normal 3x4 --sed 3"),
        (r"--seed\b.*\binteger\b.*\(fanfill --help shows", "fill he_normal 3x4 --seed x"),
        (r"(?i)\bshape\b.*\(fanfill --help shows", "fill he_normal"),
        (r"\bfull\b.*\(fanfill --help shows", "full"),
        (r"(?i)\bcommand\b.*\(fanfill --help shows", ""),
        (
            r"the tensor must fit into memory: it takes 16000\.00 GB.*--out FILE\.npy",
            "fill normal 4000000000000",
        ),
    ],
)
def test_an_error_is_one_line_with_exit_code_2(capsys: Capture, message: str, words: str) -> None:
    assert_refused(capsys, message, *words.split())


def test_an_unforeseen_error_is_one_line_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("two\nlines")

    monkeypatch.setattr(report, "prepare", broken)
    assert_refused(capsys, r"internal error: LookupError: two \(.*test_cli\.py:\d+\)", "fill", "normal", "9")


def test_an_unusable_backend_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ff.BackendUnavailableError("backend 'numba' is not usable: gone")

    monkeypatch.setattr(report, "prepare", broken)
    assert_refused(capsys, r"^fanfill: backend 'numba' is not usable: gone$", "fill", "normal", "9")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_what_to_install(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for module in [name for name in sys.modules if name.startswith(("fanfill.cli.", f"{missing}."))]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("app", "fill", "info"):
        monkeypatch.delattr(f"fanfill.cli.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    assert_refused(capsys, rf"needs typer and rich; {missing}.*missing: pip install 'fanfill\[cli\]'", "info")


# The frame around the commands


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
def test_a_signal_unwinds_the_command_and_its_handler_does_not_stay(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, line: str
) -> None:
    def struck(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(report, "prepare", struck)
    # Under nohup the tests inherit an ignored SIGHUP, and what is ignored stays ignored.
    before = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
    inherited = signal.signal(number, before)
    try:
        assert main(["fill", "normal", "9"]) == code
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, inherited)
    assert capsys.readouterr() == ("", f"fanfill: {line}\n")


def test_a_command_may_run_on_any_thread(capsys: Capture) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["fill", "normal", "9"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "SHA-256" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"{ff.__version__}\n", "")


def test_the_bar_is_updated_at_every_phase_and_twenty_times_a_second_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from fanfill.cli import fill
    from fanfill.cli.fill import throttled

    clock = [100.0]
    monkeypatch.setattr(fill, "perf_counter", lambda: clock[0])
    written = io.StringIO()
    with Progress(console=Console(file=written, force_terminal=True, width=80), auto_refresh=False) as bar:
        progress = throttled(bar)
        (task,) = bar.tasks
        progress("warming", 1, 10)
        assert (task.description, task.completed, task.total) == ("warming", 1, 10)
        for done in range(2, 10):
            clock[0] += 0.005
            progress("warming", done, 10)
        assert task.completed == 1  # eight calls within less than a twentieth of a second
        progress("warming", 10, 10)
        assert task.completed == 10
        progress("filling", 3, 30)
        assert (task.description, task.completed, task.total) == ("filling", 3, 30)
        clock[0] += 0.06
        progress("filling", 4, 30)
        assert task.completed == 4
    assert "filling" in written.getvalue()


def test_python_dash_m_is_the_command() -> None:
    running = process("--version")
    assert running.communicate(timeout=60) == (f"{ff.__version__}\n", "")
    assert running.returncode == 0


def test_help_names_the_commands_and_is_no_error(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "fill" in out
    assert "info" in out
    assert main(["fill", "--help"]) == 0
    assert "--negative-slope" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    running = process("info")
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    assert running.wait(timeout=60) == 141


def test_the_numpy_stand_in_is_announced_in_one_line() -> None:
    script = "import sys; sys.modules['numba'] = None; from fanfill.cli import main; sys.exit(main())"
    running = subprocess.run(
        [sys.executable, "-W", "default", "-c", script, "fill", "normal", "9"],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "FANFILL_BACKEND"},
    )
    assert running.returncode == 0
    assert running.stderr.startswith("fanfill: ")
    assert running.stderr.count("\n") == 1
    assert "NumPy" in running.stderr
    assert "backend     numpy" in running.stdout


def run_on_terminal(*words: str) -> tuple[str, str]:
    """What a command writes to a terminal's stderr, and to a stdout that is none."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "fanfill", *words],
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert running.stdout is not None
    out = running.stdout.read()
    running.stdout.close()
    assert running.wait(timeout=60) == 0
    return out, shown.decode()


def test_a_terminal_sees_a_progress_bar_and_a_pipe_sees_none() -> None:
    out, shown = run_on_terminal("fill", "normal", "3000000")
    assert "filling" in shown
    assert "100%" in shown
    assert "SHA-256" in out
    assert "\x1b" not in out
    out, shown = run_on_terminal("fill", "normal", "3000000", "--json")
    assert shown == ""
    assert json.loads(out)["values"] == 3_000_000


def test_info_tells_versions_processor_threads_backends_and_cache(capsys: Capture) -> None:
    assert main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for fact in (
        rf"fanfill +{re.escape(ff.__version__)}, stream version {ff.STREAM_VERSION}\n",
        r"python +3\.",
        rf"numpy +{re.escape(np.__version__)}\n",
        r"cpu +\S.*, (\d+-bit vectors|vector width unknown)\n",
        rf"threads +{ff.get_threads()} \(.+\)\n",
        r"backend numba +usable\n",
        r"backend numpy +usable\n",
        r"backend cuda +\S",
        r"in memory +\S+ backend \(.+\)\n",
        r"cache +\S",
    ):
        assert re.search(fact, out), fact
