"""The kernels as every NVRTC here compiles them, each made once a run of the tests."""

import functools
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import shared

from cuda_on_cpu.shim import NAMES
from fanfill.cuda import nvrtc
from fanfill_kernels import cuda
from fanfill_kernels.formats import FORMATS

ARCHES = {12: (70, 75, 80, 86, 89, 90, 100, 120), 13: (75, 80, 86, 89, 90, 100, 120)}
TARGETS = tuple((major, arch) for major in ARCHES for arch in ARCHES[major])
# Without conversions to narrow types, with all of them, and for Blackwell, for
# which NVRTC writes all kernels in another way; by both compilers. `-m slow` compiles and audits all targets.
QUICK = ((12, 70), (13, 90), (13, 100))
# For these the quick tests compile `SOME` kernels.
IN_PART = ((12, 70), (13, 100))
# The source asks for an architecture where it converts to a narrow type, in a way of its own for each of
# these forms: the others convert as a normal does.
CONVERTING = ("uniform_clamped", "uniform_range", "normal")
# A kernel is made of a form and a store: all forms with float32 and float64, and the forms above with all
# stores, have all there is. NVRTC takes two fifths less for them.
FEW = ("float32", "float64")
WIDTHS = ("8", "16", "32", "64", "uint32")  # of constants and of words
SOME = tuple(
    name
    for name in NAMES
    if name.rpartition("_")[2] in (*FEW, *WIDTHS)
    or name in {f"{form}_{dtype}" for form in CONVERTING for dtype in FORMATS}
)
# What stands for all of those that read their seed from device memory. cuda_instructions.py has the same, as
# test_cuda_compile.py asserts: a process that sees the emulated device finds the helpers, and no benchmark.
KEYED = (
    "uniform_float32",
    "uniform_clamped_bfloat16",
    "normal_float64",
    "normal_centred_float32",
    "normal_centred_bfloat16",
    "truncated_central_float32",
    "truncated_float32",
)


def each(*names: str, but: int | None = None) -> Any:
    """A test of every target, but those of one architecture; those that are not quick ones are slow."""
    cases = [
        pytest.param(*t, marks=() if t in QUICK else pytest.mark.slow, id="{}-{}".format(*t))
        for t in TARGETS
        if t[1] != but
    ]
    return pytest.mark.parametrize(names, cases)


def each_in_part(*names: str, but: int | None = None) -> Any:
    """The same, and a third name: whether of all kernels. `IN_PART` has a quick and a slow test each."""
    cases = []
    for major, arch in TARGETS:
        part, name = (major, arch) in IN_PART, f"{major}-{arch}"
        slow = part or (major, arch) not in QUICK
        if arch != but:
            marks = pytest.mark.slow if slow else ()
            cases.append(pytest.param(major, arch, True, marks=marks, id=f"{name}-all" if part else name))
        if arch != but and part:
            cases.append(pytest.param(major, arch, False, id=name))
    return pytest.mark.parametrize(names, cases)


@functools.cache
def source_with(families: tuple[str, ...]) -> str:
    """The source with the kernels of these families alone: `choice.source_of` for several."""
    macro = re.search(r"#define FORMS\((.*?)\) *\\\n((?: .*\n)+)", cuda.source())
    assert macro is not None

    def kept(invocation: re.Match[str]) -> str:
        lines = [invocation[0]]
        if invocation[1] == "FORMS":
            given = dict(zip(macro[1].split(", "), invocation[2].split(", "), strict=True))
            words = re.compile(rf"\b({'|'.join(given)})\b")
            filled = words.sub(lambda word: given[word[0]], macro[2]).replace("##", "")
            lines = [line.strip(" \\") for line in filled.splitlines()]
        return "\n".join(line for line in lines if line.split(",")[0].partition("(")[2] in families)

    return re.sub(r"^(FORMS|KERNELS)\((.*)\)$", kept, cuda.source(), flags=re.MULTILINE)


class Keeps(nvrtc.Compiler):
    """A compiler that hands out, of one compilation, the PTX too that the machine code was assembled from."""

    ptx: bytes

    def _bytes(self, program: Any, what: str) -> bytes:
        if what == "CUBIN":
            self.ptx = super()._bytes(program, "PTX")
        return super()._bytes(program, what)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """NVRTC compiles side by side, without the interpreter's lock."""
    return ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))


def shared_ptx(compiler: nvrtc.Compiler, source: str, arch: int) -> bytes:
    """PTX of a source, which one process of a run makes."""
    return _shared(compiler, source, arch, ptx=True)[0]


def _shared(compiler: nvrtc.Compiler, source: str, arch: int, *, ptx: bool) -> tuple[bytes, bytes]:
    """(PTX, cubin), made once in a run; without the cubin where PTX alone is asked for."""
    name = shared.digest(compiler.path, nvrtc.OPTIONS, source, arch)
    with shared.alone(name) as folder:
        text, code = folder / f"{name}.ptx", folder / f"{name}.cubin"
        if not (text if ptx else code).exists():
            keeps = Keeps(compiler.path)
            if ptx:
                shared.keep(text, keeps.compile(source, "fill.cu", arch, ptx=True))
            else:
                made = keeps.compile(source, "fill.cu", arch)
                shared.keep(text, keeps.ptx)
                shared.keep(code, made)
        return text.read_bytes(), b"" if ptx else code.read_bytes()


def made(source: str, major: int, arch: int) -> tuple[str, bytes]:
    """PTX and machine code of a source, which one process of a run makes."""
    text, code = _shared(_compiler(major), source, arch, ptx=False)
    return text.decode(), code


def _compiler(major: int) -> nvrtc.Compiler:
    compiler = next((c for c in nvrtc.compilers() if c.version[0] == major), None)
    assert compiler is not None, f"expected NVRTC of CUDA {major}; see the extra 'test'"
    return compiler


PARAMETERS = 32764  # bytes that those of a grouped kernel may have
GROUPED_SOURCE = f"#define GROUPED\n#define PARAMETERS {PARAMETERS}\n{cuda.source()}"
"""All grouped kernels, which stand in place of the others."""
KEYED_SOURCE = f"#define KEYED\n{source_with(KEYED)}"

Key = tuple[int, int, bool, bool]
_begun: dict[Key, Future[tuple[bytes, bytes]]] = {}


def _compile(major: int, arch: int, every: bool, ptx: bool) -> tuple[bytes, bytes]:
    return _shared(_compiler(major), cuda.source() if every else source_with(SOME), arch, ptx=ptx)


def _result(major: int, arch: int, every: bool, ptx: bool) -> Future[tuple[bytes, bytes]]:
    """PTX alone takes half the time, unless the machine code is made anyway."""
    key = (major, arch, every, ptx and (major, arch, every, False) not in _begun)
    if key not in _begun:
        _begun[key] = _pool().submit(_compile, *key)
    return _begun[key]


def begin(major: int, arch: int, every: bool = True, *, ptx: bool) -> None:
    """Start the compilation for a target."""
    _result(major, arch, every, ptx)


def ptx(major: int, arch: int, every: bool = True) -> str:
    """PTX text for a virtual architecture, by the NVRTC of that CUDA version."""
    return _result(major, arch, every, True).result()[0].decode()


def cubin(major: int, arch: int, every: bool = True) -> bytes:
    """Machine code for an architecture."""
    return _result(major, arch, every, False).result()[1]
