"""init_module: fills every parameter of a model by its name."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from fanfill import initializers
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.distributions import recipe
from fanfill.expressions import with_torch_axes
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.torch.defaults import Draw, default_draws
from fanfill.torch.drawing import draw_placed, locate
from fanfill.torch.recipes import init_by_recipe
from fanfill.torch.seeding import seed_of
from fanfill.torch.sharding import Placed, parts
from fanfill.torch.tensors import STORAGE_NAMES

__all__ = ["init_module"]

Model = TypeVar("Model", bound=nn.Module)
Value = Initializer | str | None
Rules = Mapping[str | re.Pattern[str] | type[nn.Module], Value | Mapping[str, Value]]

# What torch's wrappers call the module that they wrap; not a part of a parameter's name.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class _Parameter(NamedTuple):
    """A parameter, its name without wrappers, and the modules around it (outermost first), each with the rest
    of the name.
    """

    name: str
    tensor: nn.Parameter
    around: list[tuple[nn.Module, str]]


class _Task(NamedTuple):
    name: str
    tensor: nn.Parameter
    where: Placed
    draws: list[Draw]


def init_module(
    module: Model,
    seed: int,
    *,
    rules: Rules | ModelRecipe | None = None,
    on_missing: str = "error",
    progress: Callable[[int, int], object] | None = None,
) -> Model:
    """Fill every parameter of a model in place, each by its own name, and return the model.

    A value depends on the seed, the parameter's qualified name, the element's index in the whole tensor, the
    rule and the dtype, but not on the order of the parameters, the layout, or the number of ranks or threads.
    The names are those of ``module.named_parameters()`` without the prefixes of torch.compile,
    DistributedDataParallel, DataParallel and activation checkpointing. A tied parameter goes by the first of
    its names and is filled once. If a parameter is a DTensor, as ``fully_shard`` makes them, each rank fills
    its own shard, with no communication and no extra memory.

    Without ``rules``, torch.nn's layers get the same distributions as in torch, but other values. Buffers
    (running statistics, tables of positions) are left alone: after ``to_empty``, set them as the model does.

    Parameters
    ----------
    module : torch.nn.Module
        Fake parameters and those on the meta device have no values and stay so: call ``to_empty`` first.
    seed : int
        In [0, 2^64).
    rules : mapping or ModelRecipe, optional
        A recipe of the model, made by `fanfill.torch.recipe`: each parameter and persistent buffer gets what
        the recipe says, whatever ``on_missing`` is. Or which parameters get which
        initializer. The first key that fits a parameter is used; the layers' defaults come last. A key is

        * a string: the parameter's name, with ``*``, ``?`` and ``[...]`` as in `fnmatch`; dots are not
          special;
        * a compiled regular expression that matches the whole name;
        * a type of module: the parameter called ``weight`` of each module of that type.

        A value is an `Initializer`, the name of one, or None, which leaves the parameter as it is. For a type
        it may also be a mapping from the names of the module's own parameters to such values. An initializer
        with default axes gets torch's layout, (out, in, \\*k).
    on_missing : {"error", "leave"}
        What to do about a parameter that neither ``rules`` nor the defaults cover: raise a ValueError that
        names it, or leave it as it is.
    progress : callable, optional
        Gets (values done, total values) of this rank, on the calling thread; in the last call both are equal.

    Raises
    ------
    ValueError
        If a parameter has no rule, or one that cannot fill it; if a rule fits nothing; if the seed is out of
        range.
    TypeError
        If an argument is none of the above; if FullyShardedDataParallel has flattened a module.
    NotImplementedError, RuntimeError
        If fanfill cannot fill a parameter: see `fanfill.torch.functions`.

    Errors are raised before any parameter is written.

    Examples
    --------
    >>> import torch, fanfill as ff
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.LayerNorm(4))
    >>> model = init_module(model, seed=0, rules={torch.nn.Linear: ff.he_normal(), "*.bias": "zeros"})
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module; got {type(module).__qualname__}")
    seed = seed_of(seed)
    if on_missing not in ("error", "leave"):
        raise ValueError(f"on_missing: expected 'error' or 'leave'; got {shown(on_missing)}")
    if not (progress is None or callable(progress)):
        raise TypeError(
            f"progress: expected a callable of (values done, values in all); got {shown(progress)}"
        )
    if isinstance(rules, ModelRecipe):
        parameters = {parameter.name: parameter.tensor for parameter in _parameters(module)}
        init_by_recipe(parameters, _buffers(module), rules, seed, progress)
        return module
    book = _Book(rules or {})
    tasks: list[_Task] = []
    missing: list[str] = []
    for parameter in _parameters(module):
        draws = book.draws(parameter)
        if draws is None:
            missing.append(parameter.name)
            continue
        task = _task(parameter, draws)
        if task is not None:
            tasks.append(task)
    if missing and on_missing == "error":
        raise ValueError(
            f"expected a rule for every parameter; got none for {', '.join(missing)}; name them in rules= "
            "(None leaves one as it is), or pass on_missing='leave'"
        )
    book.assert_used()
    _fill_all(tasks, seed, progress)
    return module


def _fill_all(tasks: list[_Task], seed: int, progress: Callable[[int, int], object] | None) -> None:
    whole = sum(_size(task.where, draw.box) for task in tasks for draw in task.draws) if progress else 0
    done = 0

    def report(values: int) -> None:
        if progress is not None and done + values < whole:
            progress(done + values, whole)

    for task in tasks:
        for draw in task.draws:
            draw_placed(
                task.tensor, task.where, draw.law, seed, task.name, draw.box, report if progress else None
            )
            done += _size(task.where, draw.box) if progress else 0
    if progress is not None:
        progress(whole, whole)


