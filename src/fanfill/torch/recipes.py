"""Model recipes of torch modules: traced from their own code, and drawn into modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite, prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fanfill import initializers
from fanfill.checkpoints.drawing import draw_box
from fanfill.checkpoints.recipe import ModelRecipe, names_of
from fanfill.checkpoints.tensors import DTYPES, Number, Part, TensorRecipe
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.expressions import initializer_from
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.torch import laws
from fanfill.torch.drawing import locate
from fanfill.torch.sharding import parts, placed
from fanfill.torch.tensors import STORAGE_NAMES, has_no_values
from fanfill.torch.tracing import Box, Law, Record, tracing

__all__ = ["SMALL", "init_by_recipe", "is_module", "recipe", "retrying", "tensor_recipe", "view_in"]

SMALL = (1 << 16, 1 << 22, 1 << 62)
"""The largest tensors that are real, in elements: the first that leaves nothing unknown counts. Of 577 model
configurations of transformers 546 need the first, 22 the second and 9 the last."""

_MOST_REAL = 2 << 30  # bytes of a model that may be real as a whole

Corner = tuple[int, ...]
Rules = Mapping[str, Initializer | str]


def recipe(build: Callable[[], nn.Module], rules: Rules | None = None) -> ModelRecipe:
    """Trace how a module initialises itself: name -> shape, dtype and laws, without allocating it.

    The module is built on the meta device, and every in-place random function, copy, view and constant on the
    way is recorded. Small tensors are computed for real; what is no law, such as ``log(arange(n))``, is
    stored as values. Laws of torch's own layers are those that `init_module` has by default.

    Parameters
    ----------
    build : callable
        Returns the module, initialised. It should name no device.
    rules : mapping, optional
        From names, with ``*``, ``?`` and ``[...]`` as in `fnmatch`, to initializers, or texts of them, which
        replace what was traced: the first that fits counts.

    Returns
    -------
    ModelRecipe
        Of ``state_dict()``: parameters and persistent buffers. A tied tensor has the first of its names.

    Raises
    ------
    ValueError
        If what a tensor holds cannot be expressed; the message names it, and the operation.
    TypeError
        If ``build`` is not callable, or returns no module.

    Examples
    --------
    >>> import torch, fanfill.torch as ft
    >>> made = ft.recipe(lambda: torch.nn.Linear(4096, 4096, bias=False))
    >>> made.tensors["weight"].whole_law()
    uniform(-0.015625, 0.015625)
    """
    if not callable(build):
        raise TypeError(
            f"build: expected a callable that returns a torch.nn.Module; got {shown(build)}; pass "
            "lambda: Model(...), so that the trace sees it being made"
        )
    book = [
        (pattern, initializer_from(law) if isinstance(law, str) else law)
        for pattern, law in (rules or {}).items()
    ]

    def traced(small: int) -> ModelRecipe:
        with tracing(small) as record:
            model = build()
        if not isinstance(model, nn.Module):
            raise TypeError(f"build: expected a torch.nn.Module from it; got {shown(model)}")
        made = _of_model(model, record)
        return made.with_rules(book).check()

    found: ModelRecipe = retrying(traced, build)
    return found


def is_module(found: object) -> bool:
    """Whether it is a torch module."""
    return isinstance(found, nn.Module)


def retrying(traced: Callable[[int], Any], build: Callable[[], nn.Module]) -> Any:
    """The result of a trace with the smallest real tensors that leave nothing unknown."""
    failure: Exception | None = None
    for small in SMALL:
        if failure is not None and small == SMALL[-1] and _size(build) > _MOST_REAL:
            break
        try:
            return traced(small)
        # Real and meta tensors in one operation, or the values of a meta one: torch's errors.
        except (NotImplementedError, RuntimeError, ValueError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _size(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        model = build()
    return sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor))


class Key(NamedTuple):
    """What makes two names one tensor."""

    storage: int
    box: Box


def _of_model(model: nn.Module, record: Record) -> ModelRecipe:
    tensors: dict[str, TensorRecipe] = {}
    ties: dict[str, str] = {}
    first: dict[Key, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"expected tensors in the model's state_dict; got {shown(tensor)} for {name!r}")
        key = Key(tensor.untyped_storage()._cdata, Box.of(tensor))
        if key in first and tensor.numel():
            ties[name] = first[key]
            continue
        first[key] = name
        tensors[name] = tensor_recipe(name, tensor, record)
    return ModelRecipe(tensors, ties)


def tensor_recipe(name: str, tensor: torch.Tensor, record: Record) -> TensorRecipe:
    """What a parameter or buffer draws; its values, if it is a real one without a law."""
    dtype, shape = dtype_name(name, tensor), tuple(tensor.shape)
    boxes, why = _parts(tensor, dtype, record)
    if not why:
        return TensorRecipe(shape, dtype, boxes)
    if not tensor.is_meta:
        return TensorRecipe(shape, dtype, values=values_of(tensor))
    return TensorRecipe(shape, dtype, unknown=why)


def _parts(tensor: torch.Tensor, dtype: str, record: Record) -> tuple[tuple[Part, ...], str]:
    """The laws of a tensor's boxes; or why there are none."""
    held = record.held.get(tensor.untyped_storage()._cdata)
    if held is None:
        return (), "made outside the trace"
    own, shape = Box.of(tensor), tuple(tensor.shape)
    found: list[tuple[Law, Corner, Corner]] = []
    for box, law in held.pieces:
        if box.shape == (held.size,) or view_in(own, box) is not None:
            found = [(law, (0,) * len(shape), shape)]
        elif box.meets(own):
            place = view_in(box, own)
            if place is None:
                return (), f"{law.kind} in a part of it that is no box"
            found.append((law, place.start, place.lengths))
    made = []
    for number, (traced, start, lengths) in enumerate(found):
        law = traced.of(own) if lengths == shape else traced.of(Box(0, (), ()))
        if law.known:
            made.append(Part(as_initializer(law, dtype), start, lengths))
        elif not _covered(start, lengths, [each[1:] for each in found[number + 1 :]]):
            return (), law.args[0] if law.args else "memory that nothing was written to"
    return tuple(made), "" if made or not tensor.numel() else "memory that nothing was written to"


