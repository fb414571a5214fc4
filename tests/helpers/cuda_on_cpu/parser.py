"""PTX text to data: a module's entries, their parameters, and their instructions with line numbers.

The grammar is what NVRTC writes for kernels that use neither shared memory nor barriers nor calls. Whatever
else a text holds is a `PtxError` that names the line.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

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
    Parameter,
    PtxError,
    Register,
    Scalar,
    Sink,
    Special,
    Vector,
    bits,
)

TOKEN = re.compile(r'"[^"\n]*"|\s+|(?:[.%$\w]|::)+|-\d\w*|[{}()\[\];:,@|!+<>=-]')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
ENTRY = re.compile(r"\.entry\s+([\w$]+)")
TYPE = re.compile(r"pred|[busf](8|16|32|64)")
FLOAT = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])")
LINKING = {".visible", ".weak"}
VARIABLES = {".global", ".const"}
LIMITS = {".maxntid", ".reqntid"}
OTHER_LIMITS = {".minnctapersm", ".maxnreg"}


def tokens(text: str) -> tuple[list[str], list[int]]:
    """The words of a text, and the line of each."""
    words: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        found = TOKEN.findall(line)
        if sum(map(len, found)) != len(line):
            raise PtxError(number, f"unknown character {unknown(line)!r}")
        words += (kept := [word for word in found if not word.isspace()])
        lines += [number] * len(kept)
    return words, lines


def unknown(line: str) -> str:
    """The first character that belongs to no word."""
    place = 0
    while found := TOKEN.match(line, place):
        place = found.end()
    return line[place]


class Parser:
    """Recursive descent over the tokens of a module."""

    def __init__(self, text: str) -> None:
        self.tokens, self.lines = tokens(text)
        self.tokens.append("")
        self.lines.append(text.count("\n") + 1)
        self.place = 0
        self.scopes: list[dict[str, Register]] = []

    @property
    def next(self) -> str:
        return self.tokens[self.place]

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def accept(self, text: str) -> bool:
        if self.tokens[self.place] != text:
            return False
        self.place += 1
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"expected {text!r}")

    def error(self, why: str) -> PtxError:
        return PtxError(self.lines[self.place], f"{why}; got {self.next!r}")

    def number(self) -> int:
        if not INTEGER.fullmatch(self.next):
            raise self.error("expected an integer")
        return int(self.take().rstrip("U"), 0)

    def module(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while self.next:
            if self.next in (".version", ".address_size"):
                self.place += 2
            elif self.accept(".target"):
                self.take()
                while self.accept(","):
                    self.take()
            elif self.next in LINKING:
                self.take()
            elif self.next in VARIABLES:
                # NVRTC keeps named constants that no kernel reads. One that does is an unknown operand.
                while self.take() != ";":
                    pass
            elif self.accept(".entry"):
                name = self.take()
                entries[name] = self.entry()
            else:
                raise self.error("expected an entry")
        return entries

    def entry(self) -> Entry:
        entry = Entry(self.parameters())
        while not self.accept("{"):
            limit = self.take()
            if limit not in LIMITS | OTHER_LIMITS:
                self.place -= 1
                raise self.error("expected an entry's body")
            product = self.number()
            while self.accept(","):
                product *= self.number()
            if limit == ".maxntid":
                entry.most_threads = product
            if limit == ".reqntid":
                entry.exact_threads = product
        self.scopes = [{}]
        while self.scopes:
            self.statement(entry)
        return entry

    def parameters(self) -> list[Parameter]:
        found: list[Parameter] = []
        offset = 0
        self.expect("(")
        while not self.accept(")"):
            self.expect(".param")
            align, type_name = 0, ""
            while self.next.startswith("."):
                word = self.take()
                if word == ".align":
                    # After .ptr the alignment is that of what the pointer points at.
                    align = self.number() if not type_name else align
                elif word == ".ptr":
                    while self.next in (".global", ".align"):
                        if self.take() == ".align":
                            self.number()
                elif TYPE.fullmatch(word[1:]):
                    type_name = word[1:]
                else:
                    raise self.error(f"unknown parameter attribute {word!r}")
            name, size, kind = self.take(), bits(type_name) // 8, "value"
            if self.accept("["):
                size, kind = size * self.number(), "bytes"
                self.expect("]")
            align = align or bits(type_name) // 8
            offset += -offset % align
            found.append(Parameter(name, kind, type_name, size, align, offset))
            offset += size
            if self.next != ")":
                self.expect(",")
        return found

    def statement(self, entry: Entry) -> None:
        if self.accept("{"):
            self.scopes.append({})
        elif self.accept("}"):
            self.scopes.pop()
        elif self.accept(".reg"):
            self.registers(entry)
        elif self.accept(".pragma"):
            self.take()
            self.expect(";")
        elif self.tokens[self.place + 1] == ":":
            entry.body.append(Label(self.take()))
            self.expect(":")
        else:
            entry.body.append(self.instruction())

    def registers(self, entry: Entry) -> None:
        type_name = self.take()[1:]
        if not TYPE.fullmatch(type_name):
            self.place -= 1
            raise self.error("expected a register type")
        width = bits(type_name)
        while True:
            name = self.take()
            names = [name]
            if self.accept("<"):
                names = [f"{name}{k}" for k in range(self.number())]
                self.expect(">")
            for each in names:
                # A number keeps registers of inner scopes apart from those of the same name outside.
                number = f"_{len(entry.registers)}" if len(self.scopes) > 1 else ""
                register = Register(f"r_{each.lstrip('%')}{number}", width)
                self.scopes[-1][each] = register
                entry.registers.append(register)
            if not self.accept(","):
                break
        self.expect(";")

    def instruction(self) -> Instruction:
        first = self.place
        guard: Register | Not | None = None
        if self.tokens[first] == "@":
            self.place += 1
            read = self.scalar()
            if not isinstance(read, Register | Not):
                raise self.error("expected a predicate before this")
            guard = read
        line, opcode = self.lines[self.place], self.take()
        if not "a" <= opcode[:1] <= "z":
            self.place -= 1
            raise self.error("expected an instruction")
        operands: list[Operand] = []
        words = self.tokens
        while words[self.place] != ";":
            operands.append(self.operand())
            if words[self.place] != ";":
                self.expect(",")
        text = " ".join(self.tokens[first : self.place])
        self.expect(";")
        return Instruction(opcode, tuple(operands), guard, line, text)

    def operand(self) -> Operand:
        word = self.tokens[self.place]
        if word == "{":
            self.place += 1
            parts = [self.scalar()]
            while self.accept(","):
                parts.append(self.scalar())
            self.expect("}")
            return Vector(tuple(parts))
        if word == "[":
            self.place += 1
            base = self.scalar()
            if not isinstance(base, Register | Name):
                raise self.error("expected a register or a parameter as an address before this")
            offset = self.number() if self.accept("+") else 0
            self.expect("]")
            return Address(base, offset)
        first = self.scalar()
        return Pair(first, self.scalar()) if self.accept("|") else first

    def scalar(self) -> Scalar:
        word = self.tokens[self.place]
        for scope in reversed(self.scopes):
            if word in scope:
                self.place += 1
                return scope[word]
        if self.accept("!"):
            read = self.scalar()
            if not isinstance(read, Register):
                raise self.error("expected a predicate before this")
            return Not(read)
        if word == "_":
            self.take()
            return Sink()
        if literal := FLOAT.fullmatch(word):
            self.take()
            return Float(int(literal[1] or literal[2], 16), 32 if literal[1] else 64)
        if INTEGER.fullmatch(word):
            return Integer(self.number())
        if special := SPECIAL.fullmatch(word):
            self.take()
            return Special(special[1], special[2])
        if re.fullmatch(r"[$A-Za-z_][$\w]*", word):
            return Name(self.take())
        raise self.error("unknown operand")


class Kernel(NamedTuple):
    """An entry's text under the name ``kernel``, and how many lines of the module stand before it.

    Without names and places equal kernels have equal texts, so that what is made of a text can be kept.
    """

    text: str
    lines: int


@cache
def entry_of(text: str) -> Entry:
    """The entry of a `Kernel`'s text."""
    return Parser(text).module()["kernel"]


def kernels(ptx: str) -> dict[str, Kernel]:
    """A module's kernels by name.

    Raises
    ------
    PtxError
        A construct outside of the grammar above, other than in a kernel.
    """
    plain = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), ptx.rstrip("\0"))
    found = [*ENTRY.finditer(plain)]
    ends = [*(match.start() for match in found), len(plain)]
    Parser(plain[: ends[0]]).module()
    made = {}
    lines, before = 0, 0
    for match, end in zip(found, ends[1:], strict=True):
        name = match[1]
        lines, before = lines + plain.count("\n", before, match.start()), match.start()
        body = plain[match.end() : end].rstrip().replace(f"{name}_param_", "param_")
        made[name] = Kernel(f".entry kernel{body}", lines)
    return made
