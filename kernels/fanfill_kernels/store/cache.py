"""Compiled code on disk: one folder of small files, each named by what went into it.

* A file holds its own SHA-256: one that is cut short or damaged is not there.
* It appears under its name whole, by a rename: processes may store and load at once.
* Code that is loaded is run, so folder and file must be such that nobody else decides on them: ``place.py``.
* A folder that cannot be made, read or written is no error: everything is compiled anew.
* The folder stays below `LIMIT`: what was not used for longest is removed. Who is reading it reads on, and
  who wants it later compiles it anew.
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

# A kernel takes some 10 KB, a family of them for a GPU some 35: all there are take 1 MB and 1.5, so there is
# room for those of two dozen compilers or processors. A store looks through all files: 40 ms with 4,000
# of them, beside the half second that compiling takes.
LIMIT = 64_000_000
_LARGEST = 8 << 20  # of one entry, head and all

_MAGIC = b"fanfill 1\n"
_ANY_MAGIC = b"fanfill "  # of other versions, too
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_UNFINISHED = re.compile(r"\.bin\.[0-9]+-[0-9a-f]{8}")
_HOUR = 3600.0
_DAY = 24 * _HOUR


class Entry(NamedTuple):
    """One file of the folder: its name, its bytes, and when it was used last (to a day), as Unix time."""

    name: str
    size: int
    used: float


def folder() -> Path:
    """The folder: ``FANFILL_CACHE_DIR``, else ``fanfill`` below ``NUMBA_CACHE_DIR`` or the user's caches.

    A relative path of these two is one that no `Folder` is made of. One of ``XDG_CACHE_HOME`` is ignored, as
    its specification has it.
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
    """The environment variable that names the folder, if one does."""
    return next((name for name in ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR") if os.environ.get(name)), None)


def _absolute(variable: str, default: str) -> Path:
    named = Path(os.environ.get(variable) or ".")
    return named if named.is_absolute() else _home(default)


def _home(path: str) -> Path:
    """A path in the user's home; where there is none, a relative path."""
    return Path(os.path.expanduser(path))


def refused() -> str | None:
    """Why the folder is not used, or None if it is (or will be made when something is stored)."""
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
    """Why a folder is not used although it is there, if that can be mended; the remedy.

    Nobody else would notice it: each process compiles anew, which takes seconds, and all goes well.
    """
    try:
        with Folder(folder()):
            return None
    except NotTrusted as error:
        return reason(error)
    except PermissionError as error:  # in a home of somebody else there is nothing to mend
        return f"{reason(error)}; chmod -R a+rX it" if named_by() == "FANFILL_CACHE_DIR" else None
    except OSError:
        return None


def load(key: str) -> bytes | None:
    """What was stored under a key, or None."""
    name = _named(key)
    try:
        with Folder(folder()) as place:
            data = place.read(name, _LARGEST)
            body = data[_HEAD:]
            if data[:_HEAD] != _MAGIC + hashlib.sha256(body).digest():
                return None
            # What is looked at for its age is written once a day, and not where others keep it for this user.
            with suppress(OSError):
                if time.time() - place.stat(name).st_mtime > _DAY:
                    place.touch(name)
    except OSError:
        return None
    return body


def store(key: str, data: bytes) -> None:
    """Keep ``data`` under a key, if the folder allows."""
    if _HEAD + len(data) > _LARGEST:
        return
    with suppress(OSError):
        if folder().is_absolute():
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with Folder(folder()) as place:
            place.write(_named(key), _MAGIC + hashlib.sha256(data).digest() + data)
            _trim(place)


def entries() -> list[Entry]:
    """What the folder holds of ours, what was used last first; nothing where it is not used."""
    try:
        with Folder(folder()) as place:
            return sorted(_ours(place, _listed(place)), key=lambda entry: -entry.used)
    except OSError:
        return []


def clear() -> list[Entry]:
    """Remove what the folder holds of ours, and nothing else; what was removed.

    Raises
    ------
    OSError
        If the folder is not used, or may not be written.
    """
    with Folder(folder()) as place:
        _remove_unfinished(place, 0.0)
        found = _ours(place, _listed(place))
        for entry in found:
            with suppress(FileNotFoundError):  # another process was faster
                place.unlink(entry.name)
        return found


def reason(error: OSError) -> str:
    """What an error says, without its number and file."""
    return str(getattr(error, "strerror", None) or error)


def _named(key: str) -> str:
    return f"{key}.bin"


def _listed(place: Folder) -> list[Entry]:
    """Files that may be ours, by their names."""
    found = []
    for name in place.names():
        if name.endswith(".bin"):
            with suppress(FileNotFoundError):
                facts = place.stat(name)
                if stat.S_ISREG(facts.st_mode):
                    found.append(Entry(name, facts.st_size, facts.st_mtime))
    return found


def _ours(place: Folder, listed: list[Entry]) -> list[Entry]:
    """Those that begin as ours do: a folder that the user names may hold other things."""
    found = []
    for entry in listed:
        with suppress(OSError):
            if place.read(entry.name, len(_ANY_MAGIC)) == _ANY_MAGIC:
                found.append(entry)
    return found


def _trim(place: Folder) -> None:
    """Remove what was not used for longest, until the rest is within the limit."""
    _remove_unfinished(place, _HOUR)
    listed = _listed(place)
    if sum(entry.size for entry in listed) <= LIMIT:
        return
    left = _ours(place, listed)
    total = sum(entry.size for entry in left)
    for entry in sorted(left, key=lambda entry: entry.used):
        if total <= LIMIT:
            return
        # Windows refuses to remove what another process is reading: it was used just now.
        with suppress(OSError):
            if place.stat(entry.name).st_mtime == entry.used:  # else another process has made it anew
                place.unlink(entry.name)
        total -= entry.size


def _remove_unfinished(place: Folder, age: float) -> None:
    """Remove files whose process was killed while it wrote them."""
    for name in place.names():
        if _UNFINISHED.search(name):
            with suppress(OSError):
                if time.time() - place.stat(name).st_mtime >= age:
                    place.unlink(name)
