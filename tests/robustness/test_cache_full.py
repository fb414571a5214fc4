"""A cache that cannot be written is the cache's trouble, not the fill's."""

import sys
from pathlib import Path

import pytest
from processes import child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits as Unix has them")

# From its limit on no file can grow: what a full disk or a spent quota does to the cache.
PROGRAM = """
import resource
wanted = ff.fill(np.empty(5000, np.float32), LAW, seed=1, backend="numpy")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
for n in (5000, 9):
    for buffer in (np.empty(n, np.float32), np.empty(n, np.float32)[::-1]):
        assert ff.fill(buffer, LAW, seed=1, backend="numba").tobytes() == wanted[:n].tobytes()
try:
    with open(FILE, "wb", buffering=0) as file:
        file.write(b"x")
except OSError as error:
    assert error.errno == 27, error
else:
    raise SystemExit("there is no limit")
"""


def test_a_cache_folder_that_cannot_grow_is_no_error(tmp_path: Path) -> None:
    program = f"FILE = {str(tmp_path / 'file')!r}" + PROGRAM
    child(program, FANFILL_CACHE_DIR=str(tmp_path / "cache"))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
