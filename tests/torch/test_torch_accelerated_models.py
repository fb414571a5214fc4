"""Whole models, built inside accelerated or filled after: every layer, any process, any number of threads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402

nn = torch.nn


def layers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.ModuleList(
            [
                nn.Linear(5, 7),
                nn.Bilinear(3, 4, 5),
                nn.Conv2d(4, 6, 3),
                nn.ConvTranspose1d(4, 6, 3),
                nn.Embedding(9, 4, padding_idx=2),
                nn.LSTM(4, 5),
                nn.GRUCell(4, 5),
                nn.MultiheadAttention(8, 2, add_bias_kv=True),
                nn.Transformer(8, 2, 1, 1, 16),
                nn.LayerNorm(4),
                nn.PReLU(),
            ]
        )


def random_parameters(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.unique().numel() > 1}


def test_every_layer_of_torch_nn_is_covered() -> None:
    """torch's own generator is not asked for a single number, and all values are those of the seed."""
    with ft.accelerated(seed=3):
        state = torch.get_rng_state()
        one = layers()
        assert torch.equal(torch.get_rng_state(), state)
    with ft.accelerated(seed=3):
        two = layers()
    with ft.accelerated(seed=4):
        three = layers()
    first, second, third = (random_parameters(model) for model in (one, two, three))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], third[name]) for name in first)
    assert not one[4].weight[2].any()
    state = torch.get_rng_state()
    layers()
    assert not torch.equal(torch.get_rng_state(), state)  # the control: torch does ask it


def digest(model: Any) -> str:
    whole = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        whole.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


# Both ways of building; layers above the size at which fills are shared among threads.
BUILDING = """
import hashlib, torch, fanfill.torch as ft
def make():
    return torch.nn.Sequential(torch.nn.Linear(500, 700), torch.nn.Conv2d(64, 130, 5), torch.nn.LSTM(99, 77))
with ft.accelerated(seed=1):
    built = make()
for model in (built, ft.init_module(make(), seed=1)):
    print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
"""


def test_two_processes_and_other_numbers_of_threads_build_the_same_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This process with two threads, a new one with one."""
    monkeypatch.setenv("FANFILL_NUM_THREADS", "1")
    command = [sys.executable, "-c", BUILDING]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.split()
    monkeypatch.setenv("FANFILL_NUM_THREADS", "2")
    exec(BUILDING, {})
    assert capsys.readouterr().out.split() == there
    assert there[0] != there[1]


def small_models() -> dict[str, Callable[[], Any]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    llama = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    vit = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32
    )
    mamba = transformers.MambaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, state_size=8)
    return {
        "mamba": lambda: transformers.MambaModel(mamba),  # calls torch.rand
        "llama": lambda: transformers.LlamaForCausalLM(llama),
        "vit": lambda: transformers.ViTModel(vit),  # truncated normals
    }


@pytest.mark.parametrize("name", ["llama", "mamba", "vit"])
def test_transformers_models_are_covered(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = small_models()[name]
        with ft.accelerated(seed=1):
            state = torch.get_rng_state()
            one = make()
            assert torch.equal(torch.get_rng_state(), state)
        with ft.accelerated(seed=1):
            two = make()
        state = torch.get_rng_state()
        theirs = make()
        assert not torch.equal(torch.get_rng_state(), state)  # the control
    assert digest(one) == digest(two) != digest(theirs)
    for (key, ours), (_, other) in zip(one.named_parameters(), theirs.named_parameters(), strict=True):
        if other.unique().numel() == 1:
            assert torch.equal(ours, other), key
        elif ours.numel() > 2000:
            assert abs(ours.detach().std() / other.detach().std() - 1) < 0.1, key


BENCHMARK = Path(__file__).parents[2] / "benchmarks/torch_twice.py"


@pytest.mark.slow  # more than ten minutes each
@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_models_are_built_twice_alike(library: str) -> None:
    """The table of docs/pytorch.md."""
    pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)
    command = [sys.executable, BENCHMARK, "--library", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 not reproduced" in done.stdout


def test_init_module_with_rules_for_a_transformers_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small_models()["llama"]()
    ft.init_module(model, seed=0)  # its norms are no layers of torch's, and need no rule
    assert (model.model.layers[0].input_layernorm.weight == 1).all()
    ft.init_module(model, seed=0, rules={"*norm.weight": "ones", "*": ff.normal(std=0.02)})
    q = model.model.layers[1].self_attn.q_proj.weight.detach().numpy()
    name = "model.layers.1.self_attn.q_proj.weight"
    assert np.array_equal(q, ff.draw((64, 64), ff.normal(std=0.02), seed=0, name=name))