def _covered(start: Corner, shape: Corner, later: Sequence[tuple[Corner, Corner]]) -> bool:
    """Whether boxes cover another; those that overlap are taken not to."""
    volume = 0
    for number, (corner, lengths) in enumerate(later):
        if any(_common(corner, lengths, *other) for other in later[:number]):
            return False
        volume += _common(start, shape, corner, lengths)
    return volume == prod(shape)


def _common(a: Corner, n: Corner, b: Corner, m: Corner) -> int:
    """How many elements two boxes share."""
    return prod(max(0, min(i + k, j + h) - max(i, j)) for i, k, j, h in zip(a, n, b, m, strict=True))


class Place(NamedTuple):
    """A view as a box of a dense tensor: where it begins, how long it is along each of the tensor's axes, and
    which of these is which axis of the view.
    """

    start: Corner
    lengths: Corner
    axes: Corner


def view_in(view: Box, dense: Box) -> Place | None:
    """The box of a dense tensor that a view is, if it is one; axes may be in any order, or left out."""
    left, start = view.offset - dense.offset, []
    for n, step in zip(dense.shape, dense.strides, strict=True):
        at = left // step if n > 1 and step else 0
        start.append(at)
        left -= at * step
    axes: list[int] = []
    lengths = [1] * len(start)
    for n, step in zip(view.shape, view.strides, strict=True):
        if n == 1:
            free = [d for d, m in enumerate(dense.shape) if d not in axes and m == 1]
            same = [d for d, t in enumerate(dense.strides) if d not in axes and t == step]
            candidates = [*same, *free]
        else:
            candidates = [
                d for d, t in enumerate(dense.strides) if t == step and dense.shape[d] > 1 and d not in axes
            ]
        if not candidates:
            return None
        axes.append(candidates[0])
        lengths[candidates[0]] = n
    inside = all(a >= 0 and a + n <= m for a, n, m in zip(start, lengths, dense.shape, strict=True))
    return Place(tuple(start), tuple(lengths), tuple(axes)) if inside and not left else None


