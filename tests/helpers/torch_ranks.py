"""What the ranks of gloo worlds check: run by test_torch_sharding.py, once for all worlds and their checks.

The ranks of all worlds are forks of the test's process, so that torch is not imported again. Each writes the
name of each check that has passed to its file in the world's folder, and what goes wrong beside it; the codes
with which they ended stand there as well. The truth is always the single-process fill of the whole tensor.
"""

from __future__ import annotations

import datetime
import faulthandler
import functools
import importlib
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import fanfill.torch as ft

CHECKS: dict[str, tuple[tuple[int, ...], Callable[[DeviceMesh], None]]] = {}
# Each rank has the whole tensor already: nothing need be sent. torch 2.6 cannot be told so, and sends it.
_known = inspect.signature(distribute_tensor).parameters
distribute = functools.partial(distribute_tensor, **dict.fromkeys(_known.keys() & {"src_data_rank"}))
# Before 2.13 distribute_tensor refuses an uneven _StridedShard, and cannot split what has no elements twice.
SPLITS_ALL = torch.torch_version.TorchVersion(torch.__version__) >= (2, 13)
SHAPES = [(10, 7), (3, 5), (9, 8), (4, 6, 5), (0, 4), (1, 1), (257, 300)]


def check(*mesh: int) -> Callable[[Callable[[DeviceMesh], None]], Callable[[DeviceMesh], None]]:
    """Register a check for a mesh of that shape; it runs in the world of that many ranks."""

    def register(function: Callable[[DeviceMesh], None]) -> Callable[[DeviceMesh], None]:
        CHECKS[f"{function.__name__}{mesh}"] = (mesh, function)
        return function

    return register


def assert_bits(one: torch.Tensor, two: torch.Tensor) -> None:
    assert one.dtype == two.dtype
    assert one.shape == two.shape, (one.shape, two.shape)
    assert torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))


