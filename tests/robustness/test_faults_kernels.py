"""Faults below the kernels (Numba breaks, the cache spoils): a clear error or the right bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import assert_ends, assert_fails, child, fanfill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults as Linux has them")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the kernels of `right` and `right_reversed`, compiled once."""
    folder = tmp_path_factory.mktemp("filled")
    child("right(); right_reversed()", FANFILL_CACHE_DIR=str(folder))
    return folder


@pytest.fixture
def stored(filled: Path, tmp_path: Path) -> str:
    """A copy of that cache for a test of its own."""
    return str(shutil.copytree(filled, tmp_path / "stored"))


# Numba

STANDS_IN = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    right()
    right_reversed()
(warning,) = caught
assert warning.category is RuntimeWarning
assert "importing Numba failed (LookupError: broken for a test); reinstall numba" in str(warning.message)
assert ff.select_backend(np.empty(1)).name == "numpy"
buffer = np.full(10, 7, np.float32)
try:
    ff.fill(buffer, LAW, seed=3, backend="numba")
except ff.BackendUnavailableError as error:
    assert "broken for a test" in str(error) and (buffer == 7).all()
else:
    raise SystemExit("a named backend that cannot run was passed over")
"""


def test_numpy_stands_in_for_a_numba_that_breaks_on_import_even_where_kernels_are_stored(
    tmp_path: Path, stored: str
) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise LookupError('broken for a test')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    child(STANDS_IN, PYTHONPATH=path, FANFILL_CACHE_DIR=str(tmp_path / "empty"))
    assert list(Path(stored).glob("run_normal_float32-*.bin"))
    child(STANDS_IN, PYTHONPATH=path, FANFILL_CACHE_DIR=stored)
    assert_fails(STANDS_IN, "not enough values to unpack", FANFILL_CACHE_DIR=stored)


BREAKS_LATER = """
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.core":
            raise LookupError("broken for a test")
sys.meta_path.insert(0, Broken())
right()
assert "numba" not in sys.modules
buffer = np.full(300_000, 7, np.float32)
for threads in (1, 3):
    try:
        ff.fill(buffer, ff.uniform(0.5, 2), seed=3, threads=threads)
    except RuntimeError as error:
        assert "expected the Numba that compiled other kernels here to compile run_" in str(error)
        assert "; got LookupError: broken for a test" in str(error)
        assert "reinstall numba and llvmlite, or set FANFILL_BACKEND=numpy" in str(error)
        assert (buffer == 7).all()
    else:
        raise SystemExit("compiled without Numba")
right()
draw(law=ff.uniform(0.5, 2), backend="numpy")
"""


def test_a_numba_that_broke_since_is_a_clear_error_for_new_kernels_and_none_for_stored_ones(
    stored: str,
) -> None:
    child(BREAKS_LATER, fresh=True, FANFILL_CACHE_DIR=stored)
    child("right(); right(law=ff.uniform(0.5, 2))", FANFILL_CACHE_DIR=stored)
    assert_fails(BREAKS_LATER, "compiled without Numba", FANFILL_CACHE_DIR=stored)


INTERPRETED = """
right_reversed(1600)
# On this thread, and shared among several.
for n, law in ((3000, LAW), (70_000, ff.uniform(-1, 1))):
    assert draw(n, law=law, backend="numba") == draw(n, law=law, backend="numpy")
assert "fanfill_kernels.compile.compiler" not in sys.modules
"""


def test_with_the_compiler_switched_off_fills_have_the_same_bits_and_stored_kernels_stay_unused(
    tmp_path: Path, stored: str
) -> None:
    (proof,) = Path(stored).glob("proof-*")
    aside = proof.rename(tmp_path / proof.name)
    before = sorted(os.listdir(stored))  # no proof that the compiler works is left, nor a kernel of uniforms
    child(INTERPRETED, FANFILL_CACHE_DIR=stored, NUMBA_DISABLE_JIT="1")
    assert sorted(os.listdir(stored)) == before
    aside.rename(proof)
    child("right(); assert 'numba' not in sys.modules", FANFILL_CACHE_DIR=stored)
    assert_fails(INTERPRETED, "AssertionError", FANFILL_CACHE_DIR=stored)


# The disk under the cache

NO_WRITE_ACCESS = """
os.environ["FANFILL_CACHE_DIR"] = "/dev/null/kept"
right()  # imports everything: the next user may perhaps not enter the folders where it lies
del os.environ["FANFILL_CACHE_DIR"]
from fanfill_kernels.store import cache
os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for place in (os.environ["HOME"], "/usr/lib", "/"):
    assert not os.access(place, os.W_OK), place
