"""Sharded tensors: pieces against torch's own arithmetic, and worlds of 1, 2 and 4 gloo processes."""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optional
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
optional.needs("torch.distributed.tensor")
if not torch.distributed.is_available():
    pytest.skip("this torch is built without distributed", allow_module_level=True)

from forked import forked  # noqa: E402

from fanfill.torch import sharding  # noqa: E402
from fanfill.torch.sharding import Placed, parts, pieces, placed  # noqa: E402


@pytest.mark.parametrize("split", [1, 2, 3])
def test_pieces_are_those_of_torch_chunk(split: int) -> None:
    """Filling goes by these: every index once among the ranks, and where torch puts it."""
    for n, chunks in product((0, 1, 2, 3, 5, 8, 9, 16, 17), (1, 2, 3, 4)):
        halves = chunk(torch.arange(n), split)
        for rank in range(chunks):
            expected = [i for half in halves for i in chunk(half, chunks)[rank].tolist()]
            got = pieces(n, [(chunks, rank, split)])
            indices = [i for start, size in got for i in range(start, start + size)]
            assert indices == expected, (n, chunks, rank)


def chunk(axis: Any, count: int) -> list[Any]:
    """torch.chunk, with the empty chunks that it leaves out."""
    made = list(torch.chunk(axis, count)) if len(axis) else []
    return made + [axis[:0]] * (count - len(made))


def test_the_documented_pieces_of_a_strided_shard() -> None:
    """torch's example: nine rows, split in two, on four ranks."""
    rows = [
        [i for start, size in pieces(9, [(4, rank, 2)]) for i in range(start, start + size)]
        for rank in range(4)
    ]
    assert rows == [[0, 1, 5], [2, 3, 6], [4, 7], [8]]
    assert pieces(9, [(4, 0, 2)]) == ((0, 2), (5, 1))


def test_parts_cut_a_tensor_into_its_boxes() -> None:
    local = torch.zeros(3, 4)
    where = Placed(local, (9, 10), (((0, 2), (5, 1)), ((4, 4),)))
    assert [(tuple(part.tensor.shape), part.offset) for part in parts(where)] == [
        ((2, 4), (0, 4)),
        ((1, 4), (5, 4)),
    ]
    inside = [(tuple(part.tensor.shape), part.offset) for part in parts(where, (slice(1, 6), slice(0, 5)))]
    assert inside == [((1, 1), (1, 4)), ((1, 1), (5, 4))]
    assert list(parts(where, (slice(2, 5), slice(0, 10)))) == []
    for part in parts(where):
        part.tensor.fill_(1.0)
    assert (local == 1.0).all()


def test_the_order_of_sharding_is_the_tensors_own_where_it_has_one() -> None:
    """Newer releases of torch can shard an axis by the mesh axes in another order than from left to right."""
    from torch.distributed.tensor import Shard

    def tensor(spec: Any) -> Any:
        return SimpleNamespace(placements=(Shard(0), Shard(1), Shard(0)), ndim=2, _spec=spec)

    entries = [
        SimpleNamespace(tensor_dim=0, mesh_dims=(2, 0)),
        SimpleNamespace(tensor_dim=1, mesh_dims=(1,)),
    ]
    assert sharding._order(tensor(None)) == {0: [(0, 1), (2, 1)], 1: [(1, 1)]}
    assert sharding._order(tensor(SimpleNamespace(shard_order=entries))) == {0: [(2, 1), (0, 1)], 1: [(1, 1)]}


def test_a_tensor_of_no_mesh_is_the_whole_of_its_own() -> None:
    assert placed(torch.zeros(2, 3)).axes == (((0, 2),), ((0, 3),))
    (part,) = parts(placed(torch.zeros(())))
    assert part.offset == ()


WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each world has written what its ranks found."""
    import torch_ranks

    folder = tmp_path_factory.mktemp("worlds")
    # Should a rank hang, none outlives the test.
    ended = forked(
        lambda: torch_ranks.main(folder, WORLDS),
        seconds=400,
        FANFILL_NUM_THREADS="2",
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME="lo",
    )
    assert ended.code == 0, ended
    return folder


@pytest.mark.parametrize("world", WORLDS)
def test_ranks(world: int, worlds: Path) -> None:
    """The checks in a world are the functions of torch_ranks.py."""
    import torch_ranks

    expected = [name for name, (shape, _) in torch_ranks.CHECKS.items() if prod(shape) == world]
    assert len(expected) >= 2
    folder = worlds / str(world)
    # Of a rank that fails the others hear that it is gone: the first failure is in one of these.
    errors = "\n".join(f"rank {k}:\n{(folder / f'{k}.err').read_text()[-2500:]}" for k in range(world))
    for rank in range(world):
        assert (folder / f"{rank}.out").read_text().split("\n")[:-1] == expected, errors
    assert (folder / "codes").read_text() == " ".join(["0"] * world), errors