def layouts(mesh: DeviceMesh, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    axes = range(-1, len(shape))
    if mesh.ndim == 1:
        return [(Replicate(),), *((Shard(axis % len(shape)),) for axis in axes)]
    plain = [Replicate(), *(Shard(axis) for axis in range(len(shape)))]
    strided = [
        (_StridedShard(axis, split_factor=mesh.size(1)), Shard(axis))
        for axis, size in enumerate(shape)
        if SPLITS_ALL or size % mesh.size() == 0
    ]
    return [(first, second) for first in plain for second in plain] + strided


@check(1)
@check(2)
@check(4)
@check(2, 2)
def every_placement(mesh: DeviceMesh) -> None:
    for number, shape in enumerate(SHAPES):
        if not SPLITS_ALL and mesh.ndim > 1 and min(shape) < mesh.size():
            continue
        for dtype in (torch.float32, torch.bfloat16):
            whole = ft.normal_(torch.empty(shape, dtype=dtype), seed=number, name="w")
            for placements in layouts(mesh, shape):
                zeros = torch.zeros(shape, dtype=dtype)
                part = distribute(zeros, mesh, placements)
                before, local = part._version, part._local_tensor
                assert ft.normal_(part, seed=number, name="w") is part
                assert part._local_tensor is local  # in place
                assert part._version > before
                expected = distribute(whole, mesh, placements)
                assert_bits(part.to_local(), expected.to_local())
                strided = any(isinstance(placement, _StridedShard) for placement in placements)
                if dtype is torch.float32 and number < 3 and not strided:  # gathering takes its time
                    assert_bits(part.full_tensor(), whole)


@check(2)
@check(2, 2)
def every_function(mesh: DeviceMesh) -> None:
    placements = (Shard(1),) if mesh.ndim == 1 else (Shard(0), Shard(1))
    for function in (
        ft.uniform_,
        ft.trunc_normal_,
        ft.xavier_uniform_,
        ft.xavier_normal_,
        ft.kaiming_uniform_,
        ft.kaiming_normal_,
        ft.lecun_uniform_,
        ft.lecun_normal_,
        ft.variance_scaling_,
    ):
        part = distribute(torch.zeros(31, 13, 3), mesh, placements)
        function(part, seed=1)
        assert_bits(part.full_tensor(), function(torch.empty(31, 13, 3), seed=1))
    for function, law in ((ft.ones_, torch.ones), (ft.zeros_, torch.zeros)):
        assert_bits(function(part).full_tensor(), law(31, 13, 3))
    assert_bits(ft.constant_(part, 0.3).full_tensor(), torch.full((31, 13, 3), 0.3))


@check(2)
def matrices(mesh: DeviceMesh) -> None:
    for axis in (0, 1):
        for function in (ft.orthogonal_, functools.partial(ft.sparse_, sparsity=0.4)):
            part = distribute(torch.zeros(9, 14), mesh, [Shard(axis)])
            function(part, seed=1, name="w")
            assert_bits(part.full_tensor(), function(torch.empty(9, 14), seed=1, name="w"))
        part = distribute(torch.zeros(9, 14), mesh, [Shard(axis)])
        assert_bits(ft.eye_(part).full_tensor(), torch.eye(9, 14))
        part = distribute(torch.zeros(8, 3, 5), mesh, [Shard(axis)])
        expected = nn.init.dirac_(torch.empty(8, 3, 5), 2)
        assert_bits(ft.dirac_(part, 2).full_tensor(), expected)


@check(4)
def equal_generators(mesh: DeviceMesh) -> None:
    torch.manual_seed(6)
    part = distribute(torch.zeros(3, 30), mesh, [Shard(0)])  # one rank has no rows
    first = ft.normal_(part).full_tensor()
    second = ft.normal_(part).full_tensor()
    torch.manual_seed(6)
    assert_bits(first, ft.normal_(torch.empty(3, 30)))
    assert_bits(second, ft.normal_(torch.empty(3, 30)))


@check(2)
def accelerated(mesh: DeviceMesh) -> None:
    part = distribute(torch.zeros(9, 30), mesh, [Shard(0)])
    whole = torch.zeros(9, 30)
    for tensor in (part, whole):
        with ft.accelerated(seed=2):
            nn.init.trunc_normal_(tensor)
            nn.init.kaiming_uniform_(tensor)
    assert_bits(part.full_tensor(), whole)


@check(2)
def refusals(mesh: DeviceMesh) -> None:
    partial = DTensor.from_local(torch.zeros(4, 4), mesh, [Partial()])
    assert_raises(ValueError, "Partial means a pending sum", lambda: ft.normal_(partial, seed=0))
    odd = DTensor.from_local(
        torch.zeros(4, 4), mesh, [Shard(0)], shape=(12, 4), stride=(4, 1), run_check=False
    )
    assert_raises(ValueError, "expected a local tensor of shape", lambda: ft.normal_(odd, seed=0))
    # A rank without rows refuses what the others refuse: none is left waiting for the rest.
    part = distribute(torch.zeros(1, 4), mesh, [Shard(0)])
    assert_raises(ValueError, "expected a std of 0 or at least", lambda: ft.normal_(part, std=1e-30, seed=0))
    ints = distribute(torch.zeros(8, 4, dtype=torch.int32), mesh, [Shard(0)])
    with pytest.raises(RuntimeError) as theirs:  # NotImplementedError in newer releases
        nn.init.normal_(torch.zeros(1, dtype=torch.int32))
    assert_raises(theirs.type, "not implemented for 'Int'", lambda: ft.normal_(ints, seed=0))
    rows = distribute(torch.zeros(8, 4), mesh, [Shard(0)])
    lost = "expected a DTensor that holds its own memory; got one of shape (3, 4)"
    assert_raises(RuntimeError, lost, lambda: ft.normal_(rows[:3], seed=0))
    made = nn.Parameter(rows) * 2
    assert_raises(RuntimeError, "what is written to it would be lost", lambda: ft.normal_(made, seed=0))
    ft.normal_(rows[:, :2], seed=0)  # not along the sharded axis: a view
    assert rows.to_local()[:, :2].all()
    assert not rows.to_local()[:, 2:].any()
    assert not partial.to_local().any()
    assert not part.to_local().any()
    meta = distribute(torch.zeros(8, 4, device="meta"), mesh, [Shard(0)])
    assert ft.normal_(meta, seed=0) is meta
    assert ft.kaiming_normal_(meta) is meta


def assert_raises(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


@check(4)
def a_mesh_of_some_ranks(mesh: DeviceMesh) -> None:
    few = DeviceMesh("cpu", [1, 2])
    part = distribute(torch.zeros(9, 4), few, [Shard(0)])
    ft.kaiming_normal_(part, seed=0)
    expected = distribute(ft.kaiming_normal_(torch.empty(9, 4), seed=0), few, [Shard(0)])
    assert_bits(part.to_local(), expected.to_local())


class Small(nn.Module):
    """A transformer with a padding row, a tied head and sizes that no mesh divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(51, 20, padding_idx=49)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layers = nn.ModuleList(
                [nn.TransformerEncoderLayer(20, 2, 38, batch_first=True) for _ in range(2)]
            )
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 51, bias=False)
        self.head.weight = self.embed.weight


def single() -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in ft.init_module(Small(), seed=4).named_parameters()}


def assert_gathered(model: nn.Module) -> None:
    expected = single()
    got = dict(model.named_parameters())
    assert got.keys() == expected.keys()
    for name, parameter in got.items():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        assert_bits(whole.detach(), expected[name])
    assert not expected["embed.weight"][49].any()


def sharded(mesh: DeviceMesh) -> nn.Module:
    with torch.device("meta"):
        model = Small()
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    return model


@check(1)
@check(2)
@check(4)
@check(2, 2)  # HSDP: replicas of shards
def fsdp2(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor.debug import CommDebugMode

    model = sharded(mesh)
    steps: list[tuple[int, int]] = []
    with CommDebugMode() as comm:
        ft.init_module(model, seed=4, progress=lambda *step: steps.append(step))
    assert comm.get_total_counts() == 0
    # What this rank holds, and the padding row twice where it is this rank's.
    own = sum(p.to_local().numel() for p in model.parameters())
    assert steps[-1] in ((own, own), (own + 20, own + 20))
    with CommDebugMode() as comm:
        assert_gathered(model)
    assert mesh.size() == 1 or comm.get_total_counts() > 0  # the control: gathering communicates
    assert_raises(AssertionError, "", lambda: assert_gathered(ft.init_module(model, seed=5)))


@check(2, 2)
def fsdp2_and_tensor_parallel(mesh: DeviceMesh) -> None:
    """Both shard the first axis of the column-wise layers: _StridedShard."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 8))
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    model.to_empty(device="cpu")
    assert any(isinstance(place, _StridedShard) for place in model[0].weight.placements)
    ft.init_module(model, seed=4)
    expected = ft.init_module(nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 8)), seed=4)
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        assert_bits(one.full_tensor().detach(), two.detach())


