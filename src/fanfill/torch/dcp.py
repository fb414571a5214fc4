"""Folders of torch.distributed.checkpoint, as torchtitan's seed checkpoint is one, drawn piece by piece.

The state dict stays on the meta device. The planner cuts its tensors into boxes of rows and draws each when
the writer asks for it. With ``single_file_per_rank=False`` the writer keeps one piece at a time; otherwise it
would keep all that go into one file until the file ends.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from fanfill.checkpoints.drawing import draw_box
from fanfill.checkpoints.recipe import ModelRecipe, names_of
from fanfill.fill import key_of

__all__ = ["write"]

PIECE = 64 << 20  # bytes: what is held at a time, by each of the writer's threads

Progress = Callable[[int, int], object]


def write(
    recipe: ModelRecipe,
    path: str | os.PathLike[str],
    seed: int,
    *,
    part: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> list[str]:
    """Write a folder that `torch.distributed.checkpoint.load` loads into tensors and DTensors of any mesh.

    Raises
    ------
    ValueError
        As `ModelRecipe.check`; a share, for one process writes all of such a folder.
    """
    if part != (1, 1):
        raise ValueError(f"part: expected 1/1 with dcp, which one process writes; got {part[0]}/{part[1]}")
    recipe.check()
    key_of(seed, 0)  # refuses a wrong seed
    state = {
        name: torch.empty(
            recipe.tensors[of].shape, dtype=getattr(torch, recipe.tensors[of].dtype), device="meta"
        )
        for name, of in names_of(recipe)
    }
    planner = _Planner(recipe, seed, progress)
    writer = dcp.FileSystemWriter(path, single_file_per_rank=False, thread_count=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is what is meant
        dcp.save(state, storage_writer=writer, planner=planner, no_dist=True)
    return sorted(each.name for each in Path(path).iterdir())


class _Planner(DefaultSavePlanner):  # type: ignore[misc]
    """Cuts tensors into pieces of whole rows, and draws them."""

    def __init__(self, recipe: ModelRecipe, seed: int, progress: Progress | None) -> None:
        super().__init__()
        self.recipe, self.seed, self.progress = recipe, seed, progress
        self.names: Mapping[str, str] = dict(names_of(recipe))
        self.total = sum(recipe.tensors[of].nbytes for of in self.names.values())
        self.done = 0

    def create_local_plan(self) -> SavePlan:
        items = []
        for name, tensor in self.state_dict.items():
            rows = tensor.shape[0] if tensor.dim() else 1
            step = max(1, PIECE // max(1, tensor.nbytes // max(rows, 1)))
            for first in range(0, max(rows, 1), step):
                start = torch.Size([first, *(0,) * (tensor.dim() - 1)] if tensor.dim() else ())
                size = torch.Size([min(step, rows - first), *tensor.shape[1:]] if tensor.dim() else ())
                chunk = ChunkStorageMetadata(start, size)
                data = TensorWriteData(chunk, TensorProperties(dtype=tensor.dtype), tensor.shape)
                items.append(WriteItem(MetadataIndex(name, start), WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def resolve_data(self, item: WriteItem) -> Any:
        data = item.tensor_data
        piece = torch.empty(data.chunk.sizes, dtype=data.properties.dtype)
        name = self.names[item.index.fqn]
        draw_box(self.recipe.tensors[name], name, self.seed, piece, tuple(data.chunk.offsets), None)
        self.done += piece.nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)
        return piece
