"""The command line: how it fails, how signals and pipes end it, and what a terminal sees."""

from __future__ import annotations

import re
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from command_line import Capture, Terminal, assert_refused, process

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
            r"some of the options --mode, .* for he_normal; got --gain; leave out --gain",
            "fill he_normal 3x4 --gain 2",
        ),
        (
            r"the options --low, --high, --no-endpoint for uniform; got --low; add --high",
            "fill uniform 3x4 --low 2",
        ),
        (
            r"got --low 3\.0, --high 3\.0; leave --no-endpoint out, or use constant --value 3\.0",
            "fill uniform 9 --low 3 --high 3 --no-endpoint",
        ),
        (r"name them with --in-axis and --out-axis \(either may be none\)", "fill he_normal 7"),
        (
            r"once among --in-axis, --out-axis and --batch-axis; got --out-axis 0, which",
            "fill he_normal 3x4 --in-axis 0 --out-axis 0",
        ),
        (r"got --in-axis 5; count from 0", "fill he_normal 3x4 --in-axis 5"),
        (r"expected a finite --negative-slope; got inf", "fill he_normal 3x4 --negative-slope inf"),
        (r"--name: expected an integer in .*, or text; got 9+", f"fill normal 9 --name {'9' * 30}"),
        (r"SHAPE: expected an integer in \[0, 2\*\*63\]", f"fill normal {'9' * 30}"),
        (r"got --std 0\.0; write constant --value 0\.0", "fill truncated_normal 9 --std 0 --absolute"),
        (r"got --lower 3\.0, --upper 1\.0", "fill truncated_normal 9 --lower 3 --upper 1"),
        (r"--device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; got 'gpu'", "fill normal 9 --device gpu"),
        (r"fans need an input and an output axis", "fill he_normal 12"),
        (r"^fanfill: --seed: expected", "fill he_normal 3x4 --seed -1"),
        (r"expected one of the dtypes [\w, ]+; got int32$", "fill he_normal 3x4 --dtype int32"),
        (r"--dtype: expected one of float32", "fill he_normal 3x4 --dtype float33"),
        (r"expected a backend among", "fill he_normal 3x4 --backend abacus"),
        (
            r"for a buffer in host memory; got 'cuda', .*; leave --backend out, or add --device cuda$",
            "fill he_normal 3x4 --backend cuda",
        ),
        (r"--threads: expected", "fill he_normal 3x4 --threads 0"),
        (r"--low 3\.0, --high 2\.0", "fill uniform 9 --low 3 --high 2"),
        (r"--in-axis is one axis, or axes joined by commas.*got '0;1'", "fill he_normal 3x4 --in-axis 0;1"),
        # typer's own words, which change with its releases: what counts is what they name, and our remedy.
        (r"--sed\b.*\(fanfill fill --help shows", "fill he_normal 3x4 --sed 3"),
        (r"--seed\b.*\binteger\b.*\(fanfill fill --help shows", "fill he_normal 3x4 --seed x"),
        (r"(?i)\bshape\b.*\(fanfill fill --help shows", "fill he_normal"),
        (r"\bfull\b.*\(fanfill --help shows", "full"),
        (
            r"the tensor must fit into memory: it takes 16 TB.*--out FILE\.npy",
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
    for module in ("app", "fill", "info", "selftest", "tables"):
        monkeypatch.delattr(f"fanfill.cli.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"needs typer and rich; {missing}.*missing: pip install 'fanfill\[cli\]'"
    assert_refused(capsys, message, "selftest")  # which shows a table of rich's


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


def test_a_warning_is_its_message_alone(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def announced(*_: object) -> None:
        sys.stderr.write(warnings.formatwarning("two\nlines", UserWarning, "fill.py", 1))
        raise ff.BackendUnavailableError("gone")

    monkeypatch.setattr(report, "prepare", announced)
    assert main(["fill", "normal", "9"]) == 2
    assert capsys.readouterr().err == "fanfill: two lines\nfanfill: gone\n"


def test_a_terminal_sees_a_progress_bar_and_a_pipe_sees_none(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, seen in ((), True), (("--json",), False), (("-q",), False):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["fill", "normal", "300000", *words]) == 0
        shown, out = terminal.getvalue(), capsys.readouterr().out
        assert "\x1b" not in out
        assert bool(out) == (words != ("-q",))
        assert ("filling" in shown) == seen
        assert ("100 %  1.2 MB of 1.2 MB" in shown) == seen
        assert bool(shown) == seen


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
