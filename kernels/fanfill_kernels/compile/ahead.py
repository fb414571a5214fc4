"""Compiles kernels before they are needed, for this machine's processor or for another one.

Numba makes one code generator per process, for the processor that the environment names. So kernels for
another processor are compiled in a separate process, which runs none of them.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import NamedTuple, Protocol

from llvmlite import binding

from fanfill_kernels.compile import callbacks, cpu
from fanfill_kernels.compile import scatter as scattering
from fanfill_kernels.store import cache, keys
from fanfill_kernels.store.keys import Target

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fanfill_kernels.compile import ahead; ahead.keep_for_another(sys.argv[2])"
)
_ADDITION = """
define <16 x i32> @f(<16 x i32> %a, <16 x i32> %b) {
  %c = add <16 x i32> %a, %b
  ret <16 x i32> %c
}
"""


class Kept(NamedTuple):
    """A kernel in the cache: its key, whether it was compiled now, and how many seconds that took."""

    key: str
    compiled: bool
    seconds: float


def environment(goal: Target) -> dict[str, str]:
    """The variables that make a process compile for a processor, and find kernels compiled for it."""
    return {"NUMBA_CPU_NAME": goal.name, "NUMBA_CPU_FEATURES": goal.features}


class Kernel(Protocol):
    """What can be compiled and kept."""

    name: str

    def key(self) -> str:
        """The key under which its code is kept."""

    def keep(self) -> str:
        """Compile it and keep it without running it; return its key."""


def kernels_of(forms: Iterable[tuple[str, str]], itemsizes: Iterable[int] = ()) -> list[Kernel]:
    """The kernels of these forms and dtypes, and those that copy items of these sizes to strided memory.

    With words, also the functions that hand them out one by one.
    """
    found: list[Kernel] = []
    for form, dtype in forms:
        if form == "words":
            found.append(callbacks.FUNCTIONS)
        loops = cpu.loops_of(form, dtype)
        found += [loop for loop in loops if loop is not loops.nontemporal or cpu.may_bypass_caches(dtype)]
    for itemsize in itemsizes:
        copies = [
            (function, False)
            for function in (scattering.reverse, scattering.transpose, scattering.interleave)
        ]
        if itemsize >= 4:  # narrower columns are not whole cache lines
            copies.append((scattering.transpose, True))
        found += [cpu.scatter(itemsize, *copy) for copy in copies]
    return found


def keep(kernels: Iterable[Kernel]) -> Iterator[Kept]:
    """Compile the kernels that are not kept yet, one by one.

    Raises
    ------
    OSError
        If a kernel cannot be kept.
    """
    for kernel in kernels:
        began = perf_counter()
        key = kernel.key()
        missing = cache.load(key) is None
        if missing:
            kernel.keep()
            if cache.load(key) is None:
                raise OSError(
                    f"expected to keep {kernel.name} in {cache.folder()}; got no file there; check that the "
                    "disk is not full and the folder may be written"
                )
        yield Kept(key, missing, perf_counter() - began)


def keep_for(goal: Target, forms: Iterable[tuple[str, str]], itemsizes: Iterable[int]) -> Iterator[Kept]:
    """Do the same for another processor: `keep` of `kernels_of`, in a separate process.

    Raises
    ------
    RuntimeError
        If that process fails.
    """
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), json.dumps([[*forms], [*itemsizes]])]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            env=os.environ | environment(goal),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                yield Kept(*json.loads(line))
        except BaseException:
            child.kill()
            raise
        if child.wait():
            errors.seek(0)
            last = (errors.read().strip() or "nothing").splitlines()[-1]
            raise RuntimeError(
                f"expected the process that compiles for {goal.name} to succeed; got exit code "
                f"{child.returncode}, and {last}"
            )


def keep_for_another(wanted: str) -> None:
    """Compile for the processor that the environment names; write a line of JSON for each kernel."""
    forms, itemsizes = json.loads(wanted)
    proof = keys.of_compiler()
    for kept in keep(kernels_of([(form, dtype) for form, dtype in forms], itemsizes)):
        sys.stdout.write(json.dumps(kept) + "\n")
        sys.stdout.flush()
    cpu.remember(proof)  # the parent process has tried the compiler out


def processor(name: str) -> Target:
    """A processor by LLVM's name for it, with the features that determine the width of vectors.

    Raises
    ------
    ValueError
        If LLVM knows no processor of that name for this machine's architecture.
    """
    # If LLVM does not know a name, it says so on stderr and goes on.
    program = f"from fanfill_kernels.compile import ahead; print(ahead.assembly({name!r}))"
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or "not a recognized processor" in done.stderr:
        raise ValueError(
            f"expected a processor that LLVM knows for {binding.get_default_triple()}, such as "
            f"{binding.get_host_cpu_name()}; got {name!r}; llc -mcpu=help lists them"
        )
    wide = set(re.findall(r"%([yz])mm", done.stdout))
    return Target(name, "+avx512f" if "z" in wide else "+avx2" if "y" in wide else "")


def assembly(name: str) -> str:
    """A vector addition for a processor: its registers show which vectors it has."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=name)
    return str(machine.emit_assembly(binding.parse_assembly(_ADDITION)))
