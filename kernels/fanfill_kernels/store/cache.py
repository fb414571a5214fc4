"""Compiled code on disk: one folder of small files, each named after what it was made from.

* A file holds its own SHA-256: a truncated or damaged one counts as missing.
* It appears under its name complete, by a rename: processes may store and load at the same time.
* Code that is loaded is run, so nobody else may control the folder and its files: see ``place.py``.
* A folder that cannot be made, read or written is not an error: everything is compiled anew.
* The folder stays below `LIMIT`: the least recently used files are removed. A process that is reading one can
  go on reading; a process that needs it later compiles it anew.
"""

import hashlib
import os
import re
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fanfill_kernels.store.place import Folder, NotTrusted

# A kernel takes about 10 KB, a family of GPU kernels about 35. All of them take 1 MB and 1.5 MB, so there is
# room for two dozen compilers or processors. Storing a kernel looks at all files: 40 ms if there are 4,000 of
# them, in addition to the half second that compiling takes.
LIMIT = 64_000_000
_LARGEST = 8 << 20  # bytes of one entry, including its head

_MAGIC = b"fanfill 1\n"
_ANY_MAGIC = b"fanfill "  # also matches other versions
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_UNFINISHED = re.compile(r"\.bin\.[0-9]+-[0-9a-f]{8}")
_HOUR = 3600.0
_DAY = 24 * _HOUR


class Entry(NamedTuple):
    """One file of the folder: its name, its size in bytes, and its last use (to a day) as Unix time."""

    name: str
    size: int
    used: float


def folder() -> Path:
    """The folder: ``FANFILL_CACHE_DIR``, else ``fanfill`` below ``NUMBA_CACHE_DIR`` or the user's caches.

    If one of these two variables holds a relative path, `Folder` refuses it. A relative ``XDG_CACHE_HOME`` is
    ignored, as its specification requires.
    """
    own = os.environ.get("FANFILL_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("NUMBA_CACHE_DIR")
    if shared:
        return Path(shared) / "fanfill"
    if sys.platform == "win32":
        return _absolute("LOCALAPPDATA", "~/AppData/Local") / "fanfill" / "cache"
    if sys.platform == "darwin":
        return _home("~/Library/Caches/fanfill")
    return _absolute("XDG_CACHE_HOME", "~/.cache") / "fanfill"


def named_by() -> str | None:
    """The environment variable that names the folder, if there is one."""
    return next((name for name in ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR") if os.environ.get(name)), None)


def _absolute(variable: str, default: str) -> Path:
    named = Path(os.environ.get(variable) or ".")
    return named if named.is_absolute() else _home(default)


def _home(path: str) -> Path:
    """A path in the user's home; a relative path if there is no home."""
    return Path(os.path.expanduser(path))


def refused() -> str | None:
    """Why the folder is not used, or None if it is used (or will be made when something is stored)."""
    try:
        with Folder(folder()):
            return None
    except FileNotFoundError:
        above = next((parent for parent in folder().parents if parent.exists()), folder())
        return (
            None if os.access(above, os.W_OK | os.X_OK) else f"it cannot be made: {above} cannot be written"
        )
    except OSError as error:
        return reason(error)


def passed_over() -> str | None:
    """Why an existing folder is not used, and the remedy, if there is one.

    Otherwise nobody would notice: each process would compile anew, which takes seconds, and work.
    """
    try:
        with Folder(folder()):
            return None
    except NotTrusted as error:
        return reason(error)
    except PermissionError as error:  # in somebody else's home there is nothing to fix
        return f"{reason(error)}; chmod -R a+rX it" if named_by() == "FANFILL_CACHE_DIR" else None
    except OSError:
        return None


def load(key: str) -> bytes | None:
    """The code stored under a key, or None."""
    name = _named(key)
    try:
        with Folder(folder()) as place:
            data = place.read(name, _LARGEST)
            body = data[_HEAD:]
            if data[:_HEAD] != _MAGIC + hashlib.sha256(body).digest():
                return None
            # The time of use is written at most once a day, and not if somebody else owns the file.
            with suppress(OSError):
                if time.time() - place.stat(name).st_mtime > _DAY:
                    place.touch(name)
    except OSError:
        return None
    return body


def store(key: str, data: bytes) -> None:
    """Store ``data`` under a key, if the folder allows it."""
    if _HEAD + len(data) > _LARGEST:
        return
    with suppress(OSError):
        if folder().is_absolute():
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with Folder(folder()) as place:
            place.write(_named(key), _MAGIC + hashlib.sha256(data).digest() + data)
            _trim(place)


def entries() -> list[Entry]:
    """fanfill's files in the folder, the most recently used first; none if the folder is not used."""
    try:
        with Folder(folder()) as place:
            return sorted(_ours(place, _listed(place)), key=lambda entry: -entry.used)
    except OSError:
        return []


def clear() -> list[Entry]:
    """Remove fanfill's files from the folder, and nothing else; return what was removed.

    Raises
    ------
    OSError
        If the folder is not used or may not be written.
    """
    with Folder(folder()) as place:
        _remove_unfinished(place, 0.0)
        found = _ours(place, _listed(place))
        for entry in found:
            with suppress(FileNotFoundError):  # another process was faster
                place.unlink(entry.name)
        return found


def reason(error: OSError) -> str:
    """An error's text, without its number and file."""
    return str(getattr(error, "strerror", None) or error)


def _named(key: str) -> str:
    return f"{key}.bin"


def _listed(place: Folder) -> list[Entry]:
    """Files whose names say that they may be ours."""
    found = []
    for name in place.names():
        if name.endswith(".bin"):
            with suppress(FileNotFoundError):
                facts = place.stat(name)
                if stat.S_ISREG(facts.st_mode):
                    found.append(Entry(name, facts.st_size, facts.st_mtime))
    return found


def _ours(place: Folder, listed: list[Entry]) -> list[Entry]:
    """The files that begin as ours do: a folder that the user names may hold other things."""
    found = []
    for entry in listed:
        with suppress(OSError):
            if place.read(entry.name, len(_ANY_MAGIC)) == _ANY_MAGIC:
                found.append(entry)
    return found


def _trim(place: Folder) -> None:
    """Remove the least recently used files until the rest is within the limit."""
    _remove_unfinished(place, _HOUR)
    listed = _listed(place)
    if sum(entry.size for entry in listed) <= LIMIT:
        return
    left = _ours(place, listed)
    total = sum(entry.size for entry in left)
    for entry in sorted(left, key=lambda entry: entry.used):
        if total <= LIMIT:
            return
        # Windows refuses to remove a file that another process is reading: it is in use anyway.
        with suppress(OSError):
            if place.stat(entry.name).st_mtime == entry.used:  # else another process has used or replaced it
                place.unlink(entry.name)
        total -= entry.size


def _remove_unfinished(place: Folder, age: float) -> None:
    """Remove files whose process was killed while writing them."""
    for name in place.names():
        if _UNFINISHED.search(name):
            with suppress(OSError):
                if time.time() - place.stat(name).st_mtime >= age:
                    place.unlink(name)
