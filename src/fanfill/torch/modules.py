"""init_module: fills every parameter of a model by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.cpu.threads import get_threads
from fanfill.distributions import recipe
from fanfill.fill import watched
from fanfill.job import Job
from fanfill.messages import shown
from fanfill.structures import HOST_ALONE
from fanfill.torch.defaults import Draw
from fanfill.torch.drawing import locate
from fanfill.torch.recipes import init_by_recipe
from fanfill.torch.rules import Book, Rules
from fanfill.torch.seeding import seed_of
from fanfill.torch.sharding import Flat, Placed, is_dtensor, parts
from fanfill.torch.tensors import STORAGE_NAMES, fill_by_copy
from fanfill.torch.walking import Parameter, buffers, parameters
from fanfill.torch.zero3 import is_zero3, partition

__all__ = ["init_module"]

Model = TypeVar("Model", bound=nn.Module)


class _Task(NamedTuple):
    """What is to be drawn into the places of a parameter: one, or the range and the whole under ZeRO-3."""

    name: str
    tensor: nn.Parameter
    places: list[Placed | Flat]
    draws: list[Draw]


def init_module(
    module: Model,
    seed: int,
    *,
    rules: Rules | ModelRecipe | None = None,
    prefix: str = "",
    on_missing: str = "error",
    progress: Callable[[int, int], object] | bool | None = None,
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

    weight_norm and spectral_norm: what the weight is computed from is drawn as the weight would be, under its
    own name; weight_norm's magnitude becomes the norm of what was drawn. A normalisation layer of another
    library begins with the ones or zeros that its constructor gives it. Under DeepSpeed's ZeRO-3 each rank
    fills the range that it holds.

    Parameters
    ----------
    module : torch.nn.Module
        Fake parameters and those on the meta device have no values and stay so: call ``to_empty`` first.
    seed : int
        In [0, 2^64).
    rules : mapping, function or ModelRecipe, optional
        A recipe of the model, made by `fanfill.torch.recipe`: each parameter and persistent buffer gets what
        the recipe says, whatever ``on_missing`` is. Or which parameters get which initializer. The first key
        that fits a parameter is used; the layers' defaults come last. A key is

        * a string: the parameter's name, with ``*``, ``?`` and ``[...]`` as in `fnmatch`; dots are not
          special;
        * a compiled regular expression that matches the whole name;
        * a type of module: the parameter called ``weight`` of each module of that type.

        A value is

        * an `Initializer`, or the name of one. Default axes are replaced by torch's layout, (out, in, \\*k);
        * None, which leaves the parameter as it is, whatever it is;
        * a list of pairs (box, one of these), drawn in that order: a box is what one writes between brackets,
          ``0``, ``slice(0, 64)``, ``(..., slice(0, 8))``. The fans are those of the box, the values those
          that the whole parameter has there; what lies in no box is left as it is;
        * a function of (name, shape, module), the parameter's whole shape and the module it belongs to. It
          returns one of these, or NotImplemented to leave the decision to the keys behind it.

        For a type it may also be a mapping from the names of the module's own parameters to such values. A
        function in place of the mapping is asked for every parameter.
    prefix : str
        Put in front of each name as it stands, with nothing between: ``prefix="layers.8."`` makes
        ``weight`` ``layers.8.weight``, for the values, the rules and in errors. For pipeline stages that
        number their layers from 0.
    on_missing : {"error", "leave"}
        What to do about a parameter that neither ``rules`` nor the defaults cover: raise a ValueError that
        names it, or leave it as it is.
    progress : bool or callable, optional
        True for a bar on stderr, as in `fanfill.fill`; or what gets (values done, total values) of this rank,
        on the calling thread; in the last call both are equal.

    Raises
    ------
    ValueError
        If a parameter has no rule, or one that cannot fill it; if a rule fits nothing; if the seed is out of
        range; if this rank cannot reach its values, or compute them.
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
    watch = watched(progress)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, such as 'layers.8.'; got {shown(prefix)}")
    if isinstance(rules, ModelRecipe):
        tensors = {parameter.name: parameter.tensor for parameter in parameters(module, prefix)}
        with watch as follow:
            init_by_recipe(tensors, buffers(module, prefix), rules, seed, follow)
        return module
    book = Book(rules if rules is not None else {})
    drawn: list[Parameter] = []
    choices: list[list[Draw]] = []  # of each of these
    missing: list[str] = []
    magnitudes: list[Parameter] = []
    for parameter in parameters(module, prefix):
        tensor = parameter.tensor
        lazy = type(tensor) is not nn.Parameter and nn.parameter.is_lazy(tensor)
        draws = book.draws(parameter, lazy)
        if draws:
            drawn.append(parameter)
            choices.append(draws)
        elif draws is None and lazy:
            raise ValueError(
                f"expected parameters that have shapes; got {parameter.name!r}, which is lazy; call the "
                "model once on an input of the size it will get"
            )
        elif draws is None and parameter.magnitude:
            magnitudes.append(parameter)
        elif draws is None:
            missing.append(parameter.name)
    plain = _are_plain([parameter.tensor for parameter in drawn], choices)
    pairs = [*zip(drawn, choices, strict=True)]
    tasks = [_task(*pair) for pair, whole in zip(pairs, plain, strict=True) if not whole]
    pairs = [*compress(pairs, plain)]
    if magnitudes:
        covered = {id(parameter.tensor) for parameter in drawn}
        magnitudes = [p for p in magnitudes if p.magnitude and id(p.magnitude.direction) in covered]
        for parameter in magnitudes:
            _assert_computable(parameter)
    if missing and on_missing == "error":
        raise ValueError(
            f"expected a rule for every parameter; got none for {', '.join(missing)}; name them in rules= "
            "(None leaves one as it is), or pass on_missing='leave'"
        )
    book.assert_used()
    first = Job(seed, None)
    first.extend(
        [(parameter.tensor, draws[0].law, parameter.name) for parameter, draws in pairs],
        lambda number: f"parameter {first.names[number]!r}: ",
        lambda number: _task(*pairs[number]),
    )
    with watch as follow:
        _fill_all(first, tasks, seed, follow)
    for parameter in magnitudes:
        _compute(parameter)
    return module


def _fill_all(
    first: Job, tasks: list[_Task], seed: int, progress: Callable[[int, int], object] | None
) -> None:
    """Every parameter's first draw as one job, then the second ones, which may write over the first."""
    rounds = []
    copies: list[list[Callable[[], None]]] = []
    for number in range(max((len(task.draws) for task in tasks), default=1)):
        job, copied = Job(seed, None) if number else first, list[Callable[[], None]]()
        entries: list[tuple[Any, ...]] = []
        for name, tensor, places, draws in tasks:
            if number >= len(draws):
                continue
            law, box = draws[number]
            for place in places:
                if box is None and place.local is tensor and not law.structured:
                    entries.append((tensor, law, name))
                    continue
                for part in parts(place, box):
                    if law.distribution in HOST_ALONE and part.tensor.is_cuda:
                        where = place.global_shape, part.offset
                        copied.append(partial(fill_by_copy, part.tensor, law, seed, name, *where))
                        continue
                    entries.append((part.tensor, law, name, place.global_shape, part.offset))
                if place.local is not tensor:
                    job.written.append(tensor)
        job.extend(entries)
        rounds.append(job)
        copies.append(copied)
    whole, done = sum(job.values() for job in rounds), 0

    def report(values: int, _: int) -> None:
        if progress is not None and done + values < whole:
            progress(done + values, whole)

    for job, copied in zip(rounds, copies, strict=True):
        job.run(get_threads(), report if progress else None)
        for copy in copied:
            copy()
        done += job.values()
    if progress is not None:
        progress(whole, whole)


