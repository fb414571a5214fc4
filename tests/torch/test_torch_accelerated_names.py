"""accelerated(seed=..., names=model): a parameter's values follow its name, whatever is drawn before it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402

nn, init, E = torch.nn, torch.nn.init, torch.empty


def values(shape: tuple[int, ...], law: ff.Initializer, name: str | int, dtype: Any = None) -> Any:
    return ff.fill(E(shape, dtype=dtype), law, seed=3, name=name)


def model() -> Any:
    layers = OrderedDict(
        first=nn.Linear(5, 4), norm=nn.LayerNorm(4), second=nn.Linear(4, 6, bias=False), last=nn.Linear(6, 5)
    )
    return nn.Sequential(layers)


def reset(module: Any, order: Callable[[Any], Any] = iter) -> None:
    for layer in order(list(module)):
        if isinstance(layer, nn.Linear):
            init.trunc_normal_(layer.weight, std=0.02)
            init.normal_(layer.weight.data, std=0.02)


def test_the_values_are_those_of_init_module_in_any_order() -> None:
    one, two, part = model(), model(), model()
    expected = ft.init_module(model(), seed=3, rules={"*weight": ff.normal(std=0.02), "*": None})
    with ft.accelerated(seed=3, names=one):
        reset(one)
    with ft.accelerated(seed=3, names=two):
        init.normal_(E(9))
        reset(two, reversed)
    with ft.accelerated(seed=3, names=part):
        reset(part[2:])
    for name in ("first.weight", "second.weight", "last.weight"):
        assert torch.equal(one.get_parameter(name), expected.get_parameter(name))
        assert torch.equal(two.get_parameter(name), expected.get_parameter(name))
    assert torch.equal(part[3].weight, expected[3].weight)
    with ft.accelerated(seed=3):
        reset(one)
    assert not torch.equal(one[0].weight, expected[0].weight)


def test_layers_that_reset_themselves_after_to_empty() -> None:
    """Inside the block, so that the parameters are others than when it began."""
    with torch.device("meta"):
        one, two = model(), model()

    def fill(module: Any, order: Callable[[Any], Any]) -> None:
        with ft.accelerated(seed=3, names=module):
            module.to_empty(device="cpu")
            for layer in order(list(module)):
                layer.reset_parameters()

    fill(one, iter)
    fill(two, reversed)
    for (name, x), (_, y) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(x, y), name
    expected = values((4, 5), ff.he_uniform("fan_in", math.sqrt(5), in_axis=1, out_axis=0), "first.weight")
    assert torch.equal(one[0].weight, expected)


def test_what_belongs_to_no_module_is_drawn_by_the_order_of_calls() -> None:
    known = nn.Linear(5, 4)
    with ft.accelerated(seed=3, names=known):
        init.normal_(known.weight)
        first = init.normal_(E(9))
        again = init.normal_(known.weight.detach().clone())
        init.normal_(known.bias, generator=torch.Generator().manual_seed(1))
        other = torch.randn(9)
    assert torch.equal(first, values((9,), ff.normal(), 0))
    assert torch.equal(again, values((4, 5), ff.normal(), 1))
    assert torch.equal(known.bias, ft.normal_(E(4), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(other, values((9,), ff.normal(), "torch 0"))


PARTS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda w: w[2:4],
    "a row": lambda w: w[3],
    "columns": lambda w: w[:, 1:4],
    "a box": lambda w: w[1:3, 2:5],
    "a column": lambda w: w[:, 2],
    "all, transposed": lambda w: w.t(),
    "a box, transposed": lambda w: w[1:3, 2:5].t(),
    "all, flat": lambda w: w.view(-1),
    "a third": lambda w: w.chunk(3)[1],
    "an element": lambda w: w[2, 3],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_gets_the_values_that_the_whole_has_there(part: str) -> None:
    layer = nn.Linear(5, 6)
    with torch.no_grad(), ft.accelerated(seed=3, names={"layers.8.": layer}):
        layer.weight.zero_()
        view = PARTS[part](layer.weight)
        view.normal_(0.0, 0.5)
        left = init.normal_(E(9))
    whole = values((6, 5), ff.normal(0.0, 0.5), "layers.8.weight")
    assert torch.equal(view, PARTS[part](whole))
    assert torch.equal(layer.weight != 0, written(part))
    assert torch.equal(left, values((9,), ff.normal(), 0))


def written(part: str) -> Any:
    mask = torch.zeros(6, 5, dtype=torch.bool)
    PARTS[part](mask).fill_(True)
    return mask


def test_a_part_is_drawn_by_its_own_fans() -> None:
    fused = nn.Parameter(E(12, 5))
    holder = nn.ParameterDict({"qkv": fused})
    with ft.accelerated(seed=3, names=holder):
        for third in fused.data.chunk(3):
            init.kaiming_uniform_(third, nonlinearity="relu")
    bound = math.sqrt(6 / 5)
    expected = values((12, 5), ff.uniform(-bound, bound), "qkv")
    assert torch.allclose(fused, expected)


def test_a_view_that_is_no_box_is_drawn_by_the_order_of_calls() -> None:
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad(), ft.accelerated(seed=3, names=layer):
        layer.weight.view(-1)[::7].normal_()
        whole = layer.weight.t().view(torch.int32)
        layer.weight.view(torch.float16).normal_()
    assert whole.shape == (6, 6)
    assert torch.equal(layer.weight.view(torch.float16), values((6, 12), ff.normal(), 1, torch.float16))


def test_tensors_of_other_layouts_of_the_parameter() -> None:
    holder = nn.ParameterDict({"w": nn.Parameter(E(5, 6).t())})
    with torch.no_grad(), ft.accelerated(seed=3, names=holder):
        holder["w"].normal_()
        first = holder["w"].clone()
        holder["w"].data.normal_()
        second = holder["w"].clone()
    assert torch.equal(first, values((6, 5), ff.normal(), "w"))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_without_memory_of_their_own_are_torchs() -> None:
    sparse = torch.eye(3).to_sparse()
    holder = nn.Module()
    holder.register_buffer("sparse", sparse)
    with ft.accelerated(seed=3, names=holder), pytest.raises(NotImplementedError):
        sparse.normal_()


def test_tied_parameters_buffers_and_wrapped_modules() -> None:
    tied = nn.ModuleDict({"embed": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    tied["head"].weight = tied["embed"].weight
    tied.register_buffer("table", torch.zeros(3, 4))
    wrapped = nn.DataParallel(tied)
    with ft.accelerated(seed=3, names=wrapped):
        init.normal_(tied["head"].weight)
        init.normal_(tied.table)
    assert torch.equal(tied["embed"].weight, values((6, 4), ff.normal(), "embed.weight"))
    assert torch.equal(tied.table, values((3, 4), ff.normal(), "table"))


def test_complex_parameters_and_truncated_normals_by_erfinv() -> None:
    layer = nn.Linear(5, 4, dtype=torch.complex64)
    plain = nn.Linear(5, 4)
    with torch.no_grad(), ft.accelerated(seed=3, names={"a.": layer, "b.": plain}):
        layer.weight.normal_()
        layer.weight[1:3].normal_()
        plain.weight[1:3].uniform_(-1.0, 1.0).erfinv_()
        out = plain.weight.uniform_(-1.0, 1.0).erfinv()
        part = plain.bias[1:3]
        part.uniform_(-1.0, 1.0)
        left = part.erfinv()
    law = ff.normal(0.0, math.sqrt(0.5))
    pairs = values((4, 5, 2), law, "a.weight")
    pairs[1:3] = values((2, 5, 2), law, "torch 0")  # a part of a complex parameter has no name
    assert torch.equal(torch.view_as_real(layer.weight.detach()), pairs)
    z = values((4, 5), ff.truncated_normal(0.0, math.sqrt(0.5), -math.inf, math.inf), "b.weight")
    assert torch.equal(out, z)
    assert torch.equal(left, plain.bias.detach()[1:3].erfinv())
    with torch.no_grad(), ft.accelerated(seed=3, names={"b.": plain}):
        plain.weight[1:3].uniform_(-1.0, 1.0).erfinv_()
    assert torch.equal(plain.weight[1:3], z[1:3])


def test_dtensors_are_known_by_their_shards() -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        holder = nn.Module()
        holder.w = nn.Parameter(distribute_tensor(torch.zeros(6, 4), mesh, [Replicate()]))
        with torch.no_grad(), ft.accelerated(seed=3, names=holder):
            holder.w.data.normal_()
            first = holder.w.full_tensor().clone()
            init.uniform_(holder.w)
            holder.w.to_local().normal_()
            second = holder.w.full_tensor().clone()
        assert isinstance(holder.w.data, DTensor)
    finally:
        dist.destroy_process_group()
    assert torch.equal(first, values((6, 4), ff.normal(), "w"))
    assert torch.equal(second, values((6, 4), ff.normal(), 0))  # a local tensor alone says not where it lies


def test_bad_names_are_refused() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(TypeError, match="names: expected a seed with names; got none; pass seed= too"):
        ft.accelerated(names=layer)
    for wrong in ("model", [layer], {"a.": 3}, {1: layer}):
        with pytest.raises(TypeError, match=r"names: expected a torch.nn.Module, or a mapping from prefixes"):
            ft.accelerated(seed=3, names=wrong)  # type: ignore[arg-type]
    twice = {"a.": nn.ModuleDict({"b": layer}), "a.b.": nn.Linear(3, 3)}
    with pytest.raises(
        ValueError, match=r"names: expected a name of its own for each parameter; got 'a\.b\.w"
    ):
        ft.accelerated(seed=3, names=twice)
