"""accelerated: factories, complex tensors, truncated normals by erfinv, and what transforms see."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.torch import acceleration  # noqa: E402
from fanfill.torch.calls import _quantile  # noqa: E402

nn, init, E = torch.nn, torch.nn.init, torch.empty
UNIFORM, NORMAL = ff.uniform(0.0, 1.0, endpoint=False), ff.normal()


def values(
    shape: tuple[int, ...], law: ff.Initializer, name: str | int = "torch 0", dtype: Any = None
) -> Any:
    return ff.fill(E(shape, dtype=dtype), law, seed=3, name=name)


T = torch.linspace(0.1, 0.9, 40).reshape(8, 5)
FACTORIES: dict[str, tuple[Callable[[], Any], ff.Initializer]] = {
    "rand": (lambda: torch.rand(8, 5), UNIFORM),
    "rand, size": (lambda: torch.rand(size=(8, 5)), UNIFORM),
    "rand, out": (lambda: torch.rand(8, 5, out=E(8, 5)), UNIFORM),
    "rand, float64": (lambda: torch.rand(8, 5, dtype=torch.float64), UNIFORM),
    "rand, no generator": (lambda: torch.rand(8, 5, generator=None), UNIFORM),
    "rand_like": (lambda: torch.rand_like(T.t()).t(), UNIFORM),
    "randn": (lambda: torch.randn((8, 5)), NORMAL),
    "randn, float64": (lambda: torch.randn(8, 5, dtype=torch.float64), NORMAL),
    "randn, requires_grad": (lambda: torch.randn(8, 5, requires_grad=True), NORMAL),
    "randn_like, float64": (lambda: torch.randn_like(T, dtype=torch.float64), NORMAL),
    "normal, numbers": (lambda: torch.normal(1.0, 2.0, (8, 5)), ff.normal(1.0, 2.0)),
    "normal, by name": (lambda: torch.normal(mean=1, std=2, size=(8, 5)), ff.normal(1.0, 2.0)),
}


@pytest.mark.parametrize("call", FACTORIES)
def test_factories_are_drawn_by_fanfill(call: str) -> None:
    function, law = FACTORIES[call]
    theirs = function()
    with ft.accelerated(seed=3):
        first, second = function(), function()
    if call == "rand_like":  # by the index of the tensor as it was made
        assert torch.equal(first.t(), values((5, 8), law))
        return
    assert torch.equal(first.detach(), values((8, 5), law, dtype=first.dtype))
    assert torch.equal(second.detach(), values((8, 5), law, "torch 1", first.dtype))
    assert (first.dtype, first.requires_grad, first.is_leaf) == (
        theirs.dtype,
        theirs.requires_grad,
        theirs.is_leaf,
    )


def test_normal_of_tensors_is_a_standard_normal_scaled_and_moved() -> None:
    z = values((8, 5), NORMAL)
    with ft.accelerated(seed=3):
        got = torch.normal(T, T)
    assert torch.equal(got, z.clone().mul_(T).add_(T))
    with ft.accelerated(seed=3):
        got = torch.normal(T, 2.0)
    assert torch.equal(got, z.clone().mul_(2.0).add_(T))
    with ft.accelerated(seed=3):
        got = torch.normal(1.0, T[0].expand(8, 5))
    assert torch.equal(got, z.clone().mul_(T[0]).add_(1.0))
    wide = values((8, 8, 5), NORMAL)
    with ft.accelerated(seed=3):
        got = torch.normal(T[:, None], T)
    assert torch.equal(got, wide.clone().mul_(T).add_(T[:, None]))


def generator() -> Any:
    return torch.Generator().manual_seed(1)


LEFT: dict[str, Callable[[], Any]] = {
    "a generator of its own": lambda: torch.rand(9, generator=generator()),
    "a generator of its own, complex": lambda: E(9, dtype=torch.complex64).normal_(generator=generator()),
    "autograd": lambda: torch.normal(T.clone().requires_grad_(), 1.0, generator=generator()),
}


@pytest.mark.parametrize("call", LEFT)
def test_what_a_generator_governs_is_torchs(call: str) -> None:
    expected = LEFT[call]()
    with ft.accelerated(seed=3):
        got = LEFT[call]()
    assert torch.equal(got, expected)
    assert got.requires_grad == expected.requires_grad


def test_normal_of_what_autograd_follows_is_torchs() -> None:
    mean = T.clone().requires_grad_()
    with ft.accelerated(seed=3):
        first = torch.normal(mean, 1.0)
        last = torch.rand(9)
    assert first.requires_grad
    assert torch.equal(last, values((9,), UNIFORM))  # did not count


WRONG: dict[str, Callable[[], Any]] = {
    "integers": lambda: torch.rand(4, dtype=torch.int32),
    "size": lambda: torch.randn(-1),
    "argument": lambda: torch.rand(4, sigma=1),
    "like": lambda: torch.rand_like(4),
    "std": lambda: torch.normal(0.0, -1.0, (4,)),
    "std of a tensor": lambda: torch.normal(T, -1.0),
    "a tensor of std": lambda: torch.normal(0.0, -T),
    "complex std": lambda: torch.normal(0.0, torch.ones(3, dtype=torch.complex64)),
    "shapes": lambda: torch.normal(torch.ones(3), torch.ones(4)),
    "no size": lambda: torch.normal(0.0, 1.0),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_get_torchs_errors(wrong: str) -> None:
    with pytest.raises(Exception, match=r".*") as theirs:
        WRONG[wrong]()
    with pytest.raises(type(theirs.value)) as ours, ft.accelerated(seed=3):
        WRONG[wrong]()
    assert str(ours.value) == str(theirs.value)


def test_a_device_context_inside_or_outside_says_where() -> None:
    with torch.device("meta"), ft.accelerated(seed=3):
        assert torch.randn(9).is_meta
    with ft.accelerated(seed=3):
        with torch.device("meta"):
            assert torch.rand(9).is_meta
        assert torch.equal(torch.rand(9), values((9,), UNIFORM))  # those did not count


def test_the_local_part_of_a_dtensor_is_torchs_whose_generator_knows_the_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each rank would draw the same values, of the local shape."""
    from torch.distributed.tensor import _api, _random

    class Tracker:
        def _distribute_region(self, spec: Any) -> Any:
            return nullcontext()

    class Mesh:
        device_type = "cpu"
        ndim = 1

    monkeypatch.setattr(_random, "_rng_tracker", Tracker())
    monkeypatch.setattr(_random, "is_rng_supported_mesh", lambda mesh: True)
    monkeypatch.setattr(_api, "compute_local_shape_and_global_offset", lambda *given, **named: ((9,), (0,)))
    monkeypatch.setattr(_api, "DTensorSpec", lambda *given, **named: None)
    monkeypatch.setattr(_api, "DTensor", lambda local, *given, **named: local)
    named: Any = {"layout": torch.strided, "requires_grad": False}
    with ft.accelerated(seed=3):
        local = _api._dtensor_init_helper(torch.rand, torch.Size([18]), Mesh(), ["shard"], **named)
        plain = torch.rand(9)
    assert not torch.equal(local, plain)
    assert torch.equal(plain, values((9,), UNIFORM))


