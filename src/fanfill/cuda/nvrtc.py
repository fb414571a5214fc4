"""NVRTC, the CUDA runtime compiler, through ctypes: it needs neither a driver nor a device.

Why not CuPy's binding: its ``RawModule`` appends ``-ftz=true`` to every compilation, after the caller's
options, and asks for the CUDA headers, which these sources do not need. Here the options are the contract's
(`OPTIONS`), and the same function serves machines without a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fanfill.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# One IEEE operation at a time: no contraction to fused multiply-adds, no flush to zero, and division and
# square root rounded to nearest. The last three are NVRTC's defaults, written out.
OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

# Where NVIDIA's wheels put the library below a folder of sys.path: those for CUDA 12, and from 13 on.
_WHEELS = ("nvidia/cuda_nvrtc/lib", "nvidia/cu*/lib")
_NAME = "libnvrtc.so"
_BUILTINS = "libnvrtc-builtins.so.*"
_INSTALL = "install it with: pip install 'fanfill[cuda12]' (or 'fanfill[cuda13]', for drivers of CUDA 13)"
_SUCCESS = 0
_COMPILATION = 6  # NVRTC_ERROR_COMPILATION: there is a log


class Compiler:
    """One NVRTC library.

    Attributes
    ----------
    path : str
        What was loaded.
    version : tuple of int
        CUDA's version, (major, minor).
    architectures : tuple of int
        Those that it compiles for: 90 is compute capability 9.0.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # NVRTC looks for its second half by name at its first compilation. The one in 13.0's wheel for Linux
        # does not look in its own folder. A library that is already loaded is found by its name.
        for second in sorted(Path(path).parent.glob(_BUILTINS)) if os.path.isabs(path) else ():
            with suppress(OSError):
                ctypes.CDLL(str(second))
        self._library = ctypes.CDLL(path)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        number = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(number))
        supported = (ctypes.c_int * number.value)()
        self._call("nvrtcGetSupportedArchs", supported)
        self.architectures = tuple(supported)

    def compile(self, source: str, name: str, arch: int | str, ptx: bool = False) -> bytes:
        """Compile one source text.

        Parameters
        ----------
        source, name : str
            The text, which includes no file, and what the compiler's messages call it.
        arch : int or str
            The architecture, as 90 or "90a".
        ptx : bool
            PTX text for that virtual architecture; otherwise a cubin for that real one.

        Raises
        ------
        BackendUnavailableError
            If it does not compile, with the compiler's log; if this NVRTC does not know ``arch``.
        """
        if int(re.sub(r"\D", "", str(arch))) not in self.architectures:
            known = ", ".join(map(str, self.architectures))
            raise BackendUnavailableError(
                f"expected an architecture that NVRTC {self._named()} compiles for, {known}; got {arch}; "
                f"for newer devices install a newer NVRTC, for older ones that of CUDA 12: {_INSTALL}"
            )
        options = [option.encode() for option in (*OPTIONS, f"-arch={'compute' if ptx else 'sm'}_{arch}")]
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            given = (ctypes.c_char_p * len(options))(*options)
            status = self._library.nvrtcCompileProgram(program, len(options), given)
            if status != _SUCCESS:
                log = (
                    self._bytes(program, "ProgramLog").decode(errors="replace")
                    if (status == _COMPILATION)
                    else self._reason(status)
                )
                raise BackendUnavailableError(
                    f"expected {name} to compile for sm_{arch} with NVRTC {self._named()}; got an error, "
                    "which is a bug of fanfill or of that NVRTC; try another version of it, and report:\n"
                    f"{log}"
                )
            return self._bytes(program, "PTX" if ptx else "CUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _named(self) -> str:
        return f"{self.version[0]}.{self.version[1]} ({self.path})"

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        """One of a program's results; texts without the zero byte at their end."""
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw if what == "CUBIN" else buffer.raw.rstrip(b"\0")

    def _reason(self, status: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(status)
        return text.decode()

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != _SUCCESS:
            raise BackendUnavailableError(
                f"expected {function} of {self.path} to succeed; got {self._reason(status)}; {_INSTALL}"
            )


def _paths() -> Iterator[str]:
    """Files that may be NVRTC: from wheels, from a toolkit, and names for the system's own search."""
    for folder in sys.path:
        for wheel in _WHEELS:
            yield from map(str, sorted(Path(folder or ".").glob(f"{wheel}/{_NAME}.*")))
    for root in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if root:
            yield from map(str, sorted(Path(root).glob(f"lib64/{_NAME}.*")))
    for major in (13, 12):
        yield f"{_NAME}.{major}"


@functools.cache
def compilers() -> tuple[Compiler, ...]:
    """The NVRTC libraries of this environment, one for each version, newest first."""
    found: dict[tuple[int, int], Compiler] = {}
    for path in _paths():
        try:
            compiler = Compiler(path)
        except OSError:  # not there, or not loadable: the next place
            continue
        found.setdefault(compiler.version, compiler)
    return tuple(found[version] for version in sorted(found, reverse=True))


def compiler(newest: int | None = None) -> Compiler:
    """The newest NVRTC whose major version is at most ``newest``: a driver loads no cubin of a later version.

    Raises
    ------
    BackendUnavailableError
        If there is none.
    """
    usable = [c for c in compilers() if newest is None or c.version[0] <= newest]
    if not usable:
        there = ", ".join(f"{c.version[0]}.{c.version[1]}" for c in compilers()) or "none"
        limit = "" if newest is None else f" of CUDA {newest} or older, which is what the driver can load"
        raise BackendUnavailableError(f"expected NVIDIA's NVRTC{limit}; found {there}; {_INSTALL}")
    return usable[0]
