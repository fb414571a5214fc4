"""safetensors files: headers and shards as the official writers lay them out, byte for byte."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fanfill.checkpoints.planning import File, Placed
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.tensors import TensorRecipe
from fanfill.messages import shown

__all__ = ["bytes_of", "described", "file", "index", "plan", "read_header", "shards"]

CODES: Final = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
"""The format's names of dtypes, in the official writer's order: tensors lie in files from the last to the
first.
"""

_RANKS: Final = {name: rank for rank, name in enumerate(CODES)}
_NAMES: Final = {code: name for name, code in CODES.items()}
_LONGEST_HEADER = 100_000_000  # as in the official reader
_SIZES = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def bytes_of(size: int | str) -> int:
    """A size in bytes, from a number or from text such as ``5GB`` or ``500 MiB``.

    Raises
    ------
    ValueError
        Text that is no size, or a size below one byte.
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", str(size).strip())
    unit = _SIZES.get(match[2].upper()) if match else None
    found = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if found < 1:
        raise ValueError(f"max_shard_size: expected bytes, or text such as 5GB or 500MiB; got {shown(size)}")
    return found


def shards(recipe: ModelRecipe, most: int) -> list[list[str]]:
    """The names of each shard's tensors, in the recipe's order, as huggingface_hub cuts them.

    A tensor larger than a shard has one of its own; the others fill shards one after the other.
    """
    own: list[list[str]] = []
    filled: list[list[str]] = []
    now: list[str] = []
    size = 0
    for name, tensor in recipe.tensors.items():
        if tensor.nbytes > most:
            own.append([name])
            continue
        if size + tensor.nbytes > most:
            filled.append(now)
            now, size = [], 0
        now.append(name)
        size += tensor.nbytes
    if now:
        filled.append(now)
    return [*own, *filled] or [[]]


def plan(
    recipe: ModelRecipe,
    seed: int,
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
    stem: str = "model",
) -> list[File]:
    """The files of a checkpoint: ``model.safetensors``, or shards of it."""
    groups = shards(recipe, bytes_of(max_shard_size))
    count = len(groups)
    return [
        file(
            f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors",
            {name: recipe.tensors[name] for name in names},
            metadata,
            seed,
        )
        for number, names in enumerate(groups, 1)
    ]


def index(files: Sequence[File], recipe: ModelRecipe, total_parameters: int | None = None) -> dict[str, Any]:
    """The index of sharded files, as transformers writes it."""
    sizes: dict[str, int] = {"total_size": recipe.nbytes}
    if total_parameters is not None:
        sizes["total_parameters"] = total_parameters
    return {
        "metadata": sizes,
        "weight_map": {placed.name: each.name for each in files for placed in each.tensors},
    }


def file(
    name: str, tensors: Mapping[str, TensorRecipe], metadata: Mapping[str, str] | None, seed: int
) -> File:
    """One planned file of these tensors, in the official writer's order."""
    ordered = sorted(tensors.items(), key=lambda item: (-_RANKS[item[1].dtype], item[0].encode()))
    head: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    places: list[tuple[str, TensorRecipe, int]] = []
    for key, tensor in ordered:
        end = at + tensor.nbytes
        head[key] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        places.append((key, tensor, at))
        at = end
    # Spaces fill the header up, so that every tensor begins at a multiple of its items' size.
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return File(
        name,
        header,
        tuple(Placed(key, tensor, len(header) + start) for key, tensor, start in places),
        len(header) + at,
        seed,
    )


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a file: names with dtype, shape and place; ``__metadata__`` included.

    Raises
    ------
    ValueError
        If the file does not begin as a safetensors file does.
    """
    with open(path, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if 2 <= length <= _LONGEST_HEADER else b""
    try:
        head = json.loads(text)
        if not isinstance(head, dict):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"expected a safetensors file; got {str(path)!r}, which does not begin as one"
        ) from None
    return head


def described(path: str | os.PathLike[str]) -> ModelRecipe:
    """The names, shapes and dtypes of a safetensors file, or of all that an index names, without any laws."""
    place = Path(path)
    files = [place]
    if place.suffix == ".json":
        found = json.loads(place.read_text(encoding="utf-8"))["weight_map"]
        files = [place.parent / name for name in sorted(set(found.values()))]
    tensors = {}
    for each in files:
        for name, entry in read_header(each).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _NAMES:
                raise ValueError(
                    f"tensor {shown(name)}: expected a dtype among {', '.join(_NAMES)}; got {entry['dtype']}"
                )
            tensors[name] = TensorRecipe(
                tuple(entry["shape"]),
                _NAMES[entry["dtype"]],
                unknown=f"only its shape is known, from {each.name}",
            )
    return ModelRecipe(tensors)
