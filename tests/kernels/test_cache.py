"""Kernels on disk, between processes: used where they can be, never stale, never in the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from kernel_copies import begin_with, copy_kernels
from processes import Child, assert_ends

# One kernel of the cheapest form. FROZEN leaves out the digest, as Numba alone would.
PROGRAM = """
import hashlib, json, os, sys
import numpy as np
from fanfill_kernels.compile import cpu
from fanfill_kernels.store import keys

if os.environ.get("FROZEN"):
    keys.of_kernel = lambda *made_of: "frozen"
out = np.empty(5000, np.uint16)
one = np.float32(1.0)
cpu.kernels("uniform_clamped", "bfloat16").run(out, 3, (1, 2, 3, 4), (one, -one, one))
json.dump(
    {
        "bits": hashlib.sha256(out.tobytes()).hexdigest(),
        "compiled": "fanfill_kernels.compile.compiler" in sys.modules,
        "numba": "numba" in sys.modules,
        "home": cpu.__file__,
    },
    sys.stdout,
)
"""
EDITS = {
    "arithmetic.py": ("UNIT = np.float32(2.0**-31)", "UNIT = np.float32(2.0**-32)"),
    "philox.py": ("W0 = np.uint64(0x9E3779B9)", "W0 = np.uint64(0x9E3779BB)"),
    "narrow.py": ("HALF_BF16 = np.int32(2**15 - 1)", "HALF_BF16 = np.int32(0)"),
    "compile/trace.py": ('"bitwise_or": ("or_", "or_", None)', '"bitwise_or": ("and_", "and_", None)'),
}


class Drawn(NamedTuple):
    """What a process drew, and whether its kernel came from the cache."""

    bits: str
    cached: bool


class Copy:
    """A copy of the kernels' sources, a cache folder, and processes that use both."""

    def __init__(self, root: Path, kept: Path | None = None) -> None:
        self.package = copy_kernels(root / "copy")
        self.cache = root / "cache"
        if kept is not None:
            shutil.copytree(kept, self.cache)

    def start(self, **settings: str) -> Child:
        settings = {"NUMBA_CACHE_DIR": str(self.cache)} | settings
        return begin_with(self.package.parent, PROGRAM, self.package.parent, settings)

    def finish(self, process: Child) -> Drawn:
        ended = assert_ends(process)
        assert ended.code == 0, ended
        found = json.loads(ended.out)
        assert Path(found["home"]).parent.parent == self.package
        assert found["numba"] == found["compiled"], "a stored kernel needs no Numba"
        return Drawn(found["bits"], not found["compiled"])

    def draw(self, **settings: str) -> Drawn:
        return self.finish(self.start(**settings))

    def files(self) -> list[Path]:
        return sorted(self.cache.rglob("run_*.bin"))

    def edit(self, name: str) -> None:
        old, new = EDITS[name]
        source = (self.package / name).read_text()
        assert source.count(old) == 1
        (self.package / name).write_text(source.replace(old, new))


class Stored(NamedTuple):
    """A cache in which one process has stored its kernel, and what that process drew."""

    cache: Path
    first: Drawn


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Compiled once: no path is part of a kernel's name, so each test goes on from a copy of it."""
    made = Copy(tmp_path_factory.mktemp("stored"))
    first = made.draw()
    assert not first.cached
    assert len(made.files()) == 1
    return Stored(made.cache, first)


@pytest.fixture
def first(stored: Stored) -> Drawn:
    return stored.first


@pytest.fixture
def copy(tmp_path: Path, stored: Stored) -> Copy:
    """Sources of its own, and a cache that holds what was compiled of others like them."""
    return Copy(tmp_path, stored.cache)


def assert_fresh(found: Drawn, before: Drawn) -> None:
    """Compiled anew, from other sources than before."""
    assert not found.cached
    assert found.bits != before.bits


