"""Tables on stdout, as wide as the terminal, or of 132 columns where there is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["console", "table"]

WIDTH = 132


def console() -> Console:
    """A console on stdout."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with words aligned left and figures aligned right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for k, heading in enumerate(headings):
        made.add_column(heading, justify="left" if k < 3 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell.replace("[", r"\[") for cell in row))
    return made
