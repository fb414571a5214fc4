"""The table from PTX opcodes to what they do.

A pattern matches a whole opcode with its modifiers; an opcode that none matches is an error. So what is not
here was not overlooked: it is refused. Rounding other than to nearest even is not here, nor is a sum or a
product without ``.rn``, which ptxas may fuse.

Bit for bit but for one thing: the bits of a NaN are the host's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuda_on_cpu.translate import Translation

Handler = Callable[..., None]
TABLE: list[tuple[re.Pattern[str], Handler]] = []


def instruction(pattern: str) -> Callable[[Handler], Handler]:
    """Enter a handler for opcodes that match; it gets the pattern's named groups."""

    def enter(handler: Handler) -> Handler:
        TABLE.append((re.compile(pattern), handler))
        return handler

    return enter


@cache
def found(opcode: str) -> tuple[Handler, dict[str, str | None]] | None:
    matches = [(handler, match) for pattern, handler in TABLE if (match := pattern.fullmatch(opcode))]
    if len(matches) > 1:
        raise AssertionError(f"two handlers for {opcode}")
    return (matches[0][0], matches[0][1].groupdict()) if matches else None


def translate(c: Translation) -> None:
    """Write the instruction's C."""
    handler = found(c.instruction.opcode)
    if handler is None:
        raise c.error(f"unknown instruction {c.instruction.opcode}")
    handler[0](c, **handler[1])
