"""torch.nn.init's random functions, drawn by fanfill: the same names, arguments, errors and warnings.

In addition to torch's arguments, each takes the keywords ``seed`` (an integer in [0, 2^64)) and ``name``
(the substream: a string or an integer, 0 by default), as `fanfill.fill` does. Without a seed both come from
``generator``, or from torch's default CPU generator (see `fanfill.torch.seeding` for how), so that
``torch.manual_seed`` governs the values.

If the tensor is a part of a larger one, such as a tensor-parallel shard that is not a DTensor, pass the
larger one's shape as ``global_shape`` and where the part begins as ``offset``, as in `fanfill.fill`. The part
then gets the values that the whole tensor has there, and the fans are those of the whole.

All of them take a dense tensor of float32, float64, float16, bfloat16 or one of the four float8 types, of any
strides, on the CPU or on a CUDA device; or a DTensor, of which each rank fills its own shard with the values
that the global tensor has there. A meta or fake tensor has no values, and stays as it is. The tensor is
filled in place, without a copy of its size and outside of autograd. Its version counter moves, and it is
returned.

What torch refuses is refused with torch's error, before anything is written. Refused here and not by torch:
parameters that would give infinities, nan or subnormal numbers (ValueError, see `fanfill.fill`); tensors
whose elements share memory in any way (RuntimeError), complex and lazily negated ones (NotImplementedError).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import init
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fanfill import scaled
from fanfill.torch import laws
from fanfill.torch.drawing import How, again, draw, whole_shape
from fanfill.torch.laws import TORCH_AXES
from fanfill.torch.sharding import is_dtensor
from fanfill.torch.tensors import Shape

if TYPE_CHECKING:
    from fanfill.initializers import Initializer
    from fanfill.literals import FanMode, Mode, ScaledName

__all__ = [
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "trunc_normal_",
    "uniform_",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
]


def uniform_(
    tensor: torch.Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """U[a, b), as in torch; ``a == b`` gives that number.

    Arguments and errors: see `fanfill.torch.functions`. Also a ValueError if no value of the dtype lies in
    [a, b).

    Examples
    --------
    >>> w = uniform_(torch.empty(3, 5), -1.0, 1.0, seed=0, name="w")
    """
    call = ("uniform", a, b)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    if has_torch_function_variadic(tensor):
        given = {
            "a": a,
            "b": b,
            "generator": generator,
            "seed": seed,
            "name": name,
            "global_shape": global_shape,
            "offset": offset,
        }
        return handle_torch_function(uniform_, (tensor,), tensor, **given)
    if not isinstance(tensor, torch.Tensor) or _is_meta(tensor):
        return init.uniform_(tensor, a, b, generator)
    how = How(generator, seed, name, global_shape, offset)
    return draw(tensor, laws.uniform(a, b, tensor.dtype), how, call)


def normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(mean, std^2). Arguments and errors: see `fanfill.torch.functions`.

    Examples
    --------
    >>> w = normal_(torch.empty(3, 5), std=0.02, generator=torch.Generator().manual_seed(7))
    """
    call = ("normal", mean, std)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    if has_torch_function_variadic(tensor):
        given = {
            "mean": mean,
            "std": std,
            "generator": generator,
            "seed": seed,
            "name": name,
            "global_shape": global_shape,
            "offset": offset,
        }
        return handle_torch_function(normal_, (tensor,), tensor, **given)
    if not isinstance(tensor, torch.Tensor) or _is_meta(tensor):
        return init.normal_(tensor, mean, std, generator)
    how = How(generator, seed, name, global_shape, offset)
    return draw(tensor, laws.normal(mean, std, tensor.dtype), how, call)


def trunc_normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(mean, std^2) given that the value lies in [a, b]: absolute bounds, as in torch, and no variance
    correction.

    Drawn from the inverse distribution function, one word a value: no rejection, and exact far out in a tail
    too, where torch warns. A ValueError where [a, b] holds less than 2^-24 of the distribution. Arguments and
    other errors: see `fanfill.torch.functions`.

    Examples
    --------
    >>> w = trunc_normal_(torch.empty(3, 5), std=0.02, a=-0.04, b=0.04, seed=0)
    """
    call = ("trunc_normal", mean, std, a, b)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    if _is_meta(tensor):
        return init.trunc_normal_(tensor, mean, std, a, b, generator)
    law = laws.trunc_normal(mean, std, a, b, tensor.dtype)
    how = How(generator, seed, name, global_shape, offset)
    # torch warns each time of a mean that is far outside.
    return draw(tensor, law, how, call if a - 2 * std <= mean <= b + 2 * std else None)


def xavier_uniform_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """U[-bound, bound], ``bound = gain * sqrt(6 / (fan_in + fan_out))``: Glorot & Bengio 2010.

    Arguments and errors: see `fanfill.torch.functions`. The fans are those of (out, in, \\*k).

    Examples
    --------
    >>> w = xavier_uniform_(torch.empty(3, 5), gain=5 / 3, seed=0)
    """
    call = ("xavier_uniform", gain)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    return _xavier(tensor, gain, "uniform", How(generator, seed, name, global_shape, offset), call)


def xavier_normal_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(0, std^2), ``std = gain * sqrt(2 / (fan_in + fan_out))``, not truncated: Glorot & Bengio 2010.

    Arguments and errors: see `fanfill.torch.functions`. The fans are those of (out, in, \\*k).

    Examples
    --------
    >>> w = xavier_normal_(torch.empty(3, 5), seed=0)
    """
    call = ("xavier_normal", gain)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    return _xavier(tensor, gain, "normal", How(generator, seed, name, global_shape, offset), call)


