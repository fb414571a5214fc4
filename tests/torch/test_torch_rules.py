"""init_module: prefixes, rules that are functions or boxes, what a rule leaves alone, and weights that others
stand for."""

from __future__ import annotations

import re
import warnings
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.torch import sharding, zero3  # noqa: E402
from fanfill.torch.sharding import Flat, parts  # noqa: E402

nn = torch.nn


def of(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())


def drawn(shape: tuple[int, ...], law: Any, name: str, seed: int = 0) -> np.ndarray:
    return np.asarray(ff.draw(shape, law, seed=seed, name=name))


HE = ff.he_normal(in_axis=1, out_axis=0)


# Prefixes


def test_a_prefix_stands_before_each_name_as_it_is() -> None:
    whole = ft.init_module(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), 3)
    for number, layer in enumerate(nn.Linear(4, 4) for _ in range(4)):
        ft.init_module(layer, 3, prefix=f"{number}.")
        assert torch.equal(layer.weight, whole[number].weight)
        assert torch.equal(layer.bias, whole[number].bias)
    layer = ft.init_module(nn.Linear(4, 4), 3, prefix="x", rules={"xweight": HE, "xb*": "ones"})
    assert np.array_equal(of(layer.weight), drawn((4, 4), HE, "xweight", 3))
    assert (layer.bias == 1).all()


def test_a_prefix_is_in_errors_and_must_be_a_string() -> None:
    with pytest.raises(ValueError, match=r"got none for stage\.gain; name them"):
        ft.init_module(Gain(), 0, prefix="stage.")
    with pytest.raises(TypeError, match=r"prefix: expected a string, such as 'layers\.8\.'; got 8"):
        ft.init_module(nn.Linear(2, 2), 0, prefix=8)


def test_layers_rules_see_the_names_below_them_whatever_the_prefix() -> None:
    one, two = nn.MultiheadAttention(8, 2), nn.Sequential(nn.MultiheadAttention(8, 2))
    ft.init_module(one, 0, prefix="0.")
    ft.init_module(two, 0)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, two.get_parameter(f"0.{name}")), name
    assert not one.out_proj.bias.any()


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((3,), 5.0))


# None


def _quantised() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3, 3), 1.0, 0, torch.qint8)


UNFILLABLE = {
    "int8": lambda: torch.ones(3, 3, dtype=torch.int8),
    "bool": lambda: torch.ones(3, 3, dtype=torch.bool),
    "complex": lambda: torch.ones(3, 3, dtype=torch.complex64),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": _quantised,
    "expanded": lambda: torch.ones(1, 3).expand(3, 3),
    "e8m0": lambda: torch.ones(3, 3).to(torch.float8_e8m0fnu),
}


@pytest.mark.parametrize("rule", ["None", "a function that returns None"])
@pytest.mark.parametrize("kind", UNFILLABLE)
def test_none_leaves_any_parameter_alone(kind: str, rule: str) -> None:
    model = nn.Linear(3, 3)
    model.weight = nn.Parameter(UNFILLABLE[kind](), requires_grad=False)
    left = None if rule == "None" else lambda name, shape, module: None
    before = model.weight
    with pytest.raises((NotImplementedError, RuntimeError), match="parameter 'weight': "):
        ft.init_module(model, 0)  # the control
    ft.init_module(model, 0, rules={"weight": left, "bias": "ones"})
    assert model.weight is before
    assert (model.bias == 1).all()


def test_none_leaves_a_lazy_parameter_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'0\.weight', which is lazy"):
        ft.init_module(model, 0, rules={"0.weight": [(0, "zeros")]})
    with pytest.raises(ValueError, match=r"'0\.weight', which is lazy"):
        ft.init_module(model, 0, rules={"0.weight": lambda name, shape, module: None})
    ft.init_module(model, 0, rules={"0.*": None})
    assert np.array_equal(of(model[1].bias), drawn((2,), ff.uniform(-0.5, 0.5), "1.bias"))


