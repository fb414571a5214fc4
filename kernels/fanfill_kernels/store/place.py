"""A folder whose files may be run: who controls its contents, and how it is reached.

Code that is loaded is run. So only this user, and root, who may run anything, may decide what it is.

* The path is absolute. A relative one begins in the current directory: perhaps a clone of somebody's
  repository, which may contain a folder of that name, with files that belong to whoever cloned it.
* The folder and each file belong to this user or to root, and nobody else may write to them.
* Each link on the path belongs to this user or to root, wherever it is and leads. So all that others can put
  on the path, where they may write, is a folder or a link of their own, and neither is used. (It does not
  matter who else may write to the folders on the path: group-writable homes and project folders are common.)
* What was checked is what is used: each step starts from the previous folder, which is held open, and follows
  no link by itself; files are opened in the folder that is held open.

If files have no owners, or paths cannot be walked from an open folder (both on Windows), paths are used as
they are: there the folder is in the user's own profile.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_LINKS = 40  # on one path: as many as Linux follows


class NotTrusted(PermissionError):
    """The folder is not used because its contents cannot be trusted; the message says how to fix that."""


class Folder:
    """A folder for files that only this user and root control; ``with`` holds it open.

    Raises
    ------
    NotTrusted
        If others could change its contents.
    OSError
        If it does not exist or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_absolute():
            raise NotTrusted(
                f"'{path}' depends on the folder that a process starts in; "
                "set FANFILL_CACHE_DIR to an absolute path"
            )
        self._path = str(path)
        self._open: int | None = _walk(path) if _steps() else None
        found = os.stat(self._path) if self._open is None else os.fstat(self._open)
        reason = _others(found)
        if reason is None and not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{self._path} is not a folder")
        if reason:
            self.close()
            raise NotTrusted(reason)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def names(self) -> list[str]:
        """The names of its contents."""
        return os.listdir(self._path if self._open is None else self._open)

    def stat(self, name: str) -> os.stat_result:
        """The status of a file, or of a link itself."""
        return os.stat(self._at(name), dir_fd=self._open, follow_symlinks=False)

    def read(self, name: str, most: int) -> bytes:
        """The beginning of a file, at most ``most`` bytes.

        Raises
        ------
        NotTrusted
            If others may write to it, or it is not a regular file.
        """
        # Opened without waiting: a FIFO would wait for a writer.
        flags = os.O_RDONLY | _flags("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
        file = os.open(self._at(name), flags, dir_fd=self._open)
        try:
            found = os.fstat(file)
            reason = _others(found) if stat.S_ISREG(found.st_mode) else "it is no file"
            if reason:
                raise NotTrusted(reason)
            pieces, left = [], min(most, found.st_size)
            while left > 0 and (piece := os.read(file, left)):
                pieces.append(piece)
                left -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(file)

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it appears under its name complete."""
        passing = f"{name}.{os.getpid()}-{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_BINARY")
        file = os.open(self._at(passing), flags, 0o600, dir_fd=self._open)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(data)
            os.replace(self._at(passing), self._at(name), src_dir_fd=self._open, dst_dir_fd=self._open)
        except BaseException:
            with suppress(OSError):
                self.unlink(passing)
            raise

    def touch(self, name: str) -> None:
        """Record that a file has just been used."""
        os.utime(self._at(name), dir_fd=self._open)

    def unlink(self, name: str) -> None:
        """Remove a file; a process that has it open can go on reading."""
        os.unlink(self._at(name), dir_fd=self._open)

    def _at(self, name: str) -> str:
        return name if self._open is not None else os.path.join(self._path, name)


def _steps() -> bool:
    """Whether this system can reach files from an open folder."""
    needed = {os.open, os.stat, os.unlink, os.rename, os.utime, os.readlink}
    return needed <= os.supports_dir_fd and os.listdir in os.supports_fd


def _flags(*names: str) -> int:
    """Flags for ``os.open``, if the system has them."""
    found = 0
    for name in names:
        found |= getattr(os, name, 0)
    return found


def _walk(path: Path) -> int:
    """A descriptor of the folder at an absolute path; each link is checked before it is followed."""
    # O_PATH: a folder may be passed through even if it may not be listed.
    step = os.O_RDONLY | _flags("O_DIRECTORY", "O_NOFOLLOW", "O_PATH")
    here = os.open(path.anchor, step)
    ahead, links = list(path.parts[:0:-1]), 0
    try:
        while ahead:
            name = ahead.pop()
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                reason = f"more than {_LINKS} links are on its way" if links > _LINKS else _owner(found)
                if reason:
                    raise NotTrusted(f"the link '{name}' leads there: {reason}")
                target = Path(os.readlink(name, dir_fd=here))
                ahead += target.parts[: 0 if target.is_absolute() else None : -1]
                name = target.anchor or "."
            passed, here = here, os.open(name, step, dir_fd=here)
            os.close(passed)
        return os.open(".", os.O_RDONLY | _flags("O_DIRECTORY"), dir_fd=here)
    finally:
        os.close(here)


def _owner(found: os.stat_result) -> str | None:
    """Why somebody else may have made it, or None."""
    if not hasattr(os, "getuid") or found.st_uid in (0, os.getuid()):
        return None
    return f"it belongs to user {found.st_uid}, neither to this one ({os.getuid()}) nor to root"


def _others(found: os.stat_result) -> str | None:
    """Why somebody else may have written to it, and the remedy, or None."""
    reason = _owner(found)
    if reason:
        return f"{reason}; set FANFILL_CACHE_DIR to a folder of this user's"
    if hasattr(os, "getuid") and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o}); chmod -R go-w it"
    return None
