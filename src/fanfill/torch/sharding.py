"""Which part of its global tensor a torch tensor is: from DTensor placements to boxes, by arithmetic alone.

Every rank knows the global shape, the mesh and its own coordinate in it. These determine what its local
tensor holds, without any communication, and the global tensor is never made. torch's own helper returns only
the first offset of each axis; with a ``_StridedShard`` a shard may have several pieces, so they are computed
here.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["Flat", "Part", "Placed", "is_dtensor", "parts", "pieces", "placed"]

Piece = tuple[int, int]  # (start, length)


class Placed(NamedTuple):
    """A tensor's memory on this rank: the local tensor, the global shape, and each axis's pieces in order."""

    local: torch.Tensor
    global_shape: tuple[int, ...]
    axes: tuple[tuple[Piece, ...], ...]


class Flat(NamedTuple):
    """A rank's memory that holds a range of the global tensor's elements in C order, from ``start`` on."""

    local: torch.Tensor
    global_shape: tuple[int, ...]
    start: int


class Part(NamedTuple):
    """A box of a local tensor, and where it begins in the global one: an int in a flat range."""

    tensor: torch.Tensor
    offset: tuple[int, ...] | int


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a ``torch.distributed.tensor.DTensor``, as the parameters of FSDP2 are."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def placed(tensor: Any) -> Placed:
    """Where a tensor's local memory lies in the global tensor; a tensor that is not a DTensor is all of it.

    Raises
    ------
    ValueError
        If a placement is Partial: its ranks hold summands, and no rank holds a value.
    NotImplementedError
        If a placement is not Replicate, Shard or _StridedShard.
    """
    shape = tuple(tensor.shape)
    if not is_dtensor(tensor):
        return Placed(tensor, shape, _undivided(shape))
    for placement in tensor.placements:
        if placement.is_partial():
            raise ValueError(
                f"expected a DTensor whose values lie on its ranks; got placements {tensor.placements}, "
                "where Partial means a pending sum; redistribute it, or fill the local tensors"
            )
        if not (placement.is_replicate() or _shards(placement)):
            raise NotImplementedError(
                f"expected the placements Replicate, Shard and _StridedShard; got {placement!r}; "
                "redistribute the DTensor"
            )
    with torch.no_grad():  # to_local then returns the tensor itself, not a node of a graph
        local = tensor.to_local()
    if hasattr(local, "wait"):  # AsyncCollectiveTensor: a collective may still be writing to it
        local = local.wait()
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:  # this rank is not in the mesh, and holds nothing
        return Placed(local, shape, tuple(() for _ in shape))
    order = _order(tensor)
    sizes = tuple(tensor.device_mesh.shape)
    axes = tuple(
        pieces(n, [(sizes[k], coordinate[k], split) for k, split in order.get(axis, ())])
        for axis, n in enumerate(shape)
    )
    expected = tuple(sum(size for _, size in axis) for axis in axes)
    if tuple(local.shape) != expected:
        raise ValueError(
            f"expected a local tensor of shape {expected} for {tensor.placements} at {tuple(coordinate)} of "
            f"a mesh of {sizes}; got {tuple(local.shape)}; make the DTensor with distribute_tensor, or with "
            "from_local(shape=...)"
        )
    return Placed(local, shape, axes)


@functools.lru_cache(maxsize=1024)
def _undivided(shape: tuple[int, ...]) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of axes that no rank shares with others."""
    return tuple(((0, n),) for n in shape)


def parts(place: Placed | Flat, box: Sequence[slice] | None = None) -> Iterator[Part]:
    """The boxes of a local tensor, or their parts inside a global box; empty ones are left out."""
    local = place.local.detach()
    if isinstance(place, Flat):
        end = place.start + local.numel()
        for low, high in _runs(place.global_shape, box):
            first, last = max(low, place.start), min(high, end)
            if first < last:
                yield Part(local[first - place.start : last - place.start], first)
        return
    wanted = box or [slice(0, n) for n in place.global_shape]
    axes = [list(_inside(axis, part)) for axis, part in zip(place.axes, wanted, strict=True)]
    for choice in itertools.product(*axes):
        where = tuple(slice(start, start + length) for _, start, length in choice)
        # A 0-d tensor has no axis to slice.
        yield Part(local[where] if where else local, tuple(offset for offset, _, _ in choice))


