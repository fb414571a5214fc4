"""torch.nn.init's functions of whole matrices: orthogonal_, sparse_, eye_ and dirac_.

Arguments and errors: see `fanfill.torch.functions`. On a CUDA device orthogonal_ and sparse_ compute on the
CPU and copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.nn import init
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fanfill import matrices
from fanfill.torch import functions
from fanfill.torch.drawing import How, draw, whole_shape
from fanfill.torch.sharding import is_dtensor
from fanfill.torch.tensors import Shape

__all__ = [
    "constant",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def orthogonal_(
    tensor: torch.Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """``gain`` times a matrix with orthonormal rows or columns, all axes but the first flattened: Saxe et al.
    2014.

    See `fanfill.orthogonal`: the same bits on every machine, 16 bytes a value while it computes, and a shard
    costs as much as the whole. Does nothing to a tensor without elements, as in torch.

    Examples
    --------
    >>> w = orthogonal_(torch.empty(3, 5), seed=0, name="w")
    """
    if has_torch_function_variadic(tensor):
        given = {
            "gain": gain,
            "generator": generator,
            "seed": seed,
            "name": name,
            "global_shape": global_shape,
            "offset": offset,
        }
        return handle_torch_function(orthogonal_, (tensor,), tensor, **given)
    how = How(generator, seed, name, global_shape, offset)
    shape = whole_shape(tensor, how)
    if len(shape) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if 0 in shape:
        return tensor
    return draw(tensor, matrices.orthogonal(float(gain), out_axis=0), how)


def sparse_(
    tensor: torch.Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | int | None = None,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """N(0, std^2), and in each column ``ceil(sparsity * rows)`` zeros: Martens 2010. See `fanfill.sparse`.

    torch leaves the choice of the rows to its default generator, whatever ``generator`` is; here it follows
    from the same seed and name as the values.

    Examples
    --------
    >>> w = sparse_(torch.empty(30, 5), sparsity=0.1, seed=0, name="w")
    """
    if has_torch_function_variadic(tensor):
        given = {
            "sparsity": sparsity,
            "std": std,
            "generator": generator,
            "seed": seed,
            "name": name,
            "global_shape": global_shape,
            "offset": offset,
        }
        return handle_torch_function(sparse_, (tensor,), tensor, **given)
    how = How(generator, seed, name, global_shape, offset)
    if len(whole_shape(tensor, how)) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return draw(tensor, matrices.sparse(float(sparsity), float(std)), how)


def eye_(
    tensor: torch.Tensor, *, global_shape: Shape | None = None, offset: Shape | None = None
) -> torch.Tensor:
    """The identity matrix: torch's own function, and the same of a DTensor's shard or another part."""
    if global_shape is None and offset is None and not is_dtensor(tensor):
        return init.eye_(tensor)
    how = How(seed=0, global_shape=global_shape, offset=offset)
    if len(whole_shape(tensor, how)) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return draw(tensor, matrices.identity(), how)


def dirac_(
    tensor: torch.Tensor,
    groups: int = 1,
    *,
    global_shape: Shape | None = None,
    offset: Shape | None = None,
) -> torch.Tensor:
    """A convolution that hands its inputs on: torch's own function, and the same of a DTensor's shard or of
    another part.
    """
    if global_shape is None and offset is None and not is_dtensor(tensor):
        return init.dirac_(tensor, groups)
    how = How(seed=0, global_shape=global_shape, offset=offset)
    shape = whole_shape(tensor, how)
    if len(shape) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    return draw(tensor, matrices.dirac(groups, in_axis=1, out_axis=0), how)


def _deprecated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function under the name without its underscore, which torch still has, with torch's warning."""
    new = function.__name__
    old = new.removesuffix("_")

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.", FutureWarning, stacklevel=2
        )
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = old
    call.__doc__ = f"Deprecated, as in torch: the same as `{new}`."
    return call


uniform = _deprecated(functions.uniform_)
normal = _deprecated(functions.normal_)
constant = _deprecated(init.constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(functions.xavier_uniform_)
xavier_normal = _deprecated(functions.xavier_normal_)
kaiming_uniform = _deprecated(functions.kaiming_uniform_)
kaiming_normal = _deprecated(functions.kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
