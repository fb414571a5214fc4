"""The kernels as every NVRTC here compiles them, each made once a run of the tests."""

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import shared

from fanfill.cuda import nvrtc
from fanfill_kernels import cuda

ARCHES = {12: (70, 75, 80, 86, 89, 90, 100, 120), 13: (75, 80, 86, 89, 90, 100, 120)}
TARGETS = tuple((major, arch) for major in ARCHES for arch in ARCHES[major])
# Without conversions to narrow types, with all of them, and for Blackwell, for
# which NVRTC writes all kernels in another way; by both compilers. `-m slow` compiles and audits all targets.
QUICK = ((12, 70), (13, 90), (13, 100))


def each(*names: str, but: int | None = None) -> Any:
    """A test of every target, but those of one architecture; those that are not quick ones are slow."""
    return pytest.mark.parametrize(
        names,
        [pytest.param(*t, marks=() if t in QUICK else pytest.mark.slow) for t in TARGETS if t[1] != but],
    )


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


def _compile(major: int, arch: int, ptx: bool) -> tuple[bytes, bytes]:
    compiler = next((c for c in nvrtc.compilers() if c.version[0] == major), None)
    assert compiler is not None, f"expected NVRTC of CUDA {major}; see the extra 'test'"
    return _shared(compiler, cuda.source(), arch, ptx=ptx)


@functools.cache
def grouped(major: int, arch: int) -> tuple[str, bytes]:
    """PTX and machine code of the grouped kernels, which stand in place of the others."""
    compiler = next(c for c in nvrtc.compilers() if c.version[0] == major)
    keeps = Keeps(compiler.path)
    code = keeps.compile(f"#define GROUPED\n#define PARAMETERS 32764\n{cuda.source()}", "fill.cu", arch)
    return keeps.ptx.decode(), code


_begun: dict[tuple[int, int, bool], Future[tuple[bytes, bytes]]] = {}


def _result(major: int, arch: int, ptx: bool) -> Future[tuple[bytes, bytes]]:
    """PTX alone takes half the time, unless the machine code is made anyway."""
    key = (major, arch, ptx and (major, arch, False) not in _begun)
    if key not in _begun:
        _begun[key] = _pool().submit(_compile, *key)
    return _begun[key]


def begin(targets: tuple[tuple[int, int], ...], *, ptx: bool) -> None:
    """Start the compilation of these targets."""
    for major, arch in targets:
        _result(major, arch, ptx)


def ptx(major: int, arch: int) -> str:
    """PTX text for a virtual architecture, by the NVRTC of that CUDA version."""
    return _result(major, arch, True).result()[0].decode()


def cubin(major: int, arch: int) -> bytes:
    """Machine code for an architecture."""
    return _result(major, arch, False).result()[1]
