"""What names a stored kernel: all that its code is made from, as it was loaded, and no path."""

from __future__ import annotations

import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kernel_copies import begin_with, copy_kernels
from processes import assert_ends

from fanfill_kernels import arithmetic, formats, forms
from fanfill_kernels.compile import cpu, loops
from fanfill_kernels.compile import scatter as scattering
from fanfill_kernels.store import keys
from fanfill_kernels.store.keys import Target

# One kernel of the cheapest form; EDIT runs once everything that is compiled has been imported.
PROGRAM = """
import hashlib, json, os, sys
import numpy as np
from fanfill_kernels.compile import cpu
kernel = cpu.kernels("uniform_clamped", "bfloat16").run
exec(os.environ.get("EDIT", ""))
out = np.empty(5000, np.uint16)
one = np.float32(1.0)
kernel(out, 3, (1, 2, 3, 4), (one, -one, one))
print(json.dumps([hashlib.sha256(out.tobytes()).hexdigest(), "numba" not in sys.modules, cpu.__file__]))
"""
UNIT = ("arithmetic.py", "UNIT = np.float32(2.0**-31)", "UNIT = np.float32(2.0**-32)")
LOGIC = ("compile/trace.py", '("or_", "or_", None)', '("and_", "and_", None)')
EDIT = "p = {!r}; s = open(p).read(); assert {!r} in s; open(p, 'w').write(s.replace({!r}, {!r}))"


