"""What torch's own random calls ask for: the tensor, the generator and the law.

Each function takes the arguments of its counterpart in torch and returns (tensor, generator, law). A law of
None, and whatever a function raises, leaves the call to torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import torch
from torch.nn import init

from fanfill import initializers
from fanfill.initializers import Initializer
from fanfill.torch import laws

__all__ = [
    "ERFINV",
    "FACTORIES",
    "FACTORY",
    "IN_PLACE",
    "LAWS",
    "makes_a_shard",
    "of_erfinv",
    "of_trunc_normal",
    "of_uniform",
    "stand_in",
]


def of_uniform(self: Any, a: Any = 0.0, b: Any = 1.0, *, generator: Any = None, **named: Any) -> Any:
    low, high = named.pop("from", a), named.pop("to", b)
    return self, generator, None if named else laws.uniform(low, high, self.dtype)


def of_normal(self: Any, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
    return self, generator, laws.normal(mean, std, self.dtype)


def of_init_uniform(tensor: Any, a: Any = 0.0, b: Any = 1.0, generator: Any = None) -> Any:
    return tensor, generator, laws.uniform(a, b, tensor.dtype)


def of_init_normal(tensor: Any, mean: Any = 0.0, std: Any = 1.0, generator: Any = None) -> Any:
    return tensor, generator, laws.normal(mean, std, tensor.dtype)


def of_init_kaiming_uniform(
    tensor: Any, a: Any = 0, mode: Any = "fan_in", nonlinearity: Any = "leaky_relu", generator: Any = None
) -> Any:
    if 0 in tensor.shape:  # torch warns
        return tensor, generator, None
    law = laws.kaiming(a, mode, nonlinearity, "uniform", tuple(tensor.shape), tensor.dtype)
    return tensor, generator, law


def of_trunc_normal(tensor: Any, mean: Any, std: Any, a: Any, b: Any, generator: Any) -> Any:
    return tensor, generator, laws.trunc_normal(mean, std, a, b, tensor.dtype)


_NAMES: dict[str, Callable[..., Any]] = {
    "uniform_": of_init_uniform,
    "normal_": of_init_normal,
    "kaiming_uniform_": of_init_kaiming_uniform,
}


def stand_in(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """What torch's function of that name draws, if another function has replaced it in torch.nn.init.

    torch's own functions look themselves up there to tell a mode who they are. transformers puts its
    functions there while it initialises, and calls torch's from them: so torch's call arrives here as the
    other function.
    """
    name: str = getattr(func, "__name__", "")
    if name in _NAMES and getattr(init, name, None) is func:
        return _NAMES[name]
    return None


def _rand(*args: Any, **kwargs: Any) -> Any:
    made = torch.empty(*args, **kwargs)
    return made, laws.uniform(0.0, 1.0, made.dtype), None


def _randn(*args: Any, **kwargs: Any) -> Any:
    made = torch.empty(*args, **kwargs)
    return made, laws.normal(0.0, 1.0, made.dtype), None


def _rand_like(*args: Any, **kwargs: Any) -> Any:
    made = torch.empty_like(*args, **kwargs)
    return made, laws.uniform(0.0, 1.0, made.dtype), None


def _randn_like(*args: Any, **kwargs: Any) -> Any:
    made = torch.empty_like(*args, **kwargs)
    return made, laws.normal(0.0, 1.0, made.dtype), None


def _normal(mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Any:
    if size is not None:
        made = torch.empty(size, **kwargs)
        return made, laws.normal(mean, std, made.dtype), None
    given = [each for each in (mean, std) if isinstance(each, torch.Tensor)]
    if kwargs or not given or (torch.is_grad_enabled() and any(each.requires_grad for each in given)):
        raise NotImplementedError("torch's")
    if not isinstance(std, torch.Tensor):
        laws.normal(0.0, std, mean.dtype)  # raises what torch raises
    elif std.dtype.is_complex or not bool((std >= 0).all()):
        raise NotImplementedError("torch's")
    shape = torch.broadcast_shapes(*(each.shape for each in given))
    made = torch.empty(shape, dtype=given[0].dtype, device=given[0].device)
    return made, laws.normal(0.0, 1.0, made.dtype), lambda: made.mul_(std).add_(mean)


def makes_a_shard() -> bool:
    """Whether a factory is called for the local part of a DTensor, with the local shape and no word of it.

    Then torch's generator knows which rank it is, and this call does not.
    """
    sharded = sys.modules.get("torch.distributed.tensor._api")
    code = getattr(getattr(sharded, "_dtensor_init_helper", None), "__code__", None)
    frame = None if code is None else sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def of_erfinv(law: Initializer) -> Initializer | None:
    """The law of erfinv of a uniform variable: a truncated normal of std sqrt(1/2), by the inverse function.

    timm's trunc_normal_ and its copies draw so. In bfloat16 a uniform value is -1 or its neighbour too often,
    so that 2,047 of 2^20 values lie beyond 10 std.
    """
    if law.distribution not in ("uniform", "half_open_uniform") or law.scaling is not None:
        return None
    low, high = law.params
    if not -1.0 <= low < high <= 1.0:
        return None
    return _truncated(low, high)


@lru_cache(maxsize=256)
def _truncated(low: float, high: float) -> Initializer:
    return initializers.truncated_normal(0.0, math.sqrt(0.5), _quantile(low), _quantile(high))


def _quantile(bound: float) -> float:
    """The cut whose probability is (1 + bound) / 2.

    The bound is 2 Phi(cut) - 1, rounded, so that the cut -2 arrives as one near -2. To 9 decimals it is -2
    again on every machine, as any up to 5 is; the copy clamps its values anyway.
    """
    if abs(bound) == 1.0:
        return math.copysign(math.inf, bound)
    tail = NormalDist().inv_cdf((1.0 - abs(bound)) / 2.0)
    return round(math.copysign(tail, bound), 9)


FACTORIES: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.rand: _rand,
    torch.randn: _randn,
    torch.rand_like: _rand_like,
    torch.randn_like: _randn_like,
    torch.normal: _normal,
}
"""What each of torch's factories makes, by the arguments of torch.empty or torch.empty_like: memory, the law
to draw into it, and what turns that into the result."""

# What is no law of one tensor: these two stand for a factory, and for erfinv.
FACTORY: Callable[..., Any] = object  # never called
ERFINV: Callable[..., Any] = abs
IN_PLACE = (torch.Tensor.erfinv_,)

# torch passes these three functions of torch.nn.init to a mode as they are; the others arrive as the methods
# that they call.
LAWS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.uniform_: of_uniform,
    torch.Tensor.normal_: of_normal,
    init.uniform_: of_init_uniform,
    init.normal_: of_init_normal,
    init.kaiming_uniform_: of_init_kaiming_uniform,
    **dict.fromkeys(FACTORIES, FACTORY),
    **dict.fromkeys((*IN_PLACE, torch.Tensor.erfinv, torch.erfinv, torch.special.erfinv), ERFINV),
}
