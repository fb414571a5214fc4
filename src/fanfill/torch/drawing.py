"""Draws an initializer into a tensor of any kind: a plain one, a DTensor's shard, one without values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fanfill.distributions import recipe
from fanfill.fill import remember
from fanfill.imports import module
from fanfill.regions import region
from fanfill.streams import halves, key_of
from fanfill.torch.laws import PLAIN
from fanfill.torch.seeding import default_key, stream
from fanfill.torch.sharding import Placed, is_dtensor, parts, placed
from fanfill.torch.tensors import (
    STORAGE_NAMES,
    Shape,
    are_cached,
    assert_fillable,
    fill_memory,
    has_no_values,
    is_leaf,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanfill.cuda.plans import Plan
    from fanfill.initializers import Initializer
    from fanfill_kernels.philox import Key

__all__ = ["How", "again", "draw", "draw_placed", "draw_planned", "locate", "plan_for", "whole_shape"]

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_WORD = 2**32 - 1


class _Plan(NamedTuple):
    """What a small fill that was made before needs: the kernel by address, the bytes it writes."""

    fill: Callable[[int, Key], None]
    nbytes: int


# By function, arguments and their types (2 and 2.0 are equal, and True is 1), shape and dtype.
_plans: dict[Any, _Plan] = {}
_laws: dict[Any, Initializer] = {}  # by the same: what a call drew on a device, whose plans are kept by law


class How(NamedTuple):
    """What a caller gave in addition to the distribution: see `fanfill.torch.functions`."""

    generator: torch.Generator | None = None
    seed: int | None = None
    name: str | int | None = None
    global_shape: Shape | None = None
    offset: Shape | None = None


def whole_shape(tensor: torch.Tensor, how: How) -> tuple[int, ...]:
    """The shape of the tensor that a tensor is, or is a part of.

    Raises
    ------
    TypeError, ValueError
        A part that `fanfill.fill` refuses; a DTensor, which knows its own.
    """
    if how.global_shape is None and how.offset is None:
        return tuple(tensor.shape)
    if is_dtensor(tensor):
        raise TypeError(
            "expected global_shape and offset for a plain tensor; got them for a DTensor, which knows where "
            "its shard lies; leave them out"
        )
    return region(tuple(tensor.shape), how.global_shape, how.offset).shape


def again(
    tensor: torch.Tensor,
    call: tuple[Any, ...],
    generator: torch.Generator | None,
    seed: int | None,
    name: str | int | None,
) -> bool:
    """Whether a call has been repeated: one that `draw` made before, on a tensor just like that one.

    ``call`` is the function's name and its arguments. A small fill takes less time than all checks of a first
    call: so what can change between two calls is asked here, and nothing else.
    """
    try:
        if type(tensor) not in _PLAIN or has_torch_function_variadic(tensor) or tensor.is_nested:
            return False
        named = call, (*map(type, call),), tensor.shape, tensor.dtype
        plan = _plans.get(named) if tensor.is_cpu else None
        on_device = None
        if plan is None:
            law = _laws.get(named)
            on_device = None if law is None else plan_for(tensor, law)
            if on_device is None:
                return False
        elif (
            tensor.layout is not torch.strided
            or not tensor.is_contiguous()
            or not tensor.is_leaf
            or tensor.is_neg()
            or tensor.is_inference()
            or tensor.storage_offset() * tensor.element_size() + plan.nbytes
            > tensor.untyped_storage().nbytes()
            or torch._C._len_torch_dispatch_stack()
            or are_cached()
        ):
            return False
        address = tensor.data_ptr()
    except (RuntimeError, TypeError):  # an argument without a hash; a tensor without memory of its own
        return False
    if on_device is not None:
        draw_planned(tensor, on_device, *stream(_generator(generator, call[0]), seed, name))
        return True
    assert plan is not None
    if seed is None and name is None and generator is None:
        key = default_key()
    else:
        key = key_of(*stream(_generator(generator, call[0]), seed, name))
    torch.autograd.graph.increment_version(tensor)
    plan.fill(address, key)
    return True


def _remember(tensor: torch.Tensor, call: tuple[Any, ...], plan: Any) -> None:
    """Keep what `again` needs of a call on the CPU, given the plan of its fill."""
    address = getattr(plan.run, "loaded", None)
    if address is None or not {*map(type, call)} <= PLAIN:
        return
    by_address = module("fanfill_kernels.store.objects").by_address
    fill = by_address(address, plan.run.layout, tensor.numel(), plan.params)
    named = call, (*map(type, call),), tensor.shape, tensor.dtype
    remember(_plans, named, _Plan(fill, tensor.numel() * tensor.element_size()))


def draw(
    tensor: torch.Tensor, law: Initializer, how: How, call: tuple[Any, ...] | None = None
) -> torch.Tensor:
    """Fill a tensor in place, by its global shape if it is a DTensor, and return it.

    ``call`` is what `again` will know it by.

    Raises
    ------
    NotImplementedError, RuntimeError
        As `fanfill.torch.tensors.assert_fillable`.
    TypeError, ValueError
        As `fanfill.fill`; a generator that is none, or is given together with a seed; a Partial DTensor; see
        `whole_shape`.
    """
    if type(tensor) in _PLAIN:
        plan = plan_for(tensor, law) if how.global_shape is None and how.offset is None else None
        if plan is not None:
            draw_planned(
                tensor, plan, *stream(_generator(how.generator, law.distribution), how.seed, how.name)
            )
            if call is not None and {*map(type, call)} <= PLAIN:
                remember(_laws, (call, (*map(type, call),), tensor.shape, tensor.dtype), law)
        elif not tensor.is_meta:
            assert_fillable(tensor)
            recipe(law, whole_shape(tensor, how), STORAGE_NAMES[tensor.dtype])
            seed, name = stream(_generator(how.generator, law.distribution), how.seed, how.name)
            plan = fill_memory(tensor, law, seed, name, how.global_shape, how.offset)
            if plan is not None and call is not None:
                _remember(tensor, call, plan)
        return tensor
    if has_torch_function_variadic(tensor):
        return handle_torch_function(draw, (tensor,), tensor, law, how)
    shape = whole_shape(tensor, how)
    where = locate(tensor)
    if where is not None:
        # Here and not by the fill: a rank whose shard is empty refuses what the others refuse.
        recipe(law, shape, STORAGE_NAMES[tensor.dtype])
        seed, name = stream(_generator(how.generator, law.distribution), how.seed, how.name)
        if how.global_shape is None and how.offset is None:
            draw_placed(tensor, where, law, seed, name)
        else:
            fill_memory(where.local, law, seed, name, how.global_shape, how.offset)
    return tensor


def locate(tensor: torch.Tensor) -> Placed | None:
    """Where a tensor's memory lies, once it is known to be fillable; None: it has no values.

    Raises
    ------
    NotImplementedError, RuntimeError, ValueError
        As `draw`.
    """
    if has_no_values(tensor):
        return None
    if is_dtensor(tensor):
        where = placed(tensor)
        if has_no_values(where.local):
            return None
        assert_fillable(where.local)
        _assert_kept(tensor, where.local)
        return where
    assert_fillable(tensor)
    return placed(tensor)


def _assert_kept(tensor: torch.Tensor, local: torch.Tensor) -> None:
    """Refuse a view of a DTensor, or what was computed from one, whose local tensor is a copy."""
    base = tensor._base if tensor._is_view() else None
    if base is None and tensor.is_leaf:
        return
    if base is not None and is_dtensor(base):
        own, copy = base._local_tensor.untyped_storage(), local.untyped_storage()
        if own.data_ptr() == copy.data_ptr():
            return
    raise RuntimeError(
        f"expected a DTensor that holds its own memory; got one of shape {tuple(tensor.shape)} that was made "
        "from a sharded one by a copy, so that what is written to it would be lost; fill the DTensor itself "
        "(init_module's rules can name a box of it)"
    )


def draw_placed(tensor: torch.Tensor, where: Placed, law: Initializer, seed: int, name: str | int) -> None:
    """Fill what this rank holds of a tensor."""
    if where.local is tensor:
        fill_memory(tensor, law, seed, name)  # where fanfill.fill is quickest
        return
    for part in parts(where):
        fill_memory(part.tensor, law, seed, name, where.global_shape, part.offset)
    torch.autograd.graph.increment_version(tensor)


def plan_for(tensor: torch.Tensor, law: Initializer) -> Plan | None:
    """The plan of a whole tensor on a device, if it can be filled without any of the checks here.

    What autograd has computed has none: it is refused here, and left to torch under `accelerated`.
    """
    plans = sys.modules.get("fanfill.cuda.plans")
    if plans is None or type(tensor) not in _PLAIN or not is_leaf(tensor) or are_cached():
        return None
    plan: Plan | None = plans.plan_of_torch(tensor, law)
    return plan


def draw_planned(tensor: torch.Tensor, plan: Plan, seed: int, name: str | int) -> None:
    """Fill a tensor by its plan, with a seed and a name that have been checked."""
    # A count's numbers are each new: to keep them, as names are kept, costs more than to cut them.
    low, high = (name & _WORD, name >> 32) if type(name) is int else halves(name)
    torch.autograd.graph.increment_version(tensor)
    sys.modules["fanfill.cuda.plans"].launch(plan, tensor.data_ptr(), seed, low, high)


def _generator(generator: torch.Generator | None, distribution: str) -> torch.Generator | None:
    if generator is not None and not isinstance(generator, torch.Generator):
        method = "uniform_" if "uniform" in distribution else "normal_"
        getattr(torch.empty(0, device="cpu"), method)(generator=generator)  # raises torch's own error
    return generator
