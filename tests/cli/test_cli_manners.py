"""One style for all commands: help, examples, completion, quiet, JSON, exit codes, words."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from command_line import Capture, assert_refused, run_json

import fanfill as ff
from fanfill import report
from fanfill.cli import app, choices, main, outcome, terms
from fanfill.cli.fill import parse_axes

COMMANDS: dict[str, Any] = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]


def shown(capsys: Capture, *words: str) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# Help


def test_help_has_a_short_form_everywhere_and_a_bare_command_shows_it(capsys: Capture) -> None:
    out = shown(capsys)
    assert out == shown(capsys, "-h") == shown(capsys, "--help")
    for fact in (*COMMANDS, "--install-completion", "Exit codes:", "1: done, and what was checked"):
        assert fact in out


@pytest.mark.parametrize("command", choices.EXAMPLES)
def test_help_has_examples_that_are_commands(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = shown(capsys, command, "-h")
    for example in choices.EXAMPLES[command]:
        assert example in out
        words = shlex.split(example.partition(" | ")[0])
        assert words[:2] == ["fanfill", command]
        if command != "bench":  # it asks for a GPU
            assert callable(app.parse(words[1:]))


def test_every_command_has_examples_and_every_option_a_help_without_lost_brackets() -> None:
    assert set(COMMANDS) - {"show"} == set(choices.EXAMPLES)
    for command in choices.EXAMPLES:
        for parameter in COMMANDS[command].params:
            assert parameter.help, (command, parameter.name)
            assert "[" not in parameter.help, parameter.help  # rich takes brackets for its own


@pytest.mark.parametrize(
    ("option", "commands"),
    [
        ("--json", "fill init verify info cache compile selftest bench"),
        ("-q", "fill init verify cache compile selftest bench"),
        ("-o", "fill init recipe bench"),
        ("--threads", "fill init verify"),
        ("--jobs", "fill init verify"),
        ("--seed", "fill init words"),
        ("--device", "fill compile selftest bench"),
    ],
)
def test_the_same_options_have_the_same_names(option: str, commands: str) -> None:
    with_it = [
        name
        for name in choices.EXAMPLES
        if any(option in parameter.opts for parameter in COMMANDS[name].params)
    ]
    assert set(with_it) == set(commands.split())


def test_the_help_of_fill_lists_initializers_and_dtypes() -> None:
    found = {parameter.name: parameter.help for parameter in COMMANDS["fill"].params}
    for name in choices.INITIALIZERS:
        assert name in found["initializer"]
    for name in choices.DTYPES:
        assert name in found["dtype"]


def test_help_imports_no_library_that_fills() -> None:
    script = (
        "import sys\nfrom fanfill.cli import main\nmain(['fill', '--help'])\n"
        "heavy = {'numba', 'torch', 'jax', 'matplotlib', 'fanfill.report', 'fanfill.bench'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# Completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fanfill ver", {"verify"}),
        ("fanfill fill he_", {"he_normal", "he_uniform"}),
        ("fanfill fill normal 9 --dtype bf", {"bfloat16"}),
        ("fanfill fill normal 9 --device c", {"cpu", "cuda", "cuda:0", "cuda:1"}),
        ("fanfill fill he_normal 9 --mode fan_o", {"fan_out"}),
        ("fanfill init a -o b --format s", {"safetensors"}),
        ("fanfill compile --dtypes float32,bf", {"float32,bfloat16"}),
        ("fanfill compile --initializers wo", {"words"}),
        ("fanfill bench --peers numpy,to", {"numpy,torch"}),
    ],
)
def test_a_shell_completes_commands_and_values(
    line: str, expected: set[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bash asks, with the words of the line so far."""
    monkeypatch.setenv("_FANFILL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert not ended.value.code
    assert set(capsys.readouterr().out.split()) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_for_each_shell(
    shell: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell, raising=False)
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["--show-completion"])
    assert not ended.value.code
    assert "_FANFILL_COMPLETE" in capsys.readouterr().out


# Reports


