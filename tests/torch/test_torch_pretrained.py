"""Checkpoints of transformers' configurations: its files, its names, and each parameter's own values."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import optional
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
optional.needs("transformers", "safetensors")
transformers, official = optional.Lazy("transformers"), optional.Lazy("safetensors.torch")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.checkpoints import checking, safetensors, writing  # noqa: E402
from fanfill.checkpoints.recipe import ModelRecipe  # noqa: E402
from fanfill.torch import pretrained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own and its dependencies'

SMALL = {
    "vocab_size": 500,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "Mixtral": lambda: transformers.MixtralConfig(**SMALL, num_local_experts=4),
    "GPT2": lambda: transformers.GPT2Config(vocab_size=500, n_embd=48, n_layer=2, n_head=4, **TOKENS),
    "Mamba2": lambda: transformers.Mamba2Config(
        vocab_size=500,
        hidden_size=64,
        num_heads=8,
        head_dim=16,
        n_groups=2,
        num_hidden_layers=2,
        state_size=16,
    ),
    "DeepseekV3": lambda: transformers.DeepseekV3Config(
        **{**SMALL, "num_key_value_heads": 4},
        n_routed_experts=8,
        moe_intermediate_size=32,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        first_k_dense_replace=1,
    ),
}
DENSE = {"Llama", "GPT2", "Mamba2"}


def model_class(config: Any) -> Any:
    return pretrained._class(import_module("transformers"), config)


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A configuration's name, its folder, and the checkpoint that was made of it with seed 5 in bfloat16."""
    folder = tmp_path_factory.mktemp(request.param)
    CONFIGS[request.param]().save_pretrained(folder)
    planned = pretrained.plan(folder, dtype="bfloat16")
    assert ModelRecipe.loads(planned.recipe.dumps()) == planned.recipe
    writing.carry_out(pretrained.job(planned, 5, "150KB"), folder / "out")
    return request.param, folder, folder / "out"


def test_transformers_loads_it_and_every_parameter_has_the_values_of_its_name(checkpoint: Any) -> None:
    _, folder, out = checkpoint
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = model_class(config)
    model, info = kind.from_pretrained(out, output_loading_info=True, dtype=torch.bfloat16)
    assert not any(info.values()), info
    state = model.state_dict()

    recipe = ft.recipe(
        lambda: kind._from_config(transformers.AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    )
    drawn = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    recipe.fill(drawn, 5)
    assert [name for name in state if not torch.equal(state[name], drawn[name])] == []
    # And by init_module, on a model that had no values.
    with torch.device("meta"):
        again = kind._from_config(config, dtype=torch.bfloat16)
    ft.init_module(again.to_empty(device="cpu"), 5, rules=recipe)
    assert all(torch.equal(again.state_dict()[name], state[name]) for name in state)
    # By fanfill alone: the largest parameter with one law.
    name, entry = max(recipe.tensors.items(), key=lambda item: item[1].size)
    wanted = ff.draw(entry.shape, entry.whole_law(), seed=5, name=name, dtype="bfloat16", device="cpu")
    assert np.array_equal(state[name].view(torch.uint16).numpy(), wanted.view(np.uint16))


def test_the_files_are_those_of_save_pretrained(checkpoint: Any, tmp_path: Path) -> None:
    name, folder, out = checkpoint
    config = transformers.AutoConfig.from_pretrained(folder)
    model_class(config)._from_config(config, dtype=torch.bfloat16).save_pretrained(
        tmp_path, max_shard_size="150KB"
    )
    assert set(os.listdir(out)) - {writing.RECIPE_NAME} == set(os.listdir(tmp_path))
    for file in os.listdir(tmp_path):
        if file.endswith(".json") and (name in DENSE or "index" not in file):
            assert (out / file).read_bytes() == (tmp_path / file).read_bytes(), file
    ours, theirs = (
        {k: e for f in sorted(p.glob("*.safetensors")) for k, e in shapes(f)} for p in (out, tmp_path)
    )
    assert ours == theirs


def shapes(path: Path) -> list[tuple[str, tuple[str, list[int]]]]:
    head = safetensors.read_header(path)
    return [
        (name, (entry["dtype"], entry["shape"])) for name, entry in head.items() if name != "__metadata__"
    ]


def test_each_file_is_the_official_writers_and_is_verified(checkpoint: Any) -> None:
    _, _, out = checkpoint
    for path in out.glob("*.safetensors"):
        data = path.read_bytes()
        with official.safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        theirs = official.save(official.load(data), metadata)
        size = int.from_bytes(data[:8], "little")
        # The order of two keys is random in the official writer, so the header is compared by its meaning.
        assert json.loads(data[8 : 8 + size]) == json.loads(theirs[8 : 8 + size])
        assert data[8 + size :] == theirs[8 + size :]
    checked = checking.planned(out)
    assert (checked.seed, list(checked.differences)) == (5, [])
    assert list(writing.verify(checked.files, out)) == []


def test_another_seed_differs_in_every_drawn_tensor(tmp_path: Path) -> None:
    CONFIGS["Llama"]().save_pretrained(tmp_path)
    planned = pretrained.plan(tmp_path, rules=[("*.q_proj.weight", ff.constant(2))])
    for seed in (1, 2):
        writing.carry_out(pretrained.job(planned, seed), tmp_path / str(seed))
    one, two = (official.load_file(tmp_path / str(seed) / "model.safetensors") for seed in (1, 2))
    for name, tensor in planned.recipe.tensors.items():
        law = tensor.whole_law()
        assert isinstance(law, ff.Initializer)
        assert torch.equal(one[name], two[name]) == (law.distribution == "constant"), name
    assert (one["model.layers.0.self_attn.q_proj.weight"] == 2).all()


def test_configurations_that_lead_to_no_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.LlamaConfig(**SMALL, architectures=["Absent"])
    assert model_class(config).__name__ == "LlamaForCausalLM"
    assert model_class(transformers.LlamaConfig(architectures=["LlamaModel"])).__name__ == "LlamaModel"
    with pytest.raises(
        ValueError, match=r"config: expected one of a model that transformers .* knows; got model_type"
    ):
        model_class(transformers.PretrainedConfig())
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="expected save_pretrained to write one file of safetensors; got 0"):
        pretrained.plan(tmp_path)


