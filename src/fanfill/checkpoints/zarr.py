"""Zarr arrays of version 3, without a zarr library: a group, an array for each tensor, a file for each chunk.

Chunks are cut along the first axis and not compressed, so each is a contiguous part of its tensor, padded
with zeros at the end. zarr-python and tensorstore read them; bfloat16 and float8 have tensorstore's names,
which zarr-python refuses.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import Any

from fanfill.checkpoints.planning import File, Placed, file_name
from fanfill.checkpoints.recipe import Joined, ModelRecipe, Part, TensorRecipe
from fanfill.dtypes import STORAGES, dtype_of

__all__ = ["described", "plan"]

CHUNK = 64 << 20  # bytes, at most, unless one row is larger


def plan(recipe: ModelRecipe, seed: int) -> list[File]:
    """The chunks of all arrays."""
    files = []
    for name, tensor in recipe.tensors.items():
        folder, rows = file_name(name), _rows(tensor)
        if not tensor.size:
            continue
        if not tensor.shape:
            files.append(File(f"{folder}/c", b"", (Placed(name, tensor, 0),), tensor.nbytes, seed))
            continue
        row = prod(tensor.shape[1:]) * dtype_of(tensor.dtype).itemsize
        rest = "/0" * (len(tensor.shape) - 1)
        for number, first in enumerate(range(0, tensor.shape[0], rows)):
            chunk = _padded(_taken(tensor, 0, first, min(rows, tensor.shape[0] - first), name), rows)
            placed = Placed(name, chunk, 0)
            files.append(File(f"{folder}/c/{number}{rest}", b"", (placed,), rows * row, seed))
    return files


def described(recipe: ModelRecipe) -> dict[str, bytes]:
    """The ``zarr.json`` of each array and, last of all, of the group."""
    texts = {f"{file_name(name)}/zarr.json": _text(_array(t)) for name, t in recipe.tensors.items()}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    return {**texts, "zarr.json": _text(group)}


def _text(metadata: dict[str, Any]) -> bytes:
    return (json.dumps(metadata, indent=2) + "\n").encode()


def _array(tensor: TensorRecipe) -> dict[str, Any]:
    zero: Any = 0.0 if tensor.dtype in STORAGES else False if tensor.dtype == "bool" else 0
    shape = [max(n, 1) for n in tensor.shape[1:]]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(tensor.shape),
        "data_type": tensor.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [_rows(tensor), *shape] if tensor.shape else []},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": zero,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }


def _rows(tensor: TensorRecipe) -> int:
    row = prod(tensor.shape[1:]) * dtype_of(tensor.dtype).itemsize
    return max(1, min(tensor.shape[0] if tensor.shape else 1, CHUNK // max(row, 1)))


def _padded(tensor: TensorRecipe, rows: int) -> TensorRecipe:
    """A tensor with rows of zeros behind it."""
    more = (rows - tensor.shape[0], *tensor.shape[1:])
    if not more[0]:
        return tensor
    zeros = TensorRecipe.drawn(more, tensor.dtype, 0)
    return TensorRecipe((rows, *more[1:]), tensor.dtype, joined=Joined(0, (tensor, zeros)))


def _taken(tensor: TensorRecipe, axis: int, first: int, count: int, name: str) -> TensorRecipe:
    """Elements `first` to `first + count` of a tensor along an axis, as a tensor with the same values."""
    shape = (*tensor.shape[:axis], count, *tensor.shape[axis + 1 :])
    if tensor.values is not None:
        cut = (*(slice(None),) * axis, slice(first, first + count))
        return replace(tensor, shape=shape, values=tensor.values[cut])
    if tensor.joined is not None:
        return replace(tensor, shape=shape, joined=_joined(tensor.joined, axis, first, count, name))
    parts = []
    for law, start, lengths in tensor.parts:
        low, high = max(start[axis], first), min(start[axis] + lengths[axis], first + count)
        if low < high:
            place = (*start[:axis], low - first, *start[axis + 1 :])
            parts.append(Part(law, place, (*lengths[:axis], high - low, *lengths[axis + 1 :])))
    source = tensor.source or tensor.itself(name)
    at = list(source.start)
    at[source.axes[axis]] += first
    return replace(tensor, shape=shape, parts=tuple(parts), source=source._replace(start=tuple(at)))


def _joined(joined: Joined, axis: int, first: int, count: int, name: str) -> Joined:
    if joined.axis != axis:
        return joined._replace(tensors=tuple(_taken(t, axis, first, count, name) for t in joined.tensors))
    tensors: list[TensorRecipe] = []
    at = 0
    for tensor in joined.tensors:
        low, high = max(at, first), min(at + tensor.shape[axis], first + count)
        if low < high:
            tensors.append(_taken(tensor, axis, low - at, high - low, name))
        at += tensor.shape[axis]
    return joined._replace(tensors=tuple(tensors))
