"""The CUDA kernels: their source as one text, the names of their entry points, and their parameters' layouts.

``arithmetic.cuh``, ``arithmetic64.cuh``, ``philox.cuh`` and ``narrow.cuh`` mirror the Python files of the
same names; ``fill.cu`` has the kernels, and ``geometry.py`` says how to launch them.
"""

import functools
import re
from importlib.resources import files

FILES = ("philox.cuh", "arithmetic.cuh", "arithmetic64.cuh", "narrow.cuh", "grouped.cuh", "fill.cu")
KINDS = ("run", "box")
GROUPED = "grouped"
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def text(name: str) -> str:
    """One source file."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def source() -> str:
    """``fill.cu`` with the files it includes in place of the lines that do, so that a hash of this text is a
    hash of them all, and no compiler needs a folder. Messages point at the files, by ``#line``.
    """
    parts = [f'#line 1 "{__name__.replace(".", "/")}/fill.cu"\n']
    done = 0
    fill = text("fill.cu")
    for match in _INCLUDE.finditer(fill):
        line = fill.count("\n", 0, match.end()) + 2
        parts += [
            fill[done : match.start()],
            f'#line 1 "{__name__.replace(".", "/")}/{match[1]}"\n',
            text(match[1]),
            f'#line {line} "{__name__.replace(".", "/")}/fill.cu"',
        ]
        done = match.end()
    return "".join([*parts, fill[done:]])


def entry(kind: str, form: str, dtype: str) -> str:
    """The entry point of a kind of KINDS, a form and a dtype; constants know only their width, as "64"."""
    return f"{kind}_{form}_{dtype}"
