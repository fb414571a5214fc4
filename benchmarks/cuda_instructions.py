"""Instructions per value, registers and stores of the CUDA kernels, read off the machine code made here.

    python benchmarks/cuda_instructions.py [--write] [--arch 80,90] [KERNEL ...]

Needs no GPU: NVRTC compiles, cuobjdump disassembles (PyPI's nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm,
or a toolkit's). The main path of a kernel is what a thread executes whose elements all exist: from the entry
to the first unconditional EXIT, or one turn of the loop of a kernel that goes from chunk to chunk. That
leaves out what threads at the ends do, and the subroutines for float64's square roots and quotients of
subnormal, infinite or invalid arguments, which no stream value has. ``--write`` rewrites
``tests/data/cuda_instructions.json``, the table that CI compares with.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fanfill.cuda import nvrtc
from fanfill_kernels import cuda
from fanfill_kernels.cuda.choice import source_of
from fanfill_kernels.cuda.groups import parameters

TABLE = Path(__file__).parents[1] / "tests" / "data" / "cuda_instructions.json"
ARCHES = (80, 90)
# Bytes of a value, by the ends of kernels' names.
WIDTHS = {"32": 4, "64": 8, "float16": 2, "bfloat16": 2, "fn": 1, "e5m2": 1, "fnuz": 1, "_16": 2, "_8": 1}
# What stands for all kernels that read their seed from device memory, or what they fill from a table: each is
# compiled by itself.
ALONE = (
    "uniform_float32",
    "uniform_clamped_bfloat16",
    "normal_float64",
    "normal_centred_float32",
    "normal_centred_bfloat16",
    "truncated_central_float32",
    "truncated_float32",
)
# How the names of a family and of its kernel begin.
KEYED = cuda.KEYED, f"{cuda.KEYED}_run"
GROUPED = f"{cuda.GROUPED}_{parameters((12, 1), 90)}", cuda.GROUPED
_FUNCTION = re.compile(r"Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", re.MULTILINE)
_USAGE = re.compile(r"Function (\S+):\s*\n\s*(.*)")


class Instruction(NamedTuple):
    address: int
    guard: str  # "" or "@P0", "@!P0", ...
    name: str  # with its suffixes: FADD.FTZ
    operands: str


class Kernel(NamedTuple):
    """One kernel's machine code."""

    code: list[Instruction]
    registers: int
    stack: int
    local: int


