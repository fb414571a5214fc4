"""Zarr arrays of version 3, without a zarr library: a group, an array for each tensor, files of chunks.

Chunks are cut along the first axis and not compressed, so each is a contiguous part of its tensor, padded
with zeros at the end. A tensor of several chunks lies in shards: chunks in their order, then where each
begins and how long it is, then a CRC-32C of that. zarr-python and tensorstore read them; bfloat16 and float8
have tensorstore's names, which zarr-python refuses.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fanfill.checkpoints.planning import File, Placed, file_name
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.tensors import Joined, Part, TensorRecipe
from fanfill.dtypes import STORAGES, dtype_of

__all__ = ["described", "plan"]

CHUNK = 64 << 20  # bytes, at most, unless one row is larger
_ABSENT = 2**64 - 1  # as the place and the size of a chunk that lies wholly behind the array


class Cut(NamedTuple):
    """How a tensor is cut along its first axis: rows of a chunk, and chunks of a file."""

    rows: int
    chunks: int


def plan(recipe: ModelRecipe, seed: int, most: int) -> list[File]:
    """The files of all arrays, of at most so many bytes of values unless a chunk is larger."""
    files = []
    for name, tensor in recipe.tensors.items():
        folder = file_name(name)
        if not tensor.size:
            continue
        if not tensor.shape:
            files.append(File(f"{folder}/c", b"", (Placed(name, tensor, 0),), tensor.nbytes, seed))
            continue
        rows, chunks = cut = _cut(tensor, most)
        rest = "/0" * (len(tensor.shape) - 1)
        for number, first in enumerate(range(0, tensor.shape[0], rows * chunks)):
            count = min(rows * chunks, tensor.shape[0] - first)
            there = -(-count // rows)
            values = _padded(_taken(tensor, 0, first, count, name), there * rows)
            placed = [Placed(name, values, 0, first * prod(tensor.shape[1:]))]
            if chunks > 1:
                placed.append(Placed("", _index(cut, there, values.nbytes // there), values.nbytes))
            size = sum(each.tensor.nbytes for each in placed)
            files.append(File(f"{folder}/c/{number}{rest}", b"", tuple(placed), size, seed))
    return files


def _index(cut: Cut, there: int, size: int) -> TensorRecipe:
    """Place and size of each chunk of a shard, and their checksum."""
    places = np.full((cut.chunks, 2), _ABSENT, "<u8")
    places[:there, 0] = np.arange(there) * size
    places[:there, 1] = size
    data = places.tobytes()
    data += crc32c(data).to_bytes(4, "little")
    return TensorRecipe((len(data),), "uint8", values=np.frombuffer(data, np.uint8))


def crc32c(data: bytes) -> int:
    """The CRC of Castagnoli's polynomial, bit by bit: an index is short."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def described(recipe: ModelRecipe, most: int) -> dict[str, bytes]:
    """The ``zarr.json`` of each array and, last of all, of the group."""
    texts = {f"{file_name(name)}/zarr.json": _text(_array(t, most)) for name, t in recipe.tensors.items()}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    return {**texts, "zarr.json": _text(group)}


def _text(metadata: dict[str, Any]) -> bytes:
    return (json.dumps(metadata, indent=2) + "\n").encode()


def _array(tensor: TensorRecipe, most: int) -> dict[str, Any]:
    zero: Any = 0.0 if tensor.dtype in STORAGES else False if tensor.dtype == "bool" else 0
    rows, chunks = _cut(tensor, most)
    rest = [max(n, 1) for n in tensor.shape[1:]]
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if chunks > 1:
        inside = {
            "chunk_shape": [rows, *rest],
            "codecs": codecs,
            "index_codecs": [*codecs, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(tensor.shape),
        "data_type": tensor.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [rows * chunks, *rest] if tensor.shape else []},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": zero,
        "codecs": codecs,
        "attributes": {},
    }


def _cut(tensor: TensorRecipe, most: int) -> Cut:
    if not tensor.size or not tensor.shape:
        return Cut(1, 1)
    row = prod(tensor.shape[1:]) * dtype_of(tensor.dtype).itemsize
    rows = max(1, min(tensor.shape[0], CHUNK // row))
    return Cut(rows, max(1, min(-(-tensor.shape[0] // rows), most // (rows * row))))


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