# Functions


def test_a_rule_may_be_a_function() -> None:
    seen = []

    def depth_scaled(name: str, shape: tuple[int, ...], module: Any) -> Any:
        seen.append((name, shape, module))
        return ff.normal(std=0.02 / (1 + int(name.split(".")[0])))

    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    ft.init_module(model, 0, rules={"*.weight": depth_scaled, "*": "zeros"})
    assert seen == [("0.weight", (6, 4), model[0]), ("1.weight", (2, 6), model[1])]
    assert np.array_equal(of(model[1].weight), drawn((2, 6), ff.normal(std=0.01), "1.weight"))
    assert not model[1].bias.any()


def test_a_function_may_leave_the_decision_to_the_rules_behind_it() -> None:
    def only_biases(name: str, shape: tuple[int, ...], module: Any) -> Any:
        return "ones" if name.endswith("bias") else NotImplemented

    model = ft.init_module(nn.Linear(3, 3), 0, rules={"*": only_biases, nn.Linear: HE})
    assert (model.bias == 1).all()
    assert np.array_equal(of(model.weight), drawn((3, 3), HE, "weight"))
    model = ft.init_module(nn.Linear(3, 3), 0, rules=only_biases)
    assert torch.equal(model.weight, ft.init_module(nn.Linear(3, 3), 0).weight)
    assert (model.bias == 1).all()
    ft.init_module(nn.Identity(), 0, rules=only_biases)  # nothing to ask it about
    by_type = ft.init_module(nn.Linear(3, 3), 0, rules={nn.Linear: {"bias": only_biases}})
    assert (by_type.bias == 1).all()


# Boxes


def test_boxes_of_a_fused_weight_have_the_fans_of_their_own() -> None:
    law = ff.xavier_uniform(in_axis=1, out_axis=0)
    model = nn.Linear(8, 24)
    thirds = [(slice(8 * k, 8 * (k + 1)), ff.xavier_uniform()) for k in range(3)]
    ft.init_module(model, 0, rules={"weight": thirds, "bias": None})
    bound = law.bounds((8, 8))[1]
    whole = drawn((24, 8), ff.uniform(-bound, bound), "weight")
    assert np.array_equal(of(model.weight), whole)  # the values that the whole has there
    assert abs(of(model.weight)).max() > law.bounds((24, 8))[1]  # the control


def test_boxes_are_drawn_in_their_order_and_what_lies_in_none_is_left() -> None:
    model = nn.Linear(4, 5, bias=False)
    with torch.no_grad():
        model.weight.fill_(7.0)
    boxes = [(slice(1, None), ff.normal()), ((..., -1), "zeros"), ((2, slice(0, 2)), "ones"), (4, None)]
    ft.init_module(model, 0, rules={nn.Linear: boxes})
    expected = drawn((5, 4), ff.normal(), "weight")
    expected[0] = 7.0
    expected[:, -1] = 0.0
    expected[2, :2] = 1.0
    assert np.array_equal(of(model.weight), expected)


@pytest.mark.parametrize(
    "index", [5, -6, slice(3, 3), slice(0, 4, 2), "a", (0, 0, 0), (..., ...), True, slice("a")]
)
def test_a_box_outside_the_parameter_is_refused(index: Any) -> None:
    model = nn.Linear(4, 5)
    before = of(model.weight).copy()
    with pytest.raises(
        ValueError, match=r"rules: expected a box of the shape \(5, 4\) for 'weight': integers"
    ):
        ft.init_module(model, 0, rules={"weight": [(index, "zeros")]})
    assert np.array_equal(of(model.weight), before)


