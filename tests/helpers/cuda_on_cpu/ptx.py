"""What PTX text says, as data: entries, parameters, registers, instructions and their operands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class PtxError(ValueError):
    """A text, an instruction or an operand that this translator does not know, and its line."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line, self.why = line, why

    def below(self, lines: int) -> PtxError:
        """The same in a text that has so many lines before."""
        return PtxError(self.line + lines, self.why)


def bits(name: str) -> int:
    """Width in bits of the PTX type with this name; a predicate has one."""
    return 1 if name == "pred" else int(name[1:])


class Parameter(NamedTuple):
    """A kernel parameter: `kind` is "value" or "bytes" (a struct by value), sizes and offset in bytes."""

    name: str
    kind: str
    type: str
    size: int
    align: int
    offset: int


class Register(NamedTuple):
    """A register of some width; PTX lets an instruction read it as any type of that width."""

    name: str
    bits: int


class Integer(NamedTuple):
    value: int


class Float(NamedTuple):
    """A literal's bit pattern."""

    pattern: int
    bits: int


class Special(NamedTuple):
    """A thread's or block's coordinate, or an extent: `%tid.x` and its like, 32 bits."""

    name: str
    axis: str


class Name(NamedTuple):
    """A label or a parameter."""

    name: str


class Address(NamedTuple):
    base: Register | Name
    offset: int


class Not(NamedTuple):
    """The inverse of a predicate."""

    register: Register


class Sink(NamedTuple):
    """The operand `_`: the value is dropped."""


Scalar = Register | Integer | Float | Special | Name | Not | Sink


class Vector(NamedTuple):
    parts: tuple[Scalar, ...]


class Pair(NamedTuple):
    """Two destinations, `%p1|%p2`."""

    first: Scalar
    second: Scalar


Operand = Scalar | Address | Vector | Pair


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | Not | None
    line: int
    text: str

    def error(self, why: str) -> PtxError:
        return PtxError(self.line, f"{why} in `{self.text}`")


@dataclass(frozen=True)
class Label:
    name: str


@dataclass
class Entry:
    """What a kernel's text says: parameters with their offsets, registers, statements.

    `most_threads` is `.maxntid`, `exact_threads` is `.reqntid`, each as a product, or None.
    """

    parameters: list[Parameter]
    registers: list[Register] = field(default_factory=list)
    body: list[Instruction | Label] = field(default_factory=list)
    most_threads: int | None = None
    exact_threads: int | None = None

    @property
    def parameter_bytes(self) -> int:
        return max((p.offset + p.size for p in self.parameters), default=0)
