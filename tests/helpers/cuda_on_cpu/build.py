"""Programs of PTX linked: their operations compiled by the host's C compiler, and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shared

from cuda_on_cpu.translate import Program

RUNTIME = Path(__file__).with_name("runtime.h")
OPTIONS = (
    "-O1", "-foptimize-sibling-calls", "-std=gnu11", "-fwrapv", "-fno-strict-aliasing", "-ffp-contract=off",
    "-fno-math-errno", "-w", "-shared", "-fPIC",
)  # fmt: skip


class Launch(ctypes.Structure):
    """`struct launch` of runtime.h."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("params", ctypes.c_char_p),
        ("param_bytes", ctypes.c_uint64),
        ("memory", ctypes.c_void_p),
        ("ranges", ctypes.c_uint64),
        ("kept", ctypes.c_uint32),
    )


class TrapRecord(ctypes.Structure):
    """`struct trap` of runtime.h."""

    _fields_ = (
        ("reason", ctypes.c_uint32),
        ("instruction", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("tid", ctypes.c_uint32 * 3),
        ("ctaid", ctypes.c_uint32 * 3),
    )


ARGUMENTS = (
    ctypes.POINTER(Launch),
    ctypes.c_uint64,
    ctypes.c_uint64,
    ctypes.POINTER(TrapRecord),
    ctypes.c_void_p,
    ctypes.c_uint64,
)


class Linked(NamedTuple):
    """A program whose steps have the addresses of their functions."""

    run: Any
    words: np.ndarray
    registers: int

    def __call__(self, launch: Any, first: int, end: int, trap: Any) -> None:
        """Run the threads of these blocks."""
        self.run(launch, first, end, trap, self.words.ctypes.data, self.registers)


operations: dict[str, int] = {}
programs: dict[str, Linked] = {}
lock = threading.Lock()
runner: Any = None


def distinct() -> int:
    """How many distinct programs this process has linked."""
    return len(programs)


def link(wanted: Iterable[Program]) -> None:
    """Make programs callable; their operations are compiled unless this run of the tests has them."""
    with lock:
        missing = {program.digest: program for program in wanted if program.digest not in programs}
        compile_together({text for p in missing.values() for text in p.texts} - operations.keys())
        for digest, program in missing.items():
            words = np.array(program.words, np.uint64)
            words[list(program.starts)] = [operations[text] for text in program.texts]
            programs[digest] = Linked(runner, words, program.registers)


def compile_together(texts: set[str]) -> None:
    """Compile C functions of these texts, of which the ones that this run has are loaded alone."""
    if not texts:
        return
    with shared.alone("gcc") as folder:
        named = {f"o{shared.digest(text)}": text for text in sorted(texts)}
        missing = {}
        for name, text in named.items():
            library = folder / f"{name}.so"
            if library.exists():
                load(library, {name: text})
            else:
                missing[name] = text
        if missing:
            library = library_of(missing, folder)
            load(library, missing)
            for name in missing:
                shared.link(library, folder / f"{name}.so")


def load(library: Path, names: dict[str, str]) -> None:
    """Let this process call functions of a library; one that has several names is loaded once."""
    global runner
    loaded = ctypes.CDLL(str(library))
    if runner is None:
        runner = loaded.run
        runner.argtypes = ARGUMENTS
        runner.restype = None
    for name, text in names.items():
        found = ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value
        assert found is not None
        operations[text] = found


def library_of(texts: dict[str, str], folder: Path) -> Path:
    """A shared library of C functions by name."""
    handle, source = tempfile.mkstemp(".c", dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(RUNTIME.read_text())
        file.writelines(f"OPERATION({name}, {text})\n" for name, text in texts.items())
    target = Path(source).with_suffix(".so")
    command = [os.environ.get("CC", "gcc"), *OPTIONS, source, "-o", str(target), "-lm"]
    subprocess.run(command, check=True)
    return target
