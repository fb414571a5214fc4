"""Plans a checkpoint from its own folder: what it should hold, by its recipe, its headers and its stamp."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fanfill.checkpoints import safetensors, writing
from fanfill.checkpoints.planning import Difference, Planned
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.writing import RECIPE_NAME, STAMP_NAME
from fanfill_kernels import STREAM_VERSION

__all__ = ["Checked", "planned"]

_MADE = re.compile(r"seed=([0-9]+) stream=([0-9]+) recipe=([0-9a-f]+)")


class Checked(NamedTuple):
    """The files that a folder should hold, and what is known to be wrong before any byte is made."""

    files: Sequence[Planned]
    differences: Sequence[Difference]
    seed: int


def planned(path: str | os.PathLike[str]) -> Checked:
    """What a folder that `ModelRecipe.write` or ``fanfill init`` has written should hold.

    Raises
    ------
    ValueError
        If the folder does not say from which recipe and seed it was made.
    """
    folder = Path(path)
    try:
        recipe = ModelRecipe.load(folder / RECIPE_NAME)
    except FileNotFoundError:
        raise ValueError(
            f"expected a folder with the recipe {RECIPE_NAME}, which fanfill init writes last; got {folder}, "
            "which has none; it is no such checkpoint, or not complete"
        ) from None
    if (folder / STAMP_NAME).exists():
        stamp = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
        _assert_ours(
            f"seed={stamp['seed']} stream={stamp['stream']} recipe={stamp['recipe']}", recipe, STAMP_NAME
        )
        size = stamp.get("max_shard_size", "5GB")  # only zarr's files are cut by it
        job = writing.plan(recipe, stamp["seed"], format=stamp["format"], max_shard_size=size)
        wrong = None if job.index_file is None else job.index_file.compare(folder)
        return Checked(job.files, () if wrong is None else (wrong,), stamp["seed"])
    files: list[Planned] = []
    differences: list[Difference] = []
    seen: set[str] = set()
    seeds: set[int] = set()
    for place in sorted(folder.glob("*.safetensors")):
        head = safetensors.read_header(place)
        metadata = head.pop("__metadata__", {})
        seeds.add(_assert_ours(metadata.get("fanfill", ""), recipe, place.name))
        unknown = [name for name in head if name not in recipe.tensors]
        if unknown:
            differences.append(Difference(place.name, unknown[0], 0, "expected only tensors of the recipe"))
            continue
        seen |= head.keys()
        tensors = {name: recipe.tensors[name] for name in head}
        files.append(safetensors.file(place.name, tensors, metadata, max(seeds)))
    if not seeds:
        raise ValueError(f"expected safetensors files in {folder}; got none")
    if len(seeds) > 1:
        raise ValueError(f"expected files of one seed in {folder}; got seeds {sorted(seeds)}")
    missing = [name for name in recipe.tensors if name not in seen]
    if missing:
        differences.append(Difference("all files", missing[0], 0, "expected every tensor of the recipe"))
    return Checked(files, differences, max(seeds))


def _assert_ours(made: str, recipe: ModelRecipe, where: str) -> int:
    """The seed of a header or stamp, once it is known to be of this recipe and stream version."""
    match = _MADE.fullmatch(made)
    if match is None or match[3] != recipe.digest:
        raise ValueError(
            f"{where}: expected a file made by the recipe {RECIPE_NAME} beside it (digest {recipe.digest}); "
            f"got {made or 'one that says nothing of its recipe'}"
        )
    if int(match[2]) != STREAM_VERSION:
        raise ValueError(
            f"{where}: expected values of stream version {STREAM_VERSION}; got {match[2]}; compare it with "
            "the release that wrote it"
        )
    return int(match[1])