COMPLEX = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_tensors_are_drawn_as_pairs(dtype: Any) -> None:
    """As torch does: mean and half the variance for each part."""
    pairs = values((8, 5, 2), ff.normal(3.0, 2.0 / math.sqrt(2.0)), dtype=COMPLEX[dtype])
    with ft.accelerated(seed=3):
        made = E(8, 5, dtype=dtype).normal_(3.0, 2.0)
        even = E(8, 5, dtype=dtype).uniform_(-1.0, 2.0)
        plain = torch.randn(8, 5, dtype=dtype)
        real = init.normal_(E(9))
    assert torch.equal(torch.view_as_real(made), pairs)
    expected = values((8, 5, 2), ff.uniform(-1.0, 2.0, endpoint=False), "torch 1", COMPLEX[dtype])
    assert torch.equal(torch.view_as_real(even), expected)
    expected = values((8, 5, 2), ff.normal(0.0, 1 / math.sqrt(2.0)), "torch 2", COMPLEX[dtype])
    assert torch.equal(torch.view_as_real(plain), expected)
    assert torch.equal(real, values((9,), NORMAL, 0))  # pairs have numbers of their own


def test_the_law_of_complex_values_is_torchs() -> None:
    torch.manual_seed(0)
    theirs = torch.view_as_real(E(40000, dtype=torch.complex64).normal_(3.0, 2.0))
    with ft.accelerated(seed=3):
        ours = torch.view_as_real(E(40000, dtype=torch.complex64).normal_(3.0, 2.0))
    for part in (0, 1):
        assert abs(ours[:, part].mean() - theirs[:, part].mean()) < 0.05
        assert abs(ours[:, part].std() - theirs[:, part].std()) < 0.03


