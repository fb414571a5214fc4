"""Write an ``.npy`` file through a memory map so that it is there whole or not at all.

Requirements answered here:

* A full disk is an ``OSError`` before the first value. A store into a mapped page that the file system cannot
  back is SIGBUS, which ends the process; so the space is reserved before the file is mapped.
* The file appears under its name only when complete: the values go into a temporary file beside it, which is
  renamed.
* Whatever ends the writing early (an error, Ctrl-C, SIGTERM turned into an exception) removes the temporary
  file.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["create", "stored_dtype"]

ZEROS = 1 << 20  # bytes a write
# Windows has no O_NOFOLLOW, and wants to be told that bytes are bytes.
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that the file's header names for values of `dtype`.

    NumPy's own types are stored as they are. The format has no name for bfloat16 and float8 (``numpy.save``
    writes them as untyped bytes): their bits are stored as unsigned integers of the same width, which every
    reader of the format understands, and ``np.load(path).view(ml_dtypes.bfloat16)`` gives the values back.
    """
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


@contextmanager
def create(
    path: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[np.ndarray[Any, Any]]:
    """A zeroed C-ordered array of `shape` and `dtype` that becomes the file `path` when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to write. An existing regular file (or link) of that name is replaced, at the end and in one
        step.
    shape : tuple of int
        The array's shape.
    dtype : numpy.dtype
        The array's dtype; :func:`stored_dtype` says what the file's header names.

    Yields
    ------
    numpy.ndarray
        A writable view of the mapped file.

    Raises
    ------
    OSError
        The folder is missing or not writable, the name belongs to something that is not a file, or the disk
        is too full: all before the array is handed out, and with nothing left behind.
    """
    target = Path(path)
    refuse_non_file(target)
    header = header_bytes(shape, stored_dtype(dtype))
    size = len(header) + dtype.itemsize * math.prod(shape)
    # The name comes first: an interrupt between the file's creation and this frame's next line must still
    # find it.
    temporary = target.with_name(f".fanfill-{secrets.token_hex(8)}.tmp")
    descriptor, ours = -1, True
    try:
        try:
            descriptor = os.open(temporary, OPEN_FLAGS, 0o666)
        except FileExistsError:
            ours = False
            raise
        try:
            reserve(descriptor, size)
        except OSError as error:
            error.filename, error.strerror = str(target), f"{error.strerror}; {size:,} bytes are needed"
            raise
        os.pwrite(descriptor, header, 0)
        mapped = mmap.mmap(descriptor, size)
        yield np.ndarray(shape, dtype, buffer=mapped, offset=len(header))
        mapped.flush()
        # A write that fails late (quota, network) must fail before the file gets its name.
        os.fsync(descriptor)
        os.replace(temporary, target)
    except BaseException:
        if ours:
            # Twice: a second Ctrl-C that keeps the first from it meets the second.
            try:
                temporary.unlink(missing_ok=True)
            finally:
                temporary.unlink(missing_ok=True)
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def refuse_non_file(target: Path) -> None:
    """Refuse, before any work, a name that a rename could not or should not replace."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent)) from None
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file, and only such a file can be replaced", str(target))


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The ``.npy`` header, version 1.0: the bytes that ``numpy.save`` writes before the values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def reserve(descriptor: int, size: int) -> None:
    """Make the file `size` bytes long with every byte backed by the disk, or raise ``OSError``."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not a platform that has it
        write_zeros(descriptor, size)
    except OSError as error:
        # EINVAL as well: some C libraries report a file system without the operation that way.
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        write_zeros(descriptor, size)


def write_zeros(descriptor: int, size: int) -> None:
    """The slow reservation, for file systems that know no other."""
    zeros = bytes(ZEROS)
    for start in range(0, size, ZEROS):
        pending = memoryview(zeros)[: min(ZEROS, size - start)]
        while pending:  # a write may be short, and is when the disk is nearly full
            pending = pending[os.write(descriptor, pending) :]
