"""One kernel's part of the source: a fill needs a form and a dtype, and all of them take seconds to compile.

Measured with NVRTC 13.5 for sm_90: under 20 s of one core for all, 0.13 to 0.4 s for the two kernels of one
form and dtype.
"""

import functools
import re

from fanfill_kernels.cuda import GROUPED, KEYED, source

_FORMS = re.compile(r"^(FORMS|KERNELS)\((\w+),")
_GROUPED = re.compile(rf"{GROUPED}_(\d+)_(\w+)")
_DTYPE = re.compile(r"^ +KERNELS\(name##_(\w+),")


def family(entry: str) -> str:
    """What the entry points of a form and dtype have in common: "normal_float32" of "run_normal_float32".

    A grouped kernel is a family of its own, and so are the two of "keyed_normal_float32": most programs never
    need them.
    """
    if entry.startswith(f"{GROUPED}_"):
        return entry
    if entry.startswith(f"{KEYED}_"):
        return f"{KEYED}_{family(entry.removeprefix(f'{KEYED}_'))}"
    return entry.partition("_")[2]


@functools.cache
def source_of(name: str) -> str:
    """The source without the kernels of other families than ``name``; its lines keep their numbers.

    "grouped_4096_normal_float32" names the grouped kernel whose parameters may have 4,096 bytes, and
    "keyed_normal_float32" the two kernels that read their seed from device memory.

    Raises
    ------
    ValueError
        If the source has no such kernels.
    """
    grouped = _GROUPED.fullmatch(name)
    if grouped:
        return f"#define GROUPED\n#define PARAMETERS {grouped[1]}\n{source_of(grouped[2])}"
    if name.startswith(f"{KEYED}_"):
        return f"#define KEYED\n{source_of(name.removeprefix(f'{KEYED}_'))}"
    lines, found = [], 0
    for line in source().split("\n"):
        of_form, of_dtype = _FORMS.match(line), _DTYPE.match(line)
        if of_dtype and not name.endswith(f"_{of_dtype[1]}"):
            line = "\\" * line.endswith("\\")
        elif of_form and name not in _families(*of_form.groups()):
            line = ""
        elif of_form:
            found += 1
        lines.append(line)
    if found != 1:
        raise ValueError(f"expected kernels of a form and dtype, such as 'normal_float32'; got {name!r}")
    return "\n".join(lines)


@functools.cache
def _families(macro: str, form: str) -> tuple[str, ...]:
    """The families that a line with a macro stands for: of FORMS all dtypes, of KERNELS the one it names."""
    if macro == "KERNELS":
        return (form,)
    return tuple(f"{form}_{match[1]}" for line in source().split("\n") if (match := _DTYPE.match(line)))
