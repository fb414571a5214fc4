"""init_module: names, rules, and nothing written on an error."""

from __future__ import annotations

import copy
import io
import re
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill import progress  # noqa: E402

nn = torch.nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.body = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(5.0))

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        for layer in self.body:
            x = layer(x)
        return self.head(self.norm(x))


def state(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_parameter_has_the_values_of_its_name() -> None:
    model = ft.init_module(Net(), 7)
    weight = model.body[1].weight.detach().numpy()
    law = ff.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0)
    assert np.array_equal(weight, ff.draw((8, 8), law, seed=7, name="body.1.weight"))
    bias = ff.draw((8,), ff.uniform(-(8**-0.5), 8**-0.5), seed=7, name="body.1.bias")
    assert np.array_equal(model.body[1].bias.detach().numpy(), bias)
    assert torch.equal(model.table, torch.arange(5.0))
    assert not torch.equal(model.body[0].weight, model.body[1].weight)


def test_a_tied_parameter_is_filled_once_under_its_first_name() -> None:
    calls = []
    model = ft.init_module(Net(), 7, progress=lambda *numbers: calls.append(numbers))
    assert model.head.weight is model.embed.weight
    values = ff.draw((20, 8), ff.normal(), seed=7, name="embed.weight")
    assert np.array_equal(model.head.weight.detach().numpy(), values)
    whole = sum(p.numel() for p in model.parameters())
    assert calls[-1] == (whole, whole)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert {of for _, of in calls} == {whole}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str
)
def test_models_of_any_float_dtype(dtype: Any) -> None:
    model = ft.init_module(Net().to(dtype), 7)
    expected = ft.normal_(torch.empty(20, 8, dtype=dtype), seed=7, name="embed.weight")
    kind = torch.uint8
    assert torch.equal(model.embed.weight.detach().view(kind), expected.view(kind))


def test_a_model_from_the_meta_device() -> None:
    with torch.device("meta"):
        model = Net()
    assert ft.init_module(model, 7) is model  # shapes without memory: nothing to fill
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    model.head.weight = model.embed.weight
    assert_equal(state(ft.init_module(model, 7)), state(ft.init_module(Net(), 7)))


def test_wrappers_do_not_count_as_names() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain = state(ft.init_module(Net(), 7))

    checkpointed = Net()
    checkpointed.body[1] = checkpoint_wrapper(checkpointed.body[1])
    ft.init_module(checkpointed, 7)
    assert torch.equal(checkpointed.body[1].weight, plain["body.1.weight"])

    compiled = Net()
    compiled.body[0] = torch.compile(compiled.body[0], backend="eager")
    wrapped = torch.compile(compiled, backend="eager")
    ft.init_module(wrapped, 7)
    assert_equal(dict(zip(plain, state(wrapped).values(), strict=True)), plain)

    parallel = nn.DataParallel(Net())
    ft.init_module(parallel, 7)
    assert_equal({name.removeprefix("module."): p for name, p in state(parallel).items()}, plain)


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    outer = nn.Module()
    outer.module = nn.Linear(3, 4)
    ft.init_module(outer, 7)
    direct = ft.init_module(nn.Linear(3, 4), 7)
    assert not torch.equal(outer.module.weight, direct.weight)


def test_values_do_not_depend_on_what_else_is_in_the_model() -> None:
    class More(Net):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.extra = nn.Linear(3, 3)
            Net.__init__(self)
            first = nn.Linear(3, 3)
            modules, self._modules = dict(self._modules), {"first": first}
            self._modules.update(modules)

    few, many = state(ft.init_module(Net(), 7)), state(ft.init_module(More(), 7))
    assert len(many) == len(few) + 2
    assert_equal(few, {name: many[name] for name in few})


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((8,), 3.0))
        self.inner = nn.Linear(8, 8)


def test_a_parameter_without_a_rule_is_an_error_that_names_it() -> None:
    model = nn.Sequential(Scale(), nn.Linear(8, 8))
    before = state(model)
    with pytest.raises(ValueError, match=r"expected a rule for every .*; got none for 0\.gain; name them"):
        ft.init_module(model, 0)
    assert_equal(state(model), before)
    ft.init_module(model, 0, on_missing="leave")
    assert (model[0].gain == 3.0).all()
    assert not torch.equal(model[1].weight, before["1.weight"])


def test_a_layer_with_a_reset_of_its_own_is_no_layer_of_torchs() -> None:
    class Mine(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self.weight)

    class Named(nn.Linear):
        pass

    with pytest.raises(ValueError, match="got none for weight, bias"):
        ft.init_module(Mine(3, 4), 0)
    assert_equal(state(ft.init_module(Named(3, 4), 0)), state(ft.init_module(nn.Linear(3, 4), 0)))


