"""From a parsed entry to C: one function for a thread, one that runs the threads of a range of blocks.

The C text names nothing but registers, labels and offsets, so equal bodies become equal text, whatever the
kernel, the architecture or the compiler that the PTX came from.
"""

from __future__ import annotations

import math
import re
import struct
from functools import cache

from cuda_on_cpu import conversions, instructions  # noqa: F401 - they fill the table
from cuda_on_cpu.parser import entry_of
from cuda_on_cpu.ptx import (
    Address,
    Entry,
    Float,
    Instruction,
    Integer,
    Label,
    Name,
    Not,
    Operand,
    Pair,
    PtxError,
    Register,
    Sink,
    Special,
    Vector,
    bits,
)
from cuda_on_cpu.table import translate

COORDINATES = {"tid": "tid", "ctaid": "ctaid", "ntid": "launch->block", "nctaid": "launch->grid"}
THREAD = "const struct launch *launch, const u32 *tid, const u32 *ctaid, struct trap *trap"
FUNCTION = """
void NAME(const struct launch *launch, u64 first, u64 end, struct trap *trap) {
    const u32 *grid = launch->grid, *block = launch->block;
    for (u64 b = first; b < end; b++) {
        const u32 ctaid[3] = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        u32 tid[3];
        for (tid[2] = 0; tid[2] < block[2]; tid[2]++)
            for (tid[1] = 0; tid[1] < block[1]; tid[1]++)
                for (tid[0] = 0; tid[0] < block[0]; tid[0]++)
                    if (thread_NAME(launch, tid, ctaid, trap)) {
                        memcpy(trap->tid, tid, sizeof tid);
                        memcpy(trap->ctaid, ctaid, sizeof ctaid);
                        return;
                    }
    }
}
"""


class Translation:
    """One instruction on its way to C: how handlers read operands, and write results and statements."""

    def __init__(self, entry: Entry, number: int, instruction: Instruction) -> None:
        self.parameters = {p.name: p for p in entry.parameters}
        self.number = number
        self.instruction = instruction
        self.reads: set[Register] = set()
        self.writes: set[Register] = set()
        self.lines: list[str] = []

    def error(self, why: str) -> PtxError:
        return self.instruction.error(why)

    def operand(self, k: int) -> Operand:
        return self.instruction.operands[k]

    def expect(self, count: int) -> None:
        if len(self.instruction.operands) != count:
            raise self.error(f"expected {count} operands, got {len(self.instruction.operands)}")

    def do(self, line: str) -> None:
        self.lines.append(line)

    def read(self, operand: int | Operand, type_name: str, loose: bool = False) -> str:
        """A C expression of the operand as this type; `loose` allows wider registers, of which it takes the
        lower bits.
        """
        x = self.operand(operand) if isinstance(operand, int) else operand
        kind, width = type_name[0], bits(type_name)
        if isinstance(x, Register):
            self.reads.add(x)
            if x.bits == width:
                return f"{x.name}.{kind if kind in 'fs' else 'u'}"
            if loose and x.bits > width > 1:
                return f"(({'s' if kind == 's' else 'u'}{width}){x.name}.u)"
            raise self.error(f"a register of {x.bits} bits as {type_name}")
        if isinstance(x, Not) and width == x.register.bits == 1:
            self.reads.add(x.register)
            return f"!{x.register.name}.u"
        if isinstance(x, Float) and width == x.bits:
            return float_literal(x) if kind == "f" else integer_literal(x.pattern, kind, width)
        if isinstance(x, Integer) and kind != "f" and -(1 << (width - 1)) <= x.value < 1 << width:
            return integer_literal(x.value, kind, width)
        if isinstance(x, Special) and width == 32:
            return f"(({'s' if kind == 's' else 'u'}32){COORDINATES[x.name]}[{'xyz'.index(x.axis)}])"
        if isinstance(x, Name) and width == 64 and x.name in self.parameters:
            return f"{self.parameters[x.name].offset}ull"
        raise self.error(f"expected an operand of type {type_name}, got {x}")

    def write(self, operand: int | Operand, type_name: str, value: str, loose: bool = False) -> None:
        """Assign an expression of this type; `loose` allows wider registers, extended by the type's sign."""
        x = self.operand(operand) if isinstance(operand, int) else operand
        if isinstance(x, Sink):
            return
        kind, width = type_name[0], bits(type_name)
        if not isinstance(x, Register):
            raise self.error(f"expected a register to write to, got {x}")
        self.writes.add(x)
        if x.bits == width:
            self.do(f"{x.name}.{'f' if kind == 'f' else 'u'} = {value};")
        elif loose and x.bits > width > 1:
            self.do(f"{x.name}.u = ({'s' if kind == 's' else 'u'}{width})({value});")
        else:
            raise self.error(f"a register of {x.bits} bits for a result of type {type_name}")

    def flushed(self, type_name: str, value: str, ftz: str | None) -> str:
        """float32 numbers go through here on their way into and out of operations."""
        if type_name != "f32":
            return value
        return f"flush({value})" if ftz else f"forced(launch, {value})"

    def read_float(self, operand: int | Operand, type_name: str, ftz: str | None) -> str:
        return self.flushed(type_name, self.read(operand, type_name), ftz)

    def write_float(self, operand: int | Operand, type_name: str, value: str, ftz: str | None) -> None:
        self.write(operand, type_name, self.flushed(type_name, value, ftz))

    def vector(self, k: int, count: int) -> tuple[Operand, ...]:
        x = self.operand(k)
        parts = x.parts if isinstance(x, Vector) else (x,)
        if len(parts) != count:
            raise self.error(f"expected {count} elements, got {len(parts)}")
        return parts

    def pair(self, k: int) -> tuple[Operand, Operand]:
        x = self.operand(k)
        return (x.first, x.second) if isinstance(x, Pair) else (x, Sink())

    def address(self, k: int) -> str:
        """A C expression of 64 bits; a parameter's address is its offset among the parameters."""
        x = self.operand(k)
        if not isinstance(x, Address):
            raise self.error(f"expected an address, got {x}")
        return f"{self.read(x.base, 'u64')} + (u64)({x.offset}ll)"

    def label(self, k: int) -> str:
        x = self.operand(k)
        if not isinstance(x, Name):
            raise self.error(f"expected a label, got {x}")
        return label(x.name)

    def trap_if(self, reason: str, address: str) -> None:
        self.do(
            f"{{ u32 reason = {reason}; if (__builtin_expect(reason, 0)) {{ trap->reason = reason; "
            f"trap->address = {address}; trap->instruction = {self.number}; return 1; }} }}"
        )


