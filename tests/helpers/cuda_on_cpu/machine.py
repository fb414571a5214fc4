"""A CUDA device for tests: loads PTX and runs kernels on the CPU.

    module = Module(ptx)
    module.launch("kernel", (blocks, 1, 1), (256, 1, 1), [address.tobytes(), count.tobytes()])

Each entry is translated and linked at its first launch, or many at once by `Module.compile`; equal bodies
are linked once in a process. It shows what the PTX computes. It does not show ptxas, the hardware, the
order of threads or timing.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from cuda_on_cpu.build import Launch, Linked, TrapRecord, distinct, link, programs
from cuda_on_cpu.parser import entry_of, kernels
from cuda_on_cpu.ptx import Entry, Instruction, Parameter, PtxError
from cuda_on_cpu.translate import Program, program_of

__all__ = ["LaunchError", "Module", "Parameter", "PtxError", "Trap", "distinct"]

REASONS = {1: "misaligned address", 2: "address outside of the memory", 3: "division by zero"}
LARGEST_GRID = (2**31 - 1, 65535, 65535)
LARGEST_BLOCK = (1024, 1024, 64)
MOST_THREADS = 1024
EVERYWHERE = ((0, 2**64 - 1),)
SERIAL = 64  # blocks; fewer are not worth a second thread


class LaunchError(ValueError):
    """What the driver would answer with "invalid value": a geometry or an argument it does not take."""


class Trap(RuntimeError):
    """A thread did what ends a kernel on a device.

    Attributes
    ----------
    reason : str
    address : int
    line : int
        Of the PTX text.
    thread, block : tuple of int
    """

    def __init__(self, reason: str, address: int, line: int, text: str, thread: Any, block: Any) -> None:
        super().__init__(f"{reason} {address:#x} at line {line}, `{text}`, thread {thread} of block {block}")
        self.reason, self.address, self.line = reason, address, line
        self.thread, self.block = thread, block


def geometry(name: str, entry: Entry, grid: Sequence[int], block: Sequence[int]) -> tuple[Any, Any]:
    made = []
    for what, given, largest in (("grid", grid, LARGEST_GRID), ("block", block, LARGEST_BLOCK)):
        extents = (*given, *(1,) * (3 - len(given)))
        if len(extents) != 3 or not all(
            1 <= extent <= most for extent, most in zip(extents, largest, strict=True)
        ):
            raise LaunchError(f"expected a {what} of 1 to {largest}; got {tuple(given)}")
        made.append(extents)
    threads = math.prod(made[1])
    if threads > min(MOST_THREADS, entry.most_threads or MOST_THREADS):
        most = min(MOST_THREADS, entry.most_threads or MOST_THREADS)
        raise LaunchError(f"expected at most {most} threads a block for {name}; got {threads}")
    if entry.exact_threads not in (None, threads):
        raise LaunchError(f"expected {entry.exact_threads} threads a block for {name}; got {threads}")
    return made[0], made[1]


def parameter_block(name: str, entry: Entry, args: Sequence[bytes]) -> bytes:
    if len(args) != len(entry.parameters):
        raise LaunchError(f"expected {len(entry.parameters)} arguments for {name}; got {len(args)}")
    made = bytearray(entry.parameter_bytes)
    for number, (p, arg) in enumerate(zip(entry.parameters, args, strict=True)):
        if len(arg) != p.size:
            raise LaunchError(f"expected {p.size} bytes for argument {number} of {name}; got {len(arg)}")
        made[p.offset : p.offset + p.size] = arg
    return bytes(made)


@contextmanager
def shifted(lines: int) -> Iterator[None]:
    """Give the lines of a kernel's errors as lines of the module."""
    try:
        yield
    except PtxError as error:
        raise error.below(lines) from None


