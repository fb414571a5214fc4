"""Which function makes the values of a form, and which stores a dtype: the table that every backend reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fanfill_kernels import arithmetic, arithmetic64, narrow


class Form(NamedTuple):
    """One way from words to values.

    ``function(word, params)`` gives one value; where ``paired``, ``function(word0, word1, params)`` gives
    two. ``arguments``, where there is one, replaces each 64-bit pair of words beforehand. The parameters are
    so many uint64, then so many numbers of the compute type. Compiled loops make a group's values in so many
    ``turns``: more than one where the arithmetic of a whole group would fill the registers several times.
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
    order over ``shape``. ``stream`` is ``run`` for a buffer so large that its values are better written past
    the caches.
    """

    run: Callable[..., None]
    box: Callable[..., None]
    stream: Callable[..., None]


SINGLE = {
    "words": Form(arithmetic.word),
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
STORES = {
    "uint32": narrow.keep,
    "float32": narrow.keep,
    "float64": narrow.keep,
    "float16": narrow.to_float16,
    "bfloat16": narrow.to_bfloat16,
    "float8_e4m3fn": narrow.to_float8_e4m3fn,
    "float8_e5m2": narrow.to_float8_e5m2,
}
# The machine words in which each dtype is stored.
LANES = {
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
    "float16": "u2",
    "bfloat16": "u2",
    "float8_e4m3fn": "u1",
    "float8_e5m2": "u1",
}


def forms_of(dtype: str) -> dict[str, Form]:
    """The forms of a dtype, by name, in its compute type."""
    if dtype == "float64":
        return DOUBLE
    return SINGLE if LANES[dtype] in ("f4", "u4") else NARROW


def form_of(form: str, dtype: str) -> Form:
    """A form of a dtype."""
    return forms_of(dtype)[form]