@check(2)
def older_wrappers(mesh: DeviceMesh) -> None:
    """DistributedDataParallel adds a prefix only; FullyShardedDataParallel makes flat shards, and is
    refused."""
    model = nn.parallel.DistributedDataParallel(Small())
    ft.init_module(model, seed=4)
    assert_gathered(model.module)
    cpu = torch.device("cpu")
    for own_parameters in (True, False):
        flat = FullyShardedDataParallel(nn.Linear(6, 4), use_orig_params=own_parameters, device_id=cpu)
        message = "FullyShardedDataParallel has flattened; use fully_shard"
        assert_raises(TypeError, message, lambda flat=flat: ft.init_module(flat, seed=4))
    whole = FullyShardedDataParallel(
        nn.Linear(6, 4),
        use_orig_params=True,
        device_id=cpu,
        sharding_strategy=ShardingStrategy.NO_SHARD,
    )
    ft.init_module(whole, seed=4)
    expected = ft.init_module(nn.Linear(6, 4), seed=4)
    for one, two in zip(whole.parameters(), expected.parameters(), strict=True):
        assert_bits(one.detach(), two.detach())


@check(4)
def peak_memory(mesh: DeviceMesh) -> None:
    """A tensor of 64 MiB: filling a rank's quarter adds next to nothing to it, gathering adds the whole."""
    model = nn.Linear(4096, 4096, bias=False, device="meta")
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    ft.init_module(model, seed=0)
    ft.init_module(model, seed=1)
    whole = 4096 * 4096 * 4
    for axis in (0, 1):
        if axis:
            part = distribute(torch.empty(4096, 4096, device="meta"), mesh, [Shard(1)])
            part = torch.empty_like(part, device="cpu")
            ft.kaiming_normal_(part, seed=0)
            grown = growth(lambda part=part: ft.kaiming_normal_(part, seed=0))
        else:
            grown = growth(lambda: ft.init_module(model, seed=0))
        assert grown < whole / 16, grown
    assert growth(lambda: model.weight.full_tensor()) > whole / 2


def growth(call: Callable[[], Any]) -> int:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what there is now
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before


def memory(what: str) -> int:
    with open("/proc/self/status") as file:
        return int(re.search(what + r":\s+(\d+) kB", file.read())[1]) * 1024  # type: ignore[index]


def main(folder: Path, worlds: Iterable[int]) -> None:
    # Imported before the forks, so that no rank has to: by the first call what a fill needs, and by name what
    # takes a second and collecting the tests does not need.
    ft.normal_(torch.empty(1), seed=0)
    for width in (1, 4):  # kernels that each rank would otherwise compile
        part = torch.empty(4, width, dtype=torch.bfloat16)
        ft.normal_(part, seed=0, global_shape=(8, 8), offset=(0, 0))
    importlib.import_module("torch.distributed.tensor.debug")
    for world in worlds:
        own = folder / str(world)
        own.mkdir()
        codes = ranks(world, own)
        (own / "codes").write_text(" ".join(map(str, codes)))


def ranks(world: int, folder: Path) -> list[int]:
    """Run a world's ranks; the codes with which they end."""
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            for descriptor, ending in ((1, "out"), (2, "err")):
                file = os.open(folder / f"{rank}.{ending}", os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(file, descriptor)
            run(rank, world, folder / "rendezvous")
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run(rank: int, world: int, path: Path) -> NoReturn:
    faulthandler.enable()  # a rank that aborts shows where
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{path}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        for name, (shape, function) in CHECKS.items():
            if prod(shape) == world:
                function(init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)]))
                sys.stdout.write(f"{name}\n")
                sys.stdout.flush()
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Once a rank aborted after this ("terminate called without an active exception"). PyTorch knows of gloo
    # threads that drop a collective's tensors while the interpreter is taken down, and abort then
    # (pytorch/pytorch#179291): likely the same, but not shown. All checks are over here.
    os._exit(0)
