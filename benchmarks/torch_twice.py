"""Which models of transformers and timm `accelerated` builds twice alike, and not alike with another seed.

    python benchmarks/torch_twice.py [--library transformers|timm] [--most MILLIONS] [MODEL ...]

Each is built from its configuration, made small, or under its name, with no weights downloaded. Every
parameter and buffer is hashed. Of timm, one model a module is built, by its name one of the smallest. Models
that are larger than --most are named and left out.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

import fanfill.torch as ft

Build = Callable[[], torch.nn.Module]
LITTLE = ("tiny", "nano", "atto", "femto", "pico", "xxs", "_xs", "mini", "small", "_b0", "18", "lite", "_s")


def digest(model: torch.nn.Module) -> str:
    """A hash of all parameters and buffers."""
    whole = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted((*model.named_parameters(), *model.named_buffers())):
        whole.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        whole.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def built(build: Build, seed: int) -> str:
    """The digest of a model that was built in a block."""
    with ft.accelerated(seed=seed):
        return digest(build())


def size(build: Build) -> int | None:
    """How many values a model has; None if it cannot be built."""
    try:
        with torch.device("meta"):
            model = build()
    except Exception:
        return None
    return sum(each.numel() for each in (*model.parameters(), *model.buffers()))


def of_transformers(chosen: list[str]) -> Iterator[tuple[str, list[Build]]]:
    """Each type of model with a base model, and ways to build it: the first that can be built counts."""
    from torch_models import SMALL, config_of
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    def nested(kind: str) -> Any:
        """A configuration whose parts, such as a text's and an image's, are small too."""

        def small(made: Any) -> dict[str, Any]:
            plain = made()
            entries = {name: value for name, value in SMALL.items() if hasattr(plain, name)}
            parts = getattr(made, "sub_configs", {})
            return entries | {
                name: small(type(part))
                for name in parts
                if (part := getattr(plain, name, None)) is not None and hasattr(part, "to_dict")
            }

        return CONFIG_MAPPING[kind](**small(CONFIG_MAPPING[kind]))

    def way(kind: str, config: Callable[[str], Any]) -> Build:
        def build() -> torch.nn.Module:
            made = MODEL_MAPPING[CONFIG_MAPPING[kind]]
            return (made[0] if isinstance(made, tuple) else made)(config(kind))

        return build

    for kind in chosen or list(CONFIG_MAPPING):
        if CONFIG_MAPPING[kind] in MODEL_MAPPING:
            plain = way(kind, lambda kind: CONFIG_MAPPING[kind]())
            yield kind, [way(kind, nested), way(kind, config_of), plain]


def of_timm(chosen: list[str]) -> Iterator[tuple[str, list[Build]]]:
    """A model of each module, by its name one of the smallest."""
    import timm

    def way(name: str) -> Build:
        return lambda: timm.create_model(name, pretrained=False)

    if chosen:
        yield from ((name, [way(name)]) for name in chosen)
        return
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            name = min(names, key=lambda name: (not any(word in name for word in LITTLE), len(name), name))
            yield name, [way(name)]


def main() -> int:
    """Print a line for each model, and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", choices=["transformers", "timm"], default="transformers")
    parser.add_argument("--most", type=int, default=200, help="values of a model, in millions")
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found: dict[str, list[str]] = {"reproduced": [], "not reproduced": [], "larger": [], "not built": []}
    listed = of_transformers if options.library == "transformers" else of_timm
    began = time.perf_counter()
    for name, ways in listed(options.models):
        sizes = ((way, size(way)) for way in ways)
        build, values = next((found for found in sizes if found[1] is not None), (None, None))
        kind = "not built"
        if values is not None and values > options.most * 10**6:
            kind = "larger"
        elif build is not None:
            random.seed(time.perf_counter_ns())  # what is not torch's differs between two runs
            torch.seed()
            try:
                first = built(build, 0)
                torch.seed()
                alike = built(build, 0) == first
                kind = "reproduced" if alike else "not reproduced"
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}"[:200], flush=True)
        found[kind].append(name)
        gc.collect()
        if kind != "reproduced":
            print(f"{name}: {kind}", flush=True)
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in found.items())
    print(f"{options.library}: {sum(map(len, found.values()))} models: {counts}")
    print(f"{time.perf_counter() - began:.0f} s")
    return bool(found["not reproduced"])


if __name__ == "__main__":
    sys.exit(main())
