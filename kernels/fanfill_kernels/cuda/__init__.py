"""The CUDA kernels: their source as one text, the names of their entry points, and their parameters' layouts.

``arithmetic.cuh``, ``arithmetic64.cuh``, ``philox.cuh`` and ``narrow.cuh`` mirror the Python files of the
same names; ``fill.cu`` has the kernels, and ``geometry.py`` says how to launch them. ``exact.cu`` tries all
arguments of the operations that are not the machine's own.
"""

import functools
import re
from importlib.resources import files

FILES = (
    "philox.cuh",
    "arithmetic.cuh",
    "arithmetic64.cuh",
    "narrow.cuh",
    "grouped.cuh",
    "keyed.cuh",
    "fill.cu",
    "exact.cu",
)
KINDS = ("run", "box")
GROUPED = "grouped"
KEYED = "keyed"
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def text(name: str) -> str:
    """One source file."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def source(main: str = "fill.cu") -> str:
    """A file with those it includes in place of the lines that do, so that a hash of this text is a hash of
    them all, and no compiler needs a folder. Messages point at the files, by ``#line``.
    """
    folder = __name__.replace(".", "/")
    parts = [f'#line 1 "{folder}/{main}"\n']
    done = 0
    whole = text(main)
    for match in _INCLUDE.finditer(whole):
        line = whole.count("\n", 0, match.end()) + 2
        parts += [
            whole[done : match.start()],
            f'#line 1 "{folder}/{match[1]}"\n',
            text(match[1]),
            f'#line {line} "{folder}/{main}"',
        ]
        done = match.end()
    return "".join([*parts, whole[done:]])


def entry(kind: str, form: str, dtype: str) -> str:
    """The entry point of a kind of KINDS, a form and a dtype; constants know only their width, as "64"."""
    return f"{kind}_{form}_{dtype}"
