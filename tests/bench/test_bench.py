"""The benchmark: what a run keeps and prints, and when a comparison fails."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import two_processes
from rich.console import Console

import fanfill as ff
from fanfill.bench import cold, measure, noise, peers, picture, report, suite
from fanfill.bench.measure import Case, Row
from fanfill.bench.report import Result
from fanfill.cli import bench, main

TINY = measure.Settings(
    peers=("numpy",),
    left_out=("jax",),
    sizes=(3000,),
    scaling=(1000, 3000),
    rounds=2,
    seconds=0.0,
    least=1,
    total=float("inf"),
    processes=0,
    model=(),
)
KEYS = {field.name for field in dataclasses.fields(Row)} | {"values_per_second", "bytes_per_second"}


@pytest.fixture(scope="module")
def tiny() -> Result:
    with pytest.MonkeyPatch.context() as patch:  # no process that imports torch, for two seconds
        patch.setattr(cold, "find_spec", lambda name: None if name == "torch" else find_spec(name))
        return report.surroundings("fanfill bench", suite.run(TINY))


def changed(result: Result, factor: float, subject: str = "fanfill") -> Result:
    """The result of a machine on which a subject has another share of the limit."""
    rows = [
        dataclasses.replace(row, share=row.share * factor) if row.share and row.subject == subject else row
        for row in result.rows
    ]
    return dataclasses.replace(result, rows=tuple(rows))


def shown(call: Any, *arguments: Any) -> tuple[Any, str]:
    """What a function that prints returns, and what it prints."""
    text = io.StringIO()
    found = call(*arguments, Console(file=text, width=132))
    return found, text.getvalue()


def exit_code(words: list[str]) -> object:
    """What the process would end with."""
    try:
        return main(words)
    except SystemExit as error:
        return error.code


# The run


def test_a_run_has_limits_ours_and_peers_in_every_case(tiny: Result) -> None:
    for kind in suite.CONTESTS[:2]:
        found = {
            (row.group, row.subject, row.method)
            for row in tiny.rows
            if (row.distribution, row.dtype) == kind and row.values == 3000
        }
        assert {
            ("limit", "limit", "memset"),
            ("limit", "limit", "numpy fill"),
            ("peers", "fanfill", "numba"),
            ("peers", "fanfill", "numpy"),
            ("peers", "numpy", "Generator(SFC64), out="),
        } <= found


def test_the_figures_of_a_row_belong_together(tiny: Result) -> None:
    timed = [row for row in tiny.rows if row.seconds]
    assert timed
    for row in timed:
        assert row.values_per_second == pytest.approx(row.values / row.seconds)
        assert row.bytes_per_second == pytest.approx(row.values_per_second * measure.itemsize(row.dtype))
        assert row.share is not None
        assert row.share > 0


def test_a_result_survives_its_file(tiny: Result, tmp_path: Path) -> None:
    report.save(tiny, tmp_path / "bench.json")
    assert report.load(tmp_path / "bench.json") == tiny


def test_the_json_has_the_facts_that_its_figures_depend_on(tiny: Result, tmp_path: Path) -> None:
    report.save(tiny, tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found.keys() == {"format", "command", "date", "commit", "machine", "versions", "rows"}
    assert found["machine"].keys() >= {"cpu", "vector_bits", "cpus", "threads", "load"}
    assert found["versions"]["fanfill"] == ff.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert all(row.keys() == KEYS for row in found["rows"])


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format": 1}', b'{"format": 99}', b"\x80\xff"])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "other.json").write_bytes(text)
    with pytest.raises(ValueError, match="expected a result of fanfill bench"):
        report.load(tmp_path / "other.json")


def test_code_outside_a_checkout_has_no_commit(tmp_path: Path) -> None:
    assert report.commit(tmp_path / "fanfill.py") is None


def test_a_missing_or_left_out_peer_is_a_row_of_the_table(
    tiny: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError("libmkl_rt.so: cannot open shared object file")

    monkeypatch.setitem(peers.PEERS, "onemkl", missing)
    buffer = np.empty(10, np.float32)
    entrants = peers.entrants("onemkl", Case("normal", "float32", 10), buffer)
    case = Case("normal", "float32", 10)
    rows = measure.timed("peers", [(case, entrant) for entrant in entrants], suite.race(TINY, 0.0))
    _, text = shown(bench.show, dataclasses.replace(tiny, rows=(*tiny.rows, *rows)))
    assert "libmkl_rt.so" in text
    assert "left out of --quick" in text


# The table and the comparison


def test_the_table_shows_rates_bandwidth_and_share(tiny: Result) -> None:
    _, text = shown(bench.show, tiny)
    for words in ("G values/s", "of the limit", "memset", "Generator(SFC64), out=", "normal float32 3000"):
        assert words in text
    row = next(row for row in tiny.rows if row.subject == "fanfill")
    assert report.text_of(row)[-1] in text


def test_a_run_compared_with_itself_has_not_moved(tiny: Result) -> None:
    slower, text = shown(bench.show_changes, tiny, tiny, 0.1)
    assert slower is False
    assert "0 moved by more than 10%, 0 of fanfill's became slower" in text


@pytest.mark.parametrize(("factor", "slower"), [(0.8, True), (0.95, False), (1.3, False)])
def test_a_comparison_finds_what_became_slower_past_the_threshold(
    tiny: Result, factor: float, slower: bool
) -> None:
    found, text = shown(bench.show_changes, tiny, changed(tiny, factor), 0.1)
    assert found is slower
    assert ("slower" in text.split("compared")[0]) is slower
    assert ("faster" in text) is (factor > 1.2)


def test_a_slower_peer_is_no_fault_of_ours(tiny: Result) -> None:
    found, text = shown(bench.show_changes, tiny, changed(tiny, 0.5, "numpy"), 0.1)
    assert found is False
    assert "0.50x slower" in text


def test_results_without_a_common_measurement_are_not_compared(tiny: Result) -> None:
    with pytest.raises(ValueError, match="expected an older result with some of the same"):
        shown(bench.show_changes, dataclasses.replace(tiny, rows=()), tiny, 0.1)


# The command


IDLE = noise.Look(1e10, 0.02, 0.1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tiny: Result) -> None:
    """The command without its minute: the rows of the tiny run, on an idle machine."""
    rows = [dataclasses.replace(row, share=row.share and min(row.share, 1.0)) for row in tiny.rows]
    monkeypatch.setattr(suite, "run", lambda *_: rows)
    monkeypatch.setattr(noise, "look", lambda device: IDLE)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (2.0, 1)])
def test_compare_exits_1_if_and_only_if_something_became_slower(
    tmp_path: Path,
    tiny: Result,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    code: int,
) -> None:
    report.save(changed(looked(tiny, IDLE, IDLE), factor), tmp_path / "old.json")
    monkeypatch.setattr(picture, "draw", lambda result, out: [])  # takes seconds
    words = ["bench", "--device", "cpu", "--quick", "--out", str(tmp_path / "new")]
    words += ["--compare", str(tmp_path / "old.json")]
    assert exit_code(words) == code
    assert len(report.load(tmp_path / "new" / "bench.json").rows) == len(tiny.rows)
    assert "measurements compared" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_pictures_are_drawn_or_the_way_to_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--device", "cpu", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    if importlib.util.find_spec("matplotlib") is None:
        assert "pip install 'fanfill[bench]'" in out
        return
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "bench.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peers", "numpy,dice"], "expected peers among numpy, torch"),
        (["--sizes", "many"], "expected a size such as 64Ki"),
        (["--compare", "no-such.json"], "no-such.json"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setattr(suite, "run", lambda *_: pytest.fail("measured"))
    assert main(["bench", "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err


def test_quick_leaves_the_slow_peer_out_unless_it_is_asked_for() -> None:
    assert suite.settings(quick=True).left_out == ("jax",)
    assert "jax" not in suite.settings(quick=True).peers
    assert suite.settings(quick=True, peers=["jax"]).peers == ("jax",)
    assert suite.settings().peers == tuple(peers.PEERS)


# How far figures can be trusted


def looked(result: Result, before: noise.Look, after: noise.Look) -> Result:
    """The result of a machine that looked like this."""
    seen = noise.facts(before, after)
    rows = tuple(dataclasses.replace(row, share=row.share and min(row.share, 1.0)) for row in result.rows)
    machine = {**result.machine, "cpus": 2, "noise": seen}
    return dataclasses.replace(result, rows=rows, machine=machine)


@pytest.mark.parametrize(
    ("before", "after", "doubt"),
    [
        (IDLE, IDLE, None),
        (IDLE, IDLE._replace(load=9.0), None),  # the run's own
        (IDLE._replace(load=None), IDLE, None),
        (IDLE._replace(load=12.0), IDLE, r"busy before the run: load 12\.00 on 2 CPUs"),
        (IDLE, IDLE._replace(limit=8e9), r"the limit moved .*: memset 10 GB/s before, 8 GB/s after"),
        (IDLE, IDLE._replace(spread=0.4), r"repeats of memset differ by 40%"),
    ],
)
def test_a_busy_machine_is_found_out(
    tiny: Result, before: noise.Look, after: noise.Look, doubt: str | None
) -> None:
    found = noise.doubts(looked(tiny, before, after))
    assert len(found) == (doubt is not None)
    if doubt is not None:
        assert re.search(doubt, found[0]), found


def test_a_figure_beyond_the_limit_is_flagged(tiny: Result) -> None:
    row = next(row for row in tiny.rows if (row.group, row.subject) == ("peers", "fanfill"))
    nine = dataclasses.replace(row, share=9.0, threads=2, seconds=0.01)
    assert nine.is_beyond_limit
    assert not dataclasses.replace(nine, threads=16).is_beyond_limit
    assert not dataclasses.replace(nine, seconds=1e-5).is_beyond_limit  # a call's time
    assert not dataclasses.replace(nine, group="cold").is_beyond_limit
    result = dataclasses.replace(looked(tiny, IDLE, IDLE), rows=(nine,))
    (doubt,) = noise.doubts(result)
    assert re.search(r"1 figures are beyond .*: fanfill \w+ at 9\.0 of one thread's limit, on 2", doubt)
    _, text = shown(bench.show, result)
    assert "9.000!" in text
    assert "! is beyond what so many threads can write" in text
    assert "memset 10 GB/s (repeats differ by 2%), load 0.10" in text


def test_a_look_times_memset_and_reads_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "BYTES", 1 << 16)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 2.0, 1.0), raising=False)
    seen = noise.look(None)
    assert seen.limit > 0
    assert seen.spread >= 0
    assert seen.load == 3.0
    monkeypatch.delattr(os, "getloadavg")
    assert noise.look(None).load is None
    assert noise.spread([1.0, 1.0, 2.0, 3.0, 3.0]) == 1.0


@pytest.mark.usefixtures("quick")
def test_a_busy_machine_s_figures_are_kept_and_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "look", lambda device: IDLE._replace(load=1e3))
    monkeypatch.setattr(picture, "draw", lambda result, out: [out / "drawn"])
    words = ["bench", "--device", "cpu", "--out", str(tmp_path)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert re.search(
        r"^fanfill: the machine was busy .*; compare such figures with nothing$", err, re.MULTILINE
    )
    assert "no picture of a busy machine's figures: wait until it is idle, or add --force" in out
    kept = report.load(tmp_path / "bench.json")
    assert kept.machine["noise"]["before"]["load"] == 1e3
    assert main([*words, "--readme"]) == 2
    out, err = capsys.readouterr()
    assert "| memset, one thread |" not in out
    assert re.search(
        r"--readme: expected a machine that is idle; got .*busy.*; run it again, or add --force", err
    )
    assert main([*words, "--readme", "--force", "-q"]) == 0
    assert "| memset, one thread |" in capsys.readouterr().out
    assert main([*words, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["command"] == "bench"
    assert found["files"] == [str(tmp_path / "bench.json"), str(tmp_path / "drawn")]
    assert len(found["doubts"]) == 1


@pytest.mark.usefixtures("quick")
def test_an_idle_machine_s_figures_are_readme_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "draw", lambda result, out: [])
    assert main(["bench", "--device", "cpu", "--out", str(tmp_path), "--readme"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("| G values/s (share of memset) |")
    assert "**fanfill**, numba" in out


def test_older_results_without_spreads_are_read(tiny: Result, tmp_path: Path) -> None:
    report.save(tiny, tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    for row in found["rows"]:
        del row["spread"]
    (tmp_path / "bench.json").write_text(json.dumps(found))
    assert all(row.spread is None for row in report.load(tmp_path / "bench.json").rows)


def test_repeats_and_torch_s_threads_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0])
    clock = measure.Clock(lambda run, count: next(times), 1e-3, 1e-7)
    (sample,) = measure.contest([lambda: None], rounds=8, clock=clock)
    assert sample.spread == pytest.approx((2.0 - 1.0) / 1.0)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert report.torch_threads() is None
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 7))
    assert report.surroundings("x", []).machine["torch_threads"] == 7


# The table of docs/performance.md


@pytest.fixture(scope="module")
def readme_table() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme_table"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_takes_its_place_between_the_comments(
    readme_table: ModuleType, tiny: Result, tmp_path: Path
) -> None:
    report.save(tiny, tmp_path / "bench.json")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n")
    for _ in range(2):  # the second time it replaces itself
        readme_table.main([str(tmp_path / "bench.json"), "--readme", str(readme), "--force"])
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| memset, one thread |") == 1
    for fact in (tiny.command, tiny.machine["cpu"], f"numpy {np.__version__}", tiny.commit or "none"):
        assert fact in text


def test_a_busy_machine_s_figures_make_no_table(
    readme_table: ModuleType, tiny: Result, tmp_path: Path
) -> None:
    report.save(looked(tiny, IDLE._replace(load=12.0), IDLE), tmp_path / "bench.json")
    with pytest.raises(ValueError, match=r"expected figures of an idle machine; got .*load 12\.00.*--force"):
        readme_table.main([str(tmp_path / "bench.json")])


def test_a_readme_without_the_comments_is_left_alone(readme_table: ModuleType) -> None:
    with pytest.raises(ValueError, match="each once"):
        readme_table.replaced("nothing here", "table")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/fanfill", "bench", "--quick"], "fanfill bench --quick"),
        (["/lib/fanfill/__main__.py", "bench"], "python -m fanfill bench"),
        (["benchmarks/targets.py"], "python benchmarks/targets.py"),
    ],
)
def test_the_command_is_kept_as_one_would_type_it(words: list[str], shown: str) -> None:
    assert report.command_line(words) == shown


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are pinned as Linux does it")
def test_two_processes_on_two_cpus_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(two_processes, "ratio", lambda *both: seen.append(both) or 1.5)
    cpus = sorted(os.sched_getaffinity(0))
    found = two_processes.gain(Case("normal", "float32", 1 << 20), rounds=3)
    assert found == (None if len(cpus) < 2 else 1.5)
    for times in seen and (*seen[0][0], *seen[0][1]):  # each alone, and each beside the other
        assert len(times) == 3
        assert min(times) > 0.0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {cpus[0]})
    assert two_processes.gain(Case("normal", "float32", 1 << 20)) is None


def test_two_processes_are_as_slow_as_the_later_one() -> None:
    one, other = ([1.0, 9.0, 2.0], [3.0, 2.0, 8.0]), ([4.0, 4.0, 1.0], [1.0, 4.0, 5.0])
    assert two_processes.ratio(one, other) == (2.0 + 4.0) / 4.0
    assert two_processes.ratio(([1.0], [1.0]), ([1.0], [1.0])) == 2.0