def integer_literal(value: int, kind: str, width: int) -> str:
    pattern = value & ((1 << width) - 1)
    if kind == "s":
        return f"((s{width}){pattern:#x})"
    return f"((u16){pattern:#x})" if width == 16 else f"{pattern:#x}{'ull' if width == 64 else 'u'}"


def float_literal(x: Float) -> str:
    value: float = struct.unpack("<f" if x.bits == 32 else "<d", x.pattern.to_bytes(x.bits // 8, "little"))[0]
    if not math.isfinite(value):
        return f"f{x.bits}_of({x.pattern:#x})"
    return f"({value.hex()}{'f' if x.bits == 32 else ''})"


def label(name: str) -> str:
    return "L" + re.sub(r"\W", "_", name)


@cache
def c_function(text: str) -> str:
    """C text that defines the function NAME, to be compiled behind `runtime.h`, from a `Kernel`'s text.

    Raises
    ------
    PtxError
        An unknown instruction or operand, a register of the wrong width, or one that is read and never
        written; it names the line.
    """
    entry = entry_of(text)
    known = {item.name for item in entry.body if isinstance(item, Label)}
    lines = [f"static inline int thread_NAME({THREAD}) {{", "u8 carry = 0;"]
    for width in sorted({r.bits for r in entry.registers}):
        names = ", ".join(r.name for r in entry.registers if r.bits == width)
        lines.append(f"union r{width} {names};")
    written: set[Register] = set()
    readers: dict[Register, Instruction] = {}
    for number, item in enumerate(entry.body):
        if isinstance(item, Label):
            lines.append(f"{label(item.name)}:;")
            continue
        if item.opcode.startswith("bra") and item.operands[0] not in {Name(n) for n in known}:
            raise item.error("unknown label")
        made = Translation(entry, number, item)
        if item.guard is not None:
            lines.append(f"if ({made.read(item.guard, 'pred')})")
        translate(made)
        lines.append("{ " + " ".join(made.lines) + " }")
        written |= made.writes
        readers |= {r: item for r in made.reads if r not in readers}
    for register, reader in readers.items():
        if register not in written:
            raise reader.error(f"{register.name} is never written, but read")
    return "\n".join([*lines, "return 0;", "}"]) + FUNCTION