@pytest.mark.parametrize(
    "name",
    [
        "arithmetic.py",
        "compile/trace.py",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("philox.py", "narrow.py")),
    ],
)
def test_a_second_process_loads_the_kernel_and_an_edit_of_any_source_compiles_it_anew(
    copy: Copy, first: Drawn, name: str
) -> None:
    assert copy.draw() == Drawn(first.bits, cached=True)
    source = (copy.package / name).read_text()
    copy.edit(name)
    assert_fresh(copy.draw(), first)
    (copy.package / name).write_text(source)
    assert copy.draw() == Drawn(first.bits, cached=True)


def test_without_the_digest_stale_code_would_be_served(copy: Copy, first: Drawn) -> None:
    (file,) = copy.files()
    file.rename(file.with_name(f"{file.name.partition('-')[0]}-frozen.bin"))
    assert copy.draw(FROZEN="1") == Drawn(first.bits, cached=True)
    copy.edit("arithmetic.py")
    stale = copy.draw(FROZEN="1")
    assert stale == Drawn(first.bits, cached=True)
    with pytest.raises(AssertionError):
        assert_fresh(stale, first)


# test_ahead.py shows that kernels for another processor are not taken, and test_targets.py their bits.
@pytest.mark.parametrize(
    "setting", ["NUMBA_OPT=1", pytest.param("NUMBA_CPU_NAME=generic", marks=pytest.mark.slow)]
)
def test_a_setting_that_changes_the_code_has_kernels_of_its_own(
    copy: Copy, first: Drawn, setting: str
) -> None:
    name, _, value = setting.partition("=")
    assert copy.draw(**{name: value}) == Drawn(first.bits, cached=False)
    assert copy.draw(NUMBA_NUM_THREADS="1") == Drawn(first.bits, cached=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"FANFILL_CACHE_DIR": "BLOCKED"},
        pytest.param({"NUMBA_CACHE_DIR": "BLOCKED/cache"}, marks=pytest.mark.slow),
        pytest.param(
            {"NUMBA_CACHE_DIR": "", "HOME": "BLOCKED", "XDG_CACHE_HOME": ""}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_no_folder_for_a_cache_is_no_error(
    copy: Copy, first: Drawn, tmp_path: Path, settings: dict[str, str]
) -> None:
    # A folder below a regular file can be made by nobody, root included.
    blocked = tmp_path / "file"
    blocked.touch()
    nowhere = {name: value.replace("BLOCKED", str(blocked)) for name, value in settings.items()}
    assert copy.draw(**nowhere) == Drawn(first.bits, cached=False)


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "cut short":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "one bit":
        file.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    else:
        file.write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize(
    "how",
    ["one bit", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut short", "empty", "garbage"))],
)
def test_a_damaged_kernel_is_compiled_anew_and_mended(copy: Copy, first: Drawn, how: str) -> None:
    (file,) = copy.files()
    kept = file.read_bytes()
    damage(file, how)
    assert file.read_bytes() != kept
    assert copy.draw() == Drawn(first.bits, cached=False)
    assert copy.draw() == Drawn(first.bits, cached=True)


def test_a_folder_that_vanishes_between_two_processes_comes_back(copy: Copy, first: Drawn) -> None:
    shutil.rmtree(copy.cache)
    assert copy.draw() == Drawn(first.bits, cached=False)
    assert copy.draw() == Drawn(first.bits, cached=True)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_code_that_others_may_write_is_not_run(copy: Copy, first: Drawn, what: str) -> None:
    (file,) = copy.files()
    (file.parent if what == "folder" else file).chmod(0o777)
    assert copy.draw() == Drawn(first.bits, cached=False)


def test_processes_that_compile_at_once_all_draw_the_right_bits(tmp_path: Path, first: Drawn) -> None:
    copy = Copy(tmp_path)
    together = [copy.start() for _ in range(2)]
    drawn = [copy.finish(process) for process in together]
    alone = copy.draw()
    assert alone.cached
    assert {found.bits for found in drawn} == {alone.bits} == {first.bits}
