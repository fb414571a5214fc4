"""From a parsed entry to a program: for each instruction a C function, and words that say what it works with.

Registers, literals, offsets and targets are words, so the C texts are those of some hundred operations,
whatever the kernels: they compile in half a second, where a C function for each kernel took half a minute.
Nothing else is in a program, so equal bodies are equal, whatever the kernel, the architecture or the compiler
of the PTX.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import shared

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
WORDS = 2**64


class Program(NamedTuple):
    """A kernel as words: for each step its function's address, not known yet, and what it works with.

    `texts` has the C text of each step, `starts` where its words begin, `registers` how many registers
    of 8 bytes a thread has. The digest stands for all of it.
    """

    digest: str
    texts: tuple[str, ...]
    starts: tuple[int, ...]
    words: tuple[int, ...]
    registers: int


class Frame:
    """What all instructions of an entry have in common."""

    def __init__(self, entry: Entry) -> None:
        self.parameters = {p.name: p for p in entry.parameters}
        self.places = {register: 8 * k for k, register in enumerate(entry.registers)}


class Translation:
    """One instruction on its way to C: how handlers read operands, and write results and statements."""

    def __init__(self, frame: Frame, number: int, instruction: Instruction) -> None:
        self.frame = frame
        self.number = number
        self.instruction = instruction
        self.reads: set[Register] = set()
        self.writes: set[Register] = set()
        self.lines: list[str] = []
        self.words: list[int] = []
        self.target: tuple[int, str] | None = None

    def error(self, why: str) -> PtxError:
        return self.instruction.error(why)

    def operand(self, k: int) -> Operand:
        return self.instruction.operands[k]

    def expect(self, count: int) -> None:
        if len(self.instruction.operands) != count:
            raise self.error(f"expected {count} operands, got {len(self.instruction.operands)}")

    def do(self, line: str) -> None:
        self.lines.append(line)

    def word(self, value: int) -> str:
        """A C expression of a word of this step."""
        self.words.append(value % WORDS)
        return f"step[{len(self.words)}]"

    def register(self, x: Register) -> str:
        """A C expression of a register: the union of its width."""
        return f"R{x.bits}({self.word(self.frame.places[x])})"

    def integer(self, value: int, kind: str, width: int) -> str:
        """A C expression of an integer: that of its type, 32 bits at least if it is unsigned."""
        word = self.word(value & ((1 << width) - 1))
        return f"(({kind if kind == 's' else 'u'}{width if kind == 's' or width > 8 else 32}){word})"

    def read(self, operand: int | Operand, type_name: str, loose: bool = False) -> str:
        """A C expression of the operand as this type; `loose` allows wider registers, of which it takes the
        lower bits.
        """
        x = self.operand(operand) if isinstance(operand, int) else operand
        kind, width = type_name[0], bits(type_name)
        if isinstance(x, Register):
            self.reads.add(x)
            if x.bits == width:
                return f"{self.register(x)}.{kind if kind in 'fs' else 'u'}"
            if loose and x.bits > width > 1:
                return f"(({'s' if kind == 's' else 'u'}{width}){self.register(x)}.u)"
            raise self.error(f"a register of {x.bits} bits as {type_name}")
        if isinstance(x, Not) and width == x.register.bits == 1:
            self.reads.add(x.register)
            return f"!{self.register(x.register)}.u"
        if isinstance(x, Float) and width == x.bits:
            pattern = self.integer(x.pattern, "u" if kind == "f" else kind, width)
            return f"f{x.bits}_of({pattern})" if kind == "f" else pattern
        if isinstance(x, Integer) and kind != "f" and -(1 << (width - 1)) <= x.value < 1 << width:
            return self.integer(x.value, kind, width)
        if isinstance(x, Special) and width == 32:
            return f"(({'s' if kind == 's' else 'u'}32){COORDINATES[x.name]}[{'xyz'.index(x.axis)}])"
        if isinstance(x, Name) and width == 64 and x.name in self.frame.parameters:
            return self.integer(self.frame.parameters[x.name].offset, "u", 64)
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
            self.do(f"{self.register(x)}.{'f' if kind == 'f' else 'u'} = {value};")
        elif loose and x.bits > width > 1:
            self.do(f"{self.register(x)}.u = ({'s' if kind == 's' else 'u'}{width})({value});")
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
        return f"{self.read(x.base, 'u64')} + {self.integer(x.offset, 'u', 64)}"

    def go_to(self, k: int) -> None:
        """Go on at a label: so many words from here."""
        x = self.operand(k)
        if not isinstance(x, Name):
            raise self.error(f"expected a label, got {x}")
        self.do(f"return step + (s64){self.word(0)};")
        self.target = len(self.words), x.name

    def trap_if(self, reason: str, address: str) -> None:
        self.do(
            f"{{ u32 reason = {reason}; if (__builtin_expect(reason, 0)) {{ trap->reason = reason; "
            f"trap->address = {address}; trap->instruction = {self.word(self.number)}; return 0; }} }}"
        )


@cache
def program_of(text: str) -> Program:
    """The program of a `Kernel`'s text; its C texts are to be compiled behind `runtime.h`.

    Raises
    ------
    PtxError
        An unknown instruction or operand, a register of the wrong width, or one that is read and never
        written; it names the line.
    """
    entry = entry_of(text)
    frame = Frame(entry)
    known = {item.name for item in entry.body if isinstance(item, Label)}
    texts: list[str] = []
    starts: list[int] = []
    words: list[int] = []
    places: dict[str, int] = {}
    jumps: list[tuple[int, int, str]] = []
    written: set[Register] = set()
    readers: dict[Register, Instruction] = {}
    for number, item in enumerate(entry.body):
        if isinstance(item, Label):
            places[item.name] = len(words)
            continue
        if item.opcode.startswith("bra") and item.operands[0] not in {Name(n) for n in known}:
            raise item.error("unknown label")
        made = Translation(frame, number, item)
        guard = "" if item.guard is None else f"if ({made.read(item.guard, 'pred')}) "
        translate(made)
        starts.append(len(words))
        if made.target is not None:
            jumps.append((len(words), *made.target))
        texts.append(f"{guard}{{ {' '.join(made.lines)} }} NEXT({1 + len(made.words)})")
        words += (0, *made.words)
        written |= made.writes
        readers |= {r: item for r in made.reads if r not in readers}
    for register, reader in readers.items():
        if register not in written:
            raise reader.error(f"{register.name} is never written, but read")
    for start, place, target in jumps:
        words[start + place] = (places[target] - start) % WORDS
    everything = (*texts, "return 0;"), (*starts, len(words)), (*words, 0), len(entry.registers)
    return Program(shared.digest(everything), *everything)
