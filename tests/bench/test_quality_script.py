"""The script benchmarks/quality.py: what it prints and writes, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
import quality
import quality_sources
from quality_checks import checks
from quality_controls import CONTROLS
from quality_laws import Law
from quality_report import Row, departures, tails
from quality_sources import fanfill_stream, peer_streams
from quality_tally import empty, tallied

NORMAL = Law("normal", 1.0, "float32")


def test_numpys_float32_uniforms_hold_exact_zeros() -> None:
    (stream,) = peer_streams("numpy", (Law("uniform", 1.0, "float32"),))
    found = tallied(stream.law, stream.source, 2**26, wanted=frozenset({"levels"}))
    assert {check.group for check in checks(stream.law, found) if check.failed} == {"zeros"}


def test_the_script_prints_a_row_for_each_stream(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--draws", "4e6", "--peer-draws", "1e6", "--streams", "normal@1/float32", "--peers", "numpy"]
    assert quality.main(words) == 0
    out, err = capsys.readouterr()
    assert "| fanfill | `normal(0, 1)` | float32 | 4.1e6 | 54 | " in out
    assert "| numpy | `Generator(PCG64).standard_normal()` | float32 | 1e6 | 48 | " in out
    assert "102 statistics on 2 streams; a stream departs if a p-value is below 1e-06" in out
    assert "one run out of 9,804" in out
    assert f"`python benchmarks/quality.py {' '.join(words)}`" in out
    assert "fanfill normal(0, 1) float32: 4.06e+06 draws" in err


def test_a_departure_is_shown_and_makes_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flawed = next(control for control in CONTROLS if control.name == "one NaN a block")
    stream = fanfill_stream(NORMAL)._replace(source=flawed.source, neighbours=())
    monkeypatch.setattr(quality, "fanfill_stream", lambda law: stream)
    assert quality.main(["--draws", "1e6", "--streams", "normal@1/float32"]) == 1
    assert "finite, infinite or NaN: 8, none expected" in capsys.readouterr().out


def test_the_script_writes_between_the_markers(tmp_path: Any) -> None:
    document = tmp_path / "quality.md"
    begin = quality.BEGIN.format("all")
    document.write_text(f"# Prose\n\n{begin}\n\nold\n{quality.END}\n\nmore\n")
    words = ["--draws", "1e6", "--streams", "uniform/bfloat16", "--write", str(document)]
    assert quality.main(words) == 0
    text = document.read_text()
    assert text.startswith(f"# Prose\n\n{begin}\n\n| | drawn by |")
    assert text.endswith(f"\n{quality.END}\n\nmore\n")
    assert "old" not in text
    with pytest.raises(SystemExit, match=r"--write: expected the lines <!-- measured: deep --> and"):
        quality.main([*words, "--section", "deep"])
    assert document.read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--streams", "gamma"], r"--streams: expected all, or some of normal, .*; got 'gamma'"),
        (
            ["--streams", "uniform", "--peers", "R"],
            r"--peers: expected all, none, or some of numpy, .*; got 'R'",
        ),
    ],
)
def test_unknown_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        quality.main(["--draws", "1e6", *words])


def test_a_number_of_draws_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--draws", "1000000.5"])
    assert "expected a whole number from 1e+06 on, such as 1e11; got '1000000.5'" in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(quality_sources, "import_module", missing)
    assert quality.main(["--draws", "1e6", "--streams", "normal@1/float32", "--peers", "jax"]) == 0
    assert "jax: left out: No module named 'jax'" in capsys.readouterr().err


def test_what_departs_is_listed() -> None:
    flawed = next(control for control in CONTROLS if control.name == "one NaN a block")
    row = Row(fanfill_stream(NORMAL), empty(NORMAL, 0), flawed.checks())
    assert any("finite, infinite or NaN: 8, none expected" in line for line in departures([row]))
    cut = next(control for control in CONTROLS if control.name == "bound long by 2^-20")
    assert departures([Row(fanfill_stream(cut.law), empty(NORMAL, 0), cut.checks())])[0].startswith(
        "* fanfill"
    )
    assert tails([]) == []
