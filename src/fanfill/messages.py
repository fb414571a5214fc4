"""Shows a caller's value in an error message: in few characters, and without raising another error."""

from __future__ import annotations

import reprlib

__all__ = ["shown", "type_name"]

# More than any message needs, and more than the longest real shape of 64 axes.
_MOST = 400


class _Short(reprlib.Repr):
    """Python's shortened `repr`, but with whole tuples and with integers of any length.

    Python converts no integer of more than 4,300 digits to text, and shorter ones are too long for a message.
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
    """Return a value's `repr`, shortened to at most 400 characters; never raises an error."""
    try:
        text = _short.repr(value)
    except Exception:  # from the value's own length or iteration, say
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def type_name(value: object) -> str:
    """Return the full name of a value's type, or the short one for Python's own types."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
