"""Files of a checkpoint: the official writers' bytes, whole or not there, the same from any share of
hosts.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import ml_dtypes
import numpy as np
import pytest
from model_recipes import contents, every_kind

import fanfill as ff
from fanfill import system
from fanfill.checkpoints import ModelRecipe, TensorRecipe, checking, planning, safetensors, writing
from fanfill.checkpoints.drawing import boxes
from fanfill.files import writer

drawn = TensorRecipe.drawn


def layers(count: int = 6, rows: int = 50) -> ModelRecipe:
    return ModelRecipe({f"layer.{k}": drawn((rows, 64), "float32", ff.normal()) for k in range(count)})


# Ranges


def test_a_flat_range_is_cut_into_boxes_in_order() -> None:
    whole = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    for first in range(60):
        for size in range(61 - first):
            cut = [
                whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))].ravel()
                for start, shape in boxes((3, 4, 5), first, size)
            ]
            assert np.concatenate([np.empty(0, int), *cut]).tolist() == list(range(first, first + size))
            assert len(cut) <= 5
    assert list(boxes((), 0, 1)) == [((), ())]


@pytest.mark.parametrize("step", [8, 24, 1000, 8192])
def test_the_bytes_of_a_file_do_not_depend_on_how_it_is_cut(step: int) -> None:
    (file,) = safetensors.plan(every_kind(), 3, metadata={"format": "pt"})
    whole = np.empty(file.size, np.uint8)
    planning.content(file, 0, whole)
    parts = np.zeros(file.size, np.uint8)
    stop = file.size if step > 100 else min(file.size, 6000)
    for first in range(0, stop, step):
        planning.content(file, first, parts[first : min(first + step, file.size)])
    assert np.array_equal(parts[:stop], whole[:stop])


# safetensors


def test_a_file_is_byte_for_byte_the_official_writers() -> None:
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("safetensors.torch")
    recipe = ModelRecipe(
        {
            **every_kind().tensors,
            **{f"{dtype} {n}": drawn((n,), dtype, 1) for dtype in safetensors.CODES for n in (1, 3)},
        }
    )
    if not hasattr(torch, "uint16"):  # pragma: no cover
        pytest.skip("this torch has not all dtypes")
    for metadata in ({"format": "pt"}, None):
        (file,) = safetensors.plan(recipe, 3, metadata=metadata)
        made = np.empty(file.size, np.uint8)
        planning.content(file, 0, made)
        tensors = official.load(made.tobytes())
        assert made.tobytes() == official.save(tensors, metadata)
    w = ff.draw((300, 70), ff.normal(0, 0.02), seed=3, name="ä", dtype="bfloat16", device="cpu")
    assert tensors["ä"].view(torch.uint16).numpy().tobytes() == w.tobytes()


def test_shards_keep_to_the_size_and_have_an_index(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    torch = pytest.importorskip("torch")
    recipe = ModelRecipe({**layers().tensors, "large": drawn((99, 64), "float32", ff.normal())})
    assert recipe.write(tmp_path, 1, max_shard_size="25.6KB")[-1] == "model.safetensors.index.json"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    state = {name: torch.empty(t.shape) for name, t in recipe.tensors.items()}
    split = hub.split_torch_state_dict_into_shards(state, max_shard_size="25.6KB")
    assert index["weight_map"] == {
        name: file.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        for name, file in split.tensor_to_filename.items()
    }
    assert index["metadata"] == {"total_size": recipe.nbytes}
    assert list(writing.verify(checking.planned(tmp_path).files, tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), (7, 7), ("9", 9), ("2kb", 2000)]
)
def test_sizes_are_numbers_or_text(text: str | int, size: int) -> None:
    assert safetensors.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "5 apples", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="max_shard_size: expected bytes, or text such as 5GB"):
        safetensors.bytes_of(text)


def test_a_file_gives_shapes_to_which_rules_give_laws(tmp_path: Path) -> None:
    recipe = layers()
    recipe.write(tmp_path, 0, max_shard_size="30KB")
    found = safetensors.described(tmp_path / "model.safetensors.index.json")
    with pytest.raises(ValueError, match=r"only its shape is known, from model-00001-of"):
        found.check()
    assert found.with_rules([("*", ff.normal())]) == recipe
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"expected a safetensors file; got .*x.safetensors"):
        safetensors.described(tmp_path / "x.safetensors")
    text = b'{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}'
    (tmp_path / "c.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"tensor 'a': expected a dtype among BOOL.*; got C64"):
        safetensors.described(tmp_path / "c.safetensors")


# Other formats


def test_npy_files_are_numpys(tmp_path: Path) -> None:
    recipe = every_kind()
    recipe.write(tmp_path / "out", 4, format="npy")
    for name, tensor in recipe.tensors.items():
        stored = np.load(tmp_path / "out" / f"{name}.npy")
        assert stored.shape == tensor.shape
    wanted = ff.draw((300, 70), ff.normal(0, 0.02), seed=4, name="ä", dtype="bfloat16", device="cpu")
    assert (np.load(tmp_path / "out" / "ä.npy").view(ml_dtypes.bfloat16) == wanted).all()
    checked = checking.planned(tmp_path / "out")
    assert checked.seed == 4
    assert list(writing.verify(checked.files, tmp_path / "out")) == []
    with pytest.raises(
        ValueError, match="expected a folder that is new, or of the same recipe, seed and format"
    ):
        recipe.write(tmp_path / "out", 5, format="npy")


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    for name in ("../w", "", "..", ".w"):
        recipe = ModelRecipe({name: drawn((2,), "float32", 0)})
        with pytest.raises(ValueError, match="expected tensor names that can name files"):
            recipe.write(tmp_path / "out", 0, format="npy")
    assert not (tmp_path / "out").exists()
    ModelRecipe({"a/../b": drawn((2,), "float32", 0)}).write(tmp_path / "out", 0, format="npy")
    assert (tmp_path / "out" / "a....b.npy").exists()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: expected one of safetensors, npy, zarr, dcp; got 'gguf'"):
        layers().write(tmp_path / "out", 0, format="gguf")
    assert not (tmp_path / "out").exists()


# Whole or not there


def test_shares_give_the_bytes_of_one(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    steps: list[tuple[int, int]] = []
    layers().write(one, 1, max_shard_size="30KB", progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] > 0
    assert steps == sorted(steps)
    written = [layers().write(many, 1, max_shard_size="30KB", part=(k, 4)) for k in (3, 1, 4, 2)]
    assert contents(one) == contents(many)
    assert not any("model.safetensors.index.json" in names for names in written[:-1])
    assert "model.safetensors.index.json" in written[-1]
    for part in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="part: expected K/N with K from 1 to N"):
            layers().write(many, 1, part=part)


def test_two_processes_at_once_write_their_shares(tmp_path: Path) -> None:
    recipe = layers(8)
    (tmp_path / "r.json").write_text(recipe.dumps())
    program = (
        "import sys; from fanfill.checkpoints import ModelRecipe; r = ModelRecipe.load(sys.argv[1]);"
        "r.write(sys.argv[2], 1, max_shard_size=13000, part=(int(sys.argv[3]), 2))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "r.json"), str(tmp_path / "two"), part]
        )
        for part in "12"
    ]
    assert [child.wait(100) for child in both] == [0, 0]
    recipe.write(tmp_path / "one", 1, max_shard_size=13000)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "two")) == 10


def test_a_second_call_writes_nothing_and_another_seed_all(tmp_path: Path) -> None:
    recipe = ModelRecipe({**layers().tensors, "c": drawn((3,), "float32", ff.constant(1))})
    recipe.write(tmp_path, 1)
    before = contents(tmp_path)
    when = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert recipe.write(tmp_path, 1) == []
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == when
    assert recipe.write(tmp_path, 2) == ["model.safetensors"]
    after = contents(tmp_path)
    head = safetensors.read_header(tmp_path / "model.safetensors")
    size = len(after["model.safetensors"]) - recipe.nbytes
    for name, entry in head.items():
        if name != "__metadata__":
            a, b = (size + at for at in entry["data_offsets"])
            same = before["model.safetensors"][a:b] == after["model.safetensors"][a:b]
            assert same == (name == "c")


# It stops for good in the middle of a shard, at the unit of the number that it is given, and says so.
KILLED = """
import itertools, sys, time
from fanfill.checkpoints import ModelRecipe, planning
from fanfill.files import writer
writer.UNIT = 1 << 14
calls, real = itertools.count(), planning.content
def content(*arguments):
    if next(calls) >= int(sys.argv[3]):
        sys.stdout.write("stopped\\n")
        sys.stdout.flush()
        time.sleep(1000)
    real(*arguments)
