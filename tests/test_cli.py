"""The command line: what it prints, what it leaves behind, and how it fails."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fanfill as ff
from fanfill import machine, report
from fanfill.cli import main

Capture = pytest.CaptureFixture[str]


def run_json(capsys: Capture, *words: str) -> dict[str, object]:
    """The object that a fill prints with --json, and nothing beside it."""
    assert main(["fill", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, object] = json.loads(out)
    return found


def assert_refused(capsys: Capture, message: str, *words: str) -> None:
    """One line on stderr that matches, nothing on stdout, exit code 2."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fanfill: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


def process(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fanfill", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


# What a fill reports


def test_a_fill_reports_the_bits_that_the_library_draws(capsys: Capture) -> None:
    found = run_json(
        capsys, "he_normal", "300x200", "--seed", "7", "--name", "decoder.0.wq", "--threads", "2"
    )
    drawn = ff.draw((300, 200), ff.he_normal(), seed=7, name="decoder.0.wq", device="cpu")
    assert found["sha256"] == sha256(drawn)
    assert found["shape"] == [300, 200]
    assert found["values"] == 60_000
    assert found["bytes"] == 240_000
    assert found["dtype"] == "float32"
    assert found["initializer"] == repr(ff.he_normal())
    assert (found["seed"], found["name"], found["threads"]) == (7, "decoder.0.wq", 2)
    assert found["stream_version"] == ff.STREAM_VERSION
    assert found["backend"] == ff.select_backend(drawn).name
    assert found["out"] is None


def test_the_reported_moments_are_those_of_the_values(capsys: Capture) -> None:
    found = run_json(
        capsys, "truncated_normal", "1000x1200", "--mean", "3", "--std", "0.5", "--lower", "-0.5"
    )
    law = ff.truncated_normal(mean=3.0, std=0.5, lower=-0.5)
    drawn = ff.draw((1000, 1200), law, seed=0, device="cpu").astype(np.float64)
    assert found["mean"] == pytest.approx(drawn.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(drawn.std(), rel=1e-9)
    assert found["mean_expected"] == law.mean((1000, 1200))
    assert found["std_expected"] == law.std((1000, 1200))
    assert found["mean_standard_error"] == pytest.approx(law.std((1000, 1200)) / math.sqrt(1_200_000))
    assert found["mean"] == pytest.approx(law.mean((1000, 1200)), abs=5 * found["mean_standard_error"])


def test_moments_do_not_cancel_when_the_mean_is_large() -> None:
    values = (1e8 + np.random.default_rng(0).standard_normal(3_000_000)).astype(np.float64)
    found = report.moments(values, 1e8, lambda done, total: None)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    assert found.mean == pytest.approx(values.mean(), rel=1e-15)
    # Negative control: about zero the squares are 1e16 apart from their differences.
    assert report.moments(values, 0.0, lambda done, total: None).std != pytest.approx(values.std(), rel=1e-6)


def test_the_reported_rates_belong_together(capsys: Capture) -> None:
    found = run_json(capsys, "xavier_uniform", "512x512")
    assert found["values_per_second"] == pytest.approx(found["values"] / found["seconds"])
    assert found["bytes_per_second"] == pytest.approx(4 * found["values_per_second"])
    assert found["memset_share"] == pytest.approx(
        found["bytes_per_second"] / found["memset_bytes_per_second"]
    )


def test_the_report_for_people_has_every_fact(capsys: Capture) -> None:
    assert main(["fill", "he_normal", "64,32", "--backend", "numpy", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for fact in (
        r"values +2,048 \(64 x 32\), float32, 8\.19e-06 GB",
        r"initializer +he_normal: variance_scaling\(2\.0, 'fan_in', 'normal'\), std 0\.1767767",
        r"seed, name +0, 0 \(stream version 1\)",
        r"backend +numpy, 1 thread\n",
        r"seconds +\d",
        r"rate +.* G values/s, .* GB/s",
        r"memset +the fill runs at .* of one thread's memset .*GB/s, median",
        r"mean +\S+ \(theory 0, standard error 0\.0039\)",
        r"std +0\.1\d+ \(theory 0\.1767767\)",
        r"SHA-256 +[0-9a-f]{64}\n",
    ):
        assert re.search(fact, out), fact


def test_both_backends_report_the_same_hash(capsys: Capture) -> None:
    found = [
        run_json(capsys, "lecun_normal", "70x30", "--truncated", "--backend", backend)
        for backend in ("numba", "numpy")
    ]
    assert found[0]["sha256"] == found[1]["sha256"]
    assert [each["backend"] for each in found] == ["numba", "numpy"]


def test_an_empty_tensor_has_a_report_too(capsys: Capture) -> None:
    found = run_json(capsys, "he_normal", "0x5")
    assert (found["values"], found["mean"], found["memset_share"]) == (0, None, None)
    assert main(["fill", "he_normal", "0x5"]) == 0
    out = capsys.readouterr().out
    assert "none without values" in out
    assert "memset      not measured" in out


def test_every_option_reaches_its_initializer(capsys: Capture) -> None:
    for words, expected in (
        ("xavier_normal 8x6 --gain 2.5", ff.xavier_normal(gain=2.5)),
        ("he_uniform 8x6 --mode fan_out --negative-slope 0.2", ff.he_uniform("fan_out", 0.2)),
        (
            "he_normal 8x6 --truncated --in-axis 1 --out-axis 0",
            ff.he_normal(truncated=True, in_axis=1, out_axis=0),
        ),
        ("lecun_normal 4,8,6 --batch-axis 0", ff.lecun_normal(batch_axis=0)),
        ("he_normal 4,8,6 --in-axis 0,-1 --out-axis 1", ff.he_normal(in_axis=(0, -1), out_axis=1)),
        (
            "variance_scaling 8x6 --scale 3 --mode fan_geo_avg --distribution uniform",
            ff.variance_scaling(3.0, "fan_geo_avg", "uniform"),
        ),
        ("uniform 9 --low -1 --high 2", ff.uniform(-1.0, 2.0)),
        ("normal 9 --mean -1 --std 2", ff.normal(-1.0, 2.0)),
        ("truncated_normal 9 --lower -inf --upper 1", ff.truncated_normal(lower=-math.inf, upper=1.0)),
        ("constant 9 --value -0.0", ff.constant(-0.0)),
    ):
        assert run_json(capsys, *words.split())["initializer"] == repr(expected), words


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_dtype_can_be_asked_for(capsys: Capture, dtype: str) -> None:
    found = run_json(capsys, "normal", "1000", "--dtype", dtype)
    assert found["dtype"] == dtype
    assert found["sha256"] == sha256(ff.draw(1000, ff.normal(), seed=0, dtype=dtype, device="cpu"))


def test_a_name_of_digits_is_the_integer_and_any_other_a_string(capsys: Capture) -> None:
    assert run_json(capsys, "normal", "9", "--name", "12")["name"] == 12
    assert run_json(capsys, "normal", "9", "--name", "w12")["name"] == "w12"
    assert run_json(capsys, "normal", "9")["name"] == 0


# Files


def test_a_file_holds_what_the_report_says(capsys: Capture, tmp_path: Path) -> None:
    found = run_json(capsys, "he_normal", "40x30", "--out", str(tmp_path / "w.npy"))
    stored = np.load(tmp_path / "w.npy")
    assert stored.dtype == np.float32
    assert stored.shape == (40, 30)
    assert found["sha256"] == sha256(stored)
    assert found["out"] == str(tmp_path / "w.npy")
    assert found["memset_share"] is None
    assert os.listdir(tmp_path) == ["w.npy"]


def test_the_report_says_how_to_read_types_that_the_format_cannot_name(
    capsys: Capture, tmp_path: Path
) -> None:
    assert main(["fill", "normal", "50", "--dtype", "bfloat16", "--out", str(tmp_path / "w.npy")]) == 0
    assert "numpy.load(...).view(ml_dtypes.bfloat16)" in capsys.readouterr().out
    drawn = ff.draw(50, ff.normal(), seed=0, dtype="bfloat16", device="cpu")
    assert (np.load(tmp_path / "w.npy").view(ml_dtypes.bfloat16) == drawn).all()


def test_a_refused_fill_leaves_no_file(capsys: Capture, tmp_path: Path) -> None:
    out = str(tmp_path / "w.npy")
    assert_refused(capsys, "threads", "fill", "he_normal", "9x9", "--threads", "0", "--out", out)
    assert_refused(
        capsys, "no such folder", "fill", "he_normal", "9x9", "--out", str(tmp_path / "no" / "w.npy")
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_fill_with_one_line_and_no_file(
    tmp_path: Path, number: signal.Signals, code: int, line: str
) -> None:
    running = process("fill", "normal", "800000000", "--out", str(tmp_path / "w.npy"), "--threads", "1")
    assert_soon(lambda: any(tmp_path.iterdir()))
    time.sleep(0.3)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (out, err) == ("", f"fanfill: {line}\n")
    assert running.returncode == code
    assert os.listdir(tmp_path) == []


def assert_soon(condition, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.01)


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
        (r"expected for he_normal some of the arguments .*leave out gain", "fill he_normal 3x4 --gain 2"),
        (r"expected for uniform .*add high", "fill uniform 3x4 --low 2"),
        (r"fans need an input and an output axis", "fill he_normal 12"),
        (r"seed: expected", "fill he_normal 3x4 --seed -1"),
        (r"expected one of the dtypes", "fill he_normal 3x4 --dtype int32"),
        (r"dtype: expected one of float32", "fill he_normal 3x4 --dtype float33"),
        (r"expected a backend among", "fill he_normal 3x4 --backend abacus"),
        (
            r"backend 'cuda'|expected a backend for a buffer in host memory",
            "fill he_normal 3x4 --backend cuda",
        ),
        (r"threads: expected|threads", "fill he_normal 3x4 --threads 0"),
        (r"low=3\.0, high=2\.0", "fill uniform 9 --low 3 --high 2"),
        (r"--in-axis is one axis, or axes joined by commas.*got '0;1'", "fill he_normal 3x4 --in-axis 0;1"),
        (r"[Nn]o such option.*--sed.*fanfill --help", "fill he_normal 3x4 --sed 3"),
        (r"'--seed'.*valid integer", "fill he_normal 3x4 --seed x"),
        (r"(?i)Missing argument 'shape'", "fill he_normal"),
        (r"No such command 'full'", "full"),
        (r"Missing command", ""),
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


def test_the_bar_is_updated_at_every_phase_and_twenty_times_a_second_between() -> None:
    from rich.console import Console
    from rich.progress import Progress

    from fanfill.cli.fill import throttled

    written = io.StringIO()
    with Progress(console=Console(file=written, force_terminal=True, width=80), auto_refresh=False) as bar:
        progress = throttled(bar)
        (task,) = bar.tasks
        progress("warming", 1, 10)
        assert (task.description, task.completed, task.total) == ("warming", 1, 10)
        for done in range(2, 10):
            progress("warming", done, 10)
        assert task.completed < 9  # eight calls within far less than a twentieth of a second
        progress("warming", 10, 10)
        assert task.completed == 10
        progress("filling", 3, 30)
        assert (task.description, task.completed, task.total) == ("filling", 3, 30)
        time.sleep(0.06)
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


# The facts about the machine


def test_machine_facts_come_from_the_files_that_linux_keeps(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\nmodel name\t: A CPU @ 2: fast\nflags\t\t: fpu sse2 avx avx2\n"
    )
    assert machine.cpu_model(tmp_path / "cpuinfo") == "A CPU @ 2: fast"
    assert machine.vector_bits(tmp_path / "cpuinfo") == 256
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd aes\n")
    assert machine.vector_bits(tmp_path / "arm") == 128
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    2000 kB\n")
    assert machine.available_memory(tmp_path / "meminfo", tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path / "meminfo", tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.available_memory(tmp_path / "meminfo", tmp_path) == 1_000_000


def test_machine_facts_that_no_file_tells_are_none_or_the_architecture(tmp_path: Path) -> None:
    assert machine.vector_bits(tmp_path / "absent") is None
    assert machine.available_memory(tmp_path / "absent", tmp_path) is None
    assert machine.cpu_model(tmp_path / "absent")
