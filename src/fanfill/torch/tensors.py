"""What a torch tensor is to a fill: memory, a shape without values, or torch's kind of error.

A tensor that is filled is seen by NumPy on its own memory, never through a copy. Autograd is told before the
first value is written: writing through a pointer does not move a tensor's version counter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parametrize

from fanfill.cpu.buffers import assert_stored, mark_written, overlaps, torch_lanes
from fanfill.cuda.buffers import as_storage
from fanfill.dtypes import STORAGES
from fanfill.fill import fill_storage
from fanfill.streams import key_of
from fanfill.structures import HOST_ALONE

if TYPE_CHECKING:
    from fanfill.initializers import Initializer

Shape = int | Iterable[int]  # of a global tensor, or an offset in it

__all__ = [
    "STORAGE_NAMES",
    "Shape",
    "are_cached",
    "assert_fillable",
    "fill_by_copy",
    "fill_memory",
    "has_no_values",
    "is_leaf",
    "is_plain",
]

# Those of fanfill's dtypes that this torch has.
STORAGE_NAMES: dict[torch.dtype, str] = {
    getattr(torch, name): name for name in STORAGES if hasattr(torch, name)
}

_OWN_DISPATCH = torch.Tensor.__torch_dispatch__


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory holds its values; a subclass with a dispatch of its own may mean others."""
    return bool(type(tensor).__torch_dispatch__ is _OWN_DISPATCH)


def has_no_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the meta device, or a fake one: a shape without memory."""
    if tensor.is_meta:
        return True
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return fakes is not None and isinstance(tensor, fakes.FakeTensor)


def assert_fillable(tensor: torch.Tensor) -> None:
    """Raise, as torch's random in-place functions do, unless `fill_memory` can fill the tensor.

    Raises
    ------
    NotImplementedError
        Not of a floating-point type that fanfill draws; sparse, nested, quantised, lazily negated; a subclass
        that dispatches by itself; on a device that is neither CPU nor CUDA.
    RuntimeError
        Elements that share memory, or that the storage does not hold; an inference tensor outside inference
        mode.
    """
    if tensor.dtype not in STORAGE_NAMES:
        _refuse_dtype(tensor.dtype)
    if not is_plain(tensor):
        raise NotImplementedError(
            f"expected a torch.Tensor, a Parameter or a DTensor; got a {type(tensor).__qualname__}, whose "
            "values only its own dispatch knows; fill the tensors that it is made of, or use torch.nn.init"
        )
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise NotImplementedError(
            f"expected a dense tensor, of layout torch.strided; got one of layout {kind}; fill a dense "
            "tensor and convert it"
        )
    if not (tensor.is_cpu or tensor.is_cuda):
        raise NotImplementedError(
            f"expected a tensor on the CPU or on a CUDA device; got one on {tensor.device}; fill it on the "
            "CPU and move it, or use torch.nn.init"
        )
    if tensor.is_neg():
        raise NotImplementedError(
            "expected a tensor that stores its own values; got a lazily negated view (Tensor.is_neg()); "
            "fill the tensor that it is a view of, or its resolve_neg()"
        )
    if not is_leaf(tensor):
        _assert_kept(tensor)
    elif are_cached():
        _assert_not_cached(tensor)
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        _inference_tensor().zero_()  # raises torch's own error
    try:
        assert_stored(tensor)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    if not tensor.is_contiguous():
        size = tensor.element_size()
        if overlaps(tuple(tensor.shape), tuple(size * step for step in tensor.stride()), size):
            raise RuntimeError(
                "unsupported operation: more than one element of the written-to tensor refers to a single "
                "memory location. Please clone() the tensor before performing the operation."
            )


def fill_memory(
    tensor: torch.Tensor,
    law: Initializer,
    seed: int,
    name: str | int,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> Any:
    """Fill a tensor that `assert_fillable` has passed; the arguments are those of `fanfill.fill`.

    Returns what `fanfill.fill.fill_storage` does.

    Raises
    ------
    ValueError, TypeError
        As `fanfill.fill`, before anything is written.
    """
    if tensor.is_cuda and law.distribution in HOST_ALONE:
        fill_by_copy(tensor, law, seed, name, global_shape, offset)
        return None
    # detach: shares memory and version counter, and a leaf that requires grad has no numpy() of its own.
    memory = as_storage(tensor.detach()) if tensor.is_cuda else torch_lanes(tensor)
    return fill_storage(
        memory,
        law,
        key_of(seed, name),
        global_shape=global_shape,
        offset=offset,
        written=partial(mark_written, tensor),
    )


def fill_by_copy(
    tensor: torch.Tensor,
    law: Initializer,
    seed: int,
    name: str | int,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> None:
    """Fill a tensor on a device with what is computed on the CPU, as `fill_memory`; it waits for the copy."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    fill_memory(made, law, seed, name, global_shape, offset)
    with torch.no_grad():
        tensor.copy_(made)


def is_leaf(tensor: torch.Tensor) -> bool:
    """Whether autograd has not computed the tensor."""
    try:
        return bool(tensor.is_leaf)
    except RuntimeError:  # of a view made under no_grad that was written to: torch fills it, and asks nothing
        return True


def _assert_kept(tensor: torch.Tensor) -> None:
    """Refuse what autograd has computed from other tensors, a parametrized weight above all."""
    origin = _origin(tensor)
    if origin.is_leaf or "CopySlices" in type(origin.grad_fn).__name__:
        return
    raise _lost(type(origin.grad_fn).__name__)


def are_cached() -> bool:
    """Whether torch keeps weights that parametrizations have computed: inside ``parametrize.cached()``.

    There it is known which tensors these are, even if autograd records nothing.
    """
    return bool(getattr(parametrize, "_cache", None))


def _assert_not_cached(tensor: torch.Tensor) -> None:
    """Refuse a weight that a parametrization has computed, or a view of it."""
    origin = _origin(tensor)
    if isinstance(origin, torch.nn.Parameter):  # of a parametrization that returns it, or a view of it
        return
    for each in parametrize._cache.values():
        if each is not None and _origin(each) is origin:
            raise _lost("by a parametrization, and kept by parametrize.cached()")


def _origin(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that a view is a view of; any other itself."""
    base = tensor._base if tensor._is_view() else None
    return tensor if base is None else base


def _lost(by: str) -> RuntimeError:
    return RuntimeError(
        f"expected a tensor that holds its own values; got one that was computed from others ({by}), so that "
        "what is written to it would be lost with it; fill those that it is computed from (of a parametrized "
        "weight: module.parametrizations.weight.original), or its detach()"
    )


def _refuse_dtype(dtype: torch.dtype) -> None:
    """Raise what torch raises for a type that it does not draw either, and the like for one that it does."""
    torch.empty(1, dtype=dtype, device="cpu").normal_(generator=torch.Generator())
    raise NotImplementedError(
        f"expected a tensor of one of {', '.join(map(str, STORAGE_NAMES))}; got {dtype}; fill a tensor of "
        "one of these and convert it, or use torch.nn.init"
    )


def _inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.empty(0, device="cpu")
