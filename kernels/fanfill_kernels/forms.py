"""Which function makes the values of a form: the table that every backend reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fanfill_kernels import arithmetic, arithmetic64
from fanfill_kernels.formats import FORMATS


class Form(NamedTuple):
    """One way from words to values.

    ``function(word, params)`` gives one value; where ``paired``, ``function(word0, word1, params)`` gives
    two. ``arguments``, if there is one, replaces each 64-bit pair of words beforehand. The parameters are
    ``integers`` uint64, then ``floats`` numbers of the compute type. Compiled loops make a group's values in
    ``turns`` passes: more than one if the arithmetic of a whole group would fill the registers several times.
    """

    function: Callable[..., Any]
    paired: bool = False
    arguments: Callable[..., Any] | None = None
    turns: int = 1
    integers: int = 0
    floats: int = 0


class Kernels(NamedTuple):
    """What a backend offers for one form and dtype.

    ``run(out, start, key, params)`` fills contiguous ``out`` with elements ``start``, ``start + 1``, ...;
    ``box(out, start, shape, pitch, key, params)`` with elements ``start + sum(coordinate * pitch)``, in C
    order over ``shape``. ``nontemporal`` is ``run`` for a buffer so large that its values are better written
    past the caches.
    """

    run: Callable[..., None]
    box: Callable[..., None]
    nontemporal: Callable[..., None]


WORDS = {"words": Form(arithmetic.word)}
SINGLE = {
    "uniform": Form(arithmetic.uniform, floats=1),
    "uniform_clamped": Form(arithmetic.uniform_clamped, floats=3),
    "uniform_range": Form(arithmetic.uniform_range, integers=3, floats=3),
    "normal": Form(arithmetic.box_muller, paired=True, floats=2),
    "truncated_central": Form(
        arithmetic.truncated_central, arguments=arithmetic.central_arguments, integers=2, floats=6
    ),
    "truncated": Form(arithmetic.truncated, turns=2, integers=3, floats=7),
}
# The 16- and 8-bit types round once more: a uniform without a clamp could step over its bound.
NARROW = {
    "uniform_clamped": SINGLE["uniform_clamped"],
    "uniform_range": SINGLE["uniform_range"]._replace(function=arithmetic.uniform_range_to_odd),
    "normal": SINGLE["normal"],
    "truncated_central": SINGLE["truncated_central"],
    "truncated": SINGLE["truncated"],
}
DOUBLE = {
    "uniform": Form(arithmetic64.uniform, floats=1),
    "uniform_clamped": Form(arithmetic64.uniform_clamped, floats=3),
    "uniform_range": Form(arithmetic64.uniform_range, integers=4, floats=3),
    "normal": Form(arithmetic64.box_muller, turns=2, paired=True, floats=2),
    "truncated_central": Form(arithmetic64.truncated_central, turns=2, integers=2, floats=6),
    "truncated": Form(arithmetic64.truncated, turns=2, integers=5, floats=7),
}


def forms_of(dtype: str) -> dict[str, Form]:
    """The forms of a dtype, by name: how its compute type makes values."""
    found = FORMATS[dtype]
    if found.compute is np.float32:
        return SINGLE if found.itemsize == 4 else NARROW
    return DOUBLE if found.compute is np.float64 else WORDS


def form_of(form: str, dtype: str) -> Form:
    """A form of a dtype."""
    return forms_of(dtype)[form]
