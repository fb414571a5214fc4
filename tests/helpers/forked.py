"""Calls in forks of the test's own process, for what needs torch and another process, but no new interpreter.

torch takes 2 s to import, with its distributed part 4, and this process has both. Such a fork must not make
torch share an operation among threads, for OpenMP's are its parent's: see ``torch.set_num_threads``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable

from processes import Ended, assert_ends


class Forked:
    """A fork that leads a session, an `Ending` for ``assert_ends``."""

    def __init__(self, call: Callable[[], object], environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        with warnings.catch_warnings():
            # JAX, and Python 3.12 and newer, warn of a fork beside threads.
            warnings.simplefilter("ignore")
            self.pid = os.fork()
        if not self.pid:  # pragma: no cover
            self._run(call, environment)

    def _run(self, call: Callable[[], object], environment: dict[str, str]) -> None:  # pragma: no cover
        code = 1
        try:
            os.setsid()
            for number, file in enumerate(self.files, 1):
                os.dup2(file.fileno(), number)
            # By number: who redirects these in turn redirects what is printed.
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            # pytest's own, which keep to themselves what a program would print.
            warnings.resetwarnings()
            sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
            os.environ.update(environment)
            call()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        limit = time.monotonic() + (1e6 if timeout is None else timeout)
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > limit:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            else:
                time.sleep(0.01)
        texts = []
        for file in self.files:
            with file:
                file.seek(0)
                texts.append(file.read())
        return texts[0], texts[1]


def forked(call: Callable[[], object], *, seconds: float = 60.0, **environment: str) -> Ended:
    """How a fork that makes the call ended, and what it printed."""
    return assert_ends(Forked(call, environment), seconds)
