"""``fanfill show``: text, JSON and pictures; refusals."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import pytest
from command_line import Capture, assert_refused

import fanfill as ff
from fanfill import show
from fanfill.cli import main
from fanfill.show import text

SMALL = ("--width", "32", "--depth", "6", "--batch", "8")
NETWORKS = ("show", "propagation", *SMALL, "--init", "he_normal", "--init", "normal(0.0, 3.0)")


def shown(capsys: Capture, *words: str) -> str:
    assert main(words) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_line_for_each_network(capsys: Capture) -> None:
    lines = shown(capsys, *NETWORKS, "--activation", "relu", "--activation", "tanh").splitlines()
    assert lines[0].startswith("6 layers of 32 units, 8 samples, seed 0.")
    assert lines[3].split() == [
        "activation",
        "initializer",
        "forward",
        "last/first",
        "backward",
        "first/last",
    ]
    assert [line.split()[0] for line in lines[4:]] == ["relu", "relu", "tanh", "tanh"]
    assert re.search(r"he_normal\(\) +[▃▄▅]{6} .* kept$", lines[4])
    assert re.search(r"normal\(0\.0, 3\.0\) +▄▆▇▇▇▇ .* explodes$", lines[5])
    # tanh saturates forward, and not backward.
    assert lines[7].endswith("kept, gradient explodes") or lines[7].endswith("kept")


def test_the_defaults_are_five_initializers_with_three_activations(capsys: Capture) -> None:
    lines = shown(capsys, "show", "propagation", *SMALL).splitlines()
    assert len(lines) == 4 + 15


def test_json_has_every_figure_and_quiet_says_nothing(capsys: Capture) -> None:
    found = json.loads(shown(capsys, *NETWORKS, "--activation", "relu", "--json"))
    wanted = show.propagation("he_normal", "relu", width=32, depth=6, batch=8)
    assert (
        show.Propagation(**{k: tuple(v) if isinstance(v, list) else v for k, v in found[0].items()}) == wanted
    )
    assert len(found) == 2
    assert shown(capsys, *NETWORKS, "-q") == ""
    infinite = ("show", "propagation", *SMALL, "--init", "normal(0.0, 1e37)", "--activation", "linear")
    (beyond,) = json.loads(shown(capsys, *infinite, "--json"))
    assert beyond["variance"][-1] is None


def test_a_histogram_as_text_and_json(capsys: Capture) -> None:
    words = ("show", "histogram", "uniform(0.0, 1.0)", "100x100", "--bins", "4")
    lines = shown(capsys, *words).splitlines()
    assert lines[0] == "uniform(0.0, 1.0), 10,000 values: uniform(0, 1)"
    assert len(lines) == 6
    assert all("█" in line and "2,500.0" in line for line in lines[1:5])
    assert re.fullmatch(
        r"0 beyond the bins; the largest departure is \d\.\d\d standard errors of a bin", lines[5]
    )
    assert sum(json.loads(shown(capsys, *words, "--json"))["counts"]) == 10_000


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("propagation", NETWORKS),
        ("histogram", ("show", "histogram", "he_normal", "64x64")),
        ("layers", ("show", "propagation", "--model", "small_model:build", "--init", "he_normal", "-q")),
    ],
)
def test_pictures(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    if kind == "layers":
        pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_model.py").write_text(MODEL)
    try:
        shown(capsys, *words, "-o", "picture.svg")
        if kind == "histogram":
            shown(capsys, *words, "-o", "picture.png")
    finally:
        sys.modules.pop("small_model", None)
    if kind == "histogram":
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "picture.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
    assert len(sizes) > 10
    assert min(sizes) * 800 / 576 >= 12  # its width is 576 points


MODEL = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU())
def with_batch():
    return build(), torch.ones(3, 16)
"""


