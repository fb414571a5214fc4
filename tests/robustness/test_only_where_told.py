"""``fanfill fill --out`` writes the file that it is told to write, with the umask's mode, and no other."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import assert_ends, assert_refused, assert_whole, begin, fill

from fanfill.files import npy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links and modes as Linux has them")


def test_links_at_the_files_name_are_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / "link.npy").symlink_to(elsewhere / "mine")
    (folder / "dangling.npy").symlink_to(elsewhere / "not there")
    (folder / "folder.npy").symlink_to(elsewhere)
    os.link(elsewhere / "mine", folder / "second name.npy")
    for name in ("link.npy", "dangling.npy", "second name.npy"):
        assert fill(folder / name, 1000).code == 0
        assert not (folder / name).is_symlink()
        assert_whole(folder / name, 1000)
    assert_refused(fill(folder / "folder.npy", 1000), "not a regular file")
    assert (elsewhere / "mine").read_text() == "mine"
    assert os.listdir(elsewhere) == ["mine"]
    assert sorted(os.listdir(folder)) == ["dangling.npy", "folder.npy", "link.npy", "second name.npy"]


@pytest.mark.parametrize("kind", ["a link", "a file"])
def test_what_already_has_the_temporary_files_name_is_neither_written_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    mine, guessed = tmp_path / "mine", tmp_path / ".fanfill-guessed.tmp"
    mine.write_text("mine")
    if kind == "a link":
        guessed.symlink_to(mine)
    else:
        guessed.write_text("mine")
    with (
        pytest.raises(FileExistsError, match="File exists"),
        npy.create(tmp_path / "w.npy", (1000,), np.dtype("f4")),
    ):
        pass
    assert mine.read_text() == guessed.read_text() == "mine"
    assert guessed.is_symlink() == (kind == "a link")
    assert sorted(os.listdir(tmp_path)) == [".fanfill-guessed.tmp", "mine"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_new_files_mode_is_what_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    assert fill(tmp_path / "w.npy", 1000, umask=umask).code == 0
    assert stat.S_IMODE((tmp_path / "w.npy").stat().st_mode) == mode


# All that a process opens for writing, as Python's audit hooks are told; on stderr, behind a line of dashes.
# It carries out one command after another, which are joined by "then".
AUDITED = """
import os, sys
sys.dont_write_bytecode = True
opened = []
def hook(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append("" if isinstance(arguments[0], int) else os.fsdecode(arguments[0]))
    elif event in ("os.rename", "os.mkdir", "os.remove", "os.symlink", "os.link", "os.truncate"):
        opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(hook)
from fanfill.cli import main
words, codes = [], []
for word in [*sys.argv[1:], "then"]:
    if word != "then":
        words.append(word)
        continue
    try:
        codes.append(main(words))
    except SystemExit as ended:
        codes.append(ended.code)
    words = []
sys.stderr.write("\\n".join(["-----", *opened]))
sys.exit(codes[0] if len(set(codes)) == 1 else 99)
"""


CACHED = re.compile(r"\w+-[0-9a-f]{16}\.bin\b")  # a kernel's name and digest


def written(folder: Path, *words: str, code: int = 0, fresh: bool = False) -> set[str]:
    """What a command opened for writing, but for /dev/null and caches; home and all else are in `folder`.

    CuPy, which `info` imports, and matplotlib, which `bench` does, have caches of their own. NVIDIA's driver,
    where there is one, has ~/.nv.
    """
    kept = folder / "kept"
    places = {"HOME": "home", "TMPDIR": "tmp", "MPLCONFIGDIR": "matplotlib", "CUPY_CACHE_DIR": "cupy"}
    for name in ("told", *places.values()):
        (folder / name).mkdir()
    child = begin(
        AUDITED,
        *words,
        strict=False,
        fresh=fresh,
        environment={"FANFILL_CACHE_DIR": str(kept)} | {k: str(folder / v) for k, v in places.items()},
        cwd=folder,
    )
    ended = assert_ends(child, 300)
    assert ended.code == code, ended
    found = set(ended.err.partition("-----\n")[2].split("\n"))
    # The cache's files are opened by their names alone, in a folder that is held open.
    cached = {place for place in found if CACHED.match(place) or place.startswith(("proof-", str(kept)))}
    assert bool(cached) == kept.exists()
    assert set(os.listdir(folder / "home")) <= {".nv"}
    assert os.listdir(folder / "tmp") == []
    assert set(os.listdir(folder)) - {"kept"} == {"told", *places.values()}
    theirs = tuple(str(folder / name) for name in ("matplotlib", "cupy"))
    return {place for place in found - cached - {"/dev/null", ""} if not place.startswith(theirs)}


def test_nothing_is_written_but_the_file_and_the_cache(tmp_path: Path) -> None:
    out = tmp_path / "told" / "w.npy"
    found = written(tmp_path, "fill", "normal", "1000", "--out", str(out), fresh=True)
    assert found
    assert all(place.startswith(f"{out.parent}/.fanfill-") for place in found), found
    assert os.listdir(out.parent) == ["w.npy"]
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "words",
    [
        "--version then compile --initializers words then words --count 0 then cache then --help",
        "fill he_normal 300x300 then fill normal 9 --json --name told/../../w then info then cache --clear",
        pytest.param("selftest --device cpu", marks=pytest.mark.slow),
    ],
)
def test_commands_that_are_told_no_file_write_none(tmp_path: Path, words: str) -> None:
    assert written(tmp_path, *words.split()) == set()
    assert os.listdir(tmp_path / "told") == []


def test_refused_commands_write_nothing(tmp_path: Path) -> None:
    out = f"--out {tmp_path}/told/w.npy"
    words = f"fill normal 10 --seed -1 {out} then fill he_normal 10 {out} then fill gamma 10 {out}"
    found = written(tmp_path, *words.split(), code=2)
    assert all(place.startswith(f"{tmp_path}/told/.fanfill-") for place in found), found
    assert os.listdir(tmp_path / "told") == []


@pytest.mark.slow
def test_a_benchmark_writes_its_folder_alone(tmp_path: Path) -> None:
    out = tmp_path / "told" / "results"
    words = "bench --device cpu --quick --peers none --sizes 64Ki --out"
    found = written(tmp_path, *words.split(), str(out))
    assert {str(out / f"bench.{kind}") for kind in ("json", "svg", "png")} <= found
    assert all(place.startswith((str(out), str(tmp_path / "tmp"))) for place in found), found


def test_a_write_elsewhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a command that also keeps a file at home, or leaves one where it runs."""
    careless = "from fanfill.cli import main\nopen({!r}, 'w').close()\n"
    for number, place in enumerate(("home/history", "stray")):
        monkeypatch.setattr(
            sys.modules[__name__],
            "AUDITED",
            AUDITED.replace("from fanfill.cli import main\n", careless.format(place)),
        )
        (tmp_path / str(number)).mkdir()
        with pytest.raises(AssertionError):
            written(tmp_path / str(number), "--version")
