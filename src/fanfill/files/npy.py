"""Writes an ``.npy`` file, through a memory map or by units, so that it is there complete or not at all.

This module meets these requirements:

* A full disk raises ``OSError`` before the first value. Storing into a mapped page that the file system
  cannot back is SIGBUS, which ends the process; so the space is reserved before the file is mapped.
* The file appears under its name only when complete: the values go into a temporary file next to it, which
  is then renamed.
* The temporary file is removed whenever the writing ends early (an error, Ctrl-C, SIGTERM turned into an
  exception).
* A rename needs the folder's permission, not the file's. So the older file's permissions are checked here.
  The new file gets them, and its owner and group if the system allows. Access control lists and extended
  attributes are not carried over.
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

from fanfill import system

__all__ = ["create", "mapped", "opened", "stored_dtype"]

ENDING = ".npy"
# Files here belong to the kernel, and a rename would take them away from everyone. Only /dev/shm can hold a
# user's own files.
SYSTEMS, SHARED_MEMORY = ("/dev", "/proc", "/sys"), "/dev/shm"
LINKS = 40  # as many as Linux follows


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
    """A zeroed C-ordered array of `shape` and `dtype` that becomes the file `path` once the block ends well.

    Parameters
    ----------
    path : path-like
        The file to write; its name ends in ``.npy``. An existing regular file (or link) of that name is
        replaced, at the end and in one step, if its permissions allow writing; the new file keeps them.
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
    ValueError
        If the name has another ending.
    OSError
        If the folder is missing or not writable, the name belongs to something that is not a file or leads
        into /dev, /proc or /sys, the file is write-protected, or the disk is too full. It is raised before
        the array is handed out, and leaves nothing behind. The error names `path`.
    """
    target = Path(path)
    with opened(path, shape, dtype) as (file, start):
        size = start + dtype.itemsize * math.prod(shape)
        with named(target):
            # The caller may keep the array, and with it the map, for as long as it likes.
            memory = mapped(file, size) if system.RENAMES_MAPPED else bytearray(size)
            if isinstance(memory, bytearray):
                memory[:start] = header_bytes(shape, stored_dtype(dtype))
        yield np.ndarray(shape, dtype, buffer=memory, offset=start)
        with named(target):
            if isinstance(memory, bytearray):
                system.write_from(file.fileno(), memory)
            else:
                memory.flush()


def mapped(file: io.FileIO, size: int) -> mmap.mmap:
    """A file's bytes as memory; what `os.pwrite` puts into the file is there too."""
    return mmap.mmap(file.fileno(), size)


@contextmanager
def opened(
    path: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[tuple[io.FileIO, int]]:
    """The file of `create`, for whoever writes its values by other means, and the byte at which they begin.

    Its space is reserved and its header is written. It gets its name once the block ends well. Parameters and
    errors are those of `create`.
    """
    target = Path(path)
    older = replaceable(target)
    header = header_bytes(shape, stored_dtype(dtype))
    size = len(header) + dtype.itemsize * math.prod(shape)
    # The name comes first: an interrupt between the file's creation and this frame's next line must still
    # find it.
    temporary = target.with_name(f".fanfill-{secrets.token_hex(8)}.tmp")
    file: io.FileIO | None = None
    ours = True
    try:
        with named(target):
            try:
                # Anyone who could not read the older file cannot read the new one in the meantime.
                file = system.new_file(temporary, 0o666 if older is None else 0o600)
            except FileExistsError as error:
                ours = False
                error.strerror = f"{error.strerror}: {temporary.name}, next to it"
                raise
            if older is not None:
                system.take_over(file.fileno(), older)
            try:
                system.reserve(file.fileno(), size)
            except OSError as error:
                error.strerror = f"{error.strerror}; {size:,} bytes are needed"
                raise
            system.write_at(file.fileno(), memoryview(header), 0)
        yield file, len(header)
        with named(target):
            # A write that fails late (quota, network) must fail before the file gets its name.
            os.fsync(file.fileno())
            file.close()  # Windows does not rename an open file
            os.replace(temporary, target)
    except BaseException:
        # Twice: if a second Ctrl-C interrupts the first call, the second one still runs.
        try:
            discard(file, temporary, ours)
        finally:
            discard(file, temporary, ours)
        raise


def discard(file: io.FileIO | None, temporary: Path, ours: bool) -> None:
    """Close and remove an unfinished file; a second call does nothing."""
    if file is not None:
        file.close()
    if ours:
        temporary.unlink(missing_ok=True)


@contextmanager
def named(target: Path) -> Iterator[None]:
    """Let errors name the file that was asked for: the caller does not know the temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(target), None
        raise


def replaceable(target: Path) -> os.stat_result | None:
    """Refuse, before any work, a name that a rename could not or should not replace.

    Returns the status of the file that has the name, links followed, or None if there is none.
    """
    refuse_systems(target)
    if not target.name.lower().endswith(ENDING):
        raise ValueError(
            f"expected a file name that ends in {ENDING}, the only format that is written; got "
            f"{str(target)!r}; call it {target.stem or 'w'}{ENDING}, read it by numpy.load, convert it"
        )
    try:
        found = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent)) from None
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file, and only such a file can be replaced", str(target))
    # Root may write anything, but a file that nobody may write is protected from root as well.
    if not found.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise PermissionError(
            errno.EACCES,
            "write-protected, so it is not replaced; chmod u+w it, or take another name",
            str(target),
        )
    return found


def refuse_systems(target: Path) -> None:
    """Refuse the system's own names and whatever leads to one: ``/dev/stdout``, a link to it, ...

    Each link on the way counts: if stdout is redirected, ``/dev/stdout`` leads to a user's own file, and a
    rename would still replace the link.
    """
    place = os.fspath(target)
    for _ in range(LINKS):
        folder, name = os.path.split(place)
        folder = os.path.realpath(folder or os.curdir)
        place = os.path.join(folder, name)
        for kernels in SYSTEMS:
            if is_in(place, kernels) and not is_in(folder, SHARED_MEMORY):
                raise OSError(
                    errno.EINVAL, f"leads into {kernels}, where nothing is replaced; name a file", str(target)
                )
        if not os.path.islink(place):
            return
        place = os.path.join(folder, os.readlink(place))


def is_in(place: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, by their names."""
    return place == folder or place.startswith(folder + os.sep)


def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The ``.npy`` header, version 1.0: the bytes that ``numpy.save`` writes before the values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
