"""Makes a tensor's values from its recipe: a flat range of them, or whole buffers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill.checkpoints.recipe import ModelRecipe, names_of
from fanfill.checkpoints.tensors import Number, TensorRecipe
from fanfill.cpu.buffers import assert_fillable
from fanfill.cpu.threads import get_threads
from fanfill.fill import as_memory, fill
from fanfill.initializers import Initializer
from fanfill.job import Job
from fanfill.messages import shown, type_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[Any]

__all__ = ["boxes", "draw_range", "fill_buffers"]

Shape = tuple[int, ...]
Box = tuple[Shape, Shape]  # start and shape


def draw_range(
    tensor: TensorRecipe, name: str, seed: int, first: int, out: Values, *, threads: int | None = 1
) -> None:
    """Fill `out`, a contiguous 1-D array of the tensor's dtype, with the flat range that begins at
    `first`.
    """
    if tensor.values is not None:
        out[...] = tensor.values.reshape(-1)[first : first + out.size]
        return
    law = tensor.whole_law()
    if law is not None and tensor.source is None:
        if isinstance(law, Initializer):
            fill(out, law, seed=seed, name=name, global_shape=tensor.shape, offset=first, threads=threads)
        else:
            out[...] = law
        return
    at = 0
    for start, shape in boxes(tensor.shape, first, out.size):
        view = out[at : at + prod(shape)].reshape(shape)
        draw_box(tensor, name, seed, view, start, threads)
        at += view.size


def boxes(shape: Shape, first: int, size: int) -> Iterator[Box]:
    """Cut the flat C-order range of `size` elements from `first` on into boxes, each contiguous, in order.

    Rows that the range holds whole are one box, so there are at most two for each axis.
    """
    if size <= 0:
        return
    if not shape:
        yield (), ()
        return
    row = prod(shape[1:])
    index, within = divmod(first, row)
    if within or size < row:  # a part of one row, and then the rest
        head = min(size, row - within)
        for start, box in boxes(shape[1:], within, head):
            yield (index, *start), (1, *box)
        yield from boxes(shape, first + head, size - head)
        return
    rows = size // row
    yield (index, *(0,) * (len(shape) - 1)), (rows, *shape[1:])
    yield from boxes(shape, first + rows * row, size - rows * row)


def draw_box(
    tensor: TensorRecipe, name: str, seed: int, view: Any, start: Shape, threads: int | None
) -> None:
    """Fill `view`, the box of the tensor that begins at `start`."""
    if tensor.joined is not None:
        axis, tensors = tensor.joined
        at = 0
        for each in tensors:
            place = (*start[:axis], max(start[axis] - at, 0), *start[axis + 1 :])
            low, high = max(at, start[axis]), min(at + each.shape[axis], start[axis] + view.shape[axis])
            if low < high:
                cut = (*(slice(None),) * axis, slice(low - start[axis], high - start[axis]))
                draw_box(each, name, seed, view[cut], place, threads)
            at += each.shape[axis]
        return
    if tensor.values is not None:
        inside = tuple(slice(a, a + n) for a, n in zip(start, view.shape, strict=True))
        assign(view, tensor.values[inside])
        return
    for law, corner, shape in tensor.parts:
        inner = tuple(map(max, start, corner))
        outer = tuple(min(a + n, b + m) for a, n, b, m in zip(start, view.shape, corner, shape, strict=True))
        if all(a < b for a, b in zip(inner, outer, strict=True)):
            cut = tuple(slice(a - s, b - s) for a, b, s in zip(inner, outer, start, strict=True))
            draw_law(tensor, law, name, seed, view[cut] if cut else view, inner, threads)


def draw_law(
    tensor: TensorRecipe,
    law: Initializer | Number,
    name: str,
    seed: int,
    view: Any,
    start: Shape,
    threads: int | None,
) -> None:
    """Fill `view`, the box of the tensor that begins at `start`, with one law."""
    if not isinstance(law, Initializer):
        view[...] = law
        return
    view, name, whole, offset = _located(tensor, name, view, start)
    fill(view, law, seed=seed, name=name, global_shape=whole, offset=offset, threads=threads)


def _located(tensor: TensorRecipe, name: str, view: Any, start: Shape) -> tuple[Any, str, Shape, Shape]:
    """The box of the tensor that begins at `start`, as one of what is drawn: view, name, shape and offset."""
    source = tensor.source
    if source is None:
        return view, name, tensor.shape, start
    # The view with the parameter's axes, in the parameter's order; those that it lacks have length 1.
    offset = list(source.start)
    for axis, at in zip(source.axes, start, strict=True):
        offset[axis] += at
    lengths = dict(zip(source.axes, range(len(start)), strict=True))
    order = [lengths[axis] for axis in sorted(source.axes)]
    view = view.permute(order) if hasattr(view, "permute") else view.transpose(order)
    view = view[tuple(slice(None) if axis in lengths else None for axis in range(len(source.shape)))]
    return view, source.name, source.shape, tuple(offset)


def assign(view: Any, values: Values) -> None:
    """Put literal values into an array or a torch tensor: converted to its dtype, on its device."""
    if isinstance(view, np.ndarray):
        view[...] = values
        return
    torch: Any = sys.modules["torch"]
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    given = torch.from_numpy(bits.copy()).view(getattr(torch, values.dtype.name)).reshape(values.shape)
    view.copy_(given)


def _assert_fillable(tensor: TensorRecipe, view: Any) -> None:
    """Raise as `fill` would; where nothing is drawn, a buffer need only be writable."""
    law = next(_drawn(tensor), None)
    if law is not None:
        as_memory(view, law, None)
    elif isinstance(view, np.ndarray):
        assert_fillable(view)


def _drawn(tensor: TensorRecipe) -> Iterator[Initializer]:
    """The initializers that a tensor's values are drawn by."""
    yield from (law for law, *_ in tensor.parts if isinstance(law, Initializer))
    for each in tensor.joined.tensors if tensor.joined is not None else ():
        yield from _drawn(each)


