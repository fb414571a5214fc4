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
got = ff.fill(np.empty(5000, np.float32), ff.normal(), seed=1, backend="numba")
assert got.tobytes() == want.tobytes()
ff.fill(turned, ff.normal(), seed=1, backend="numba")
assert (turned == want_turned).all()
assert ff.fill(np.empty(9, np.float32), ff.normal(), seed=1, backend="numba").tobytes() == want[:9].tobytes()
"""


def run(program: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_a_cache_folder_that_cannot_grow_is_no_error(tmp_path: Path) -> None:
    done = run(PROGRAM, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_the_limit_is_one(tmp_path: Path) -> None:
    done = run(
        PROGRAM + f"\nopen({str(tmp_path / 'file')!r}, 'wb', buffering=0).write(b'x')\n", tmp_path / "cache"
    )
    assert "OSError: [Errno 27]" in done.stderr
