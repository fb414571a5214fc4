"""The folders of this process's cgroups, from its own up to the mount, where Linux keeps their limits.

The kernel's files are bytes: a path may hold any bytes but NUL and newline, even colons. So everything is
read, split and joined as bytes, and only a newline ends a line.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["folders"]

Parts = tuple[bytes, ...]


class Mount(NamedTuple):
    """A mount of cgroups: which cgroup is seen there, where, and its controllers (none: version 2)."""

    root: Parts
    folder: bytes
    controllers: tuple[bytes, ...]


def folders(controller: str, root: str | os.PathLike[str] = "/") -> list[bytes]:
    """The folders that may hold a limit of `controller` on this process.

    A limit may be set on any ancestor, so the process's own cgroups (``proc/self/cgroup``) are followed up to
    the mount, as far as they can be seen from here. For a cgroup outside the namespace, only the mount's own
    folder can be an ancestor. The folders need not exist.

    Parameters
    ----------
    controller : str
        "cpu" or "memory".
    root : path-like
        The folder that holds ``proc`` and ``sys``.
    """
    base, name = os.fsencode(root), controller.encode()
    found: dict[bytes, None] = {}  # in order, each once
    places = mounts(base)
    for line in lines(os.path.join(base, b"proc/self/cgroup")):
        # "4:cpu,cpuacct:/a/b" in version 1, "0::/a/b" in version 2; the path is not escaped.
        _, controllers, path, *_ = [*line.split(b":", 2), b"", b""]
        named = tuple(filter(None, controllers.split(b",")))
        if named and name not in named:
            continue
        own = parts_of(path)
        # Version 1's hierarchies are mounted apart, version 2's is one.
        seen = [m for m in places if (name in m.controllers if named else not m.controllers)]
        for mount in seen or guesses(base, controllers, name):
            found.update(dict.fromkeys(ancestors(mount, own)))
    return list(found)


def ancestors(mount: Mount, own: Parts) -> list[bytes]:
    """The folders from a mount down to a cgroup; both paths are as this process sees them."""
    below = own[len(mount.root) :] if own[: len(mount.root)] == mount.root else None
    if below is None or b".." in below:
        # The mount may lie above us, by steps whose names we do not see. Any other does not limit us.
        inside = all(part == b".." for part in mount.root)
        return [mount.folder] if inside else []
    return [os.path.join(mount.folder, *below[:depth]) for depth in range(len(below) + 1)]


def mounts(base: bytes) -> list[Mount]:
    """The mounts of cgroups that ``proc/self/mountinfo`` lists; none if there is no such file."""
    found = []
    for line in lines(os.path.join(base, b"proc/self/mountinfo")):
        # "36 35 0:31 ROOT FOLDER options [more ...] - TYPE source options": fields have their spaces escaped.
        fields, _, rest = line.partition(b" - ")
        words, (kind, _, options, *_) = fields.split(b" "), [*rest.split(b" "), b"", b"", b""]
        if kind not in (b"cgroup", b"cgroup2") or len(words) < 5:
            continue
        controllers = tuple(options.split(b",")) if kind == b"cgroup" else ()
        folder = os.path.join(base, unescaped(words[4]).lstrip(b"/"))
        found.append(Mount(parts_of(unescaped(words[3])), folder, controllers))
    return found


def guesses(base: bytes, controllers: bytes, name: bytes) -> list[Mount]:
    """The usual mounts of cgroups, for a system that does not say where it mounts them."""
    usual = os.path.join(base, b"sys/fs/cgroup")
    if not controllers:
        return [Mount((), usual, ())]
    return [Mount((), os.path.join(usual, each), (name,)) for each in dict.fromkeys((controllers, name))]


def parts_of(path: bytes) -> Parts:
    """A path's parts."""
    return tuple(part for part in path.split(b"/") if part)


def unescaped(field: bytes) -> bytes:
    r"""A field of mountinfo as it was: the kernel writes space, tab, newline and backslash as ``\040``."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8) & 255]), field)


def lines(path: bytes) -> list[bytes]:
    """A file's lines except empty ones; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return [line for line in file.read().split(b"\n") if line]
    except OSError:
        return []