def test_the_progress_bars_of_transformers_are_as_they_were(tmp_path: Path) -> None:
    from transformers.utils import logging

    CONFIGS["Llama"]().save_pretrained(tmp_path)
    logging.enable_progress_bar()
    pretrained.plan(tmp_path)
    assert logging.is_progress_bar_enabled()
    import transformers.modeling_utils as utils

    assert utils.safe_save_file is official.save_file


def memory(kind: str) -> int:
    """Bytes of this process's memory by the kernel's name for them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_plan_of_8_billion_values_takes_little_memory(tmp_path: Path) -> None:
    """Of 16 GB: at no time more than 20 MB beside what the imports take."""
    large = {**SMALL, "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336}
    heads = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    transformers.LlamaConfig(**large | heads).save_pretrained(tmp_path)
    CONFIGS["Llama"]().save_pretrained(tmp_path / "small")
    pretrained.plan(tmp_path / "small")  # imports what a plan needs
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = memory("VmRSS")
    made = pretrained.job(pretrained.plan(tmp_path, dtype="bfloat16"), 0)
    assert sum(file.size for file in made.files) > 16 * 10**9
    assert memory("VmHWM") - before < 20_000_000


# Every configuration of the installed transformers


def z_scores(values: np.ndarray[Any, Any], law: ff.Initializer | float) -> float:
    """How far mean and standard deviation lie from a law's, in standard errors; infinite outside its
    bounds.
    """
    x = values.astype(np.float64).ravel()
    if not isinstance(law, ff.Initializer) or law.std(()) == 0:
        value = law.mean(()) if isinstance(law, ff.Initializer) else law
        return 0.0 if np.array_equal(x, np.full_like(x, np.float32(value))) else np.inf
    low, high = law.bounds(())
    slack = 1e-5 * law.std(())
    if x.min() < low - slack or x.max() > high + slack:
        return np.inf
    n = x.size
    mean = abs(x.mean() - law.mean(())) / (law.std(()) / np.sqrt(n))
    spread = abs(x.std() / law.std(()) - 1) / np.sqrt(0.5 / n) if n > 30 else 0.0
    return float(max(mean, spread))


def _default(config_class: Any) -> Any:
    """The model of a configuration's defaults."""
    config = config_class()
    return model_class(config)._from_config(config)


@pytest.mark.slow
def test_every_configuration_is_planned_or_refused_by_a_tensors_name(tmp_path: Path) -> None:
    """And the smaller models agree with how transformers really initialises them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    planned, tensors = 0, 0
    for number, (kind, config_class) in enumerate(CONFIG_MAPPING.items()):
        if number % 8 and kind != "rwkv":  # a sample, and the one with large orthogonal matrices
            continue
        folder = tmp_path / kind
        try:
            config = config_class()
            config.save_pretrained(folder)
            with torch.device("meta"):
                model = model_class(config)._from_config(config_class())
        except Exception:  # missing packages or arguments: the same without a trace
            continue
        size = sum(p.numel() for p in model.parameters())
        made = pretrained.plan(folder)
        planned += 1
        if size < 30_000_000:
            build = partial(_default, config_class)
            real = build().state_dict()
            recipe = ft.recipe(build)
            for name, entry in recipe.tensors.items():
                law = entry.whole_law()
                if law is None or getattr(law, "structured", False):
                    continue
                if not entry.size or not real[name].is_floating_point():
                    continue
                tensors += 1
                x = real[name].float().numpy()
                assert z_scores(x, law) < 6, (kind, name, law)
                if isinstance(law, ff.Initializer) and law.std(()) and x.size > 100_000:
                    assert z_scores(1.05 * x, law) > 6  # the negative control
        assert made.recipe.values
    assert planned > 40
    assert tensors > 1000