planning.content = content
ModelRecipe.load(sys.argv[1]).write(sys.argv[2], 7, max_shard_size="600KB", threads=2)
"""


def assert_resumes(tmp_path: Path, moments: list[int]) -> None:
    """Kill a writer at each of these units, and see what it leaves; then let the last one end."""
    recipe = layers(60, 2000)  # 31 MB in 60 shards, of 32 units each
    (tmp_path / "r.json").write_text(recipe.dumps())
    out = tmp_path / "out"
    complete: dict[str, int] = {}
    for moment in moments:
        words = (str(tmp_path / "r.json"), str(out), str(moment))
        with subprocess.Popen([sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"stopped\n"
            child.send_signal(signal.SIGKILL)
        now = {p.name: p.stat().st_mtime_ns for p in out.glob("model-*")}
        assert len(now) == len(complete) + moment // 32
        assert complete.items() <= now.items()  # complete shards are never touched again
        assert len(list(out.glob(".*.partial"))) == 1
        complete = now
    recipe.write(out, 7, max_shard_size="600KB", threads=2)
    recipe.write(tmp_path / "reference", 7, max_shard_size="600KB")
    assert contents(out) == contents(tmp_path / "reference")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_writer_leaves_whole_shards_and_the_next_goes_on(tmp_path: Path) -> None:
    assert_resumes(tmp_path, [5, 40, 300])


@pytest.mark.slow
def test_a_writer_killed_at_any_of_twenty_moments_is_resumed(tmp_path: Path) -> None:
    assert_resumes(tmp_path, [5 * k for k in range(20)])


# What writing and comparing add to a process's own memory, seen at each unit: every thread has its buffers
# then.
MEMORY = """
import sys
from fanfill.checkpoints import ModelRecipe, checking, writing

