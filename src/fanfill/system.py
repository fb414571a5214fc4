"""What differs between systems, and what is done if a system lacks something.

This has run on Linux. For macOS and Windows it follows their documentation, and tests hide what they lack.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import platform
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NUMBA_MACHINES",
    "RENAMES_MAPPED",
    "affinity",
    "glibc",
    "madvise",
    "new_file",
    "reserve",
    "take_over",
    "widen",
    "without_numba",
    "write_from",
]

RENAMES_MAPPED = os.name != "nt"
"""Whether a file can get another name, and be replaced, while it is mapped."""

ZEROS = 1 << 20  # bytes per write
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
# Windows has no links to follow, but must be told that bytes are bytes.
_NEW |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

NUMBA_MACHINES = {"x86_64", "AMD64", "aarch64", "arm64", "ARM64"}
"""The processors, as Linux, macOS and Windows name them, for which PyPI has wheels of Numba."""


def without_numba() -> str | None:
    """The feature of this system for which PyPI has no Numba, or None. It covers the markers in
    pyproject.toml and the C library, which no marker can test.
    """
    implementation, machine = platform.python_implementation(), platform.machine()
    if implementation != "CPython":
        return implementation
    if machine not in NUMBA_MACHINES:
        return machine
    return None if sys.platform != "linux" or glibc() else "a C library other than glibc, such as musl"


def glibc() -> bool:
    """Whether the C library is GNU's."""
    try:
        return hasattr(os, "confstr") and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # musl has no such value; macOS no such name
        return False


def affinity() -> int:
    """How many CPUs this process may run on; on macOS and Windows, how many there are."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def madvise() -> Callable[[int, int, int], int] | None:
    """Linux's ``madvise(address, length, advice)``; None on other systems, which have no such huge pages."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # a C library without it
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return function


def widen(pipe: int, size: int) -> None:
    """Ask for a larger pipe, if the system offers that (Linux) and the file is a pipe."""
    if sys.platform == "linux":
        from fcntl import F_SETPIPE_SZ, fcntl

        with suppress(OSError):
            fcntl(pipe, F_SETPIPE_SZ, size)


def new_file(path: str | os.PathLike[str], mode: int) -> io.FileIO:
    """Create a file that must not exist yet, and open it to read and write; links are not followed."""
    return io.FileIO(os.fspath(path), "x+", opener=lambda name, _: os.open(name, _NEW, mode))


def take_over(descriptor: int, older: os.stat_result) -> None:
    """Give a new file the older one's owner, group and permissions, as far as the system allows."""
    mode = stat.S_IMODE(older.st_mode)
    if hasattr(os, "fchown"):
        for owner, group in ((-1, older.st_gid), (older.st_uid, -1)):
            with suppress(OSError):  # not ours to give, or a file system without owners
                os.fchown(descriptor, owner, group)
        if os.fstat(descriptor).st_gid != older.st_gid:
            # Members of the other group may only do what everybody may.
            mode = mode & ~0o070 | (mode & 0o007) << 3
    if hasattr(os, "fchmod"):
        with suppress(OSError):  # a file system without modes; otherwise only we can read the file
            os.fchmod(descriptor, mode)


def reserve(descriptor: int, size: int) -> None:
    """Make the file `size` bytes long with every byte backed by the disk, or raise ``OSError``."""
    if sys.platform == "win32" or sys.platform == "darwin" or not hasattr(os, "posix_fallocate"):
        write_zeros(descriptor, size)
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # EINVAL as well: some C libraries report it if the file system lacks the operation.
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        write_zeros(descriptor, size)


def write_zeros(descriptor: int, size: int) -> None:
    """Reserve space slowly, for file systems that offer no other way."""
    zeros = bytes(ZEROS)
    for start in range(0, size, ZEROS):
        _write(descriptor, memoryview(zeros)[: min(ZEROS, size - start)])


def write_from(descriptor: int, data: bytearray) -> None:
    """Write a file anew, from its beginning, on systems where a mapped file cannot be renamed."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    for start in range(0, len(data), ZEROS):  # Windows takes less than 2 GiB at once
        _write(descriptor, memoryview(data)[start : start + ZEROS])


def _write(descriptor: int, pending: memoryview) -> None:
    while pending:  # a write may be short, and will be if the disk is nearly full
        pending = pending[os.write(descriptor, pending) :]
