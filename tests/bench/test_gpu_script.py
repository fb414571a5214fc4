"""ci/gpu.sh: that it says what is missing where no GPU is, and the page that it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_many
import quality

from fanfill import STREAM_VERSION

ROOT = Path(__file__).resolve().parents[2]


def test_its_steps_take_six_minutes_at_most() -> None:
    script = (ROOT / "ci/gpu.sh").read_text()
    assert "in at most six minutes" in script
    limits = [int(seconds) for seconds in re.findall(r"^ *step \w+ (\d+) ", script, re.MULTILINE)]
    assert len(limits) == 9
    assert sum(limits) <= 360


def test_it_counts_the_draws_that_the_cpus_table_shows_to_follow_their_laws() -> None:
    """So that a departure there is the GPU's, and no draw of chance."""
    script = (ROOT / "ci/gpu.sh").read_text()
    assert re.search(r"^step quality \d+ .* --device cuda --draws 1e9 --controls$", script, re.MULTILINE)
    page = (ROOT / "docs/quality.md").read_text()
    section = page.partition("<!-- measured: all -->")[2].partition("<!-- end -->")[0]
    rows = re.findall(
        r"^\| fanfill \| `(.*?)` \| (\w+) \| (\S+) \| \d+ \|.*\| (\S+) \|$", section, re.MULTILINE
    )
    streams = {(call, dtype) for call, dtype, *_ in rows}
    assert streams == {(law.label, law.dtype) for law in quality.LAWS}
    assert {(draws, departs) for _, _, draws, departs in rows} == {("1e9", "no"), ("1e8", "no")}
    assert "--draws 1e9 " in section
    assert f"stream version {STREAM_VERSION}," in section


def test_without_a_gpu_it_fails_and_says_why(tmp_path: Path) -> None:
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")
    }
    surroundings |= {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(ROOT / "ci/gpu.sh")], capture_output=True, text=True, env=surroundings, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "ci/gpu.sh needs a machine with a usable GPU; here: " in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_the_page_and_the_json_have_every_step(tmp_path: Path) -> None:
    (tmp_path / "info.txt").write_text("a GPU\n")
    figure = {"ms": 13.9, "host_ms": 0.56}
    many = {"gpu": "H", "32 x 32, host us": {"fill": 9.3}, "291 tensors": {"fill_many": figure}}
    (tmp_path / "many.json").write_text(json.dumps(many))
    cuda_many.report(tmp_path, ["info:0:3", "many:9:12"])
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept == {
        "steps": [
            {"step": "info", "code": 0, "seconds": "3"},
            {"step": "many", "code": 9, "seconds": "12"},
        ],
        "many": many,
        "kernels": None,
        "bench": None,
    }
    page = (tmp_path / "gpu.md").read_text()
    for line in (
        "| many | 9 | 12 |",
        "* fill: 9.30 us",
        "* fill_many: 13.90 ms, of which the host 0.56",
        "a GPU",
    ):
        assert line in page.splitlines()
