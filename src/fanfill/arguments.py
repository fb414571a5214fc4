"""Checks of what callers give: numbers, shapes and offsets; each error names the argument."""

from __future__ import annotations

import math
import operator
import re
from itertools import islice
from math import prod
from numbers import Real
from typing import TYPE_CHECKING

from fanfill.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "LARGEST_TENSOR",
    "at_least_zero",
    "entries_of",
    "extended",
    "integer",
    "integer_of",
    "number_of",
    "real",
    "shape_of",
]

LARGEST_TENSOR = 2**63
# A leading zero is none: 1,000 is no shape.
SIZE = re.compile(r"(0|[1-9][0-9]*)(?:([kmg])i|e([0-9]{1,2}))?", re.IGNORECASE)
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# NumPy's and torch's limit. It also tells an endless iterable from a shape.
_MOST_AXES = 64

# More digits than any number that makes sense here: 2^64 has 20.
_MOST_DIGITS = 40


def integer_of(value: object) -> int | None:
    """Return ``value`` as a Python int; None if it is no integer. Booleans are not integers here."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def integer(value: object, what: str, low: int, limit: int, interval: str) -> int:
    """Return ``value`` as a Python int in [low, limit), or raise."""
    number = integer_of(value)
    if number is None:
        raise TypeError(
            f"{what}: expected an integer in {interval}; got {shown(value)} ({type(value).__name__})"
        )
    if not low <= number < limit:
        raise ValueError(f"{what}: expected an integer in {interval}; got {shown(number)}")
    return number


def number_of(digits: str, what: str) -> int:
    """An integer, signed or not, from decimal digits; Python itself reads no more than 4,300 of them."""
    if len(digits.strip()) > _MOST_DIGITS:
        raise ValueError(
            f"{what}: expected a number of at most {_MOST_DIGITS} digits; got {len(digits.strip())} of them"
        )
    return int(digits)


def size_of(text: str, what: str) -> int:
    """The number that "1000", "64Mi", "1Ki" or "1e6" names; ValueError for any other text."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{what}: expected a size such as 64Ki, 64Mi, 1e6 or 1000; got {text!r}")
    digits, unit, zeros = match.groups()
    return number_of(f"{digits}{'0' * int(zeros or 0)}", what) * UNITS[(unit or "").lower()]


def real(what: str, value: float) -> float:
    """`value` as a finite float; `what` names it in errors."""
    number = extended(what, value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite {what}; got {shown(value)}; give a finite number")
    return number


def extended(what: str, value: float) -> float:
    """`value` as a float that may be infinite; -0.0 becomes 0.0, so that equal values are one value."""
    # The exact type first: an abstract class takes a third of a microsecond to ask, and people write
    # fill(w, he_normal(), seed=0) in loops over small tensors.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"expected a real number as {what}; got {shown(value)}; give an int or a float")
    try:
        number = float(value) + 0.0
    except OverflowError:
        raise ValueError(f"expected a {what} within the range of float64; got an integer beyond it") from None
    if math.isnan(number):
        raise ValueError(f"expected a number as {what}; got nan; give a finite number")
    return number


def entries_of(value: int | Iterable[int], what: str) -> tuple[object, ...] | None:
    """Return the entries of an iterable, unchecked; None for anything else, such as an integer.

    Raises
    ------
    TypeError
        If it is text, bytes, or a collection without an order.
    ValueError
        If there are more than any tensor has axes.
    """
    if isinstance(value, str | bytes | bytearray | set | frozenset | dict):
        raise TypeError(
            f"{what}: expected an integer or a tuple of them; got {shown(value)} ({type(value).__name__})"
        )
    try:
        entries = iter(value)  # type: ignore[arg-type]
    except TypeError:  # arrays without axes are among these
        return None
    found: tuple[object, ...] = tuple(islice(entries, _MOST_AXES + 1))
    if len(found) > _MOST_AXES:
        raise ValueError(
            f"{what}: expected at most {_MOST_AXES} axes; got more: {shown(found[:3])} and so on"
        )
    return found


def shape_of(value: int | Iterable[int], what: str) -> tuple[int, ...]:
    """Return a shape as a tuple of Python ints; a single integer is a shape of rank 1.

    Raises
    ------
    TypeError, ValueError
        If an entry is not an integer, is negative, or the product passes 2^63; as `entries_of`.
    """
    entries = entries_of(value, what)
    shape = tuple(
        integer(entry, what, 0, LARGEST_TENSOR + 1, "[0, 2**63]")
        for entry in ((value,) if entries is None else entries)
    )
    if prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"{what}: expected at most 2**63 elements; got shape {shown(shape)}")
    return shape


def at_least_zero(what: str, value: float) -> float:
    """A parameter as a finite float >= 0; TypeError or ValueError for anything else."""
    number = real(what, value)
    if number < 0.0:
        raise ValueError(f"expected a {what} >= 0; got {shown(value)}; give its magnitude")
    return number