def test_json_has_one_shape(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(capsys, "fill", "normal", "90", "--json")
    assert list(json.loads(text))[:3] == ["command", "fanfill", "stream_version"]
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    for words in (("info",), ("cache",), ("cache", "--clear")):
        found = json.loads(shown(capsys, *words, "--json"))
        assert (found["command"], found["fanfill"], found["stream_version"]) == (
            words[0],
            ff.__version__,
            ff.STREAM_VERSION,
        )


def test_info_as_json_says_what_its_text_says(capsys: Capture) -> None:
    found = json.loads(shown(capsys, "info", "--json"))
    text = shown(capsys, "info")
    assert found["libraries"]["numpy"] == np.__version__
    assert [each["name"] for each in found["backends"]] == ["numba", "numpy", "cuda"]
    assert f"threads         {found['threads']} ({found['threads_why']})\n" in text
    assert f"in memory       {found['in_memory']} backend" in text
    assert found["cache"]["folder"] in text
    assert found["devices"] == {}


def test_a_report_tells_each_phase_and_its_seconds(capsys: Capture, tmp_path: Path) -> None:
    found = run_json(capsys, "normal", "3000")
    assert list(found["phases"]) == ["compiling", "warming", "filling", "checking"]
    assert all(seconds >= 0.0 for seconds in found["phases"].values())
    found = run_json(capsys, "normal", "3000", "-o", str(tmp_path / "w.npy"))
    assert list(found["phases"]) == ["compiling", "writing", "checking"]
    assert outcome.took({"compiling": 1.25, "filling": 0.0123}) == (
        "took",
        "1.26 s: compiling 1.25 s, filling 12.3 ms",
    )
    assert outcome.took({"compiling": 1.25}) == ("took", "1.25 s")


def test_quiet_commands_print_nothing(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "w.npy"
    assert shown(capsys, "fill", "normal", "90", "-o", str(out), "--quiet") == ""
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kept"))
    assert shown(capsys, "cache", "--clear", "-q") == ""
    assert np.load(out).size == 90
    assert_refused(
        capsys, "no such folder", "fill", "normal", "9", "-q", "-o", str(tmp_path / "no" / "w.npy")
    )


def test_the_bar_moves_in_small_steps_and_reaches_its_end_with_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first memset goes by pieces; what is checked counts when the slower of both has seen it."""
    monkeypatch.setattr(report, "TOUCHED_PIECE", 1 << 10)
    steps: list[tuple[int, int]] = []
    buffer = np.zeros(1 << 14, np.float32)
    report.memset_rate(buffer, lambda done, total: steps.append((done, total)))
    assert steps[0] == (0, 4 * buffer.nbytes)
    assert len([done for done, _ in steps if done <= buffer.nbytes]) == 65
    assert steps[-1] == (4 * buffer.nbytes, 4 * buffer.nbytes)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)

    # A hash that is slow: nothing says 100 % before it is done.
    steps.clear()
    monkeypatch.setattr(report, "HASH_SECONDS", 0.001)
    real, waited = report.wait, []

    def wait(futures: Any, timeout: float) -> Any:
        waited.append(timeout)
        return real(futures, timeout)

    monkeypatch.setattr(report, "wait", wait)
    report.examine(buffer, 0.0, lambda done, total: steps.append((done, total)))
    assert waited
    assert [each for each in steps if each[0] == each[1]] == [steps[-1]] or buffer.nbytes < report.HASH_BLOCK
    assert steps[-1] == (buffer.nbytes, buffer.nbytes)


# Devices


def test_without_a_gpu_the_device_says_why(capsys: Capture, no_gpu: str) -> None:
    assert_refused(capsys, f"'cuda' is not usable: {no_gpu}", "fill", "normal", "9", "--device", "cuda")
    assert run_json(capsys, "normal", "9", "--device", "auto")["backend"] != "cuda"


# The command line's words


@pytest.mark.parametrize(
    ("said", "spoken"),
    [
        ("seed: expected an integer; got -1", "--seed: expected an integer; got -1"),
        ("got in_axis=1, out_axis=0 of (3, 4)", "got --in-axis 1, --out-axis 0 of (3, 4)"),
        ("choose truncated=True", "choose --truncated"),
        ("leave backend out, or wait", "leave --backend out, or wait"),
        ("a finite negative_slope; got inf", "a finite --negative-slope; got inf"),
        (
            "expected the arguments low, high for uniform; got low; add high",
            "expected the options --low, --high for uniform; got --low; add --high",
        ),
        ("max_shard_size: expected bytes", "--max-shard-size: expected bytes"),
        ("convert; see fanfill.backends()", "convert; see fanfill info"),
        ("rules: expected each", "--rule: expected each"),
        ("by --rule NAME=INITIALIZER, or rules={name: initializer}", "by --rule NAME=INITIALIZER"),
        # What the user typed, and words that only look like options, stay.
        ("got 'in_axis=1 seed: x'; and \"mode=3\"", "got 'in_axis=1 seed: x'; and \"mode=3\""),
        ("the mean of normal(0.0), a low value", "the mean of normal(0.0), a low value"),
        ("expected he_normal or fan_in", "expected he_normal or fan_in"),
    ],
)
def test_messages_speak_of_options(said: str, spoken: str) -> None:
    assert terms.spoken(said) == spoken


def test_every_option_of_the_mapping_is_one() -> None:
    known = {option for command in COMMANDS.values() for p in command.params for option in p.opts}
    assert {terms.option(name) for name in terms.OPTIONS} <= known


def test_an_axis_may_be_none() -> None:
    assert parse_axes("--in-axis", "none") == parse_axes("--in-axis", "()") == ()
    assert parse_axes("--in-axis", "0,-1") == (0, -1)


def test_every_flag_reaches_its_initializer(capsys: Capture) -> None:
    for words, law in (
        ("uniform 8 --low 0 --high 1 --no-endpoint", ff.uniform(0, 1, endpoint=False)),
        (
            "truncated_normal 8 --std 0.02 --lower -0.04 --upper 0.04 --absolute",
            ff.truncated_normal(0, 0.02, -0.04, 0.04, absolute=True),
        ),
        ("he_normal 8 --in-axis 0 --out-axis none", ff.he_normal(in_axis=0, out_axis=())),
    ):
        assert run_json(capsys, *words.split())["initializer"] == repr(law)