def test_a_box_of_a_tensor_without_elements_or_axes() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0, 3))
            self.one = nn.Parameter(torch.zeros(()))

    model = ft.init_module(Odd(), 0, rules={"*": [(..., "ones")]})
    assert model.one == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([3], r"expected pairs of a box and an initializer for 'weight'; got 3; for example"),
        ([(0, lambda *_: None)], "one or None for a box of 'weight'; got <function"),
        (nn.Linear, "a list of .*, a function or None for 'weight'; got <class"),
        (lambda *_: 3, "a function or None for 'weight'; got 3"),
        (b"zeros", "None for 'weight'; got b'zeros'"),
    ],
)
def test_values_of_no_kind_are_refused(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ft.init_module(nn.Linear(2, 2), 0, rules={"weight": value})


# Norms of other libraries


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))


class OnePlusRMSNorm(nn.Module):
    """It multiplies by 1 + weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))


class GatedNorm(nn.Module):
    def __init__(self, size: int, group: int, bias: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), 0.5))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None


class ShapedNorm(nn.Module):
    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape))


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (lambda: RMSNorm(6), {"weight": 1.0}),
        (lambda: OnePlusRMSNorm(6), {"weight": 0.0}),
        (lambda: GatedNorm(6, 2), {"scale": 0.5, "bias": 0.0}),
        (lambda: GatedNorm(6, 2, bias=False), {"scale": 0.5}),
        (lambda: ShapedNorm((2, 3)), {"weight": 1.0}),
    ],
)
def test_norms_begin_with_what_their_constructor_gives_them(layer: Any, values: dict[str, float]) -> None:
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        model = nn.Sequential(layer())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    ft.init_module(model, 0)
    assert {name: set(p.flatten().tolist()) for name, p in model[0].named_parameters()} == {
        name: {value} for name, value in values.items()
    }
    assert torch.equal(state, torch.random.get_rng_state())


def test_norms_of_transformers_begin_as_their_models_make_them() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for kind in (GemmaRMSNorm, LlamaRMSNorm, T5LayerNorm):
        made = kind(6)
        expected = made.weight.detach().clone()
        with torch.no_grad():
            made.weight.fill_(9.0)
        assert torch.equal(ft.init_module(made, 0).weight, expected), kind


class ConfiguredNorm(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.size))


class RandomNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))


class UnwrittenNorm(nn.Module):
    """Its memory, fresh from the system, would be zeros."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))


class OldUnwrittenNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.Tensor(size))


class MixedNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.table = nn.Parameter(torch.ones(size, 2))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: ConfiguredNorm(SimpleNamespace(size=4)),
        lambda: RandomNorm(4),
        lambda: MixedNorm(4),
        lambda: UnwrittenNorm(1 << 20),
        lambda: OldUnwrittenNorm(1 << 20),
    ],
)
def test_a_norm_whose_beginning_cannot_be_told_needs_a_rule(layer: Any) -> None:
    state = torch.random.get_rng_state()
    model = layer()
    drew = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="got none for weight"):
        ft.init_module(model, 0)
    assert torch.equal(drew, torch.random.get_rng_state())
    torch.random.set_rng_state(state)


# weight_norm and spectral_norm


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("how", ["parametrized", "by a hook"])
def test_weight_norm_gives_the_weight_that_was_drawn(how: str, dim: int | None) -> None:
    wrap = nn.utils.parametrizations.weight_norm if how == "parametrized" else _old(nn.utils.weight_norm)
    model = nn.Sequential(wrap(nn.Conv1d(4, 6, 3), dim=dim), nn.Linear(6, 2))
    direction = "0.parametrizations.weight.original1" if how == "parametrized" else "0.weight_v"
    ft.init_module(model, 0)
    law = ff.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0)
    expected = drawn((6, 4, 3), law, direction)
    assert np.array_equal(of(model.get_parameter(direction)), expected)
    if how == "by a hook":
        model[0](torch.zeros(1, 4, 5))
    assert np.allclose(of(model[0].weight), expected, atol=1e-7)
    bias = drawn((6,), ff.uniform(-(12**-0.5), 12**-0.5), "0.bias")
    assert np.array_equal(of(model[0].bias), bias)