def package(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """A copy of the kernels' sources in a folder, edited."""
    copy = copy_kernels(folder)
    for name, old, new in edits:
        source = (copy / name).read_text()
        assert old in source
        (copy / name).write_text(source.replace(old, new))
    return copy


def draw(place: Path, cache: Path, *, fresh: bool = False, **settings: str) -> tuple[str, bool]:
    """What a process draws that imports the kernels from a place, and whether it did so without Numba."""
    settings = {"FANFILL_CACHE_DIR": str(cache)} | settings
    ended = assert_ends(begin_with(place, PROGRAM, cache.parent, settings, fresh))
    assert ended.code == 0, ended
    bits, cached, home = json.loads(ended.out)
    assert home.startswith(str(place))
    return bits, cached


def zipped(copy: Path) -> Path:
    """The copy in a zip."""
    archive = copy.parent.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for file in copy.rglob("*"):
            out.write(file, file.relative_to(copy.parent))
    return archive


def without_sources(copy: Path) -> Path:
    """The copy as bytecode alone."""
    assert compileall.compile_dir(copy, quiet=1, legacy=True)
    for file in copy.rglob("*.py"):
        file.unlink()
    return copy.parent


class Original(NamedTuple):
    """What the sources draw as they are, and a cache that holds their kernel."""

    bits: str
    cache: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Compiled once: no path is in a key, and neither is the way in which the sources are shipped."""
    folder = tmp_path_factory.mktemp("original")
    bits, cached = draw(package(folder / "one").parent, folder / "cache")
    assert not cached
    return Original(bits, folder / "cache")


@pytest.mark.parametrize(("ship", "edit"), [(zipped, UNIT), (without_sources, LOGIC)])
def test_two_versions_without_sources_on_disk_never_share_a_kernel(
    tmp_path: Path, original: Original, ship: Any, edit: tuple[str, str, str]
) -> None:
    first, cache = original.bits, Path(shutil.copytree(original.cache, tmp_path / "cache"))
    assert draw(ship(package(tmp_path / "one")), cache) == (first, True)
    bits, cached = draw(two := ship(package(tmp_path / "two", edit)), cache)
    assert not cached
    assert bits != first
    assert draw(two, cache) == (bits, True)


def test_a_program_that_is_unpacked_anew_each_time_finds_its_kernels(
    tmp_path: Path, original: Original
) -> None:
    """As a frozen one-file program is: all packages lie in another folder, with other times."""
    copy = package(tmp_path / "two")
    for file in copy.glob("*.py"):
        file.write_text("# another line\n" + file.read_text())
    for library in ("numba", "llvmlite"):
        found = importlib.util.find_spec(library)
        assert found is not None
        assert found.submodule_search_locations
        (copy.parent / library).symlink_to(found.submodule_search_locations[0])
    assert draw(copy.parent, original.cache, fresh=True) == (original.bits, True)


@pytest.mark.parametrize(
    ("first", "edit"), [("", UNIT), ("kernel.key(); ", LOGIC)], ids=["before the key", "after the key"]
)
def test_a_process_that_was_upgraded_while_it_ran_stores_nothing_under_the_new_versions_key(
    tmp_path: Path, original: Original, first: str, edit: tuple[str, str, str]
) -> None:
    cache, copy = tmp_path / "cache", package(tmp_path / "one")
    name, old, new = edit
    file = copy / name
    before = file.read_text()
    drawn, cached = draw(copy.parent, cache, EDIT=first + EDIT.format(str(file), old, old, new))
    assert not cached
    upgraded, cached = draw(copy.parent, cache)
    assert not cached
    assert original.bits != upgraded
    # Only what was wholly compiled by the old one may lie under the old one's key.
    file.write_text(before)
    kept = (cache / next(original.cache.glob("run_*.bin")).name).exists()
    assert kept == (name == "arithmetic.py")
    assert not kept or draw(copy.parent, cache) == (original.bits, True)
    # Its arithmetic was the old one; its compiler, which it imported afterwards, the new one.
    assert drawn == {"arithmetic.py": original.bits, "compile/trace.py": upgraded}[name]


# What is in a key

KERNEL = cpu.loops_of("truncated", "float16").run


def every_kernel() -> list[cpu.Compiled]:
    """The kernels of all forms, dtypes and sizes of items."""
    found = [
        kernel
        for dtype in formats.FORMATS
        for form in forms.forms_of(dtype)
        for kernel in cpu.loops_of(form, dtype)
    ]
    moves = (scattering.reverse, scattering.transpose, scattering.interleave)
    ways = [(size, move, past) for size in (1, 2, 4, 8) for move in moves for past in (False, True)]
    return found + [cpu.scatter(*way) for way in ways]


def test_every_kernel_has_a_key_of_its_own_and_the_same_each_time() -> None:
    found = [kernel.key() for kernel in every_kernel()]
    assert len({key.rpartition("-")[2] for key in found}) == len(found) > 100
    assert found == [kernel.key() for kernel in every_kernel()]


def test_no_path_and_no_line_is_in_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: list[str] = []
    digest = keys._digest
    monkeypatch.setattr(keys, "_digest", lambda x: (facts.append(repr(x)), digest(x))[1])
    keys._code.cache_clear()
    keys._awaited.cache_clear()
    KERNEL.key()
    whole = "".join(facts)
    assert "make_group" in whole
    folders = {str(Path(module.__file__).parent) for module in (keys, np)}  # type: ignore[arg-type]
    assert not [folder for folder in folders if folder in whole]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (keys.fanfill_kernels, "__version__", "9.9"),
        (keys.fanfill_kernels, "STREAM_VERSION", 99),
        (keys.np, "__version__", "9.9"),
        (keys.llvmlite, "__version__", "9.9"),
        (keys, "numba_version", lambda: "9.9"),
        (keys, "target", lambda: Target("generic", "")),
        (keys, "_noted", {"fanfill_kernels.compile.trace": "another"}),
        (arithmetic, "UNIT", np.float32(2.0**-32)),
        (arithmetic, "UNIT", np.float64(2.0**-31)),
        (loops, "LINE", 128),
        (loops, "short_words", loops.long_words),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_the_code_is_made_from_is_in_its_key(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    # Anew each time: bound functions hold the globals that they had.
    fresh = cpu.loops_of.__wrapped__
    before = fresh("uniform", "float32").run.key()
    monkeypatch.setattr(where, name, value)
    assert fresh("uniform", "float32").run.key() != before
    monkeypatch.undo()
    assert fresh("uniform", "float32").run.key() == before


def test_the_processor_is_the_one_that_numba_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    here = keys.target()
    assert here.name == keys.binding.get_host_cpu_name()
    own = KERNEL.key()
    assert own == KERNEL.key(here) != KERNEL.key(Target("x86-64-v3", "+avx2"))
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert keys.target() == ("generic", "")
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v3")
    assert keys.target() == ("x86-64-v3", here.features)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    assert keys.target() == ("x86-64-v3", "+avx2")
    assert KERNEL.key() == KERNEL.key(Target("x86-64-v3", "+avx2"))


def test_a_value_of_which_no_key_can_be_made_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a value of which a key can be made; got <object"):
        keys._written([1, object()], {})
    with pytest.raises(TypeError, match="expected a value of which a key can be made; got <class"):
        keys._written(cpu.Compiled, {})


# The release of Numba

STATED = """
import sys
from fanfill_kernels.store import keys
print(keys.numba_version(), "numba" in sys.modules)
"""


def stated(*paths: Path) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", STATED], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_numbas_release_is_known_without_importing_it() -> None:
    assert stated() == [metadata.version("numba"), "False"]


@pytest.mark.parametrize("module", [None, "", "def get_versions(): return {'version': ask_git()}"])
def test_where_numba_does_not_state_its_release_it_is_imported(tmp_path: Path, module: str | None) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("__version__ = '7.8'")
    if module is not None:
        (tmp_path / "numba" / "_version.py").write_text(module)
    assert stated(tmp_path) == ["7.8", "True"]
