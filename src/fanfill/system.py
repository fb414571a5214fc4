"""What differs between systems, and what is done if a system lacks something.

This has run on Linux. For macOS and Windows it follows their documentation, and tests hide what they lack.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import io
import os
import platform
import stat
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NUMBA_MACHINES",
    "RENAMES_MAPPED",
    "affinity",
    "glibc",
    "lock",
    "madvise",
    "new_file",
    "open_partial",
    "read_at",
    "reserve",
    "sync_folder",
    "take_over",
    "widen",
    "without_numba",
    "write_at",
    "write_behind",
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


_PARTIAL = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def open_partial(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file to read and write, made if it is not there; links are not followed."""
    return io.FileIO(os.fspath(path), "r+", opener=lambda name, _: os.open(name, _PARTIAL, 0o666))


def lock(descriptor: int) -> bool:
    """Lock a file until it is closed, if nobody else has; True where the system has no such locks."""
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Network file systems without locks: the rename still makes the file whole or not there.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def write_at(descriptor: int, data: memoryview, position: int) -> None:
    """Write all of `data` at a position of a file, whatever other threads write elsewhere in it."""
    if not hasattr(os, "pwrite"):
        with _seek:
            os.lseek(descriptor, position, os.SEEK_SET)
            _write(descriptor, data)
        return
    while data:  # a write may be short
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count


def read_at(descriptor: int, buffer: memoryview, position: int) -> int:
    """Read into `buffer` from a position of a file, whatever other threads do; how many bytes were there."""
    if hasattr(os, "preadv"):
        count: int = os.preadv(descriptor, [buffer], position)
        return count
    with _seek:  # macOS before 11, Windows
        os.lseek(descriptor, position, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


_seek = threading.Lock()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder last through a power cut, where the system lets folders be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_behind() -> tuple[Callable[[int, int, int], None], Callable[[int, int, int], None]]:
    """Two functions of (file, position, size): start writing a range to the disk; wait for it and drop it
    from the cache. They do nothing on systems other than Linux. Hints: errors come from ``fsync``.
    """
    call = None
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            call = ctypes.CDLL(None).sync_file_range
    if call is None:
        return _nothing, _nothing
    sync = call
    sync.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    sync.restype = ctypes.c_int

    def begin(descriptor: int, position: int, size: int) -> None:
        sync(descriptor, position, size, _START)

    def wait(descriptor: int, position: int, size: int) -> None:
        sync(descriptor, position, size, _FINISH)
        with suppress(OSError):  # tmpfs has nothing to drop
            os.posix_fadvise(descriptor, position, size, os.POSIX_FADV_DONTNEED)

    return begin, wait


# SYNC_FILE_RANGE_WRITE; and with WAIT_BEFORE and WAIT_AFTER.
_START, _FINISH = 2, 7


def _nothing(descriptor: int, position: int, size: int) -> None:
    """What a system without write-behind does."""
