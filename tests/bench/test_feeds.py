"""feeds.py and batteries.sh: the bits that other batteries read, and what the script makes of their word."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import feeds
import numpy as np
import pytest
from quality_laws import Array, Law
from quality_sources import NAME, SEED, FanfillSource
from quality_tally import BLOCK
from scipy import stats

import fanfill as ff

SCRIPT = Path(feeds.__file__).with_name("batteries.sh")
bash = pytest.mark.skipif(sys.platform == "win32", reason="batteries.sh is a bash script")


def first_values(law: Law) -> Array:
    out = np.empty(BLOCK, law.number.real)
    FanfillSource(law)()(0, out)
    return out.astype(np.float64)


def first_bits(name: str) -> Array:
    """A row of bits of each of the feed's first words or values, the highest first."""
    part = next(feeds.FEEDS[name].bits())
    rows = part.view(np.uint8).reshape(BLOCK, -1)[:, ::-1]
    return np.unpackbits(rows, axis=1)


@pytest.mark.parametrize("axis", feeds.AXES)
@pytest.mark.parametrize("stride", feeds.STRIDES.values())
def test_words_along_an_axis_are_those_of_the_generator(axis: str, stride: int) -> None:
    found = next(feeds.words(axis, stride))
    for k in (0, 1, 2, 3, 77, BLOCK - 1):
        place = {"index": 0, "name": NAME, "seed": SEED} | {axis: k * stride}
        (word,) = ff.words(
            np.empty(1, np.uint32), seed=place["seed"], name=place["name"], start=place["index"]
        )
        assert found[k] == word


@pytest.mark.parametrize("kept", [16, 24])
def test_bits_are_the_leading_ones_of_the_values(kept: int) -> None:
    weights = 2 ** np.arange(kept)[::-1]
    uniform = (first_values(feeds.UNIFORM) + 1) / 2 * 2**kept
    assert np.array_equal(first_bits(f"uniform-{kept}") @ weights, np.minimum(np.floor(uniform), 2**kept - 1))
    for name, law, exact in (
        ("normal", feeds.NORMAL, stats.norm()),
        ("truncated", feeds.TRUNCATED, stats.truncnorm(-2, 2)),
    ):
        unit = exact.cdf(first_values(law)) * 2**kept
        found = first_bits(f"{name}-{kept}") @ weights
        # Two ways to compute a CDF differ in its 52nd bit.
        assert (np.abs(found + 0.5 - unit) <= 0.5 + 1e-6).all()


def test_bits_behind_the_first_are_the_last_of_the_values() -> None:
    weights = 2 ** np.arange(24)[::-1]
    whole = (first_values(feeds.FROM_ZERO_64) * 2.0**53).astype(np.uint64)
    assert np.array_equal(first_bits("range-float64-last-24") @ weights, whole % 2**24)


@pytest.mark.parametrize("name", feeds.FEEDS)
def test_every_bit_of_a_feed_is_fair_and_a_control_has_one_that_is_not(name: str) -> None:
    bits = first_bits(name)
    sigmas = np.abs(bits.mean(0) - 0.5) * 2 * BLOCK**0.5
    assert (sigmas.max() > 50) == feeds.FEEDS[name].control, sigmas
    assert feeds.FEEDS[name].control or sigmas.max() < 6, sigmas


def test_a_feed_ends_when_nobody_reads() -> None:
    out, into = os.pipe()
    writer = threading.Thread(target=feeds.write, args=(feeds.FEEDS["words-index-0"], into))
    writer.start()
    with open(out, "rb") as pipe:
        found = np.frombuffer(pipe.read(4 * BLOCK), "<u4")
    writer.join()
    os.close(into)
    assert np.array_equal(found, ff.words(np.empty(BLOCK, np.uint32), seed=SEED, name=NAME))


def test_an_unknown_feed_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"expected one of words-index-0, .*; got 'gamma'"):
        feeds.main(["gamma"])


def batteries(folder: Path, *names: str, finds: str = "", **given: str) -> subprocess.CompletedProcess[str]:
    """The script, with no TestU01, and a PractRand that reads a little and says what it is told to."""
    environment = os.environ | {"PYTHON": sys.executable, "TESTU01": str(folder / "none"), "CC": "false"}
    environment["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p)
    if finds:
        fake = folder / "RNG_test"
        fake.write_text(f"#!/bin/sh\nhead -c 1000000 | wc -c >{folder / 'read'}\necho '{finds}'\n")
        fake.chmod(0o755)
        environment["PRACTRAND"] = str(fake)
    return subprocess.run(
        [SCRIPT, *names], env=environment | given, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """PYTHON for the script: it knows the list of feeds, and writes lines for a known one until none reads.

    That takes no time, and the batteries here do not look at the bits. An unknown feed is left to feeds.py,
    as is every feed if REAL is set.
    """
    feeds.main([])
    (tmp_path / "list").write_text(capsys.readouterr().out)
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\n"
        f"if [ $# = 1 ]; then exec cat {tmp_path / 'list'}; fi\n"
        f'if [ -z "$REAL" ] && cut -f 1 {tmp_path / "list"} | grep -qx "$2"; then\n'
        "    trap '' PIPE; yes 2>/dev/null; exit 0\n"
        "fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return {"PYTHON": str(program)}


@bash
def test_the_script_says_how_to_get_a_battery(tmp_path: Path) -> None:
    done = batteries(tmp_path)
    assert done.returncode == 2
    assert "TestU01: left out: no unif01.h or libtestu01; the head of" in done.stderr
    assert "PractRand: left out: no RNG_test; the head of" in done.stderr


@bash
def test_a_feed_must_pass_and_a_control_must_fail(tmp_path: Path, stand_in: dict[str, str]) -> None:
    done = batteries(
        tmp_path, "words-seed-20", finds="no anomalies in 55 test result(s)", REAL="1", **stand_in
    )
    assert done.returncode == 0, done.stderr
    assert (
        "| words, seed after seed, 1,048,576 apart | passes | no anomalies in 55 test result(s) |"
        in done.stdout
    )
    assert (tmp_path / "read").read_text().strip() == "1000000"

    # What a battery finds in both: of the two rows the feed's is wrong, or else the control's.
    both = ("words-seed-20", "version-1-24")
    done = batteries(tmp_path, *both, finds="BCFN(2+0,13-0)  R= +10  p = 1e-30  FAIL", **stand_in)
    assert done.returncode == 1
    assert done.stdout.count("| **fails** | BCFN(2+0,13-0) R= +10 p = 1e-30 FAIL |") == 2
    assert "1 rows are not as they must be" in done.stderr
    done = batteries(tmp_path, *both, finds="no anomalies in 55 test result(s)", **stand_in)
    assert done.returncode == 1
    assert done.stdout.count("| passes | no anomalies in 55 test result(s) |") == 2
    assert "1 rows are not as they must be" in done.stderr


@bash
def test_the_script_refuses_an_unknown_feed(tmp_path: Path, stand_in: dict[str, str]) -> None:
    done = batteries(tmp_path, "gamma", finds="no anomalies", **stand_in)
    assert done.returncode == 2
    assert "expected one of words-index-0, " in done.stderr