def _old(function: Any) -> Any:
    def wrap(layer: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(layer, **kwargs)

    return wrap


def test_weight_norm_by_rules() -> None:
    def made() -> Any:
        return nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))

    model = ft.init_module(made(), 0, rules={nn.Linear: ff.he_normal()})
    name = "parametrizations.weight.original1"
    assert np.array_equal(of(model.get_parameter(name)), drawn((6, 4), HE, name))
    assert np.allclose(of(model.weight), drawn((6, 4), HE, name), atol=1e-6)
    model = ft.init_module(made(), 0, rules={"*original0": "ones"})
    assert (model.parametrizations.weight.original0 == 1).all()
    model = made()
    before = model.parametrizations.weight.original0.detach().clone()
    ft.init_module(model, 0, rules={"*original1": None})  # then the magnitude is left, too
    assert torch.equal(model.parametrizations.weight.original0, before)


@pytest.mark.parametrize("how", ["parametrized", "by a hook"])
def test_spectral_norms_original_is_drawn_as_the_weight(how: str) -> None:
    wrap = nn.utils.parametrizations.spectral_norm if how == "parametrized" else _old(nn.utils.spectral_norm)
    model = ft.init_module(wrap(nn.Linear(4, 6)), 0)
    name = "parametrizations.weight.original" if how == "parametrized" else "weight_orig"
    law = ff.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0)
    assert np.array_equal(of(model.get_parameter(name)), drawn((6, 4), law, name))
    assert np.array_equal(of(model.bias), drawn((6,), ff.uniform(-0.5, 0.5), "bias"))


def test_other_parametrizations_need_a_rule_for_their_weight_alone() -> None:
    class Symmetric(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.triu() + x.triu(1).T

    model = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(model, "weight", Symmetric())
    with pytest.raises(ValueError, match=r"got none for parametrizations\.weight\.original; name them"):
        ft.init_module(model, 0)
    ft.init_module(model, 0, rules={"*.original": HE})
    assert np.array_equal(of(model.bias), drawn((4,), ff.uniform(-0.5, 0.5), "bias"))


# ZeRO-3, by parameters that look like DeepSpeed's


class Status(Enum):
    AVAILABLE = 1
    NOT_AVAILABLE = 2
    INFLIGHT = 3


def partitioned(parameter: Any, rank: int, ranks: int, gathered: bool = False) -> Any:
    """What DeepSpeed makes of a parameter on one rank."""
    size = -(-parameter.numel() // ranks)
    parameter.ds_shape, parameter.ds_status = parameter.shape, Status.NOT_AVAILABLE
    parameter.ds_tensor = torch.full((size,), 9.0, dtype=parameter.dtype)
    parameter.ds_tensor.ds_numel, parameter.ds_tensor.final_location = size, None
    parameter.ds_tensor.status = Status.AVAILABLE
    parameter.ds_process_group, parameter.ds_secondary_tensor = rank, None
    if gathered:
        parameter.ds_status = Status.AVAILABLE
    else:
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    return parameter


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: group)


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5, padding_idx=3)
        self.linear = nn.Linear(5, 3)
        self.norm = RMSNorm(5)
        self.conv = nn.Conv1d(3, 2, 3)


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("gathered", [False, True])
def test_each_rank_fills_its_range_under_zero3(ranks: int, gathered: bool) -> None:
    rules = {"conv.weight": [(..., ff.normal()), ((..., 1), "ones"), ((1, slice(0, 2)), "zeros")]}
    whole = ft.init_module(Zero(), 4, rules=rules)
    model = [Zero() for _ in range(ranks)]
    for rank, own in enumerate(model):
        for parameter in own.parameters():
            partitioned(parameter, rank, ranks, gathered)
        ft.init_module(own, 4, rules=rules)
    for name, expected in whole.named_parameters():
        ranges = torch.cat([own.get_parameter(name).ds_tensor for own in model])
        assert torch.equal(ranges[: expected.numel()], expected.detach().flatten()), name
        assert (ranges[expected.numel() :] == 9.0).all()  # padding
        if gathered:
            assert all(torch.equal(own.get_parameter(name), expected) for own in model)


