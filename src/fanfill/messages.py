"""How what a caller gave is shown in an error: in few characters, and without an error of its own."""

from __future__ import annotations

import reprlib

__all__ = ["shown", "type_name"]

# More than any message needs, and than the longest shape of 64 axes that anybody has.
_MOST = 400


class _Short(reprlib.Repr):
    """Python's shortened `repr`, with whole tuples, and with integers of any length.

    From 4,301 digits on Python converts no integer to text; fewer are too long for a message, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = 64
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        sign = "a negative" if x < 0 else "an"
        return repr(x) if x.bit_length() <= 128 else f"{sign} integer of {x.bit_length()} bits"


_short = _Short()


def shown(value: object) -> str:
    """Return what `repr` says of a value, shortened; never an error, and never more than 400 characters."""
    try:
        text = _short.repr(value)
    except Exception:  # of a length or an iteration of its own, say
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def type_name(value: object) -> str:
    """Return the full name of a value's type; of Python's own the short one."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