def _are_plain(tensors: Sequence[nn.Parameter], choices: Sequence[list[Draw]]) -> list[bool]:
    """Which parameters are filled as a whole, so that `Job` asks enough of each that is like another.

    Written out, for each of a large model's: calls would take twice as long.
    """
    try:
        return [
            type(tensor) is nn.Parameter
            and len(draws) == 1
            and draws[0].box is None
            and not draws[0].law.structured
            and tensor.dtype in STORAGE_NAMES
            and not tensor.is_meta
            and tensor.is_leaf
            and not tensor.is_inference()
            and not is_zero3(tensor)
            for tensor, draws in zip(tensors, choices, strict=True)
        ]
    except RuntimeError:  # `is_leaf` of one that `fanfill.torch.tensors.is_leaf` knows
        return [False] * len(tensors)


def _task(parameter: Parameter, draws: list[Draw]) -> _Task:
    """Check everything that could fail, with the parameter's name in the error."""
    tensor = parameter.tensor
    try:
        places = _places(tensor)
        for place in places:
            for draw in draws:
                recipe(draw.law, place.global_shape, STORAGE_NAMES[place.local.dtype])
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise type(error)(f"parameter {parameter.name!r}: {error}") from error
    return _Task(parameter.name, tensor, places, draws)


def _places(tensor: nn.Parameter) -> list[Placed | Flat]:
    """Where a parameter's values lie on this rank; empty on the meta device."""
    if not is_zero3(tensor):
        place = locate(tensor)
        return [] if place is None else [place]
    flat, gathered = partition(tensor)
    places: list[Placed | Flat] = []
    if gathered:
        places += filter(None, [locate(tensor)])
    if flat is not None and locate(flat.local) is not None:
        places.append(flat)
    return places


def _assert_computable(parameter: Parameter) -> None:
    """Refuse a magnitude that this rank cannot compute by itself."""
    tensor, magnitude = parameter.tensor, parameter.magnitude
    assert magnitude is not None
    if is_dtensor(tensor) or is_zero3(tensor) or is_dtensor(magnitude.direction):
        raise ValueError(
            f"parameter {parameter.name!r}: expected a weight_norm that no rank shares with others, since "
            "its magnitude is the norm of the whole direction; got a sharded one; fill the model before "
            "it is sharded, or give the magnitude a rule (None leaves it as it is)"
        )


def _compute(parameter: Parameter) -> None:
    """Make weight_norm's magnitude the norm of its direction, so that the weight is what was drawn."""
    magnitude = parameter.magnitude
    assert magnitude is not None
    axis = -1 if magnitude.axis is None else magnitude.axis
    with torch.no_grad():
        parameter.tensor.copy_(torch.norm_except_dim(magnitude.direction, 2, axis))
