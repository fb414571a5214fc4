"""Planned files: which tensor lies where, to the byte. Pure, and the same on every host.

`content` is what writing, resuming and verifying are loops over: the bytes of any part of a planned file.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill.checkpoints.drawing import draw_range
from fanfill.checkpoints.recipe import TensorRecipe
from fanfill.dtypes import dtype_of
from fanfill.files.npy import header_bytes, stored_dtype
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.checkpoints.recipe import ModelRecipe

__all__ = ["File", "Placed", "content", "file_name", "npy"]


class Placed(NamedTuple):
    """A tensor and the byte of the file at which it begins: a multiple of its items' size."""

    name: str
    tensor: TensorRecipe
    start: int


@dataclass(frozen=True)
class File:
    """A planned file: its header, and the tensors behind it in the order of their places."""

    name: str
    header: bytes
    tensors: tuple[Placed, ...]
    size: int
    seed: int

    @cached_property
    def starts(self) -> list[int]:
        return [placed.start for placed in self.tensors]

    def at(self, byte: int) -> tuple[str, int] | None:
        """The tensor that a byte belongs to, and the element; None for a byte of the header."""
        number = bisect_right(self.starts, byte) - 1
        while number >= 0 and self.tensors[number].tensor.nbytes == 0:
            number -= 1  # an empty tensor has no bytes
        if number < 0:
            return None
        name, tensor, start = self.tensors[number]
        return name, (byte - start) // dtype_of(tensor.dtype).itemsize


def content(file: File, first: int, buffer: np.ndarray[Any, Any]) -> None:
    """Make the bytes of a file that begin at `first`, a multiple of 8, as many as `buffer`, of uint8,
    holds.
    """
    last = first + buffer.size
    if first < len(file.header):
        piece = file.header[first:last]
        buffer[: len(piece)] = np.frombuffer(piece, np.uint8)
    number = max(bisect_right(file.starts, first) - 1, 0)
    for name, tensor, start in file.tensors[number:]:
        if start >= last:
            break
        low, high = max(first, start), min(last, start + tensor.nbytes)
        if low < high:
            dtype = dtype_of(tensor.dtype)
            out = buffer[low - first : high - first].view(dtype)
            draw_range(tensor, name, file.seed, (low - start) // dtype.itemsize, out)


def file_name(name: str) -> str:
    """A tensor's name as one of a file or folder: a recipe must not lead to any other place.

    Raises
    ------
    ValueError
        An empty name, or one that begins with a dot.
    """
    found = name.replace("/", ".").replace("\\", ".")
    if not found or found.startswith(".") or "\0" in found:
        raise ValueError(f"expected tensor names that can name files; got {shown(name)}; write safetensors")
    return found


def npy(recipe: ModelRecipe, seed: int) -> list[File]:
    """A ``.npy`` file for each tensor, by its name; a slash in one becomes a dot."""
    files = []
    for name, tensor in recipe.tensors.items():
        header = header_bytes(tensor.shape, stored_dtype(dtype_of(tensor.dtype)))
        placed = Placed(name, tensor, len(header))
        size = len(header) + tensor.nbytes
        files.append(File(f"{file_name(name)}.npy", header, (placed,), size, seed))
    return files
