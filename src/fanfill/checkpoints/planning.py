"""Planned files: which tensor lies where, to the byte. Pure, and the same on every host.

`content` is what writing, resuming and verifying are loops over: the bytes of any part of a planned file.
"""

from __future__ import annotations

import functools
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fanfill.checkpoints.drawing import draw_range
from fanfill.checkpoints.tensors import TensorRecipe
from fanfill.dtypes import dtype_of
from fanfill.files import writer
from fanfill.files.npy import header_bytes, stored_dtype
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.checkpoints.recipe import ModelRecipe

__all__ = ["Difference", "File", "Index", "Placed", "Planned", "content", "file_name", "npy"]

PIECE = 1 << 18  # bytes that are compared at a time
Done = Callable[[int], object]


class Difference(NamedTuple):
    """Where a file first differs from what was planned. The tensor is empty if it is not in one's values."""

    file: str
    tensor: str
    element: int
    what: str

    def __str__(self) -> str:
        place = f"tensor {self.tensor}, element {self.element}: " if self.tensor else ""
        return f"{self.file}: {place}{self.what}"


class Planned(Protocol):
    """A file that a checkpoint will have, made whole or not at all."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes, as progress counts them."""
        ...

    def is_complete(self, folder: Path) -> bool:
        """Whether it was written before."""
        ...

    def write(self, target: Path, threads: int, done: Done, is_there: Callable[[], bool]) -> bool:
        """Write it, unless it is there once it can be locked; whether this call wrote it."""
        ...

    def compare(self, folder: Path, threads: int, done: Done) -> Difference | None:
        """Make it again, and find the first difference."""
        ...


class Index(Protocol):
    """A file that says where the others keep what."""

    @property
    def name(self) -> str: ...

    def write(self, folder: Path) -> bool:
        """Write it from complete files, unless it is there; whether this call wrote it."""
        ...

    def compare(self, folder: Path) -> Difference | None: ...


class Placed(NamedTuple):
    """A tensor and the byte of the file at which it begins: a multiple of its items' size.

    A part of one has the number of its first element in the whole; what is no tensor has no name.
    """

    name: str
    tensor: TensorRecipe
    start: int
    first: int = 0


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
        name, tensor, start, first = self.tensors[number]
        return name, first + (byte - start) // dtype_of(tensor.dtype).itemsize

    def is_complete(self, folder: Path) -> bool:
        """By its size, and by its header, which names seed, stream and recipe.

        A file without such a header is complete if it has the name: no unfinished file ever gets one.
        """
        try:
            with open(folder / self.name, "rb") as found:
                size = os.fstat(found.fileno()).st_size
                return size == self.size and found.read(len(self.header)) == self.header
        except FileNotFoundError:
            return False

    def write(self, target: Path, threads: int, done: Done, is_there: Callable[[], bool]) -> bool:
        """As `Planned`; each thread holds a unit of it."""
        make = functools.partial(content, self)
        return writer.create(target, self.size, make, threads=threads, done=done, is_there=is_there)

    def compare(self, folder: Path, threads: int, done: Done) -> Difference | None:
        """As `Planned`: each unit is read once and made once."""
        try:
            opened = open(folder / self.name, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return Difference(self.name, "", 0, "expected a file; there is none")
        wrong: list[int] = []
        with opened:
            size = os.fstat(opened.fileno()).st_size
            if size != self.size:
                return Difference(self.name, "", 0, f"expected {self.size:,} bytes; got {size:,}")

            def worker() -> Callable[[int, int], int]:
                made, read = (np.frombuffer(mmap.mmap(-1, writer.UNIT), np.uint8) for _ in range(2))

                def compare(first: int, size: int) -> int:
                    if wrong and min(wrong) < first:
                        return size
                    content(self, first, made[:size])
                    writer.read_at(opened.fileno(), read[:size].data, first)
                    at = first_difference(made[:size], read[:size])
                    if at is not None:
                        wrong.append(first + at)
                    return size

                return compare

            writer.for_units(0, self.size, worker, threads=threads, done=done)
        if not wrong:
            return None
        place = self.at(min(wrong))
        if place is None:
            return Difference(self.name, "", 0, f"expected another header; it differs at byte {min(wrong)}")
        return Difference(self.name, *place, f"expected another value; it differs at byte {min(wrong)}")


def first_difference(made: np.ndarray[Any, Any], read: np.ndarray[Any, Any]) -> int | None:
    """The first byte that differs in two equally long arrays; in pieces, so that NumPy's result is small."""
    for start in range(0, made.size, PIECE):
        differ = made[start : start + PIECE] != read[start : start + PIECE]
        if differ.any():
            return start + int(differ.argmax())
    return None


def content(file: File, first: int, buffer: np.ndarray[Any, Any]) -> None:
    """Make the bytes of a file that begin at `first`, a multiple of 8, as many as `buffer`, of uint8,
    holds.
    """
    last = first + buffer.size
    if first < len(file.header):
        piece = file.header[first:last]
        buffer[: len(piece)] = np.frombuffer(piece, np.uint8)
    number = max(bisect_right(file.starts, first) - 1, 0)
    for name, tensor, start, _ in file.tensors[number:]:
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