def pieces(n: int, steps: Iterable[tuple[int, int, int]]) -> tuple[Piece, ...]:
    """The pieces of an axis of length n that remain after a sequence of shardings.

    Parameters
    ----------
    n
        The axis's length.
    steps
        (chunks, mine, split) for each sharding in turn. What is left is cut into `split` parts, each of these
        into `chunks`, and chunk number `mine` of each is kept. Shard has a split of 1. All cuts are those of
        torch.chunk: parts of ceil(length / count), and a shorter, possibly empty, one at the end.

    Examples
    --------
    >>> pieces(10, [(4, 1, 1)]), pieces(9, [(4, 0, 2)])  # Shard; the first rank of a _StridedShard of split 2
    (((3, 3),), ((0, 2), (5, 1)))
    """
    have: list[Piece] = [(0, n)]
    for chunks, mine, split in steps:
        length = sum(size for _, size in have)
        taken = []
        for low, high in _chunks(length, split):
            chunk = -(-(high - low) // chunks)
            taken.append((min(high, low + chunk * mine), min(high, low + chunk * (mine + 1))))
        have = _take(have, taken)
    return tuple(have)


def _chunks(length: int, count: int) -> Iterator[Piece]:
    size = -(-length // count)
    for number in range(count):
        yield min(length, size * number), min(length, size * (number + 1))


def _take(have: Iterable[Piece], taken: Iterable[Piece]) -> list[Piece]:
    """Ranges [low, high) of the concatenation of pieces, as pieces; neighbours are joined."""
    result: list[Piece] = []
    for low, high in taken:
        begin = 0
        for start, size in have:
            first, last = max(low, begin), min(high, begin + size)
            if first < last:
                at = start + first - begin
                if result and sum(result[-1]) == at:
                    result[-1] = (result[-1][0], result[-1][1] + last - first)
                else:
                    result.append((at, last - first))
            begin += size
    return result


def _inside(axis: tuple[Piece, ...], part: slice) -> Iterator[tuple[int, int, int]]:
    """(global offset, local start, length) of each piece's share of ``part``."""
    local = 0
    for start, size in axis:
        low, high = max(start, part.start), min(start + size, part.stop)
        if low < high:
            yield low, local + low - start, high - low
        local += size


def _runs(shape: tuple[int, ...], box: Sequence[slice] | None) -> Iterator[tuple[int, int]]:
    """The ranges of C-order indices that a box is, as long as they can be."""
    pitches = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    axes = box or [slice(0, n) for n in shape]
    # Behind the last axis of which the box is only a part, everything is consecutive.
    inner = max(
        (k for k, (part, n) in enumerate(zip(axes, shape, strict=True)) if part != slice(0, n)), default=0
    )
    outer = [range(part.start, part.stop) for part in axes[:inner]]
    low, high = (axes[inner].start, axes[inner].stop) if shape else (0, 1)
    pitch = pitches[inner] if shape else 1
    for choice in itertools.product(*outer):
        base = sum(i * step for i, step in zip(choice, pitches, strict=False))
        yield base + low * pitch, base + high * pitch


def _shards(placement: Any) -> bool:
    """Whether it is a Shard or _StridedShard, which is a subclass of Shard only in some releases of torch."""
    return bool(placement.is_shard()) or hasattr(placement, "split_factor")


def _order(tensor: Any) -> dict[int, list[tuple[int, int]]]:
    """For each sharded axis, the mesh axes that shard it, first to last, each with its split factor."""
    spec = getattr(tensor, "_spec", None)
    given = getattr(spec, "shard_order", None)  # newer releases: an order other than left to right
    if given:
        mesh_axes = [k for entry in given for k in entry.mesh_dims]
    else:
        mesh_axes = [k for k, placement in enumerate(tensor.placements) if _shards(placement)]
    order: dict[int, list[tuple[int, int]]] = {}
    for k in mesh_axes:
        placement = tensor.placements[k]
        split = int(getattr(placement, "split_factor", 1))
        order.setdefault(placement.dim % tensor.ndim, []).append((k, split))
    return order
