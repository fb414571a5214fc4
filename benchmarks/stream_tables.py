"""Write the constants of the code into the tables of docs/stream.md.

    python benchmarks/stream_tables.py [--check]

Rewrites what stands between ``<!-- constants: NAME -->`` and ``<!-- end -->``. With ``--check`` nothing is
written, and the exit code is 1 if something would have been.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fanfill.dtypes import STORAGES
from fanfill.recipes import _LIMITS
from fanfill_kernels import arithmetic, arithmetic64, narrow, philox

PAGE = Path(__file__).resolve().parents[1] / "docs" / "stream.md"
BLOCK = re.compile(r"(<!-- constants: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def text(value: Any) -> str:
    """A constant in hexadecimal, floating or not."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float):
        return f"`{re.sub(r'[.]?0*p', 'p', number.hex())}`"
    return f"`{hex(number)}`"


def kernel_table(module: ModuleType) -> str:
    """Every constant of a kernel module, as in the source: polynomials by power, other tuples by place."""
    rows = []
    for name, value in vars(module).items():
        if not name.isupper() or isinstance(value, dict):
            continue
        if not isinstance(value, tuple):
            rows.append((name, "", value))
        elif all(isinstance(v, np.floating) for v in value):
            rows += [(name, f"x^{len(value) - 1 - place}", v) for place, v in enumerate(value)]
        else:
            rows += [(name, str(place), v) for place, v in enumerate(value)]
    lines = [f"| `{name}` | {place} | {text(value)} |" for name, place, value in rows]
    return "\n".join(["| constant | place | value |", "|---|---|---|", *lines])


def storage_table() -> str:
    """The storage types."""
    lines = [
        f"| {s.name} | {s.compute.__name__} | {s.precision} | {text(s.largest)} | {text(2.0**s.least)} "
        f"| {'yes' if s.signed_zero else 'no'} |"
        for s in STORAGES.values()
    ]
    head = (
        "| dtype | compute type | bits of significand | largest value | least positive value | signed zero |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def limit_table() -> str:
    """The lines that the refusals draw."""
    lines = [
        f"| {kind.__name__} | {text(x.least)} | {float(x.reach)!r} | {x.cut_reach!r} | {text(x.least_cut)} "
        f"| {text(x.tiny)} |"
        for kind, x in _LIMITS.items()
    ]
    head = "| compute type | least scalar | reach | reach of cuts | least cut | least normal number |"
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def rewritten(page: str) -> str:
    """The page with every table made anew."""
    modules = {m.__name__.rpartition(".")[2]: m for m in (philox, arithmetic, arithmetic64, narrow)}

    def table(found: re.Match[str]) -> str:
        name = found[2]
        made = {"storages": storage_table, "limits": limit_table}.get(name)
        return f"{found[1]}{made() if made else kernel_table(modules[name])}\n{found[3]}"

    return BLOCK.sub(table, page)


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = rewritten(page)
    if "--check" not in arguments:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    if new != page:
        print(f"{PAGE.name}: the tables are not the code's; run python benchmarks/stream_tables.py")
    return int(new != page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