def test_rules_by_name_by_expression_and_by_type() -> None:
    rules = {
        "0.gain": ff.constant(2.0),
        re.compile(r".*\.bias"): "zeros",
        nn.Linear: ff.he_normal(),
        "norm*": None,
        nn.LayerNorm: {"weight": "ones", "bias": ff.constant(0.5)},
    }
    model = nn.Sequential(Scale(), nn.Linear(16, 8), nn.LayerNorm(8))
    model.add_module("norm", nn.LayerNorm(8))
    with torch.no_grad():
        model.norm.weight.fill_(9.0)
    ft.init_module(model, 3, rules=rules)
    assert (model[0].gain == 2.0).all()
    assert not model[1].bias.any()
    assert not model[2].bias.any()  # the expression comes first
    assert (model.norm.weight == 9.0).all()
    # An initializer with the default axes gets torch's layout.
    law = ff.he_normal(in_axis=1, out_axis=0)
    assert np.array_equal(model[1].weight.detach().numpy(), ff.draw((8, 16), law, seed=3, name="1.weight"))
    named = ft.init_module(nn.Linear(16, 8), 3, rules={"weight": "he_normal"})
    assert np.array_equal(named.weight.detach().numpy(), ff.draw((8, 16), law, seed=3, name="weight"))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"rules": {"wieght": "zeros"}}, ValueError, "expected each key to fit a parameter .* got 'wieght'"),
        ({"rules": {"*": "zeros", "weight": "ones"}}, ValueError, "no key before it fits; got 'weight'"),
        ({"rules": {3: "zeros"}}, TypeError, "expected a name, a compiled .* type of module; got 3"),
        ({"rules": {int: "zeros"}}, TypeError, "type of module; got <class 'int'>"),
        ({"rules": {"weight": 3}}, TypeError, "expected an Initializer, .* for 'weight'; got 3"),
        ({"rules": {"weight": {"weight": "ones"}}}, TypeError, "one initializer for the name 'weight'"),
        ({"rules": {"weight": "xaver"}}, ValueError, "expected the name of an initializer; got 'xaver'"),
        ({"rules": ["weight"]}, TypeError, "rules: expected a mapping"),
        ({"rules": {"bias": "he_normal"}}, ValueError, "parameter 'bias': "),
        ({"rules": {"bias": ff.normal(std=1e-30)}}, ValueError, "parameter 'bias': expected a std of 0 or"),
        ({"on_missing": "skip"}, ValueError, "on_missing: expected 'error' or 'leave'; got 'skip'"),
        ({"progress": 3}, TypeError, "progress: expected a callable"),
        ({"seed": -1}, ValueError, "seed: expected an integer"),
        ({"seed": "a"}, TypeError, "seed: expected an integer"),
        ({"module": 3}, TypeError, "expected a torch.nn.Module; got int"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(kwargs: Any, error: Any, message: str) -> None:
    model = nn.Linear(5, 4)
    before = state(model)
    with pytest.raises(error, match=message):
        ft.init_module(**{"module": model, "seed": 0, **kwargs})
    assert_equal(state(model), before)


def test_parameters_that_cannot_be_filled_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4))
    model[1].weight = nn.Parameter(torch.zeros(1, 3).expand(4, 3))
    before = state(model)
    with pytest.raises(RuntimeError, match=r"parameter '1\.weight': unsupported operation"):
        ft.init_module(model, 0)
    assert_equal(state(model), before)
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))  # alike
    with pytest.raises(RuntimeError, match=r"parameter '0\.weight': .*[Ii]nference"):
        ft.init_module(model, 0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    for layer in model[1:]:
        layer.weight = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
        layer.weight.mul_(torch.ones((), requires_grad=True))  # autograd has computed it
    before = state(model)
    with pytest.raises(RuntimeError, match=r"parameter '1\.weight': expected"):
        ft.init_module(model, 0)
    assert_equal(state(model), before)
    whole = nn.Linear(3, 4)
    whole.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(RuntimeError) as theirs:  # NotImplementedError in newer releases
        nn.init.normal_(torch.zeros(4, 3, dtype=torch.int8))
    with pytest.raises(theirs.type, match=r"parameter 'weight': \"normal_kernel_cpu\""):
        ft.init_module(whole, 0)


def test_lazy_parameters_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.LazyLinear(4)
    with pytest.raises(
        ValueError, match="expected parameters that have shapes; got 'weight', which is lazy; call the model"
    ):
        ft.init_module(model, 0)


def test_a_parameters_grad_and_version_are_as_after_an_in_place_fill() -> None:
    model = nn.Linear(5, 4)
    before = model.weight._version
    ft.init_module(model, 0)
    assert model.weight._version > before
    assert model.weight.grad is None
    assert model.weight.requires_grad


def test_a_copy_has_the_same_values() -> None:
    model = Net()
    twin = copy.deepcopy(model)
    assert_equal(state(ft.init_module(model, 1)), state(ft.init_module(twin, 1)))
    assert not torch.equal(ft.init_module(twin, 2).body[0].weight, model.body[0].weight)


def test_progress_may_be_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "_view", lambda: progress._Line(shown))
    ft.init_module(torch.nn.Linear(3, 2), 0, progress=True)
    assert re.search(r"filling .*100 %  8 values of 8 values.*\n$", shown.getvalue())
