"""Instructions per value, and vector width, of the kernels' hot loops, read off the assembly made here.

    python benchmarks/instructions.py [FORM ...] [--dtypes float32,float64,...]

A loop is a backward jump without another one inside that writes memory outside the stack; a kernel's hot loop
is the longest of them, the other one copies what is less than a group of blocks. x86 only.
"""

import argparse
import platform
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import fanfill as ff
from fanfill import machine
from fanfill.dtypes import STORAGES
from fanfill_kernels import forms
from fanfill_kernels.compile import cpu

LAWS = {
    "uniform": ff.uniform(-0.05, 0.05),
    "uniform_clamped": ff.uniform(-0.05, 0.05, endpoint=False),
    "uniform_range": ff.uniform(0.0, 0.05),
    "normal": ff.normal(0.0, 0.02),
    "truncated_central": ff.truncated_normal(0.0, 0.02),
    "truncated": ff.truncated_normal(0.0, 0.02, -3.0, 3.0),
}
FORMS = ("words", *LAWS)
REGISTERS = (("%zmm", 512), ("%ymm", 256), ("%xmm", 128))
# The first pattern that matches an instruction's name is its class.
CLASSES = {
    "multiply": r"v?pmul|imul|mulx|mulq|mull",
    "float mul": r"v?mul[ps][sd]",
    "float add": r"v?(add|sub)[ps][sd]",
    "fused": r"vf?n?m(add|sub)",
    "div, sqrt": r"v?(div|sqrt)[ps][sd]",
    "convert": r"v?cvt|vpmov[sz]?[a-z]*[bwdq][bwdq]",
    "shift": r"v?ps[lr]|v?prol|v?pror|sh[lr]|sar|ro[lr]",
    "shuffle": r"v?(p?perm|p?unpck|p?shuf|insert|extract|pinsr|pextr|pack|p?blend|p?broadcast)|"
    r"vp?expand|vp?compress|vshuf|vpalignr|valign",
    "logic": r"v?p?(andn?|or|xor|ternlog)|vpternlog|v?p?cmp|v?m(in|ax)[ps]|v?pm(in|ax)|k[a-z]+[bwdq]$",
    "integer add": r"v?p(add|sub)|v?pneg",
    "load, store": r"v?mov|v?p?gather|v?p?scatter",
}


class Loop(NamedTuple):
    """An innermost loop: its registers' width in bits, and what an iteration does."""

    width: int
    stored: int  # bytes
    counts: Counter[str]


class Line(NamedTuple):
    name: str
    operands: tuple[str, ...]


def assembly_of(form: str, dtype: str) -> str:
    """The assembly of a kernel, compiled anew."""
    code = cpu.kernels(form, dtype).run.compile()
    return str(code.library.get_asm_str())


def parsed(assembly: str) -> Iterator[Line | str]:
    """Labels as strings, instructions as lines; directives and comments left out."""
    for text in assembly.splitlines():
        text = text.split("#")[0].strip()
        if text.endswith(":"):
            yield text[:-1]
        elif text and not text.startswith("."):
            name, _, rest = text.partition("\t")
            # Commas inside parentheses belong to one address.
            yield Line(
                name.strip(), tuple(part.strip() for part in re.split(r",(?![^(]*\))", rest) if part.strip())
            )


def innermost(assembly: str) -> Iterator[list[Line]]:
    """The bodies of loops without a loop inside."""
    items = list(parsed(assembly))
    at = {item: place for place, item in enumerate(items) if isinstance(item, str)}
    spans = []
    for place, item in enumerate(items):
        if isinstance(item, Line) and item.name.startswith("j") and item.operands[0] in at:
            target = at[item.operands[0]]
            if target < place:
                spans.append((target, place))
    for first, last in spans:
        if not any((first, last) != span and first <= span[0] and span[1] <= last for span in spans):
            yield [item for item in items[first : last + 1] if isinstance(item, Line)]