def kaiming_uniform_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """U[-bound, bound], ``bound = gain * sqrt(3 / fan)``: He et al. 2015.

    ``a`` is the negative slope of leaky_relu, which gives the gain ``sqrt(2 / (1 + a^2))``; ``mode`` is
    "fan_in" or "fan_out". Warns and does nothing for a tensor without elements. Other arguments and errors:
    see `fanfill.torch.functions`.

    Examples
    --------
    >>> w = kaiming_uniform_(torch.empty(3, 5), mode="fan_in", nonlinearity="relu", seed=0)
    """
    call = ("kaiming_uniform", a, mode, nonlinearity)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    if has_torch_function_variadic(tensor):
        given = {
            "a": a,
            "mode": mode,
            "nonlinearity": nonlinearity,
            "generator": generator,
            "seed": seed,
            "name": name,
            "global_shape": global_shape,
            "offset": offset,
        }
        return handle_torch_function(kaiming_uniform_, (tensor,), tensor, **given)
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    how = How(generator, seed, name, global_shape, offset)
    return _kaiming(tensor, a, mode, nonlinearity, "uniform", how, call)


def kaiming_normal_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(0, std^2), ``std = gain / sqrt(fan)``, not truncated: He et al. 2015. All else as in
    `kaiming_uniform_`.

    Examples
    --------
    >>> w = kaiming_normal_(torch.empty(3, 5), mode="fan_out", nonlinearity="relu", seed=0)
    """
    call = ("kaiming_normal", a, mode, nonlinearity)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    how = How(generator, seed, name, global_shape, offset)
    return _kaiming(tensor, a, mode, nonlinearity, "normal", how, call)


def lecun_uniform_(
    tensor: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """U[-bound, bound], ``bound = sqrt(3 / fan_in)``: LeCun et al. 1998. torch has none; Keras and JAX do.

    Arguments and errors: see `fanfill.torch.functions`. The fans are those of (out, in, \\*k).
    """
    call = ("lecun_uniform",)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    law = scaled.lecun_uniform(**TORCH_AXES)
    return _scaled(tensor, law, How(generator, seed, name, global_shape, offset), call)


def lecun_normal_(
    tensor: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    truncated: bool = False,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(0, 1 / fan_in): LeCun et al. 1998. torch has none; that of Keras and JAX is ``truncated=True``.

    Arguments and errors: see `fanfill.torch.functions`. The fans are those of (out, in, \\*k).
    """
    call = ("lecun_normal", truncated)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    law = scaled.lecun_normal(truncated=truncated, **TORCH_AXES)
    return _scaled(tensor, law, How(generator, seed, name, global_shape, offset), call)


def variance_scaling_(
    tensor: torch.Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: ScaledName = "normal",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """Mean 0 and variance ``scale / fan``: `fanfill.variance_scaling` with torch's layout, (out, in, \\*k).

    ``mode`` is "fan_in", "fan_out", "fan_avg" or "fan_geo_avg", ``distribution`` "normal", "truncated_normal"
    or "uniform". Other arguments and errors: see `fanfill.torch.functions`, and `fanfill.variance_scaling`.
    """
    call = ("variance_scaling", scale, mode, distribution)
    if global_shape is None and offset is None and again(tensor, call, generator, seed, name):
        return tensor
    law = scaled.variance_scaling(scale, mode, distribution, **TORCH_AXES)
    return _scaled(tensor, law, How(generator, seed, name, global_shape, offset), call)


def _xavier(
    tensor: torch.Tensor,
    gain: float,
    distribution: str,
    how: How,
    call: tuple[Any, ...],
) -> torch.Tensor:
    tensor.dim()  # what is no tensor fails here, as it does in torch
    shape = whole_shape(tensor, how)
    if _is_meta(tensor):
        return getattr(init, f"xavier_{distribution}_")(tensor, gain, how.generator)
    law = laws.xavier(gain, distribution, shape, tensor.dtype)
    return draw(tensor, law, how, call)


def _kaiming(
    tensor: torch.Tensor,
    a: float,
    mode: str,
    nonlinearity: str,
    distribution: ScaledName,
    how: How,
    call: tuple[Any, ...],
) -> torch.Tensor:
    tensor.dim()
    if _is_meta(tensor):
        function = getattr(init, f"kaiming_{distribution}_")
        return function(tensor, a, mode, nonlinearity, how.generator)
    law = laws.kaiming(a, mode, nonlinearity, distribution, whole_shape(tensor, how), tensor.dtype)
    return draw(tensor, law, how, call)


def _is_meta(tensor: torch.Tensor) -> bool:
    """Whether torch's own function is the one to check the arguments, and do nothing."""
    return tensor.is_meta and not is_dtensor(tensor)


def _scaled(
    tensor: torch.Tensor,
    law: Initializer,
    how: How,
    call: tuple[Any, ...],
) -> torch.Tensor:
    laws.fans(whole_shape(tensor, how))
    return draw(tensor, law, how, call)
