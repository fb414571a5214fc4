"""The kernels as every NVRTC here compiles them, each made once a session."""

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor

from fanfill.cuda import nvrtc
from fanfill_kernels import cuda

ARCHES = {12: (70, 75, 80, 86, 89, 90, 100, 120), 13: (75, 80, 86, 89, 90, 100, 120)}
TARGETS = tuple((major, arch) for major in ARCHES for arch in ARCHES[major])


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """NVRTC compiles side by side, without the interpreter's lock."""
    return ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))


@functools.cache
def _begun(major: int, arch: int, ptx: bool) -> Future[bytes]:
    compiler = next((c for c in nvrtc.compilers() if c.version[0] == major), None)
    assert compiler is not None, f"expected NVRTC of CUDA {major}; see the extra 'test'"
    return _pool().submit(compiler.compile, cuda.source(), "fill.cu", arch, ptx)


def begin(ptx: bool, *, majors: tuple[int, ...] = tuple(ARCHES)) -> None:
    """Start the compilation of all targets."""
    for major, arch in TARGETS:
        if major in majors:
            _begun(major, arch, ptx)


def ptx(major: int, arch: int) -> str:
    """PTX text for a virtual architecture, by the NVRTC of that CUDA version."""
    return _begun(major, arch, True).result().decode()


def cubin(major: int, arch: int) -> bytes:
    """Machine code for an architecture."""
    return _begun(major, arch, False).result()
