"""Which parameter of a known module a tensor is, or is a part of, by its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from fanfill.messages import shown
from fanfill.torch.recipes import view_in
from fanfill.torch.sharding import is_dtensor
from fanfill.torch.tracing import Box
from fanfill.torch.walking import buffers, parameters

__all__ = ["Known", "Names", "checked_trees"]

Trees = Mapping[str, nn.Module]


class Known(NamedTuple):
    """A tensor that is known by name.

    Attributes
    ----------
    name
        The parameter's.
    part
        None if the tensor is the whole parameter. Else the same memory with the parameter's axes, or as a
        flat range of it.
    global_shape, offset
        Where the part lies in the parameter, as `fanfill.fill` takes it.
    """

    name: str
    part: torch.Tensor | None = None
    global_shape: tuple[int, ...] | None = None
    offset: tuple[int, ...] | int | None = None


class _Entry(NamedTuple):
    name: str
    tensor: torch.Tensor
    memory: int


def checked_trees(names: object) -> Trees:
    """The modules of ``names``, by prefix.

    Raises
    ------
    TypeError
        If it is neither a module nor a mapping from prefixes to modules.
    ValueError
        If two parameters have one name.
    """
    trees = {"": names} if isinstance(names, nn.Module) else names
    if not isinstance(trees, Mapping) or not all(
        isinstance(prefix, str) and isinstance(module, nn.Module) for prefix, module in trees.items()
    ):
        raise TypeError(
            "names: expected a torch.nn.Module, or a mapping from prefixes, such as 'layers.8.', to modules; "
            f"got {shown(names)}"
        )
    kept = dict(trees)
    first: dict[str, torch.Tensor] = {}
    for name, tensor in _walk(kept):
        if first.setdefault(name, tensor) is not tensor:
            raise ValueError(
                f"names: expected a name of its own for each parameter; got {shown(name)} for two, which "
                "would get the same values; give their modules other prefixes"
            )
    return kept


class Names:
    """The parameters and buffers of modules, by their memory."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._entries: dict[int, list[_Entry]] = {}

    def find(self, tensor: torch.Tensor) -> Known | None:
        """What a tensor is known as; None if no module has it."""
        memory = _memory(tensor)
        if memory is None:
            return None
        found = self._among(self._entries.get(memory, ()), tensor, memory)
        if found is None:
            # Parameters come and go: `to_empty` replaces them, and layers are added.
            self._look()
            found = self._among(self._entries.get(memory, ()), tensor, memory)
        return found

    def _among(self, entries: Iterable[_Entry], tensor: torch.Tensor, memory: int) -> Known | None:
        for entry in entries:
            if _memory(entry.tensor) == memory:
                known = _known(tensor, entry)
                if known is not None:
                    return known
        return None

    def _look(self) -> None:
        self._entries = {}
        for name, tensor in _walk(self._trees):
            memory = _memory(tensor)
            if memory is not None:
                self._entries.setdefault(memory, []).append(_Entry(name, tensor, memory))


def _walk(trees: Trees) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter once, by the first of its names, and each buffer."""
    for prefix, module in trees.items():
        for parameter in parameters(module, prefix):
            yield parameter.name, parameter.tensor
        yield from buffers(module, prefix).items()


def _memory(tensor: torch.Tensor) -> int | None:
    """What tells a tensor's memory from others; None if it has none of its own."""
    local = tensor._local_tensor if is_dtensor(tensor) else tensor
    try:
        return int(local.untyped_storage()._cdata) or None
    except (NotImplementedError, RuntimeError):
        return None


def _known(tensor: torch.Tensor, entry: _Entry) -> Known | None:
    """What a tensor in a parameter's memory is of it; None if it is no box of it."""
    name, whole, _ = entry
    if tensor is whole:
        return Known(name)
    if tensor.dtype != whole.dtype:
        return None
    if is_dtensor(tensor) or is_dtensor(whole):
        return Known(name) if _same_shards(tensor, whole) else None
    own, dense = Box.of(tensor), Box.of(whole)
    if own == dense:
        return Known(name)
    shape = tuple(whole.shape)
    if whole.is_contiguous() and tensor.is_contiguous():
        start = own.offset - dense.offset
        inside = start >= 0 and start + tensor.numel() <= whole.numel()
        return Known(name, tensor.detach().view(-1), shape, start) if inside else None
    place = view_in(own, dense)
    if place is None:
        return None
    # The parameter's axes, in its order; those that the view lacks have length 1.
    axes = sorted(place.axes)
    ordered = tensor.detach().permute([place.axes.index(axis) for axis in axes])
    part = ordered[tuple(slice(None) if axis in axes else None for axis in range(len(shape)))]
    return Known(name, part, shape, place.start)


def _same_shards(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are DTensors that lie alike in one memory."""
    if not (is_dtensor(one) and is_dtensor(other)):
        return False
    return bool(
        one.shape == other.shape
        and one.placements == other.placements
        and one.device_mesh == other.device_mesh
        and Box.of(one._local_tensor) == Box.of(other._local_tensor)
    )
