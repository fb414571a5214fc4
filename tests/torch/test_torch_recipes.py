"""fanfill.torch.recipe: what a module's own code draws, traced; and the same values wherever they are
drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.checkpoints import ModelRecipe, TensorRecipe  # noqa: E402
from fanfill.torch import recipes  # noqa: E402

BIG = 70_000  # elements: more than a trace makes for real


class Layers(nn.Module):
    """Layers of torch, of which some parameters are large and some small."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.lstm = nn.LSTM(300, 70, 2, bidirectional=True)
        self.gru = nn.GRU(7, 5)
        self.conv = nn.Conv2d(3, 64, 7)
        self.transposed = nn.ConvTranspose1d(40, 600, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.LayerNorm(10), nn.GroupNorm(2, 4), nn.PReLU()])
        self.embedding = nn.Embedding(1000, 128, padding_idx=3)
        self.small_embedding = nn.Embedding(10, 8, padding_idx=9)
        self.bilinear = nn.Bilinear(30, 20, 120)
        self.attention = nn.MultiheadAttention(300, 2, kdim=10, vdim=12)
        self.linear = nn.Linear(1000, 100)
        self.tied = self.linear


def test_laws_of_torchs_layers_are_those_of_init_module() -> None:
    recipe = ft.recipe(Layers)
    model = ft.init_module(Layers(), seed=7)
    state = model.state_dict()
    assert {*recipe.tensors, *recipe.ties} == set(state)
    assert recipe.ties == {f"tied.{name}": f"linear.{name}" for name in ("weight", "bias")}
    drawn = {name: torch.empty_like(tensor) for name, tensor in state.items()}
    recipe.fill(drawn, 7)
    assert [name for name in state if not torch.equal(state[name], drawn[name])] == []
    # Nothing was stored that is a law, and the row of the padding is a part of its own.
    assert all(tensor.values is None for tensor in recipe.tensors.values())
    assert len(recipe.tensors["embedding.weight"].parts) == 2
    assert ModelRecipe.loads(recipe.dumps()) == recipe


def test_a_parameter_without_elements_needs_no_law() -> None:
    """As DINOv3's register tokens, of which there are none by default."""

    def build() -> nn.Module:
        model = nn.Linear(3, 2)
        model.registers = nn.Parameter(torch.empty(1, 0, 5))
        return model

    recipe = ft.recipe(build)
    assert recipe.tensors["registers"].size == 0
    ft.init_module(build(), 0, rules=recipe)


def test_a_recipe_fills_a_module_that_has_no_values_yet() -> None:
    recipe = ft.recipe(Layers)
    wanted = {name: torch.empty(t.shape, dtype=getattr(torch, t.dtype)) for name, t in recipe.tensors.items()}
    recipe.fill(wanted, 2)
    with torch.device("meta"):
        model = Layers()
    ft.init_module(model, 2, rules=recipe)  # on the meta device it stays without values
    assert model.linear.weight.is_meta
    model.to_empty(device="cpu")
    wrapped = nn.DataParallel(model)
    steps: list[tuple[int, int]] = []
    ft.init_module(wrapped, 2, rules=recipe, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == recipe.values
    state = model.state_dict()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert state["norms.0.num_batches_tracked"] == 0


def test_a_recipe_of_another_model_is_refused_before_anything_is_written() -> None:
    recipe = ft.recipe(lambda: nn.Linear(3, 2))
    for model, message in (
        (
            nn.Linear(3, 2, bias=False),
            "expected only tensors of the recipe that the model has; got also bias",
        ),
        (nn.Sequential(nn.Linear(3, 2)), "expected only parameters .*; got also 0.bias, 0.weight"),
        (nn.Linear(4, 2), r"expected shape \(2, 3\) for 'weight', as in the recipe; got \(2, 4\)"),
    ):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            ft.init_module(model, 0, rules=recipe)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def second_of_two_ranks() -> Iterator[Any]:
    """A mesh of two ranks, of which this process is the second; nothing is ever communicated."""
    dist = pytest.importorskip("torch.distributed")
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake.FakeStore(), rank=1, world_size=2)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (2,))
    finally:
        dist.destroy_process_group()


def test_shards_get_their_part_of_the_recipe(second_of_two_ranks: Any) -> None:
    from torch.distributed.tensor import DTensor, Shard

    def build() -> nn.Module:
        model = nn.Module()
        model.w = nn.Parameter(nn.init.normal_(torch.empty(10, 4)))
        with torch.no_grad():
            model.w[6] = 0
        model.n = nn.Parameter(torch.arange(10.0).log1p())
        return model

    recipe = ft.recipe(build)
    whole = build()
    ft.init_module(whole, 3, rules=recipe)
    sharded = nn.Module()
    for name, local in (("w", torch.empty(5, 4)), ("n", torch.empty(5))):
        tensor = DTensor.from_local(local, second_of_two_ranks, [Shard(0)], run_check=False)
        sharded.register_parameter(name, nn.Parameter(tensor))
    ft.init_module(sharded, 3, rules=recipe)
    assert torch.equal(sharded.w.to_local(), whole.w[5:])
    assert torch.equal(sharded.n.to_local(), whole.n[5:])


