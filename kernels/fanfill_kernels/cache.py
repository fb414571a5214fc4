"""Compiled code on disk: one folder of small files, each named by what went into it.

* A file holds its own SHA-256: one that is cut short or damaged is not there.
* It appears under its name whole, by a rename: processes may store and load at once.
* Code that is loaded is run, so a folder counts only if it belongs to this user or to root and nobody else
  may write to it; and so does a file.
* A folder that cannot be made, read or written is no error: everything is compiled anew.
"""

import hashlib
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_MAGIC = b"fanfill 1\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_posix = hasattr(os, "getuid")


def folder() -> Path:
    """The folder: ``FANFILL_CACHE_DIR``, else ``fanfill`` below ``NUMBA_CACHE_DIR`` or the user's caches."""
    own = os.environ.get("FANFILL_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("NUMBA_CACHE_DIR")
    if shared:
        return Path(shared) / "fanfill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "fanfill" / "cache"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/fanfill").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fanfill"


def refused() -> str | None:
    """Why the folder is not used, or None if it is (or will be made when something is stored)."""
    try:
        found = folder().lstat()
    except FileNotFoundError:
        above = next(parent for parent in folder().absolute().parents if parent.exists())
        return (
            None if os.access(above, os.W_OK | os.X_OK) else f"it cannot be made: {above} cannot be written"
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: no home to expand ~ with
        return f"{_reason(error)}"
    return _distrust(found, stat.S_ISDIR(found.st_mode))


def load(key: str) -> bytes | None:
    """What was stored under a key, or None."""
    try:
        place = _open_folder()
        try:
            file = os.open(_named(key), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0), dir_fd=place)
            with os.fdopen(file, "rb") as stream:
                found = os.fstat(stream.fileno())
                if _distrust(found, stat.S_ISREG(found.st_mode)):
                    return None
                data = stream.read()
        finally:
            os.close(place)
    except (OSError, RuntimeError, NotImplementedError):
        return None
    body = data[_HEAD:]
    return body if data[:_HEAD] == _MAGIC + hashlib.sha256(body).digest() else None


def store(key: str, data: bytes) -> None:
    """Keep ``data`` under a key, if the folder allows."""
    with suppress(OSError, RuntimeError, NotImplementedError):
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        place = _open_folder()
        try:
            name = f"{_named(key)}.{os.getpid()}-{os.urandom(4).hex()}"
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place)
            try:
                with os.fdopen(file, "wb") as stream:
                    stream.write(_MAGIC + hashlib.sha256(data).digest() + data)
                os.replace(name, _named(key), src_dir_fd=place, dst_dir_fd=place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name, dir_fd=place)
                raise
        finally:
            os.close(place)


def _named(key: str) -> str:
    return f"{key}.bin"


def _open_folder() -> Any:
    """A descriptor of the folder, so that what is checked is what is used; OSError if it is not trusted."""
    place = os.open(folder(), os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    reason = _distrust(os.fstat(place), True)
    if reason:
        os.close(place)
        raise PermissionError(reason)
    return place


def _distrust(found: os.stat_result, kind: bool) -> str | None:
    if not kind:
        return "it is not of its kind: a folder, a regular file, no link"
    if not _posix:
        return None
    if found.st_uid not in (0, os.getuid()):
        return f"it belongs to user {found.st_uid}, neither to this one ({os.getuid()}) nor to root"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it"
    return None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
