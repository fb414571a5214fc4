"""A whole model: every parameter of a 1.1-billion-parameter network, by fanfill and by a loop over torch's
functions. Both draw into views of one flat buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fanfill as ff
from fanfill.bench import llama
from fanfill.bench.measure import STD, Arena, Case, Entrant, Row, Run, contest, limits, timed

__all__ = ["SCHEMES", "rows"]

SCHEMES = ("N(0, 0.02)", "defaults")
ROUNDS, LEAST, SECONDS = 5, 3, 10.0

Parameters = list[tuple[str, NDArray[Any]]]


def rows(
    dtype: str,
    arena: Arena,
    with_torch: bool,
    parameters: Iterable[tuple[str, tuple[int, ...]]] | None = None,
) -> list[Row]:
    """Time both schemes in one dtype.

    Parameters
    ----------
    dtype
        A storage type that torch has, too.
    arena
        The memory that holds the parameters.
    with_torch
        Whether torch takes part, if it is installed.
    parameters
        Names and shapes; by default those of `llama.parameters`.
    """
    table = list(llama.parameters() if parameters is None else parameters)
    total = sum(math.prod(shape) for _, shape in table)
    buffer = arena.view(dtype, total)
    views: Parameters = []
    start = 0
    for name, shape in table:
        size = math.prod(shape)
        views.append((name, buffer[start : start + size].reshape(shape)))
        start += size
    entrants = [(Case("", dtype, total), limits(buffer)[0])]
    for scheme in SCHEMES:
        case = Case(scheme, dtype, total)
        own = Entrant("fanfill", "fill, by name", ff.get_threads(), ours(scheme, views))
        entrants.append((case, own))
        if with_torch:
            entrants.append((case, theirs(scheme, views, dtype)))
    return timed("model", entrants, partial(contest, rounds=ROUNDS, seconds=SECONDS, least=LEAST))


def ours(scheme: str, views: Parameters) -> Run:
    """One fill per parameter, each under its own name."""
    laws = [law_of(scheme, name, view.ndim) for name, view in views]

    def run() -> None:
        for (name, view), law in zip(views, laws, strict=True):
            ff.fill(view, law, seed=1, name=name)

    return run


def law_of(scheme: str, name: str, rank: int) -> ff.Initializer:
    """What torch's modules give a parameter by default, or N(0, 0.02) for every matrix; norms are ones."""
    if rank == 1:
        return ff.constant(1.0)
    if scheme == SCHEMES[0]:
        return ff.normal(0.0, STD)
    if "embed" in name:
        return ff.normal()
    return ff.he_uniform(negative_slope=math.sqrt(5), in_axis=1, out_axis=0)


def theirs(scheme: str, views: Parameters, dtype: str) -> Entrant:
    """The loop that torch users write, or that its modules' ``reset_parameters`` amount to."""
    try:
        torch: Any = import_module("torch")
    except ImportError as error:
        return Entrant("torch", "", 1, None, f"{error}; pip install torch")
    init = torch.nn.init

    def tensor(view: NDArray[Any]) -> Any:
        if dtype == "bfloat16":
            return torch.from_numpy(view.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(view)

    tensors = [(name, tensor(view)) for name, view in views]

    def run() -> None:
        for name, parameter in tensors:
            if parameter.ndim == 1:
                init.ones_(parameter)
            elif scheme == SCHEMES[0]:
                init.normal_(parameter, 0.0, STD)
            elif "embed" in name:
                init.normal_(parameter)
            else:
                init.kaiming_uniform_(parameter, a=math.sqrt(5))

    return Entrant("torch", "nn.init, in a loop", 1, run)