def _size(where: Placed, box: tuple[slice, ...] | None) -> int:
    return sum(part.tensor.numel() for part in parts(where, box))


def _task(parameter: _Parameter, draws: list[Draw]) -> _Task | None:
    """Check everything that could fail, with the parameter's name in the error."""
    tensor = parameter.tensor
    try:
        where = locate(tensor)
        if where is None:
            return None
        for draw in draws:
            recipe(draw.law, where.global_shape, STORAGE_NAMES[tensor.dtype])
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise type(error)(f"parameter {parameter.name!r}: {error}") from error
    return _Task(parameter.name, tensor, where, draws)


def _parameters(root: nn.Module) -> Iterator[_Parameter]:
    """Each parameter once, under the first of its names."""
    modules = dict(root.named_modules())
    seen: set[int] = set()
    for path, owner in modules.items():
        _assert_not_flattened(owner)
        for name, tensor in owner._parameters.items():
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            around = _around(root, path)
            full = ".".join([*(step for step, _ in around[1:] if step), name])
            chain = []
            for depth, (_, outer) in enumerate(around):
                rest = ".".join([*(step for step, _ in around[depth + 1 :] if step), name])
                chain.append((outer, rest))
            if nn.parameter.is_lazy(tensor):
                raise ValueError(
                    f"expected parameters that have shapes; got {full!r}, which is lazy; call the model once "
                    "on an input of the size it will get"
                )
            yield _Parameter(full, tensor, chain)


def _buffers(root: nn.Module) -> dict[str, torch.Tensor]:
    """Each buffer, by its name without wrappers."""
    found = {}
    for path, owner in root.named_modules():
        steps = [step for step, _ in _around(root, path)[1:] if step]
        for name, tensor in owner._buffers.items():
            if tensor is not None:
                found[".".join([*steps, name])] = tensor
    return found


def _assert_not_flattened(owner: nn.Module) -> None:
    """Refuse FSDP1, whose parameters are ranges of a flat one, unless each rank has the whole parameter."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(owner, fsdp.FullyShardedDataParallel):
        return
    handle = getattr(owner, "_handle", None)
    if handle is not None and (handle.uses_sharded_strategy or not owner._use_orig_params):
        raise TypeError(
            "expected parameters that have their own shapes; got a module that FullyShardedDataParallel has "
            "flattened; use fully_shard, or fill the model before wrapping it"
        )


def _around(root: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The modules from the root to the one at a path, each with its step; a wrapper's step is empty."""
    around = [("", root)]
    for step in path.split(".") if path else []:
        outer = around[-1][1]
        wrapped = step in _WRAPPED or (step == "module" and isinstance(outer, _PARALLEL))
        around.append(("" if wrapped else step, outer._modules[step]))
    return around


class _Book:
    """The rules in order, and which of them have fitted a parameter."""

    def __init__(self, rules: Rules) -> None:
        if not isinstance(rules, Mapping):
            raise TypeError(
                f"rules: expected a mapping from names or module types to initializers; got {shown(rules)}"
            )
        self.rules: list[tuple[Any, dict[str, list[Draw] | None] | list[Draw] | None]] = []
        for key, value in rules.items():
            of_type = isinstance(key, type) and issubclass(key, nn.Module)
            if not (of_type or isinstance(key, str | re.Pattern)):
                raise TypeError(
                    "rules: expected a name, a compiled regular expression or a type of module; got "
                    f"{shown(key)}"
                )
            if isinstance(value, Mapping):
                if not of_type:
                    raise TypeError(
                        f"rules: expected one initializer for the name {shown(key)}; got {shown(value)}"
                    )
                self.rules.append((key, {name: _draws(key, law) for name, law in value.items()}))
            else:
                self.rules.append((key, {"weight": _draws(key, value)} if of_type else _draws(key, value)))
        self.used = [False] * len(self.rules)

    def draws(self, parameter: _Parameter) -> list[Draw] | None:
        """The draws that fill a parameter; [] to leave it as it is; None if nothing covers it."""
        owner, own_name = parameter.around[-1]
        for number, (key, value) in enumerate(self.rules):
            if isinstance(value, dict):
                fits = isinstance(owner, key) and own_name in value
            elif isinstance(key, str):
                fits = fnmatch.fnmatchcase(parameter.name, key)
            else:
                fits = key.fullmatch(parameter.name) is not None
            if fits:
                self.used[number] = True
                return (value[own_name] if isinstance(value, dict) else value) or []
        for module, rest in parameter.around:
            draws = default_draws(module, rest, parameter.tensor)
            if draws is not None:
                return draws
        return None

    def assert_used(self) -> None:
        """Raise an error for an unused key: a misspelt pattern would give a model that does not train."""
        for used, (key, _) in zip(self.used, self.rules, strict=True):
            if not used:
                raise ValueError(
                    "rules: expected each key to fit a parameter that no key before it fits; got "
                    f"{shown(key)}, which fits none; correct it, or leave it out"
                )


def _draws(key: object, value: object) -> list[Draw] | None:
    if value is None:
        return None
    if isinstance(value, str):
        made = {"zeros": initializers.constant(0.0), "ones": initializers.constant(1.0)}.get(value)
        return [Draw(made or with_torch_axes(initializers.initializer(value)))]
    if isinstance(value, Initializer):
        return [Draw(with_torch_axes(value))]
    raise TypeError(
        f"rules: expected an Initializer, the name of one or None for {shown(key)}; got {shown(value)}"
    )
