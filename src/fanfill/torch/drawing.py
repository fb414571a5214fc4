"""Draws an initializer into a tensor of any kind: a plain one, a DTensor's shard, one without values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fanfill.cpu.buffers import mark_written
from fanfill.distributions import recipe
from fanfill.fill import halves
from fanfill.regions import region
from fanfill.torch.seeding import stream
from fanfill.torch.sharding import Placed, is_dtensor, parts, placed
from fanfill.torch.tensors import STORAGE_NAMES, Shape, assert_fillable, fill_memory, has_no_values

if TYPE_CHECKING:
    from fanfill.cuda.plans import Plan
    from fanfill.initializers import Initializer

__all__ = ["How", "draw", "draw_placed", "draw_planned", "locate", "plan_for", "whole_shape"]

_PLAIN = (torch.Tensor, torch.nn.Parameter)


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


def draw(tensor: torch.Tensor, law: Initializer, how: How) -> torch.Tensor:
    """Fill a tensor in place, by its global shape if it is a DTensor, and return it.

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
            draw_planned(tensor, plan, *stream(_generator(how.generator, law), how.seed, how.name))
        elif not tensor.is_meta:
            assert_fillable(tensor)
            recipe(law, whole_shape(tensor, how), STORAGE_NAMES[tensor.dtype])
            seed, name = stream(_generator(how.generator, law), how.seed, how.name)
            fill_memory(tensor, law, seed, name, how.global_shape, how.offset)
        return tensor
    if has_torch_function_variadic(tensor):
        return handle_torch_function(draw, (tensor,), tensor, law, how)
    shape = whole_shape(tensor, how)
    where = locate(tensor)
    if where is not None:
        # Here and not by the fill: a rank whose shard is empty refuses what the others refuse.
        recipe(law, shape, STORAGE_NAMES[tensor.dtype])
        seed, name = stream(_generator(how.generator, law), how.seed, how.name)
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
        return where
    assert_fillable(tensor)
    return placed(tensor)


def draw_placed(tensor: torch.Tensor, where: Placed, law: Initializer, seed: int, name: str | int) -> None:
    """Fill what this rank holds of a tensor."""
    if where.local is tensor:
        fill_memory(tensor, law, seed, name)  # where fanfill.fill is quickest
        return
    for part in parts(where):
        fill_memory(part.tensor, law, seed, name, where.global_shape, part.offset)
    torch.autograd.graph.increment_version(tensor)


def plan_for(tensor: torch.Tensor, law: Initializer) -> Plan | None:
    """The plan of a whole tensor on a device, if it can be filled without any of the checks here."""
    plans = sys.modules.get("fanfill.cuda.plans")
    if plans is None or type(tensor) not in _PLAIN:
        return None
    plan: Plan | None = plans.plan_of_torch(tensor, law)
    return plan


def draw_planned(tensor: torch.Tensor, plan: Plan, seed: int, name: str | int) -> None:
    """Fill a tensor by its plan."""
    mark_written(tensor)
    sys.modules["fanfill.cuda.plans"].launch(plan, tensor.data_ptr(), seed, *halves(name))


def _generator(generator: torch.Generator | None, law: Initializer) -> torch.Generator | None:
    if generator is not None and not isinstance(generator, torch.Generator):
        method = "uniform_" if law.distribution.endswith("uniform") else "normal_"
        getattr(torch.empty(0, device="cpu"), method)(generator=generator)  # raises torch's own error
    return generator