def fill_buffers(
    recipe: ModelRecipe,
    buffers: Mapping[str, Any],
    seed: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """`ModelRecipe.fill`."""
    recipe.check()
    job = Job(seed, None)
    entries: list[tuple[Any, ...]] = []
    whose: list[str] = []
    rest: list[tuple[TensorRecipe, str, Any, Shape]] = []  # what no single law of an initializer draws
    known = dict(names_of(recipe))
    for name, buffer in buffers.items():
        if name not in known:
            raise ValueError(f"buffers: expected names of the recipe; got {shown(name)}, which it lacks")
        torch: Any = sys.modules.get("torch")
        if not (isinstance(buffer, np.ndarray) or (torch is not None and isinstance(buffer, torch.Tensor))):
            raise TypeError(
                f"buffers: expected arrays or torch tensors; got {type_name(buffer)} for {shown(name)}"
            )
        shape = tuple(buffer.shape)
        if shape != recipe.tensors[known[name]].shape:
            raise ValueError(
                f"buffers: expected shape {recipe.tensors[known[name]].shape} for {shown(name)}; got {shape}"
            )
        tensor = recipe.tensors[known[name]]
        view = buffer.detach() if hasattr(buffer, "detach") else buffer
        law, start = tensor.whole_law(), (0,) * len(shape)
        try:
            if isinstance(law, Initializer):
                view, drawn_name, whole, offset = _located(tensor, known[name], view, start)
                entries.append((view, law, drawn_name, whole, offset))
                whose.append(name)
            else:
                _assert_fillable(tensor, view)
                rest.append((tensor, known[name], view, start))
        except (TypeError, ValueError) as error:
            raise type(error)(f"buffers: {shown(name)}: {error}") from error
    job.extend(entries, lambda number: f"buffers: {shown(whose[number])}: ")
    total = sum(recipe.tensors[known[name]].size for name in buffers)
    done = total - sum(tensor.size for tensor, *_ in rest)
    job.run(get_threads(), None if progress is None else lambda now, _: progress(now, total))
    for tensor, name, view, start in rest:
        draw_box(tensor, name, seed, view, start, None)
        done += tensor.size
        if progress is not None:
            progress(done, total)
