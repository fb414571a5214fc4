"""``fanfill init``, ``recipe`` and ``verify``: a checkpoint from a model's description; refusals."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Capture, assert_refused

import fanfill as ff
from fanfill.checkpoints import ModelRecipe, TensorRecipe
from fanfill.cli import main

RECIPE = ModelRecipe(
    {
        "w": TensorRecipe.drawn((300, 20), "float32", ff.normal()),
        "b": TensorRecipe.drawn((20,), "float32", ff.constant(0)),
        "n": TensorRecipe((2,), "int64", values=np.arange(2)),
    }
)
BUILD = """
import torch
def build():
    return torch.nn.Linear(300, 300)
class Models:
    build = staticmethod(build)
number = 3
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.init.json").write_text(RECIPE.dumps())
    return tmp_path / "model.init.json"


def report(capsys: Capture, *words: str) -> dict[str, object]:
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_recipe_leads_to_a_checkpoint_that_is_verified(source: Path, capsys: Capture) -> None:
    found = report(capsys, "init", str(source), "--out", "out", "--seed", "3", "--jobs", "2")
    assert found["written"] == ["model.safetensors", "model.init.json"]
    assert (found["tensors"], found["values"], found["seed"]) == (3, 6022, 3)
    assert found["bytes"] == RECIPE.nbytes
    assert found["recipe"] == RECIPE.digest
    assert report(capsys, "init", str(source), "--out", "out", "--seed", "3")["written"] == []
    assert main(["verify", "out"]) == 0
    out = capsys.readouterr().out
    for fact in (
        r"files +1, 24\.\d kB, in out",
        "seed +3 ",
        "result +every byte is as planned",
        "rate +.*B/s",
    ):
        assert re.search(fact, out), fact
    checked = report(capsys, "verify", "out", "--threads", "1")
    assert (checked["seed"], checked["differences"]) == (3, [])