# What a module's code may do


def laws(build: Callable[[], torch.Tensor], **rules: Any) -> TensorRecipe:
    """The recipe of the one parameter that a function makes."""

    def module() -> nn.Module:
        made = nn.Module()
        made.register_parameter("w", nn.Parameter(build(), requires_grad=False))
        return made

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of bounds far from the mean
        return ft.recipe(module, **rules).tensors["w"]


CASES: list[tuple[Callable[[], torch.Tensor], Any]] = [
    (lambda: nn.init.normal_(torch.empty(BIG), 1, 2), ff.normal(1, 2)),
    (lambda: torch.empty(BIG).uniform_(-2, 2), ff.uniform(-2, 2)),
    (lambda: torch.rand(BIG), ff.uniform(0, 1, endpoint=False)),
    (lambda: torch.empty(BIG).uniform_(3, 3), ff.constant(3)),
    (lambda: torch.randn(BIG) * 0.5 + 1, ff.normal(1, 0.5)),
    (lambda: 1 - torch.rand(BIG) / 2, ff.uniform(0.5, 1, endpoint=False)),
    (lambda: -torch.randn(BIG).sub_(3), ff.normal(3, 1)),
    (lambda: torch.zeros(BIG).add_(1, alpha=4), ff.constant(4)),
    (lambda: torch.ones(BIG).neg(), ff.constant(-1)),
    (lambda: torch.full((BIG,), -math.inf), -math.inf),
    (lambda: torch.full((BIG,), 2.0).log(), ff.constant(math.log(2))),
    (lambda: nn.init.trunc_normal_(torch.empty(BIG), std=0.5), ff.truncated_normal(0, 0.5, -4, 4)),
    (lambda: nn.init.trunc_normal_(torch.empty(BIG), a=-1, b=2) * -2, ff.truncated_normal(0, 2, -2, 1)),
    (lambda: nn.init.trunc_normal_(torch.empty(BIG)) + 1, ff.truncated_normal(1, 1, -2, 2)),
    (lambda: torch.empty(BIG).copy_(torch.randn(BIG)), ff.normal()),
    (lambda: torch.randn(BIG).to(torch.bfloat16).clone(), ff.normal()),
    (lambda: torch.cat([torch.randn(BIG), torch.randn(BIG)]), ff.normal()),
    (lambda: torch.stack([torch.randn(BIG), torch.randn(BIG)]), ff.normal()),
    (lambda: torch.empty(BIG).fill_(torch.tensor(2.0)), ff.constant(2)),
    (lambda: torch.randn(3), ff.normal()),
    (lambda: nn.init.trunc_normal_(torch.empty(3)), ff.truncated_normal()),
]


@pytest.mark.parametrize(("build", "law"), CASES)
def test_operations_on_laws_are_laws(build: Callable[[], torch.Tensor], law: Any) -> None:
    assert laws(build).whole_law() == law