right_reversed()
assert "it cannot be made: " in (cache.refused() or ""), cache.refused()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may write nowhere")
def test_a_user_who_may_write_nowhere_gets_the_right_bits_and_is_told_why_nothing_is_kept() -> None:
    settings = {"HOME": "/usr/lib"} | dict.fromkeys(
        ("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    )
    child(NO_WRITE_ACCESS, **settings)
    as_root = NO_WRITE_ACCESS.replace("os.setuid(65534)", "").replace("\nright()", "\n")
    assert_fails(as_root, "AssertionError: /usr/lib", **settings)


READ_ONLY = """
import sysconfig
from fanfill_kernels.store import cache
from fanfill_kernels.compile import cpu
packages = sysconfig.get_path("purelib"), Path(ff.__file__).parent, Path(cpu.__file__).parent
for place in (os.environ["HOME"], cache.folder().parent, *packages, "/tmp", "."):
    try:
        (Path(place) / "fanfill-test").touch()
    except OSError as error:
        assert error.errno in (2, 30), (place, error)
    else:
        raise SystemExit(f"{place} can be written")
right()
right_reversed()
"""
# From here on the process sees every file system of files read-only, and nobody else does (CLONE_NEWNS).
REMOUNT = """
import ctypes, os, subprocess
if ctypes.CDLL(None, use_errno=True).unshare(0x20000):
    raise OSError(ctypes.get_errno(), "unshare")
subprocess.run(["sh", "-c", '''
mount --make-rprivate /
while read -r _ place kind _; do
    case $kind in ext*|xfs|btrfs|overlay|tmpfs) mount -o remount,bind,ro "$place" 2>/dev/null ;; esac
done < /proc/self/mounts
'''])
"""


def has_mounts() -> bool:
    """Whether this user may see disks other than everybody does."""
    command = ["unshare", "--mount", "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not has_mounts(), reason="needs unshare, and the right to make mount namespaces")
def test_with_home_cache_and_packages_read_only_the_bits_are_right_and_info_says_so(
    tmp_path: Path, stored: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings: dict[str, str | None] = {"HOME": str(home)}
    settings |= dict.fromkeys(("FANFILL_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"))
    child(REMOUNT + READ_ONLY, **settings)
    ended = assert_ends(fanfill("info", before=REMOUNT, environment=settings))
    assert (ended.code, ended.err) == (0, "")
    assert f"it cannot be made: {home} cannot be written" in " ".join(ended.out.split())
    assert list(home.iterdir()) == []

    # Kernels that were stored before are used.
    settings["FANFILL_CACHE_DIR"] = stored
    child(REMOUNT + READ_ONLY + "assert 'numba' not in sys.modules", **settings)
    assert_fails(READ_ONLY, "can be written", **settings)


WHILE_RUNNING = """
import shutil
folder = Path(os.environ["FANFILL_CACHE_DIR"])
def vanish():
    shutil.rmtree(folder)
def spoil():
    for file in folder.iterdir():
        file.write_bytes(b"garbage" * 1000)
def cut_short():
    for file in folder.iterdir():
        os.truncate(file, file.stat().st_size // 2)
def open_to_all():
    folder.chmod(0o777)
def become_a_file():
    shutil.rmtree(folder)
    folder.write_text("a file")

right()
laws = [ff.uniform(-1, 1), ff.uniform(0.5, 2)]
for fault in (vanish, spoil, cut_short, open_to_all, become_a_file):
    assert list(folder.glob("run_normal_float32-*.bin"))
    fault()
    right()  # a kernel that is in memory
    if laws:
        right(law=laws.pop())  # one that must be compiled, and stored if it can be
    if folder.is_file():
        folder.unlink()
    elif fault is open_to_all:
        folder.chmod(0o700)
    from fanfill_kernels.compile import cpu
    cpu.kernels.cache_clear()
    cpu.loops_of.cache_clear()
    from fanfill.cpu import numba
    numba._kernels.cache_clear()
    sys.modules["fanfill.fill"].plans.clear()
    right()  # loaded anew, or compiled and stored
"""


def test_the_cache_folder_may_vanish_or_spoil_while_a_process_runs(stored: str) -> None:
    child(WHILE_RUNNING, FANFILL_CACHE_DIR=stored)
    child("right(); assert 'numba' not in sys.modules", FANFILL_CACHE_DIR=stored)
    assert_fails(
        "right(law=ff.uniform(9, 10)); assert 'numba' not in sys.modules", "Error", FANFILL_CACHE_DIR=stored
    )
