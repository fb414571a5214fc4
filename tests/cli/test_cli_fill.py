"""``fanfill fill``: what it reports, and the files that it leaves behind."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import processes
import pytest
from command_line import Capture, assert_refused, process, run_json, sha256

import fanfill as ff
from fanfill import report, system
from fanfill.cli import main
from fanfill.cli.fill import parse_shape
from fanfill.files import writer

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
        r"values +2,048 \(64 x 32\), float32, 8\.19 kB",
        r"initializer +he_normal\(\), std 0\.1767767",
        r"seed, name +0, 0 \(stream version 2\)",
        r"backend +numpy, 1 thread\n",
        r"took +\d.*: compiling .*s, warming .*s, filling .*s, checking .*s\n",
        r"rate +.* values/s, .*B/s: .*s for the fill",
        r"memset +the fill runs at .* of one thread's memset .*B/s, median",
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
    assert "memset          not measured" in out


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


@pytest.mark.parametrize("renames", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_file_of_many_units_holds_the_values_of_one_fill(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, renames: bool
) -> None:
    """Where mapped files can be renamed and where they cannot."""
    monkeypatch.setattr(writer, "UNIT", 4096)
    monkeypatch.setattr(system, "RENAMES_MAPPED", renames)
    out = tmp_path / "w.npy"
    found = run_json(
        capsys, "he_normal", "101x97", "--dtype", dtype, "--name", "w", "--threads", "2", "--out", str(out)
    )
    drawn = ff.draw((101, 97), ff.he_normal(), seed=0, name="w", dtype=dtype, device="cpu")
    assert found["sha256"] == sha256(drawn) == sha256(np.load(out))
    assert os.listdir(tmp_path) == ["w.npy"]


def test_a_file_is_prepared_by_a_unit_since_its_kernel_is_that_of_units(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the clock of the real fill would cover a compilation."""
    sizes: list[int] = []
    fill = ff.fill

    def seen(buffer: Any, *arguments: Any, **options: Any) -> Any:
        sizes.append(buffer.nbytes)
        return fill(buffer, *arguments, **options)

    monkeypatch.setattr(writer, "UNIT", 4096)
    monkeypatch.setattr(ff, "fill", seen)
    run_json(capsys, "he_normal", "101x97", "--threads", "1", "--out", str(tmp_path / "w.npy"))
    prepared, *units = sizes
    assert prepared == max(units) == 4096
    assert len(units) == 10


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


PREPARED = """
from unittest import mock
from fanfill import report
from fanfill_kernels.compile import cpu

LAW = ff.uniform(-1.0, 1.0)

def fill_after(prepared):
    job = report.Job(LAW, (prepared,), "float32", 3, 0, "numba", 2)
    report.prepare(job, np.dtype("float32"))
    with mock.patch.object(cpu.Compiled, "compile", side_effect=AssertionError("compiled under the clock")):
        ff.fill(np.empty(3_000_000, np.float32), LAW, seed=3, backend="numba")

try:
    fill_after(9)
except AssertionError as error:
    print(error)
fill_after(3_000_000)
"""


def test_the_clock_of_a_large_fill_sees_no_compiler() -> None:
    """12 MB go past the caches, by another kernel than a few values, which is the negative control."""
    ended = processes.run(processes.BEGIN + PREPARED, environment={"FANFILL_CACHE_DIR": os.devnull})
    processes.assert_right(ended, "compiled under the clock\n")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("4096x1024", (4096, 1024)),
        ("4096, 1024", (4096, 1024)),
        ("(3, 4)", (3, 4)),
        ("(3,)", (3,)),
        ("[3x4]", (3, 4)),
        ("3X4", (3, 4)),
        ("3*4", (3, 4)),
        ("64Kix4", (65536, 4)),
        ("2mi", (2**21,)),
        ("1e6", (10**6,)),
        ("0x3", (0, 3)),
        ("7", (7,)),
    ],
)
def test_a_shape_may_be_written_as_people_do(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["1,000x2", "1,000", "3x,4", "", "()", "3.5", "3x-4", "64Kx4", "3 4", "x3"])
def test_text_that_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^SHAPE is sizes joined by x or by commas.*; got "):
        parse_shape(text)
