"""A folder whose files may be run: who decides what lies in it, and how it is reached.

Code that is loaded is run. So nobody may decide what it is but this user, and root, who may run anything.

* The path is absolute. A relative one begins in the current directory: in a clone of somebody's repository,
  say, which may well hold a folder of that name, and whose files belong to whoever cloned it.
* The folder and each file belong to this user or to root, and nobody else may write to them.
* Each link on the way belongs to this user or to root, wherever it stands and leads. So what others can put
  in the way, where they may write, is a folder or a link of their own, and neither is taken. (Who else may
  write to the folders on the way is not asked: homes and project folders of a group are common.)
* What was looked at is what is used: each step is taken from the folder before it, which is held open, and
  follows no link by itself; files are opened in the folder that is held open.

Where files have no owners, or there are no steps from an open folder (on Windows neither), paths are taken as
they are: there the folder lies in the user's own profile.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_LINKS = 40  # on one way: as many as Linux follows


class NotTrusted(PermissionError):
    """The folder is passed over for what it is, which can be mended; the message says how."""


class Folder:
    """A folder for files that only this user and root decide on; ``with`` holds it open.

    Raises
    ------
    NotTrusted
        If others could decide what lies there.
    OSError
        If it is not there, or cannot be opened.
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
        """Let go of it."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def names(self) -> list[str]:
        """What lies in it."""
        return os.listdir(self._path if self._open is None else self._open)

    def stat(self, name: str) -> os.stat_result:
        """A file's facts, or those of a link."""
        return os.stat(self._at(name), dir_fd=self._open, follow_symlinks=False)

    def read(self, name: str, most: int) -> bytes:
        """The beginning of a file, ``most`` bytes of it at most.

        Raises
        ------
        NotTrusted
            If others may write to it; if it is no regular file.
        """
        # Whatever lies there is opened without waiting for it: a FIFO would, for somebody who writes.
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
        """Put a whole file under a name, all at once."""
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
        """Note that a file was used now."""
        os.utime(self._at(name), dir_fd=self._open)

    def unlink(self, name: str) -> None:
        """Take a file away; who has it open keeps what they read."""
        os.unlink(self._at(name), dir_fd=self._open)

    def _at(self, name: str) -> str:
        return name if self._open is not None else os.path.join(self._path, name)


def _steps() -> bool:
    """Whether files can be reached from an open folder."""
    needed = {os.open, os.stat, os.unlink, os.rename, os.utime, os.readlink}
    return needed <= os.supports_dir_fd and os.listdir in os.supports_fd


def _flags(*names: str) -> int:
    """Flags for ``os.open``, as far as the system has them."""
    found = 0
    for name in names:
        found |= getattr(os, name, 0)
    return found


def _walk(path: Path) -> int:
    """A descriptor of the folder at an absolute path; each link is looked at before it is followed."""
    # O_PATH: one may pass through what one may not list.
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
    """Why somebody else may have made it."""
    if not hasattr(os, "getuid") or found.st_uid in (0, os.getuid()):
        return None
    return f"it belongs to user {found.st_uid}, neither to this one ({os.getuid()}) nor to root"


def _others(found: os.stat_result) -> str | None:
    """Why somebody else may have written to it, and the remedy."""
    reason = _owner(found)
    if reason:
        return f"{reason}; set FANFILL_CACHE_DIR to a folder of this user's"
    if hasattr(os, "getuid") and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o}); chmod -R go-w it"
    return None