def _halves() -> torch.Tensor:
    w = torch.empty(2 * BIG // 100, 100)
    nn.init.normal_(w[: BIG // 100])
    nn.init.ones_(w[BIG // 100 :])
    return w


def _columns() -> torch.Tensor:
    w = nn.init.normal_(torch.empty(BIG // 100, 100))
    w[:, 3] = 0
    return w


def test_boxes_have_laws_of_their_own() -> None:
    rows = BIG // 100
    assert laws(_halves).parts == (
        (ff.normal(), (0, 0), (rows, 100)),
        (ff.constant(1), (rows, 0), (rows, 100)),
    )
    assert laws(_columns).parts == (
        (ff.normal(), (0, 0), (rows, 100)),
        (ff.constant(0), (0, 3), (rows, 1)),
    )


def _partly_unset() -> torch.Tensor:
    w = torch.empty(2 * BIG)
    w[:BIG].normal_()
    w[BIG - 1 : -1].zero_()
    return w


def _later_written() -> torch.Tensor:
    """An older whole's law must not be read where a part was written later."""
    w = torch.zeros(BIG // 10, 2, 5)
    w[:, :, 1] = 1
    return torch.empty_like(w).copy_(w)


def _half(draw: Callable[[torch.Tensor], object]) -> torch.Tensor:
    w = torch.zeros(300, 300)
    draw(w[:150])
    return w


REFUSED: list[tuple[Callable[[], torch.Tensor], str]] = [
    (lambda: nn.init.orthogonal_(torch.empty(300, 300), -1.0), "orthogonal_"),
    (lambda: _half(nn.init.orthogonal_), "orthogonal of another view of it"),
    (lambda: nn.init.sparse_(torch.empty(300, 300).t(), 0.1).t(), "sparse of another view of it"),
    (lambda: nn.init.eye_(torch.empty(300, 300)).t().contiguous(), "identity of another view of it"),
    (lambda: torch.randn(BIG).exp(), "exp"),
    (lambda: torch.zeros(BIG).log(), "log"),
    (lambda: torch.randn(BIG).mul_(torch.randn(BIG)), "mul_"),
    (lambda: torch.randn(BIG).clamp_(-1, 1), "clamp_"),
    (lambda: torch.empty(BIG), "memory that nothing was written to"),
    (lambda: torch.zeros(BIG).copy_(torch.empty(BIG)), "copy_ of unset memory"),
    (lambda: torch.empty(BIG, 2).copy_(torch.randn(2)), "copy_ with broadcasting"),
    (_partly_unset, "memory that nothing was written to"),
    (_later_written, "a read of memory whose parts hold different laws"),
    (lambda: torch.cat([torch.randn(BIG), torch.zeros(BIG)]), "cat of different laws"),
    (lambda: torch.randn(BIG).as_strided((10,), (3,)).fill_(1).as_strided((BIG,), (1,)), "in a part of it"),
]


@pytest.mark.parametrize(("build", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_cannot_be_expressed_is_named_and_never_guessed(
    build: Callable[[], torch.Tensor], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "SMALL", recipes.SMALL[:1])
    with pytest.raises(ValueError, match=rf"got none for w \(.*{why}.*\); give one by --rule"):
        laws(build)
    assert laws(build, rules={"w": "normal(0.0, 0.02)"}).whole_law() == ff.normal(0, 0.02)
    assert laws(build, rules={"w": ff.constant(1)}).whole_law() == ff.constant(1)


def test_small_tensors_without_a_law_are_stored_and_larger_ones_if_need_be() -> None:
    found = laws(lambda: torch.arange(1.0, 9.0).log())
    assert found.values is not None
    assert found.values.tolist() == torch.arange(1.0, 9.0).log().tolist()
    again = laws(lambda: torch.rand(5).log())
    assert again.values is not None
    before = torch.random.get_rng_state()
    assert again.values.tolist() == laws(lambda: torch.rand(5).log()).values.tolist()  # type: ignore[union-attr]
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's numbers go on as they would have
    larger = laws(lambda: torch.rand(BIG).log())
    assert larger.values is not None
    assert larger.size == BIG


def test_only_a_model_of_moderate_size_is_made_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def build() -> torch.Tensor:
        sizes.append(1)
        return torch.rand(1 << 23).log()

    assert laws(build).values is not None
    monkeypatch.setattr(recipes, "_MOST_REAL", 1000)
    with pytest.raises(ValueError, match=r"got none for w \(log\)"):
        laws(build)


def test_integers_and_masks_are_values_or_numbers() -> None:
    def build() -> nn.Module:
        model = nn.Module()
        model.register_buffer("mask", torch.ones(BIG, dtype=torch.bool))
        model.register_buffer("index", torch.arange(5))
        model.register_buffer("left out", torch.ones(3), persistent=False)
        return model

    recipe = ft.recipe(build)
    assert set(recipe.tensors) == {"mask", "index"}
    assert recipe.tensors["mask"].whole_law() == 1
    model = build()
    model.mask.zero_()
    model.index.zero_()
    ft.init_module(model, 0, rules=recipe)
    assert model.mask.all()
    assert model.index.tolist() == [0, 1, 2, 3, 4]


def test_torch_is_as_it_was_after_a_trace_that_failed() -> None:
    kept = {name: getattr(nn.init, name) for name in dir(nn.init)}

    def build() -> nn.Module:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ft.recipe(build)
    assert {name: getattr(nn.init, name) for name in dir(nn.init)} == kept
    assert torch.empty(BIG).device.type == "cpu"


class _Extra(nn.Linear):
    def get_extra_state(self) -> int:
        return 3


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"build: expected a callable .*pass lambda: Model"):
        ft.recipe(3)
    with pytest.raises(TypeError, match=r"build: expected a torch.nn.Module from it; got 3"):
        ft.recipe(lambda: 3)
    with pytest.raises(
        ValueError, match="expected tensors in the model's state_dict; got 3 for '_extra_state'"
    ):
        ft.recipe(lambda: _Extra(2, 2))
    with pytest.raises(ValueError, match=r"tensor 'w': expected a dtype among .*; got complex64; convert it"):
        laws(lambda: torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="rules: expected each pattern to fit"):
        ft.recipe(lambda: nn.Linear(2, 2), rules={"x": "zeros"})
