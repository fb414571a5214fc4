"""The assembly of kernels as this machine compiles them, made once in a run of the tests."""

from __future__ import annotations

from collections.abc import Callable

import shared


def keep(form: str, dtype: str, text: str) -> None:
    """Let others know what a process compiled for this machine with no setting of Numba's."""
    shared.keep(shared.folder() / f"{form}-{dtype}.s", text.encode())


def of(form: str, dtype: str, made: Callable[[str, str], str]) -> str:
    """The assembly that is known, or else is made now."""
    known = shared.folder() / f"{form}-{dtype}.s"
    return known.read_text() if known.exists() else made(form, dtype)