def own():
    with open("/proc/self/status") as lines:
        kinds = dict(line.split(":") for line in lines)
    return sum(int(kinds[kind].split()[0]) for kind in ("RssAnon", "RssShmem")) << 10

recipe, threads = ModelRecipe.load(sys.argv[1]), int(sys.argv[3])
before, seen = own(), []
look = lambda done, total: seen.append(own())
recipe.write(sys.argv[2], 0, threads=threads, progress=look)
print(max(seen) - before)
files = checking.planned(sys.argv[2]).files
assert not list(writing.verify(files, sys.argv[2], threads=threads, progress=look))
print(max(seen) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 4])
def test_memory_is_a_unit_for_each_thread_however_large_the_file(tmp_path: Path, threads: int) -> None:
    """Two units where files are compared; and 50 MB, most of which are the kernels' library."""
    recipe = ModelRecipe({"w": drawn((40 << 20,), "float32", ff.normal()), **layers().tensors})  # 168 MB
    layers().write(tmp_path / "small", 0)  # the kernel is compiled and kept
    (tmp_path / "r.json").write_text(recipe.dumps())
    words = ["-c", MEMORY, str(tmp_path / "r.json"), str(tmp_path / "out"), str(threads)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    written, compared = map(int, done.stdout.split())
    unit = writer.UNIT
    assert threads * unit < written < threads * unit + 50_000_000
    assert compared < written + threads * unit + 10_000_000


def test_two_writers_of_one_file_are_not_let_in(tmp_path: Path) -> None:
    with (
        writer.locked(tmp_path / "model.safetensors"),
        pytest.raises(writer.Busy, match="another process is writing it"),
    ):
        layers().write(tmp_path, 0)
    layers().write(tmp_path, 0)
    assert sorted(contents(tmp_path)) == ["model.init.json", "model.safetensors"]


def test_a_file_that_another_completes_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder of the lock renames the file between our opening and our locking it."""
    recipe = layers()
    locked, calls = system.lock, []

    def late(descriptor: int) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".model.safetensors.partial").unlink()
            monkeypatch.setattr(system, "lock", locked)
            recipe.write(tmp_path, 0)
        return locked(descriptor)

    monkeypatch.setattr(system, "lock", late)
    assert recipe.write(tmp_path, 0) == []
    assert sorted(contents(tmp_path)) == ["model.init.json", "model.safetensors"]


def test_a_full_disk_is_an_error_before_the_first_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def drawn_too_soon(*arguments: object) -> NoReturn:
        raise AssertionError("a value was made")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(planning, "content", drawn_too_soon)
    with pytest.raises(
        OSError, match=r"No space left on device; [\d,]+ bytes are needed: .*model.safetensors"
    ):
        layers().write(tmp_path / "out", 0)
    assert os.listdir(tmp_path / "out") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_is_an_error_and_stays_empty(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        ModelRecipe({"w": drawn((12 << 20,), "float32", ff.normal())}).write(small_disk / "out", 0)
    assert os.listdir(small_disk / "out") == []


def test_an_error_in_a_unit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "content", broken)
    with pytest.raises(KeyboardInterrupt):
        layers().write(tmp_path / "out", 0)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("lacks", ["sync_file_range", "pwrite", "preadv", "fcntl", "flock"])
def test_systems_that_lack_something_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    layers().write(tmp_path / "one", 1)
    monkeypatch.setattr(writer, "UNIT", 4096)
    if lacks == "sync_file_range":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif lacks == "fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    elif lacks == "flock":
        import fcntl

        def none(descriptor: int, kind: int) -> NoReturn:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", none)
    else:
        monkeypatch.delattr(os, lacks)
    layers().write(tmp_path / "two", 1, threads=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert list(writing.verify(checking.planned(tmp_path / "two").files, tmp_path / "two")) == []


# Comparing


def test_the_first_byte_that_differs_is_found_in_any_piece() -> None:
    made = np.zeros(2 * planning.PIECE + 9, np.uint8)
    assert planning.first_difference(made, made) is None
    for place in (made.size - 1, 2 * planning.PIECE, planning.PIECE - 1, 0):
        made[place] = 1
        assert planning.first_difference(made, np.zeros_like(made)) == place


def test_one_wrong_bit_anywhere_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "UNIT", 4096)
    layers().write(tmp_path, 1)
    path = tmp_path / "model.safetensors"
    right = path.read_bytes()
    size = len(right) - layers().nbytes
    (file,) = checking.planned(tmp_path).files

    def found() -> list[writing.Difference]:
        return list(writing.verify([file], tmp_path, threads=2))

    assert found() == []
    for place, tensor, element in (
        (size, "layer.0", 0),
        (size + 12_800 * 3 + 41, "layer.3", 10),
        (len(right) - 1, "layer.5", 3199),
    ):
        path.write_bytes(right[:place] + bytes([right[place] ^ 16]) + right[place + 1 :])
        (difference,) = found()
        assert difference[:3] == ("model.safetensors", tensor, element)
        assert f"tensor {tensor}, element {element}" in str(difference)
    path.write_bytes(right[:20] + b"x" + right[21:])
    assert str(found()[0]) == "model.safetensors: expected another header; it differs at byte 20"
    path.write_bytes(right[:-1])
    assert "bytes; got" in str(found()[0])
    path.unlink()
    assert "expected a file; there is none" in str(found()[0])


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1234")
    with open(tmp_path / "f", "rb") as file, pytest.raises(OSError, match="became shorter"):
        writer.read_at(file.fileno(), memoryview(bytearray(9)), 0)


def test_what_a_folder_does_not_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder with the recipe model.init.json"):
        checking.planned(tmp_path)
    layers().write(tmp_path, 1)
    recipe = tmp_path / "model.init.json"
    text = recipe.read_text()
    recipe.write_text(layers(7).dumps())
    with pytest.raises(ValueError, match=r"expected a file made by the recipe model.init.json beside it"):
        checking.planned(tmp_path)
    recipe.write_text(text)
    path = tmp_path / "model.safetensors"
    right = path.read_bytes()
    path.write_bytes(right.replace(f"stream={ff.STREAM_VERSION}".encode(), b"stream=9"))
    with pytest.raises(ValueError, match=r"expected values of stream version .; got 9"):
        checking.planned(tmp_path)
    path.write_bytes(right)
    (tmp_path / "z.safetensors").write_bytes(right.replace(b"seed=1", b"seed=2"))
    with pytest.raises(ValueError, match=r"expected files of one seed in .*; got seeds \[1, 2\]"):
        checking.planned(tmp_path)
    path.unlink()
    (tmp_path / "z.safetensors").unlink()
    with pytest.raises(ValueError, match="expected safetensors files"):
        checking.planned(tmp_path)


def test_missing_and_foreign_tensors_are_named(tmp_path: Path) -> None:
    recipe = layers()
    made = writing.metadata(recipe, 1)
    for tensors, message in (
        (
            {"layer.0": recipe.tensors["layer.0"]},
            "all files: tensor layer.1, element 0: expected every tensor",
        ),
        (
            {**recipe.tensors, "x": drawn((1,), "float32", 0)},
            "a.safetensors: tensor x, .*expected only tensors",
        ),
    ):
        (file,) = safetensors.plan(ModelRecipe(tensors), 1, metadata=made, stem="a")
        writing.carry_out(writing.Job([file], {"model.init.json": recipe.dumps().encode()}), tmp_path)
        found = checking.planned(tmp_path).differences
        assert re.search(message, str(found[0]))