def test_a_difference_is_named_and_ends_in_exit_code_1(source: Path, capsys: Capture) -> None:
    report(capsys, "init", str(source), "--out", "out", "--max-shard-size", "10KB")
    (file, other) = sorted(Path("out").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for quiet in ((), ("-q",)):
        with pytest.raises(SystemExit) as ended:
            main(["verify", "out", *quiet])
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        assert err == ""
        assert bool(
            re.search(rf"different +{file.name}: tensor \w, element \d+: expected another", out)
        ) != bool(quiet)
        assert ("result          1 files differ\n" in out) != bool(quiet)
    other.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(SystemExit) as ended:
        main(["verify", "out", "--json"])
    assert ended.value.code == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 2


def test_shares_and_other_formats_are_options(source: Path, capsys: Capture) -> None:
    size = ("--max-shard-size", "10KB")
    first = report(capsys, "init", str(source), "--out", "out", "--part", "1/2", *size)
    assert first["part"] == "1/2"
    assert main(["init", str(source), "--out", "out", "--part", "2/2", *size]) == 0
    shown = capsys.readouterr().out
    for fact in (
        r"tensors +3 of 6,022 values",
        r"seed +0 \(stream version",
        r"part +2/2",
        r"written +\d files",
    ):
        assert re.search(fact, shown), fact
    assert main(["verify", "out"]) == 0
    capsys.readouterr()
    for format, file in (("npy", "w.npy"), ("zarr", "w/zarr.json")):
        report(capsys, "init", str(source), "--out", format, "--format", format, "--dtype", "float16")
        assert (Path(format) / file).exists()
        assert report(capsys, "verify", format)["differences"] == []


def test_a_recipe_is_printed_and_rules_and_dtype_change_it(source: Path, capsys: Capture) -> None:
    assert main(["recipe", str(source)]) == 0
    assert ModelRecipe.loads(capsys.readouterr().out) == RECIPE
    assert main(["recipe", str(source), "-o", "again.json"]) == 0
    assert capsys.readouterr().out == ""
    assert ModelRecipe.load("again.json") == RECIPE
    words = ("--dtype", "bfloat16", "--rule", "w=he_normal", "--rule", "*=ones")
    assert main(["recipe", str(source), *words]) == 0
    found = ModelRecipe.loads(capsys.readouterr().out)
    assert found.tensors["w"].dtype == "bfloat16"
    assert found.tensors["w"].whole_law() == ff.he_normal(in_axis=1, out_axis=0)
    assert found.tensors["b"].whole_law() == ff.constant(1)


def test_a_safetensors_file_gives_the_shapes(source: Path, capsys: Capture) -> None:
    report(capsys, "init", str(source), "--out", "out")
    assert_refused(capsys, r"got none for .*only its shape is known", "recipe", "out/model.safetensors")
    assert main(["recipe", "out/model.safetensors", "--rule", "[wb]=ones", "--rule", "*=zeros"]) == 2
    assert "fits none" in capsys.readouterr().err  # n holds integers, which no initializer draws


def test_a_function_of_the_current_folder_is_a_source(source: Path, capsys: Capture) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    Path("own_model.py").write_text(BUILD)
    try:
        for name in ("own_model:build", "own_model:Models.build"):
            assert main(["recipe", name]) == 0
            found = ModelRecipe.loads(capsys.readouterr().out)
            assert set(found.tensors) == {"weight", "bias"}
        assert report(capsys, "init", "own_model:build", "--out", "dcp", "--format", "dcp")["format"] == "dcp"
        assert os.path.exists("dcp/.metadata")
        for name, message in (
            ("own_model:absent", "'absent', which is not there"),
            ("own_model:number", "'number', which is not callable"),
            ("absent_module:build", "expected a module that can be imported; got 'absent_module'"),
        ):
            assert_refused(capsys, message, "recipe", name)
        Path("needs_more.py").write_text("import absent_library\n")
        assert main(["recipe", "needs_more:build"]) == 2
        assert "absent_library" in capsys.readouterr().err
        assert os.getcwd() not in sys.path
    finally:
        for name in ("own_model", "needs_more"):
            sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore")  # transformers' own and its dependencies'
def test_a_configuration_is_a_source(source: Path, capsys: Capture) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        vocab_size=500,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config.save_pretrained("config")
    found = report(capsys, "init", "config/config.json", "--out", "out", "--dtype", "bfloat16")
    assert found["restated"] == []
    assert {"config.json", "model.safetensors", "generation_config.json"} <= set(os.listdir("out"))
    assert main(["verify", "out"]) == 0
    capsys.readouterr()
    assert main(["recipe", "config"]) == 0
    assert "model.embed_tokens.weight" in ModelRecipe.loads(capsys.readouterr().out).tensors
    report(capsys, "init", "config", "--out", "npy", "--format", "npy")
    assert os.path.exists("npy/lm_head.weight.npy")


def test_a_library_that_is_missing_is_named(
    source: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = (
        "a transformers configuration needs transformers, which is not installed; pip install transformers"
    )
    assert_refused(capsys, message, "recipe", "config.json")


def test_other_sources_and_options_are_refused(source: Path, capsys: Capture) -> None:
    Path("bad.json").write_text("{")
    init = ("init", str(source), "--out", "out")
    for message, *words in (
        ("SOURCE: expected a config.json or its folder", "recipe", "absent.json"),
        ("expected a model recipe as JSON", "recipe", "bad.json"),
        (r"--part is K/N, .*; got '3'", *init, "--part", "3"),
        ("--part: expected K/N with K from 1 to N; got 3/2", *init, "--part", "3/2"),
        (r"--rule is PATTERN=INITIALIZER, .*; got 'w'", *init, "--rule", "w"),
        ("--rule .*: expected an initializer as text", *init, "--rule", "w=normal(open('x'))"),
        ("--dtype: expected one of float32", *init, "--dtype", "int8"),
        ("--format: expected one of safetensors", *init, "--format", "gguf"),
        ("--max-shard-size: expected bytes", *init, "--max-shard-size", "0"),
        ("--seed: expected an integer", *init, "--seed", "-1"),
        ("--threads: expected an integer", *init, "--threads", "0"),
        (
            "arguments mean, std for normal; got stddev; write std for stddev",
            *init,
            "--rule",
            "w=normal(stddev=1)",
        ),
        ("--rule: expected each pattern to fit", *init, "--rule", "nothing=zeros"),
        ("expected a folder with the recipe", "verify", "."),
    ):
        if words[0] == "verify":
            source.unlink()
        assert_refused(capsys, message, *words)
        assert not os.path.exists("out"), words