class Entries(Mapping[str, Entry]):
    """Kernels by name, each parsed when it is first asked for: all of a large text take seconds."""

    def __init__(self, texts: dict[str, Any]) -> None:
        self._texts, self._parsed = texts, dict[str, Entry]()

    def __getitem__(self, name: str) -> Entry:
        if name not in self._parsed:
            kernel = self._texts[name]
            with shifted(kernel.lines):
                self._parsed[name] = entry_of(kernel.text)
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class Module:
    """The kernels of a PTX text.

    Parameters
    ----------
    ptx : str or bytes
    flush : bool
        Give every float32 operation the semantics of `.ftz`: subnormal operands and results are zeros.
    lazily : bool
        Parse a kernel when it is first asked for, and not at once.

    Attributes
    ----------
    entries : Entries
        By name; `entries[name].parameters` has for each a kind ("value" or "bytes"), a PTX type, size, align
        and offset in bytes.

    Raises
    ------
    PtxError
        A construct that the parser does not know. Unknown instructions are found when a kernel is compiled.
    """

    def __init__(self, ptx: str | bytes, *, flush: bool = False, lazily: bool = False) -> None:
        self.kernels = kernels(ptx.decode() if isinstance(ptx, bytes) else ptx)
        self.entries = Entries(self.kernels)
        self.flush = flush
        if not lazily:
            for name in self.kernels:
                self.entries[name]
        self._linked: dict[str, Linked] = {}

    def program(self, name: str) -> Program:
        """What a kernel does; equal for kernels that do the same."""
        self.entry(name)
        with shifted(self.kernels[name].lines):
            return program_of(self.kernels[name].text)

    def entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise LaunchError(f"expected a kernel of this module; got {name!r}")
        return self.entries[name]

    def compile(self, names: Iterable[str] | None = None) -> None:
        """Translate these kernels, or all, and compile what they do that no kernel before did.

        Raises
        ------
        PtxError
            An unknown instruction, modifier or operand; it names the line.
        """
        made = {name: self.program(name) for name in (self.entries if names is None else names)}
        link(made.values())
        self._linked |= {name: programs[program.digest] for name, program in made.items()}

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[bytes],
        *,
        memory: Sequence[tuple[int, int]] | None = None,
        workers: int = 1,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        grid, block : up to three ints, x first
        args : sequence of bytes
            One for each parameter, of its exact width, little-endian.
        memory : sequence of (address, bytes), optional
            What global loads and stores may touch; anything if not given.
        workers : int
            Host threads that share the blocks.

        Raises
        ------
        LaunchError
            An unknown kernel, a geometry outside of the limits of CUDA or of the kernel, a wrong number of
            arguments or a wrong width.
        Trap
            A misaligned access or one outside of `memory`, or an integer division by zero.
        """
        entry = self.entry(name)
        grid, block = geometry(name, entry, grid, block)
        params = parameter_block(name, entry, args)
        if name not in self._linked:
            self.compile([name])
        function = self._linked[name]
        ends = [(a, a + size) for a, size in memory] if memory is not None else EVERYWHERE
        ranges = (ctypes.c_uint64 * (2 * len(ends)))(*(end for pair in ends for end in pair))
        kept = 0x80000000 if self.flush else 0xFFFFFFFF
        launch = Launch(grid, block, params, len(params), ctypes.addressof(ranges), len(ends), kept)
        blocks = math.prod(grid)
        workers = workers if blocks > SERIAL else 1
        cuts = [blocks * k // workers for k in range(workers + 1)]
        traps = [TrapRecord() for _ in range(workers)]

        def run(k: int) -> None:
            function(ctypes.byref(launch), cuts[k], cuts[k + 1], ctypes.byref(traps[k]))

        if workers == 1:
            run(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(run, range(workers)))
        for trap in traps:
            if trap.reason:
                where = entry.body[trap.instruction]
                assert isinstance(where, Instruction)
                line = where.line + self.kernels[name].lines
                thread, block_index = tuple(trap.tid), tuple(trap.ctaid)
                raise Trap(REASONS[trap.reason], trap.address, line, where.text, thread, block_index)
