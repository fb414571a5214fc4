"""A few statements of PTX made into kernels and run, for tests of the translator."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from functools import cache

import numpy as np

from cuda_on_cpu.machine import Module

HEADER = ".version 8.8\n.target sm_90, texmode_independent\n.address_size 64\n"
WIDTHS = {"p": 8, "h": 16, "w": 32, "l": 64}
NAN = math.nan


def f(x: float) -> int:
    """Bits of a float32."""
    return int(np.float32(x).view(np.uint32))


def d(x: float) -> int:
    """Bits of a float64."""
    return int(np.float64(x).view(np.uint64))


def names_in(statements: str) -> tuple[list[str], list[str]]:
    """(inputs, outputs): registers are named by width, h w l or p, and a letter or `o` and a number."""
    seen = list(dict.fromkeys(re.findall(r"%[phwl](?:[a-e]|o\d?)\b", statements)))
    return [n for n in seen if "o" not in n], [n for n in seen if "o" in n]


def snippet(statements: str, name: str = "k") -> str:
    """A kernel of one thread: loads the inputs, runs the statements, stores the outputs 8 bytes apart."""
    inputs, outputs = names_in(statements)
    lines = [f".visible .entry {name}(", "\t.param .u64 out"]
    lines[-1] += "".join(f",\n\t.param .u64 in_{n[1:]}" for n in inputs) + "\n)\n{"
    for kind, type_name in (("p", "pred"), ("h", "b16"), ("w", "b32"), ("l", "b64")):
        declared = [n for n in inputs + outputs if n[1] == kind]
        if declared:
            lines.append(f"\t.reg .{type_name} {', '.join(declared)};")
    lines.append("\t.reg .b64 %out;\n\t.reg .b32 %flag;\n\tld.param.u64 %out, [out];")
    for n in inputs:
        if n[1] == "p":
            lines.append(f"\tld.param.u32 %flag, [in_{n[1:]}];\n\tsetp.ne.u32 {n}, %flag, 0;")
        else:
            lines.append(f"\tld.param.b{WIDTHS[n[1]]} {n}, [in_{n[1:]}];")
    lines.append(statements)
    for k, n in enumerate(outputs):
        if n[1] == "p":
            lines.append(f"\tselp.u32 %flag, 1, 0, {n};\n\tst.global.u8 [%out+{8 * k}], %flag;")
        else:
            lines.append(f"\tst.global.b{WIDTHS[n[1]]} [%out+{8 * k}], {n};")
    return "\n".join([*lines, "\tret;\n}\n"])


def launched(module: Module, name: str, statements: str, given: tuple[int, ...]) -> tuple[int, ...]:
    """What the snippet of this name leaves in its outputs."""
    inputs, outputs = names_in(statements)
    assert len(given) == len(inputs)
    out = np.zeros(len(outputs), np.uint64)
    args = [struct.pack("<Q", x) for x in (out.ctypes.data, *given)]
    module.launch(name, (1,), (1,), args, memory=[(out.ctypes.data, out.nbytes)])
    return tuple(int(x) for x in out)


@cache
def single(statements: str, flush: bool = False) -> Module:
    """A module of one snippet, made once."""
    return Module(HEADER + snippet(statements), flush=flush)


def compile_together(statements: Iterable[str]) -> None:
    """Compile what these do in one go, where a compiler for each takes a tenth of a second."""
    Module(HEADER + "".join(snippet(text, f"k{n}") for n, text in enumerate(statements))).compile()


def evaluated(statements: str, *given: int, flush: bool = False) -> tuple[int, ...]:
    """What the statements leave in their outputs, given their inputs."""
    return launched(single(statements, flush), "k", statements, given)


def kernel(body: str, parameters: str = ".param .u64 a") -> Module:
    """A kernel k of these statements alone, with nine registers of each width and four predicates."""
    registers = ".reg .pred %p<4>; .reg .b16 %h<9>;\n.reg .b32 %r<9>;\n.reg .b64 %l<9>;\n"
    return Module(f"{HEADER}.visible .entry k({parameters})\n{{\n{registers}{body}\nret;\n}}\n")


def address(memory: np.ndarray, offset: int = 0) -> bytes:
    """A kernel's argument that points into the memory."""
    return struct.pack("<Q", memory.ctypes.data + offset)


def aligned(count: int) -> np.ndarray:
    """Zeroed bytes from a multiple of 64 on."""
    memory = np.zeros(count + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + count]