def _set(**entries: Any) -> Any:
    def change(parameter: Any) -> None:
        for name, value in entries.items():
            where = (
                parameter.ds_tensor if name in ("status", "final_location", "ds_quant_scale") else parameter
            )
            setattr(where, name, value)

    return change


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(ds_status=Status.INFLIGHT), "that is INFLIGHT; wait for the gathering"),
        (_set(ds_tensor=None), "without a partition; fill the model before"),
        (_set(final_location="nvme"), "whose partition is offloaded to NVMe"),
        (_set(status=Status.NOT_AVAILABLE), "whose partition is offloaded to NVMe"),
        (_set(ds_quant_scale=1.0), "whose partition is quantised"),
        (_set(ds_secondary_tensor=torch.ones(3)), r"with a secondary partition \(hpZ\)"),
        (_set(ds_process_group=-1), "of a group of other ranks"),
    ],
)
def test_what_zero3_keeps_elsewhere_is_refused_by_name(change: Any, message: str) -> None:
    model = nn.Linear(4, 4)
    change(partitioned(model.weight, 0, 2))
    bias = of(model.bias).copy()
    expected = rf"parameter 'weight': expected a ZeRO-3 parameter .* of shape \(4, 4\) {message}"
    with pytest.raises(ValueError, match=expected):
        ft.init_module(model, 0)
    assert np.array_equal(of(model.bias), bias)
    ft.init_module(model, 0, rules={"weight": None})


@pytest.mark.usefixtures("groups")
def test_a_gathered_parameter_without_a_partition_is_filled_as_a_whole() -> None:
    model = nn.Linear(4, 4)
    _set(ds_tensor=None)(partitioned(model.weight, 0, 2, gathered=True))
    ft.init_module(model, 0)
    assert torch.equal(model.weight, ft.init_module(nn.Linear(4, 4), 0).weight)
    assert zero3.is_zero3(model.weight)


@pytest.mark.usefixtures("groups")
def test_a_sharded_magnitude_needs_a_rule() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    for parameter in model.parameters():
        partitioned(parameter, 0, 2)
    before = model.bias.ds_tensor.clone()
    with pytest.raises(
        ValueError, match=r"'parametrizations\.weight\.original0': expected a weight_norm that no"
    ):
        ft.init_module(model, 0)
    assert torch.equal(model.bias.ds_tensor, before)
    ft.init_module(model, 0, rules={"*original0": "ones"})


def test_a_box_of_a_flat_range_is_its_runs() -> None:
    local = torch.zeros(20)
    place = Flat(local, (4, 3, 5), 10)
    for box in (None, (slice(0, 4), slice(1, 2), slice(0, 5)), (slice(1, 3), slice(0, 3), slice(2, 4))):
        local.zero_()
        for part in parts(place, box):
            part.tensor.fill_(1.0)
        whole = torch.zeros(4, 3, 5)
        whole[box or ...] = 1.0
        assert torch.equal(local, whole.flatten()[10:30])
    assert list(sharding._runs((), None)) == [(0, 1)]
    assert len(list(sharding._runs((4, 3, 5), (slice(1, 3), slice(0, 3), slice(0, 5))))) == 1


# Names


def test_names_are_those_of_named_parameters() -> None:
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    names: list[str] = []
    ft.init_module(model, 0, rules=lambda name, shape, module: names.append(name) or NotImplemented)
    assert names == [name for name, _ in model.named_parameters()]


def test_regular_expressions_fit_the_whole_name() -> None:
    with pytest.raises(ValueError, match="which fits none"):
        ft.init_module(nn.Linear(2, 2), 0, rules={re.compile("weigh"): "zeros"})