def test_a_model_is_shown_layer_by_layer(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown_model.py").write_text(MODEL)
    words = ("show", "propagation", "--model", "shown_model:build")
    try:
        lines = shown(capsys, *words, "--input", "16").splitlines()
        assert lines[0].startswith("as built: ▄")
        assert lines[1].split() == ["layer", "kind", "mean", "variance"]
        assert [line.split()[:2] for line in lines[2:]] == [["0", "Linear"], ["1", "ReLU"]]
        laws = ("--init", "he_normal", "--init", "zeros")
        found = json.loads(shown(capsys, *words, *laws, "--json"))
        assert found.keys() == {"he_normal()", "constant(0.0)"}
        words = ("show", "propagation", "--model", "shown_model:with_batch", "--init", "zeros", "--json")
        ((_, relu),) = json.loads(shown(capsys, *words)).values()
        assert relu["kind"] == "ReLU"
    finally:
        sys.modules.pop("shown_model", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("propagation", "--init", "he"), "expected the name of an initializer; got 'he'"),
        (("propagation", "--activation", "step"), "activation: expected one of linear"),
        (("propagation", "--depth", "0"), "depth: expected an integer"),
        (("propagation", "--input", "3x4"), "--input is the shape of a model's sample"),
        (
            ("propagation", "--model", "a:b", "--activation", "relu"),
            "--activation is for networks that fanfill",
        ),
        (("propagation", "--model", "no_such_module:b"), "--model: expected a module that can be imported"),
        (
            ("propagation", "--model", "math:pi"),
            "--model: expected a function of math that takes no arguments",
        ),
        (
            ("propagation", "-o", "picture.gif"),
            r"--out: expected a picture's name that ends in \.svg or \.png",
        ),
        (("propagation", "-o", "no/such/p.svg"), "--out: expected a file in a folder that exists"),
        (("histogram", "zeros", "3"), "expected an initializer that draws"),
        (("histogram", "he_normal", "3xx4"), "SHAPE is sizes"),
    ],
)
def test_refusals(capsys: Capture, words: tuple[str, ...], message: str) -> None:
    if importlib.util.find_spec("matplotlib") is None and "no/such/p.svg" in words:
        pytest.skip("matplotlib is not installed")
    assert_refused(capsys, message, "show", *words)


def test_a_picture_without_matplotlib_is_refused_before_any_work(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused(
        capsys, r"a picture needs matplotlib: pip install 'fanfill\[plot\]'", *NETWORKS, "-o", "p.svg"
    )


def test_help_has_both_names_and_examples(capsys: Capture) -> None:
    out = shown(capsys, "show", "propagation", "-h")
    assert "fanfill show propagation --init he_normal" in out
    assert shown(capsys, "show", "propagation", "--help") == out


def test_heights_are_factors_of_ten_clipped_and_ascii_where_nothing_else_fits() -> None:
    assert text.spark([1, 10, 100, 1e9, 0.1, 0.01, 1e-9, 0]) == "▄▅▆▇▃▂▁▁"
    assert text.spark([1, 1e9, 1e-9], "ascii") == "-#_"
    assert text.spark([1, 1], "no such encoding") == "--"
    assert text.spark([1, math.inf, math.nan]) == "▄▇?"
    assert text.spark([0, 1]) == "??"
    assert len(text.spark([1.0] * 200)) == 25
    found = show.histogram(ff.uniform(0, 1), 100, bins=2)
    assert all(line.isascii() for line in text.histogram_lines(found, "ascii"))


def test_pictures_have_two_endings(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from fanfill.show import pictures

    found = [show.histogram("he_normal", (20, 20), bins=4) for _ in range(3)]
    with pytest.raises(ValueError, match=r"ends in \.svg or \.png; got 'p\.pdf'"):
        pictures.save(pictures.histogram(found), tmp_path / "p.pdf")
    for name in ("one.svg", "two.svg"):
        pictures.save(pictures.histogram(found), tmp_path / name, "a note")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "<!-- a note -->" in (tmp_path / "one.svg").read_text()
