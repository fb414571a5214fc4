"""Folders of torch.distributed.checkpoint, as torchtitan's seed checkpoint is one, drawn piece by piece.

A file holds one piece, whole rows of a tensor, as DCP's own writer stores it: by `torch.save`. So pieces are
written in any order, by any number of hosts, and their index comes last.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import (
    _StorageInfo,
)  # private; DCP's reader wants this very class
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from fanfill.checkpoints.drawing import draw_box
from fanfill.checkpoints.planning import Difference
from fanfill.checkpoints.recipe import ModelRecipe, names_of
from fanfill.checkpoints.tensors import TensorRecipe
from fanfill.files import writer

__all__ = ["Index", "Piece", "plan"]

PIECE = 64 << 20
"""Bytes of values, and what is held at a time: larger ones save files, and load no faster."""

Done = Callable[[int], object]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A planned file: the box of a tensor that begins at `start`."""

    name: str
    index: MetadataIndex
    drawn_as: str
    tensor: TensorRecipe
    start: Shape
    shape: Shape
    seed: int

    @property
    def size(self) -> int:
        """Bytes of its values: those of the file around them are torch's affair."""
        return self.tensor.nbytes // max(1, self.tensor.size) * prod(self.shape)

    def is_complete(self, folder: Path) -> bool:
        """By its name: no unfinished file gets it, and the folder's stamp names recipe and seed."""
        return (folder / self.name).exists()

    def write(self, target: Path, threads: int, done: Done, is_there: Callable[[], bool]) -> bool:
        """Draw and save it, unless it is there."""

        def save(file: io.FileIO) -> None:
            torch.save(self._made(threads), file)

        return writer.complete(target, save, is_there, partial(done, self.size))

    def compare(self, folder: Path, threads: int, done: Done) -> Difference | None:
        """Draw it again, and find the first element that differs."""
        path = folder / self.name
        if not path.exists():
            return Difference(self.name, "", 0, "expected a file; there is none")
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()  # torch does not look at the checksums
            read = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds
            return Difference(self.name, "", 0, f"expected a tensor as torch.save writes it; {error}")
        made = self._made(threads)
        done(self.size)
        if (read.dtype, read.shape) != (made.dtype, made.shape):
            kinds = [f"{each.dtype} of shape {tuple(each.shape)}" for each in (made, read)]
            return Difference(self.name, "", 0, f"expected {kinds[0]}; got {kinds[1]}")
        differ = (_bytes(read) != _bytes(made)).nonzero()
        if len(differ):
            within = int(differ[0]) // made.element_size()
            return Difference(
                self.name, self.index.fqn, self._element(within), "expected another value; it differs"
            )
        if broken is not None:
            return Difference(self.name, "", 0, f"expected another checksum of its entry {broken}")
        return None

    def _made(self, threads: int) -> Any:
        made = torch.empty(self.shape, dtype=getattr(torch, self.tensor.dtype))
        draw_box(self.tensor, self.drawn_as, self.seed, made, self.start, threads)
        return made

    def _element(self, within: int) -> int:
        """The tensor's flat index of the piece's: pieces are whole rows."""
        return (self.start[0] if self.start else 0) * prod(self.tensor.shape[1:]) + within


def _bytes(tensor: Any) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def plan(recipe: ModelRecipe, seed: int) -> list[Piece]:
    """The files that hold a checked recipe's tensors, second names included; the same on every host."""
    return [
        Piece(f"__{number}_0.distcp", index, of, recipe.tensors[of], tuple(start), tuple(shape), seed)
        for number, (index, of, start, shape) in enumerate(_pieces(recipe))
    ]


def _pieces(recipe: ModelRecipe) -> Iterator[tuple[MetadataIndex, str, Shape, Shape]]:
    for name, of in names_of(recipe):
        tensor = recipe.tensors[of]
        if not tensor.shape:
            yield MetadataIndex(name, ()), of, (), ()
            continue
        rows, *row = tensor.shape
        step = max(1, PIECE // max(1, tensor.nbytes // max(rows, 1)))
        for first in range(0, max(rows, 1), step):
            start, shape = (first, *(0,) * len(row)), (min(step, rows - first), *row)
            yield MetadataIndex(name, start), of, start, shape


@dataclass(frozen=True)
class Index:
    """The file ``.metadata``, which DCP reads first."""

    recipe: ModelRecipe
    name: str = ".metadata"

    def write(self, folder: Path) -> bool:
        """Write it from complete files, unless it is there."""
        if (folder / self.name).exists():
            return False
        self._write(folder, folder)
        return True

    def compare(self, folder: Path) -> Difference | None:
        """Whether it is what this torch writes; a missing piece is that piece's affair.

        It is not read: it is a pickle, which runs what its author wished.
        """
        try:
            found = (folder / self.name).read_bytes()
        except FileNotFoundError:
            return Difference(self.name, "", 0, "expected a file; there is none")
        with tempfile.TemporaryDirectory() as elsewhere:
            try:
                self._write(folder, Path(elsewhere))
            except FileNotFoundError:
                return None
            made = (Path(elsewhere) / self.name).read_bytes()
        if found == made:
            return None
        what = f"expected the index as torch {torch.__version__} writes it; another release may write another"
        return Difference(self.name, "", 0, what)

    def _write(self, folder: Path, out: Path) -> None:
        """Write the index of a folder's files, whose sizes it holds, into another or the same."""
        chunks: dict[str, list[ChunkStorageMetadata]] = {}
        places = []
        for piece in plan(self.recipe, 0):
            chunk = ChunkStorageMetadata(torch.Size(piece.start), torch.Size(piece.shape))
            chunks.setdefault(piece.index.fqn, []).append(chunk)
            size = (folder / piece.name).stat().st_size
            places.append(WriteResult(piece.index, piece.size, _StorageInfo(piece.name, 0, size)))
        tensors = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=getattr(torch, self.recipe.tensors[of].dtype)),
                torch.Size(self.recipe.tensors[of].shape),
                chunks[name],
            )
            for name, of in names_of(self.recipe)
        }
        planner_data = {name: (name,) for name in tensors}
        _Writer(out).finish(Metadata(tensors, planner_data=planner_data), [places])


class _Writer(dcp.FileSystemWriter):  # type: ignore[misc]
    """DCP's own, without the path and the random number that it would write into the index."""

    def storage_meta(self) -> None:
        return None
