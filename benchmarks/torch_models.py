"""How many models of Hugging Face transformers `init_module` fills without a rule.

    python benchmarks/torch_models.py [--list] [MODEL_TYPE ...]

Each configuration is made small, its model is built on the meta device, and `init_module` says which
parameters have no rule. Nothing is downloaded.
"""

import argparse
import logging
import re
import sys
import warnings
from collections import Counter
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING

import fanfill.torch as ft

# What makes a configuration small, where it has such an entry.
SMALL = {
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "dim": 64,
    "intermediate_size": 128,
    "ffn_dim": 128,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "d_ff": 128,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_head": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 320,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "max_position_embeddings": 128,
}


def config_of(kind: str) -> Any:
    """A configuration as small as its class lets it be."""
    made = CONFIG_MAPPING[kind]
    try:
        plain = made()
        return made(**{name: value for name, value in SMALL.items() if hasattr(plain, name)})
    except Exception:
        return made()


def missing(kind: str) -> list[str] | None:
    """The parameters without a rule; None if this model cannot be built from its default configuration."""
    try:
        made = MODEL_MAPPING[CONFIG_MAPPING[kind]]
    except ValueError:  # listed, and not there
        return None
    made = made[0] if isinstance(made, tuple) else made
    for config in (config_of, lambda kind: CONFIG_MAPPING[kind]()):
        try:
            with torch.device("meta"):
                model = made(config(kind))
            break
        except Exception:
            continue
    else:
        return None
    try:
        ft.init_module(model, seed=0)
    except ValueError as error:
        found = re.search(r"got none for (.*); name them", str(error))
        if found is None:
            raise
        return found[1].split(", ")
    return []


def main() -> int:
    """Print what is missed where, and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--list", action="store_true", help="also list each model's parameters without a rule"
    )
    parser.add_argument("models", nargs="*")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    kinds = chosen.models or [kind for kind in CONFIG_MAPPING if CONFIG_MAPPING[kind] in MODEL_MAPPING]
    results: dict[str, list[str] | None] = {}
    for kind in kinds:
        results[kind] = missing(kind)
        if chosen.list and results[kind]:
            names = sorted({re.sub(r"\d+", "N", name) for name in results[kind] or ()})
            print(f"{kind}: {', '.join(names)[:300]}", flush=True)
    built = {kind: names for kind, names in results.items() if names is not None}
    last = Counter(
        name
        for names in built.values()
        for name in {re.sub(r"\d+", "N", ".".join(n.split(".")[-2:])) for n in names or ()}
    )
    print(f"transformers {transformers.__version__}: {len(results)} types of model, {len(built)} built")
    print(f"no rule needed: {sum(not names for names in built.values())}")
    print(f"at most 2 parameters need one: {sum(len(set(n or ())) <= 2 for n in built.values())}")
    print("most missed: " + ", ".join(f"{name} ({count})" for name, count in last.most_common(12)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
