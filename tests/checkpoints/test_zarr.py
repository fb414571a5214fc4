"""Zarr arrays of a checkpoint: chunks and shards, as the specification and other writers have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  the names of bfloat16 and of the 8-bit dtypes
import numpy as np
import pytest
from model_recipes import contents, every_kind

import fanfill as ff
from fanfill.checkpoints import ModelRecipe, TensorRecipe, checking, writing, zarr
from fanfill.checkpoints.tensors import Joined

drawn = TensorRecipe.drawn


def zarr_array(folder: Path, name: str) -> np.ndarray[Any, Any]:
    """The array of a tensor, read by the specification alone."""
    facts = json.loads((folder / name / "zarr.json").read_text())
    shape, dtype = facts["shape"], np.dtype(facts["data_type"])
    outer = facts["chunk_grid"]["configuration"]["chunk_shape"]
    if not shape:
        return np.frombuffer((folder / name / "c").read_bytes(), dtype).reshape(())
    found = [np.empty((0, *outer[1:]), dtype)]
    for number in range(-(-shape[0] // outer[0])):
        file = folder / name / "c" / "/".join([str(number), *("0" for _ in outer[1:])])
        data, codec = file.read_bytes(), facts["codecs"][0]
        if codec["name"] == "bytes":
            found.append(np.frombuffer(data, dtype).reshape(outer))
            continue
        inner = codec["configuration"]["chunk_shape"]
        index = np.frombuffer(data[-4 - 16 * (outer[0] // inner[0]) : -4], "<u8").reshape(-1, 2)
        for place, size in index[index[:, 0] < 2**63].tolist():
            found.append(np.frombuffer(data[place : place + size], dtype).reshape(inner))
    return np.concatenate(found)[: shape[0]]


@pytest.mark.parametrize("most", [60, 200, "5GB"])
def test_zarr_chunks_hold_the_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | str
) -> None:
    """Each in a file, three in one, and all."""
    monkeypatch.setattr(zarr, "CHUNK", 60)
    kinds = every_kind()
    recipe = ModelRecipe({n: t for n, t in kinds.tensors.items() if t.dtype != "bfloat16" and t.size})
    halves = (drawn((4, 5), "float32", ff.normal()), drawn((5, 5), "float32", ff.uniform(0, 1)))
    more = {
        "empty": drawn((0, 3), "float32", ff.normal()),
        "rows": TensorRecipe((9, 5), "float32", joined=Joined(0, halves)),
    }
    recipe = ModelRecipe({**recipe.tensors, **more})
    recipe.write(tmp_path, 2, format="zarr", max_shard_size=most)
    wanted = {name: np.empty(t.shape, t.dtype) for name, t in recipe.tensors.items()}
    recipe.fill(wanted, 2)
    for name, array in wanted.items():
        if array.size:
            assert np.array_equal(zarr_array(tmp_path, name), array), name
    files = list((tmp_path / "many" / "c").iterdir())  # 800 bytes
    assert len(files) == {60: 15, 200: 5, "5GB": 1}[most]
    assert list(writing.verify(checking.planned(tmp_path).files, tmp_path)) == []
    theirs = pytest.importorskip("zarr")
    group = theirs.open_group(tmp_path, mode="r")
    for name, array in wanted.items():
        assert np.array_equal(group[name][...], array), name


def test_a_shard_of_zarr_is_what_zarr_python_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one too, whose last chunk lies behind the array and is not there."""
    monkeypatch.setattr(zarr, "CHUNK", 100)
    assert zarr.crc32c(b"123456789") == 0xE3069283  # the check value of the CRC's definition
    recipe = ModelRecipe({"w": drawn((29, 10), "float32", ff.normal())})  # chunks of 2 rows, shards of 6
    recipe.write(tmp_path, 2, format="zarr", max_shard_size=250)
    theirs = pytest.importorskip("zarr")
    array = theirs.create_array(
        tmp_path / "theirs",
        shape=(29, 10),
        shards=(6, 10),
        chunks=(2, 10),
        dtype="float32",
        compressors=None,
        config={"write_empty_chunks": True},
    )
    array[...] = ff.draw((29, 10), ff.normal(), seed=2, name="w", device="cpu")
    assert contents(tmp_path / "w" / "c") == contents(tmp_path / "theirs" / "c")
    assert sorted(contents(tmp_path / "w" / "c")) == [f"{k}/0" for k in range(5)]


def test_shards_of_zarr_are_verified_by_the_size_that_they_were_written_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr, "CHUNK", 100)
    recipe = ModelRecipe({"w": drawn((29, 10), "float32", ff.normal())})
    recipe.write(tmp_path, 2, format="zarr", max_shard_size=250)
    assert recipe.write(tmp_path, 2, format="zarr", max_shard_size=250) == []
    path = tmp_path / "w" / "c" / "4" / "0"
    right = path.read_bytes()
    for place, what in (
        (7, "w/c/4/0: tensor w, element 241: expected another value"),
        (len(right) - 9, "w/c/4/0: expected another value"),  # in the index
    ):
        path.write_bytes(right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :])
        (found,) = writing.verify(checking.planned(tmp_path).files, tmp_path)
        assert what in str(found)
    with pytest.raises(ValueError, match=r"of the same recipe, seed and format \(zarr: and size of shards\)"):
        recipe.write(tmp_path, 2, format="zarr")


def test_tensorstore_reads_what_zarr_python_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shards: of float8 each of three chunks of two rows, of bfloat16 of three of one."""
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    kinds = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    recipe = ModelRecipe({kind: drawn((7, 5), kind, ff.normal()) for kind in kinds})
    monkeypatch.setattr(zarr, "CHUNK", 10)
    recipe.write(tmp_path, 2, format="zarr", max_shard_size=30)
    wanted = {kind: np.empty((7, 5), kind) for kind in kinds}
    recipe.fill(wanted, 2)
    for kind, array in wanted.items():
        spec = {"driver": "zarr3", "kvstore": f"file://{tmp_path / kind}/"}
        found = np.asarray(tensorstore.open(spec, open=True).result().read().result())
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes()
