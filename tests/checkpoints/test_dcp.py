"""Folders of torch.distributed.checkpoint: what torch loads, shares, and what `fanfill verify` finds."""

from __future__ import annotations

import inspect
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optional
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
from fanfill.checkpoints import ModelRecipe, TensorRecipe, checking, writing  # noqa: E402

theirs = optional.Lazy("torch.distributed.checkpoint")
drawn = TensorRecipe.drawn


@pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)")  # torch's own load
def test_dcp_folders_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.torch.dcp.PIECE", 3000)
    recipe = ModelRecipe(
        {
            "w": drawn((300, 70), "bfloat16", ff.normal()),
            "b": drawn((), "float32", ff.normal()),
            "n": TensorRecipe((3,), "int64", values=np.arange(3)),
            "e": drawn((0, 2), "float32", ff.normal()),
        },
        {"tied": "w"},
    )
    steps: list[tuple[int, int]] = []
    written = recipe.write(tmp_path, 3, format="dcp", progress=lambda *s: steps.append(s))
    assert ".metadata" in written
    assert len(written) > 20
    assert steps[-1][0] == steps[-1][1]
    shapes = {**recipe.tensors, "tied": recipe.tensors["w"]}
    state = {name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for name, t in shapes.items()}
    alone = {"no_dist": True} if "no_dist" in inspect.signature(theirs.load).parameters else {}
    theirs.load(state, checkpoint_id=tmp_path, **alone)
    wanted = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    recipe.fill(wanted, 3)
    assert all(torch.equal(state[name], wanted[name]) for name in state)
    assert recipe.write(tmp_path, 3, format="dcp") == []
    # Two shares, in any order: the same files; the index comes with the last.
    shares = tmp_path / "shares"
    assert ".metadata" not in recipe.write(shares, 3, format="dcp", part=(2, 2))
    assert ".metadata" in recipe.write(shares, 3, format="dcp", part=(1, 2))
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {path.name for path in shares.iterdir()} == names
    assert all((shares / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    with pytest.raises(ValueError, match="another's; name another folder"):
        recipe.write(tmp_path, 4, format="dcp")


def with_another_entry(archive: bytes, name: str) -> bytes:
    """A zip archive with a bit of an entry flipped, and the entry's checksum left."""
    at = zipfile.ZipFile(io.BytesIO(archive)).getinfo(name).header_offset
    behind = at + 30 + sum(int.from_bytes(archive[at + k : at + k + 2], "little") for k in (26, 28))
    return archive[:behind] + bytes([archive[behind] ^ 1]) + archive[behind + 1 :]


def test_dcp_folders_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.torch.dcp.PIECE", 3000)
    monkeypatch.chdir(tmp_path)
    recipe = ModelRecipe({"w": drawn((50, 70), "float32", ff.normal()), "b": drawn((9,), "float32", 1.0)})
    recipe.write(tmp_path, 3, format="dcp")

    def found() -> str:
        checked = checking.planned(tmp_path)
        return "; ".join(map(str, [*checked.differences, *writing.verify(checked.files, tmp_path)]))

    assert found() == ""
    piece, index = tmp_path / "__1_0.distcp", tmp_path / ".metadata"
    kept, described = piece.read_bytes(), index.read_bytes()
    values = torch.load(piece)
    step = values.shape[0]

    def wrong(change: Callable[[Any], Any]) -> str:
        with open(piece, "wb") as file:  # as the writer does: a path's name would stand in the file
            torch.save(change(values.clone()), file)
        return found()

    def flipped(tensor: Any) -> Any:
        tensor[2, 5] *= -1
        return tensor

    place = f"tensor w, element {(step + 2) * 70 + 5}"
    assert wrong(flipped) == f"__1_0.distcp: {place}: expected another value; it differs"
    assert "expected torch.float32 of shape" in wrong(lambda tensor: tensor.double())
    for changed, message in (
        (kept[:1000], "expected a tensor as torch.save writes it"),
        (with_another_entry(kept, "archive/version"), "expected another checksum of its entry"),
    ):
        piece.write_bytes(changed)
        assert message in found()
    piece.unlink()
    assert found() == "__1_0.distcp: expected a file; there is none"
    piece.write_bytes(kept)
    for changed, message in (
        (described.replace(b"__1_0", b"__0_0"), ".metadata: expected the index as torch"),
        (b"cposix\nsystem\n(S'touch ran'\ntR.", ".metadata: expected the index as torch"),
    ):
        index.write_bytes(changed)
        assert message in found()
        assert not os.path.exists("ran")  # a pickle is compared, and never read
    index.unlink()
    assert found() == ".metadata: expected a file; there is none"
