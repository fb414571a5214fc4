"""A process that imports NumPy and Numba and starts Numba's compiler once; its forks run tests' programs.

A new interpreter needs 0.2 s of a processor until NumPy is there, 0.35 s more for Numba, and 0.55 s more
until its compiler is ready: longer than most of these programs take for all the rest. A fork needs 0.01 s,
and 0.05 s to end. It begins as ``python -c program`` does: with its own environment, folder, session and
``__main__``, without any module of ours, and Numba is in ``sys.modules`` once the program has imported it.

``processes.py`` starts it and asks it for forks. A program whose subject is how an interpreter starts, the
import of Numba, or a setting that Numba reads as it is imported needs an interpreter of its own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import socket
import sys
import types
import warnings
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class Stored:
    """Finds and loads Numba as it was imported before the fork, if ``sys.path`` still leads to it."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name) if name == "numba" and self.modules else None
        if found is None or found.origin != self.modules[name].__file__:
            return None
        found.loader = self  # type: ignore[assignment]
        return found

    def create_module(self, spec: ModuleSpec) -> Any:
        return self.modules[spec.name]

    def exec_module(self, module: Any) -> None:
        module.__spec__ = PathFinder.find_spec(module.__name__)
        sys.modules.update(self.modules)


def prepare() -> Stored:
    """Import what programs need, and put Numba out of sight."""
    import numpy  # noqa: F401

    with suppress(ImportError):
        import typer  # noqa: F401
    try:
        from numba.core.registry import cpu_target
    except ImportError:
        return Stored({})
    cpu_target.target_context.refresh()
    cpu_target.typing_context.refresh()
    found = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "numba"}
    for module in found.values():  # a fork that does not import them need not take them to pieces as it ends
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
    return Stored(found)


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request, and report how each fork ends; only forks return, with what was asked."""
    events = selectors.DefaultSelector()
    events.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is not connection:
                pid, report = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(report, str(code).encode())
                os.close(report)
                events.unregister(key.fileobj)
                os.close(key.fd)
                continue
            message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            if not message:
                os._exit(0)
            with warnings.catch_warnings():
                # Python 3.12 and newer warn of a fork beside threads, and OpenBLAS has some.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                for other in events.get_map().values():
                    if other.data is not None:
                        os.close(other.data[1])
                        os.close(other.fd)
                events.close()
                connection.close()
                return json.loads(message), files
            connection.send(str(pid).encode())
            events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, files[-1]))
            for file in files[:-1]:
                os.close(file)


def become(asked: dict[str, Any], files: list[int], path: list[str]) -> None:
    """Have what a new interpreter is given: session, files, environment, folder, path, warnings."""
    os.setsid()
    for file, number in zip(files[:-1], (1, 2), strict=True):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    given = [os.path.abspath(p) for p in asked["environment"].get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:] = ["", *dict.fromkeys([*given, *path])]
    sys.argv = ["-c", *asked["words"]]
    if asked["strict"]:
        sys.warnoptions[:] = ["error"]
        warnings.simplefilter("error")


if __name__ == "__main__":
    own = sys.path[1:]  # without this folder
    sys.path[:] = sys.argv[2:]
    stored = prepare()
    gc.collect()
    gc.freeze()  # no collection touches, and so copies, what all forks share
    asked, files = serve(socket.socket(fileno=int(sys.argv[1])))
    become(asked, files, own)
    sys.meta_path.insert(0, stored)  # type: ignore[arg-type]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(asked["program"], "<string>", "exec"), main.__dict__)