def stored_bytes(line: Line) -> int:
    """What an instruction writes outside the stack."""
    if len(line.operands) < 2 or "(" not in line.operands[-1] or "%rsp" in line.operands[-1]:
        return 0
    name, source = line.name, line.operands[-2]
    if re.match(r"cmp|test|prefetch|lea|bt|v?u?comis|vptest", name):
        return 0
    full = next((bits // 8 for register, bits in REGISTERS if source.startswith(register)), 0)
    if full:
        if re.match(r"vextract[fi]64x4|vextract[fi]32x8", name):
            return 32
        if re.match(r"vextract", name):
            return 16
        if re.match(r"vcvtps2ph|vpmov[us]*(dw|qd|wb)", name):
            return full // 2
        if re.match(r"vpmov[us]*(db|qw)", name):
            return full // 4
        if re.match(r"v?movss|v?movd$|v?pextrd|v?extractps", name):
            return 4
        if re.match(r"v?movsd|v?movq$|v?mov[lh]p|v?pextrq", name):
            return 8
        return {"v?pextrw": 2, "v?pextrb": 1}.get(name, full)
    return {"q": 8, "l": 4, "w": 2, "b": 1}.get(name[-1], 0)


def width_of(line: Line) -> int:
    """The widest register of an instruction, in bits; a scalar operation counts as scalar."""
    if re.search(r"[a-z](ss|sd)$|ss2|sd2|2ss|2sd|^v?mov[dq]$", line.name):
        return 64
    text = " ".join(line.operands)
    return next((bits for register, bits in REGISTERS if register in text), 64)


def class_of(line: Line) -> str:
    """The class of an instruction; address arithmetic, comparison and jump are the loop's overhead."""
    vector = any(register in operand for operand in line.operands for register, _ in REGISTERS)
    for label, pattern in CLASSES.items():
        if re.match(pattern, line.name) and (vector or label in ("multiply", "shift", "load, store")):
            return label
    return "scalar"


def loop_of(body: list[Line]) -> Loop | None:
    """What a loop's body does, or None if it writes nothing: then it is not a hot one."""
    stored = sum(map(stored_bytes, body))
    if not stored:
        return None
    counts = Counter(class_of(line) for line in body)
    # A scalar loop uses vector registers too, to blend and to move; what it computes with is scalar.
    computing = [line for line in body if class_of(line) in ("multiply", "float mul", "float add")]
    return Loop(max(map(width_of, computing or body)), stored, counts)


def hot_loop(assembly: str) -> Loop:
    """The longest loop that writes memory."""
    loops = (loop for body in innermost(assembly) if (loop := loop_of(body)) is not None)
    return max(loops, key=lambda loop: loop.counts.total())


def per_value(loop: Loop, dtype: str) -> float:
    """How many values one iteration makes."""
    return loop.stored / (STORAGES[dtype].itemsize if dtype in STORAGES else 4)


def main() -> None:
    """Print a line a loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("forms", nargs="*", default=FORMS, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--dtypes", default="float32,float64,float16,bfloat16")
    chosen = parser.parse_args()
    if platform.machine().lower() not in ("x86_64", "amd64"):
        parser.error(f"expected an x86 processor, whose assembly this reads; got {platform.machine()}")
    print(f"{machine.cpu_model()}; instructions per value of each kernel's loop:")
    columns = (*CLASSES, "scalar")
    print(f"{'kernel':28}{'bits':>5}{'values':>8}{'all':>8}", *(f"{name:>12}" for name in columns))
    for form in chosen.forms:
        for dtype in ("uint32",) if form == "words" else chosen.dtypes.split(","):
            if form not in forms.forms_of(dtype):
                continue
            loop = hot_loop(assembly_of(form, dtype))
            values = per_value(loop, dtype)
            figures = (f"{loop.counts[name] / values:12.3f}" for name in columns)
            head = f"{form + ' ' + dtype:28}{loop.width:5}{values:8.0f}"
            print(head + f"{loop.counts.total() / values:8.2f}", *figures)


if __name__ == "__main__":
    main()