def test_layers_of_complex_numbers_are_drawn_by_their_own_fans() -> None:
    with ft.accelerated(seed=3):
        layer = nn.Linear(25, 8, dtype=torch.complex64)
    bound = 1.0 / 5.0
    parts = torch.view_as_real(layer.weight.detach())
    assert torch.equal(parts, values((8, 25, 2), ff.uniform(-bound, bound)))
    assert parts.abs().max() > 0.95 * bound
    assert layer.weight._version


def test_complex_views_that_hold_no_values_of_their_own_are_torchs() -> None:
    def draw() -> list[Any]:
        leaf = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
        return [E(3, dtype=torch.complex64).conj().normal_(), (leaf * 2).normal_().detach()]

    with ft.accelerated(seed=3):
        first = draw()
    with ft.accelerated(seed=3):
        assert all(torch.equal(x, y) for x, y in zip(first, draw(), strict=True))
    assert all(each.any() for each in first)


# timm's function, as its copies have it.
def copied_trunc_normal_(
    tensor: Any, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Any:
    def norm_cdf(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    with torch.no_grad():
        low, high = norm_cdf((a - mean) / std), norm_cdf((b - mean) / std)
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        tensor.erfinv_()
        tensor.mul_(std * math.sqrt(2.0))
        tensor.add_(mean)
        tensor.clamp_(min=a, max=b)
        return tensor


def test_a_copy_of_timms_trunc_normal_has_no_values_far_out() -> None:
    """In bfloat16 torch's has 2,047 of 2^20 beyond 10 std, and a std of 0.09 for 0.02."""
    torch.manual_seed(0)
    theirs = copied_trunc_normal_(E(2**16, dtype=torch.bfloat16), std=0.02).float()
    with ft.accelerated(seed=3):
        ours = copied_trunc_normal_(E(2**16, dtype=torch.bfloat16), std=0.02).float()
    assert (theirs.abs() > 0.2).sum() > 60
    assert theirs.std() > 0.05
    assert ours.abs().max() < 0.1
    assert abs(ours.std() - 0.02) < 0.0005


def test_the_copys_law_is_the_truncated_normal_of_the_same_number() -> None:
    root = math.sqrt(0.5)
    with ft.accelerated(seed=3):
        w = copied_trunc_normal_(nn.Parameter(E(40, 20)), std=0.5, a=-1.0, b=1.5)
        v = init.normal_(E(9))
    z = values((40, 20), ff.truncated_normal(0.0, root, -2.0, 3.0), 0)
    assert torch.equal(w.detach(), z.mul_(0.5 * math.sqrt(2.0)).add_(0.0).clamp_(-1.0, 1.5))
    assert torch.equal(v, values((9,), NORMAL, 1))
    with ft.accelerated(seed=3):
        wide = copied_trunc_normal_(E(40, 20), std=0.01)
    z = values((40, 20), ff.truncated_normal(0.0, root, -math.inf, math.inf), 0)
    assert torch.equal(wide, z.mul_(0.01 * math.sqrt(2.0)).add_(0.0))


def test_bounds_are_the_cuts_to_nine_decimals() -> None:
    for cut in (0.0, 0.5, 2.0, 2.5, 5.0):
        assert _quantile(math.erf(cut / math.sqrt(2.0))) == cut
        assert _quantile(-math.erf(cut / math.sqrt(2.0))) == -cut
    assert (_quantile(1.0), _quantile(-1.0)) == (math.inf, -math.inf)


def test_erfinv_in_other_spellings() -> None:
    root = math.sqrt(0.5)
    expected = values((40, 20), ff.truncated_normal(0.0, root, -math.inf, math.inf), 0)

    def data() -> Any:
        w = nn.Parameter(E(40, 20))
        w.data.uniform_(-1.0, 1.0)
        w.data.erfinv_()
        return w.detach()

    for call in (
        data,
        lambda: E(40, 20).uniform_(-1, 1).erfinv_(),
        lambda: E(40, 20).uniform_(-1, 1).erfinv(),
        lambda: torch.erfinv(E(40, 20).uniform_(-1, 1)),
        lambda: torch.special.erfinv(E(40, 20).uniform_(-1, 1)),
    ):
        with ft.accelerated(seed=3):
            assert torch.equal(call(), expected)
    torch.manual_seed(5)
    with ft.accelerated():
        unseeded = E(40, 20).uniform_(-1, 1).erfinv_()
    torch.manual_seed(5)
    law = ff.truncated_normal(0.0, root, -math.inf, math.inf)
    words = E(2, dtype=torch.int64).random_(-(2**63), None)
    seed, name = (int(word) % 2**64 for word in words)
    assert torch.equal(unseeded, ff.fill(E(40, 20), law, seed=seed, name=name))


def moved() -> Any:
    w = E(9).uniform_(-1.0, 1.0)
    w.mul_(0.5)
    return w, w.clone(), w.erfinv_()


def other_memory() -> Any:
    w = E(9).uniform_(-1.0, 1.0)
    other = w.clone()
    return other, other.clone(), other.erfinv_()


def narrowed() -> Any:
    w = E(9).uniform_(-1.0, 1.0)
    part = w[:4]
    return part, part.clone(), part.erfinv_()


def written_behind_torchs_back() -> Any:
    kept = ff.fill(E(9), ff.uniform(-0.5, 0.5), seed=1)
    w = E(9)
    w.uniform_(-1.0, 1.0)
    ff.fill(w, ff.uniform(-0.5, 0.5), seed=1)
    return w, kept, w.erfinv_()


def of_another_shape() -> Any:
    kept = values((9,), ff.uniform(-1.0, 1.0, endpoint=False), 0)
    w = E(9)
    other = w.view(3, 3)
    w.uniform_(-1.0, 1.0)
    return w, kept, other.erfinv_().view(-1)


def of_another_dtype() -> Any:
    other = torch.full((9,), 0.25, dtype=torch.float64)
    kept = other.clone()
    E(9).uniform_(-1.0, 1.0)
    return other, kept, other.erfinv_()


def of_no_tensor() -> Any:
    kept = torch.full((9,), 0.25)
    E(9).uniform_(-1.0, 1.0)
    with pytest.raises(TypeError):
        torch.erfinv(0.25)  # type: ignore[arg-type]
    return kept, kept, kept.erfinv()


def in_a_transform() -> Any:
    kept = values((9,), ff.uniform(-1.0, 1.0, endpoint=False), 0)
    w = E(9).uniform_(-1.0, 1.0)
    return w, kept, torch.func.functionalize(torch.erfinv)(w)


def of_other_bounds() -> Any:
    kept = values((9,), ff.uniform(-0.5, 2.0, endpoint=False), 0)
    w = E(9).uniform_(-0.5, 2.0)
    return w, kept, w.erfinv_().nan_to_num_(7.0)


def of_one_number() -> Any:
    kept = torch.full((9,), 0.5)
    w = E(9).uniform_(0.5, 0.5)
    return w, kept, w.erfinv_()


def far_out() -> Any:
    """Holds less than 2^-24 of the normal distribution."""
    kept = values((9,), ff.uniform(0.5, 0.5 + 2**-24, endpoint=False), 0, torch.float64)
    w = E(9, dtype=torch.float64).uniform_(0.5, 0.5 + 2**-24)
    return w, kept, w.erfinv_()


def followed() -> Any:
    kept = values((9,), ff.uniform(-0.5, 0.5, endpoint=False), 0)
    w = E(9).requires_grad_()
    with torch.no_grad():
        w.uniform_(-0.5, 0.5)
    after = w.erfinv()
    assert after.requires_grad
    return w, kept, after


@pytest.mark.parametrize(
    "case",
    [
        moved,
        other_memory,
        narrowed,
        written_behind_torchs_back,
        of_other_bounds,
        of_one_number,
        of_another_shape,
        of_another_dtype,
        of_no_tensor,
        in_a_transform,
        far_out,
        followed,
    ],
)
def test_erfinv_of_anything_else_is_torchs(case: Callable[[], Any]) -> None:
    with ft.accelerated(seed=3):
        _, before, after = case()
    expected = before.erfinv()
    assert torch.equal(after.detach(), expected.nan_to_num_(7.0) if case is of_other_bounds else expected)


def test_erfinv_in_inference_mode() -> None:
    with torch.inference_mode(), ft.accelerated(seed=3):
        got = E(40, 20).uniform_(-1, 1).erfinv_()
    expected = values((40, 20), ff.truncated_normal(0.0, math.sqrt(0.5), -math.inf, math.inf), 0)
    assert torch.equal(got, expected)


def test_a_call_that_is_being_compiled_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile reads; the slow test below compiles for real."""

    def draw() -> list[Any]:
        with ft.accelerated(seed=3):
            return [torch.rand(9), E(9).normal_(), init.trunc_normal_(E(9))]

    ours = draw()
    monkeypatch.setattr(acceleration, "_is_compiled", lambda: True)
    theirs = draw()
    assert not any(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(theirs, draw(), strict=True))


def test_timms_own_functions() -> None:
    layers = pytest.importorskip("timm.layers", reason="timm is not installed", exc_type=ImportError)
    with ft.accelerated(seed=3):
        w = layers.trunc_normal_(E(2**16, dtype=torch.bfloat16), std=0.02).float()
        v = layers.trunc_normal_tf_(E(2**16, dtype=torch.bfloat16), std=0.02).float()
    for values_ in (w, v):
        assert values_.abs().max() < 0.1
        assert 0.016 < values_.std() < 0.021


def noisy(x: Any) -> Any:
    return torch.empty_like(x).normal_() + torch.rand_like(x) + x


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "vmap, different": lambda x: torch.vmap(noisy, randomness="different")(x),
    "vmap, same": lambda x: torch.vmap(noisy, randomness="same")(x),
    "grad": lambda x: torch.func.grad(lambda y: (noisy(y) * y).sum())(x),
    "functionalize": lambda x: torch.func.functionalize(noisy)(x),
    "jvp": lambda x: torch.func.jvp(noisy, (x,), (x,))[0],
    "functional_call": lambda x: torch.func.functional_call(nn.Dropout(), {}, (x,)) + noisy(x),
    "jit.trace": lambda x: torch.jit.trace(noisy, x, check_trace=False)(x),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_draw_by_the_seed(transform: str) -> None:
    def build(seed: int) -> Any:
        torch.seed()
        with ft.accelerated(seed=seed):
            return TRANSFORMS[transform](torch.ones(4, 5))

    first = build(3)
    assert torch.equal(first, build(3))
    assert not torch.equal(first, build(4))
    if transform == "vmap, different":
        assert not torch.equal(first[0], first[1])
    if transform == "vmap, same":
        assert torch.equal(first[0], first[1])


def test_vmap_refuses_randomness_as_ever() -> None:
    with ft.accelerated(seed=3), pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(noisy)(torch.ones(4, 5))


def test_traces_hold_the_draw() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def draw(x: Any) -> Any:
        return noisy(init.uniform_(torch.empty_like(x))) + torch.randn(5)

    plain = make_fx(draw)(torch.ones(5))
    with ft.accelerated(seed=3):
        traced = make_fx(draw)(torch.ones(5))
        fake = make_fx(draw, tracing_mode="fake")(torch.ones(5))
        first = traced(torch.ones(5))
    assert traced.code == plain.code == fake.code
    with ft.accelerated(seed=3):
        make_fx(draw)(torch.ones(5))
        assert torch.equal(traced(torch.ones(5)), first)


@pytest.mark.slow  # torch's compiler alone takes 10 s to import
def test_compiled_code_draws_by_the_seed() -> None:
    def draw(x: Any) -> Any:
        y = torch.empty_like(x)
        return noisy(init.kaiming_uniform_(y) if x.ndim > 1 else y.uniform_(-1, 1).erfinv_())

    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    for x in (torch.ones(5), torch.ones(4, 5)):
        with ft.accelerated(seed=3):
            first = compiled(x)
        torch.seed()
        with ft.accelerated(seed=3):
            second = compiled(x)
        with ft.accelerated(seed=4):
            third = compiled(x)
        assert torch.equal(first, second)
        assert not torch.equal(first, third)


def test_a_recipe_that_is_traced_inside_a_block_has_laws() -> None:
    def build() -> Any:
        with ft.accelerated(seed=3):
            return nn.Linear(8, 4)

    plain = ft.recipe(lambda: nn.Linear(8, 4))
    with ft.accelerated(seed=3):
        assert ft.recipe(lambda: nn.Linear(8, 4)) == plain
    assert ft.recipe(build) == plain