def as_initializer(law: Law, dtype: str) -> Initializer | Number:
    """A traced law as an initializer, or as a number where none has it.

    A uniform on an interval about zero is closed, as those of `init_module`'s defaults are; any other leaves
    its upper end out, as torch does.
    """
    if law.kind == "constant":
        (value,) = law.args
        return initializers.constant(value) if dtype in STORAGES and isfinite(value) else value
    if law.kind == "matrix":
        made: Initializer = law.args[0]
        return made
    if law.kind == "normal":
        return initializers.normal(*law.args)
    if law.kind == "uniform":
        low, high = law.args
        if low == high:
            return initializers.constant(low)
        return initializers.uniform(low, high, endpoint=low == -high)
    mean, std, low, high = law.args
    return laws.trunc_normal(mean, std, low, high, getattr(torch, dtype))


def dtype_name(name: str, tensor: torch.Tensor) -> str:
    """The name of a tensor's dtype, if a recipe can have it."""
    found = str(tensor.dtype).removeprefix("torch.")
    if found not in DTYPES:
        raise ValueError(
            f"tensor {name!r}: expected a dtype among {', '.join(DTYPES)}; got {found}; convert it in "
            "the module"
        )
    return found


def values_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A real tensor's values as an array of the dtype of the same name."""
    found = tensor.detach().contiguous()
    bits = found.reshape(-1).view(torch.uint8).numpy().copy()
    kind = dtype_of(str(found.dtype).removeprefix("torch."))
    values: np.ndarray[Any, Any] = bits.view(kind).reshape(tuple(found.shape))
    return values


def init_by_recipe(
    parameters: Mapping[str, torch.Tensor],
    buffers: Mapping[str, torch.Tensor],
    made: ModelRecipe,
    seed: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Fill a module's tensors by a recipe, each rank its own shards; buffers that the recipe lacks are
    left alone.

    Raises
    ------
    ValueError
        If a name or a shape differs, or the recipe is not complete. Nothing is written then.
    NotImplementedError, RuntimeError
        As `init_module`.
    """
    made.check()
    known = dict(names_of(made))
    given = {**parameters, **{name: buffer for name, buffer in buffers.items() if name in known}}
    _same_names("parameters of the model that the recipe has", parameters.keys() - known.keys())
    reached = {known[name] for name in given}
    _same_names("tensors of the recipe that the model has", made.tensors.keys() - reached)
    tasks = []
    for name, tensor in given.items():
        entry = made.tensors[known[name]]
        if tuple(tensor.shape) != entry.shape:
            raise ValueError(
                f"rules: expected shape {entry.shape} for {name!r}, as in the recipe; got "
                f"{tuple(tensor.shape)}"
            )
        if has_no_values(tensor):
            continue
        if tensor.dtype in STORAGE_NAMES:
            where = locate(tensor)
            if where is None:
                continue
        else:
            where = placed(tensor)
        tasks.append((known[name], tensor, entry, where))
    total = sum(part.tensor.numel() for *_, where in tasks for part in parts(where))
    done = 0
    for name, tensor, entry, where in tasks:
        for part in parts(where):
            assert isinstance(part.offset, tuple)  # of a shape that is the recipe's, not of a flat range
            draw_box(entry, name, seed, part.tensor, part.offset, None)
            done += part.tensor.numel()
            if progress is not None and done < total:
                progress(done, total)
        if where.local is not tensor:
            torch.autograd.graph.increment_version(tensor)
    if progress is not None:
        progress(total, total)


def _same_names(expected: str, others: Collection[str]) -> None:
    if others:
        listed = ", ".join(sorted(others)[:5]) + ", ..." * (len(others) > 5)
        raise ValueError(
            f"rules: expected only {expected}; got also {listed}; trace the recipe from the same model"
        )
