"""What the processes of one run of the tests make once and share: compiled texts, by hashes of their sources.

The folder is the run's own, so nothing comes from an earlier state of the sources.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: the same may be made twice there
    fcntl = None  # type: ignore[assignment]

VARIABLE = "FANFILL_TESTS_SHARED"


def folder() -> Path:
    """The run's folder: workers and children find it in their environment."""
    if VARIABLE not in os.environ:
        made, owner = tempfile.mkdtemp(prefix="fanfill-tests-"), os.getpid()

        def remove() -> None:
            if os.getpid() == owner:  # and not a fork of it
                shutil.rmtree(made, ignore_errors=True)

        atexit.register(remove)
        os.environ[VARIABLE] = made
    return Path(os.environ[VARIABLE])


def digest(*texts: object) -> str:
    """A name for what is made of these."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:24]


@contextmanager
def alone(name: str) -> Iterator[Path]:
    """The folder, while no other process does the same."""
    with (folder() / f"{name}.lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield folder()


def keep(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def link(made: Path, name: Path) -> None:
    """Give a file one more name, unless another process has given it."""
    with suppress(FileExistsError):
        os.link(made, name)
