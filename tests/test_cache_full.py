"""A cache that cannot be written is the cache's trouble, not the fill's."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import resource
import numpy as np
import fanfill as ff

want = ff.fill(np.empty(5000, np.float32), ff.normal(), seed=1, backend="numpy")
turned = np.empty((40, 50), np.float32).T
want_turned = ff.fill(np.empty((50, 40), np.float32), ff.normal(), seed=1, backend="numpy")
# From here on no file can grow: what a full disk or a spent quota does to the cache.
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
{guard}
got = ff.fill(np.empty(5000, np.float32), ff.normal(), seed=1, backend="numba")
assert got.tobytes() == want.tobytes()
ff.fill(turned, ff.normal(), seed=1, backend="numba")
assert (turned == want_turned).all()
assert ff.fill(np.empty(9, np.float32), ff.normal(), seed=1, backend="numba").tobytes() == want[:9].tobytes()
"""
# What the fill would do without the second call.
UNGUARDED = """
from fanfill.backends import numba
numba._whatever_the_cache = lambda kernel: kernel
"""


def run(guard: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(guard=guard)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_a_cache_folder_that_cannot_grow_is_no_error(tmp_path: Path) -> None:
    done = run("", tmp_path / "cache")
    assert done.returncode == 0, done.stderr


def test_without_the_second_call_it_would_be_one(tmp_path: Path) -> None:
    done = run(UNGUARDED, tmp_path / "cache")
    assert "OSError: [Errno 27]" in done.stderr
