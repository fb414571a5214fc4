"""Stdout and stderr as a shell may hand them over: closed, full, read by nobody, in another encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Capture

import fanfill as ff
from fanfill import selftest
from fanfill.bench import noise, picture, suite
from fanfill.cli import main, streams
from fanfill.selftest import adapters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors and devices as Linux has them")

COMMAND = """
import sys
from fanfill.cli import main
sys.exit(main(sys.argv[1:]))
"""
COMMANDS = [
    "--version",
    "fill --help",
    "info",
    "fill normal 9",
    "words --count 5",
    "selftest --json",
    "bench --device cpu --out OUT",
    "--help",
    "fill normal 9 --json",
    "selftest",
    "cache",
]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}


def run(words: str | list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    """A command, and what it wrote where it could."""
    given = words.split() if isinstance(words, str) else words
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT} | options
    return subprocess.run([sys.executable, "-c", COMMAND, *given], timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def closing(*descriptors: int) -> Callable[[], None]:
    """What closes descriptors in a child, as ``>&-`` does."""
    return lambda: [os.close(number) for number in descriptors] and None


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    out, into = os.pipe()
    os.close(out)
    yield into
    os.close(into)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command to its end, but for the minutes that some of them take."""
    look = noise.Look(1e10, 0.0, 0.0)
    for module, name, brief in (
        (selftest, "subjects", lambda device: []),
        (adapters, "ADAPTERS", ()),
        (suite, "run", lambda settings, progress: []),
        (noise, "look", lambda device: look),
        (picture, "draw", lambda result, out: []),
    ):
        monkeypatch.setattr(module, name, brief)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("words", COMMANDS)
def test_what_stdout_does_not_take_is_one_line_or_a_quiet_141(
    words: str, unread: int, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; that closing the stream raises nothing is what an interpreter at its end sees."""
    given = [str(tmp_path) if word == "OUT" else word for word in words.split()]
    with Path("/dev/full").open("wb") as full:
        for file, code, said in (
            (unread, 141, ""),
            (full.fileno(), 2, "fanfill: stdout: No space left on device\n"),
        ):
            stream = open(os.dup(file), "w")  # noqa: SIM115
            monkeypatch.setattr(sys, "stdout", stream)
            assert main(given) == code
            stream.close()
            assert capsys.readouterr().err == said


def test_the_interpreters_last_flush_is_as_quiet(unread: int) -> None:
    done = run("--version", stdout=unread)
    assert (done.returncode, done.stderr) == (141, b"")
    with Path("/dev/full").open("wb") as full:
        done = run("--version", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"fanfill: stdout: No space left on device\n")


def test_a_stdout_that_cannot_be_written_is_one_line() -> None:
    with Path(os.devnull).open("rb") as for_reading:
        done = run("--version", stdout=for_reading)
    assert (done.returncode, done.stderr) == (2, b"fanfill: stdout: Bad file descriptor\n")
    done = run("words --count 5", preexec_fn=closing(1))
    assert done.returncode == 2
    assert done.stderr.startswith(b"fanfill: expected stdout to be open, ")
    assert done.stderr.count(b"\n") == 1


def test_head_ends_help_quietly() -> None:
    command = f"{sys.executable} -m fanfill --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode in (0, 141)  # 0: it had written all when head went
    assert done.stderr == b""


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)])
def test_a_closed_stdout_is_refused_before_anything_is_written(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    done = run(["fill", "normal", "9", "--out", str(tmp_path / "w.npy")], preexec_fn=closing(*closed))
    assert done.returncode == 2
    assert (b"expected stdout to be open" in done.stderr) == (2 not in closed)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("closed", [(2,), (0,), (0, 2)])
def test_a_file_is_whole_whatever_else_is_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """The file must not get number 2: what a library says there would go into it."""
    program = COMMAND.replace(
        "sys.exit(",
        "import os\nfrom fanfill import report\nfrom fanfill.files import npy\nreal = report.run\n"
        "def talkative(*given, **options):\n"
        "    try: os.write(2, b'last words')\n"
        "    except OSError: pass\n"
        "    return real(*given, **options)\n"
        "report.run = talkative\nsys.exit(",
    )
    words = ["fill", "normal", "1000", "--seed", "4", "--out", str(tmp_path / "w.npy")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        preexec_fn=closing(*closed),
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0
    assert b"SHA-256" in done.stdout
    stored = np.load(tmp_path / "w.npy")
    assert stored.tobytes() == ff.draw(1000, ff.normal(), seed=4, device="cpu").tobytes()


def test_without_a_stderr_the_code_says_it(
    unread: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("wb") as full:
        for file in (full.fileno(), unread):
            for words, code in (("fill gamma 9", 2), ("fill normal 9", 0)):
                stream = open(os.dup(file), "w")  # noqa: SIM115
                monkeypatch.setattr(sys, "stderr", stream)
                assert main(words.split()) == code
                stream.close()
                assert ("SHA-256" in capsys.readouterr().out) == (code == 0)
    assert run("fill gamma 9", preexec_fn=closing(2)).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
@pytest.mark.parametrize(
    "words", ["fill normal 9 --name ü日 --out", "fill normal 9 --json --name ü日 --out", ""]
)
def test_no_encoding_of_stdout_stops_a_command(
    tmp_path: Path, encoding: str, words: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*words.split(), str(tmp_path / "größe\udcff.npy")] if words else ["fill", "--help"]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    assert main(given) == 0
    assert capsys.readouterr().err == ""
    shown = written.getvalue().decode(encoding)
    if not words:
        assert "--negative-slope" in shown
    elif "--json" in given:
        assert r'"name": "\u00fc\u65e5"' in shown
    else:
        as_repr = "ü日".encode(encoding, "backslashreplace").decode(encoding)
        assert f"seed, name      0, '{as_repr}' " in shown
        assert r"e\udcff.npy" in shown
    assert len(os.listdir(tmp_path)) == bool(words)


def test_python_s_own_choice_of_an_encoding_stops_none() -> None:
    done = run(
        ["fill", "normal", "9", "--name", "ü日"], env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii:strict"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"'\xfc\u65e5'" in done.stdout


def test_a_stream_of_the_callers_own_serves(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    assert main(["--version"]) == 0
    assert text.getvalue() == f"{ff.__version__}\n"
    assert sys.stdout is text
    text.close()
    assert main(["--version"]) == 2
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 2
    assert capsys.readouterr().err.count("fanfill: expected stdout to be open") == 2


def test_a_stderr_of_the_callers_own_comes_back(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["fill", "gamma", "9"]) == 2
        assert sys.stderr is stream


def test_what_else_goes_wrong_is_not_stdouts_fault() -> None:
    with pytest.raises(streams.Unwritable, match="stdout: No space left on device"), streams.writing():
        raise OSError(28, "No space left on device", "elsewhere")
    with pytest.raises(OSError, match="elsewhere"), streams.output():
        raise OSError(28, "No space left on device", "elsewhere")