def tool(name: str) -> str:
    """The path of a CUDA tool: of PyPI's wheels, or on the PATH."""
    for folder in sys.path:
        for found in sorted(Path(folder or ".").glob(f"nvidia/cu*/bin/{name}")):
            return str(found)
    found_on_path = shutil.which(name)
    if found_on_path is None:
        raise FileNotFoundError(f"expected {name}; pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return found_on_path


def parsed(text: str) -> Instruction:
    address, body = text.split(" ", 1)
    guard = ""
    if body.startswith("@"):
        guard, body = body.split(None, 1)
    name, _, operands = body.partition(" ")
    return Instruction(int(address, 16), guard, name, operands.strip())


def kernels(cubin: bytes) -> dict[str, Kernel]:
    """The kernels of a cubin by name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fill.cubin"
        file.write_bytes(cubin)
        environment = {"PATH": str(Path(tool("nvdisasm")).parent)}
        sass, usage = (
            subprocess.run(
                [tool("cuobjdump"), flag, str(file)],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            for flag in ("-sass", "-res-usage")
        )
    used = dict(_USAGE.findall(usage.stdout + usage.stderr))
    found = {}
    pieces = _FUNCTION.split(sass.stdout)
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        code = [parsed(f"{a} {b}") for a, b in _INSTRUCTION.findall(body)]
        numbers = dict(re.findall(r"(\w+):(\d+)", used[name]))
        found[name] = Kernel(code, int(numbers["REG"]), int(numbers["STACK"]), int(numbers["LOCAL"]))
    return found


def main_path(code: list[Instruction], trips: int = 1) -> list[Instruction]:
    """What a thread executes whose groups are whole, with inner loops run through ``trips`` times.

    Of the conditional branches it takes those back to a loop's start, those that leave out a subroutine, and
    those that leave out the stores of single elements.
    """
    at = {i.address: n for n, i in enumerate(code)}
    wide = [n for n, i in enumerate(code) if is_wide(i)]
    path: list[Instruction] = []
    left = Counter[int]()
    place, end = turn(code)
    while True:
        i = code[place]
        path.append(i)
        if place == end or (i.name == "EXIT" and not i.guard):
            return path
        place += 1
        if is_branch(i):
            target = at[target_of(i)]
            if target < place:
                left[place] += 1
                taken = left[place] < trips
            else:
                skipped = code[place:target]
                single = any(is_single(s) for s in skipped)
                calls = any(s.name.startswith("CALL") for s in skipped)
                taken = not i.guard or (single and any(n >= target for n in wide)) or (calls and not single)
            if taken:
                place = target


def turn(code: list[Instruction]) -> tuple[int, int | None]:
    """Where a turn of the loop around the wide stores begins and ends: nowhere, if there is none."""
    wide = [n for n, i in enumerate(code) if is_wide(i)]
    for place in range(wide[-1] if wide else len(code), len(code)):
        if is_branch(code[place]) and target_of(code[place]) <= code[wide[0]].address:
            return next(n for n, i in enumerate(code) if i.address == target_of(code[place])), place
    return 0, None


def is_branch(i: Instruction) -> bool:
    return i.name == "BRA" or i.name.startswith("BRA.")


def target_of(i: Instruction) -> int:
    """The address that a branch goes to."""
    return int(re.findall(r"0x[0-9a-f]+", i.operands)[-1], 16)


def is_wide(i: Instruction) -> bool:
    """A store of 16 bytes."""
    return i.name.startswith("STG") and ".128" in i.name


def is_single(i: Instruction) -> bool:
    """A store of one element of 16."""
    return i.name.startswith("STG") and ".128" not in i.name


def trips_of(name: str) -> int:
    """How often a kernel goes through its inner loop: blocks of a thread by blocks side by side."""
    name = name.removeprefix(f"{cuda.KEYED}_")
    blocks = 4 if "float8" in name or name.endswith("constant_8") else 2
    by_one = re.match(rf"(run|{cuda.GROUPED})_truncated_float(64|8)", name)
    return blocks if by_one else blocks // 2


def row(name: str, kernel: Kernel) -> dict[str, float]:
    """A kernel's line of the table: instructions a value, and registers."""
    path = main_path(kernel.code, trips_of(name))
    size = next(s for suffix, s in WIDTHS.items() if name.endswith(suffix))
    values = sum(map(is_wide, path)) * 16 // size
    return {"instructions": round(len(path) / values, 3), "registers": kernel.registers}


def table(compiler: nvrtc.Compiler, arch: int) -> dict[str, dict[str, float]]:
    """The lines of all run kernels for an architecture."""
    found = kernels(compiler.compile(cuda.source(), "fill.cu", arch))
    lines = {name: row(name, kernel) for name, kernel in sorted(found.items()) if name.startswith("run_")}
    for family, kernel in (KEYED, GROUPED):
        lines |= alone(compiler, arch, family, kernel)
    return lines


def alone(compiler: nvrtc.Compiler, arch: int, family: str, kernel: str) -> dict[str, dict[str, float]]:
    """The lines of the kernels among ALONE; of those that read their seed, that is counted too."""
    lines = {}
    for values in ALONE:
        found = kernels(compiler.compile(source_of(f"{family}_{values}"), "fill.cu", arch))
        name = f"{kernel}_{values}"
        lines[name] = row(name, found[name])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kernels", nargs="*", help="parts of names; all by default")
    parser.add_argument("--arch", default=",".join(map(str, ARCHES)))
    parser.add_argument("--write", action="store_true", help=f"rewrite {TABLE.name}")
    options = parser.parse_args()
    made: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for compiler in nvrtc.compilers():
        version = ".".join(map(str, compiler.version))
        for arch in map(int, options.arch.split(",")):
            made.setdefault(version, {})[str(arch)] = rows = table(compiler, arch)
            print(f"NVRTC {version}, sm_{arch}: instructions a value, registers")
            for name, line in rows.items():
                if not options.kernels or any(part in name for part in options.kernels):
                    print(f"  {name:36} {line['instructions']:8.2f} {line['registers']:4}")
    if options.write:
        text = json.dumps(made, indent=1)
        text = re.sub(r"\{\s+(\"instructions\": [\d.]+),\s+(\"registers\": \d+)\s+\}", r"{\1, \2}", text)
        TABLE.write_text(text + "\n")


if __name__ == "__main__":
    main()
