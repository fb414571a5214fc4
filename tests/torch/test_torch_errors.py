"""The same wrong call to torch and to fanfill.torch: the same error, or the same warning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn.utils import parametrize  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.torch.tensors import assert_fillable  # noqa: E402

init = torch.nn.init
E = torch.empty
inf, nan = math.inf, math.nan
HALF = torch.float16


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """The error's type and first line, and the warnings' types and texts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error: Any = None
        try:
            call()
        except Exception as raised:
            # torch puts the address of its function into one message.
            error = (type(raised), str(raised).split("\n")[0].split(" in <")[0])
    return error, [(warning.category, str(warning.message)) for warning in caught]


def both(function: str, *args: Any, tensor: Callable[[], Any], **kwargs: Any) -> tuple[Any, Any]:
    return tuple(
        outcome(lambda home=home: getattr(home, function)(tensor(), *args, **kwargs)) for home in (init, ft)
    )


def kind(result: tuple[Any, ...]) -> Any:
    return result[0] and result[0][0]


# What torch's own function draws with is named in some of its errors, and was another method before 2.12.
OTHER_METHOD = torch.torch_version.TorchVersion(torch.__version__) < (2, 12)

RANDOM = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
)
CONSTANT = ("constant_", "ones_", "zeros_")

# (function, arguments): on a 4 x 4 float32 tensor, and on the same on the meta device.
ARGUMENTS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("uniform_", (1.0, 0.0), {}),
    ("uniform_", (0.0, inf), {}),
    ("uniform_", (nan, 1.0), {}),
    ("uniform_", (-3e38, 3e38), {}),
    ("uniform_", ("a", 1.0), {}),
    ("uniform_", (None,), {}),
    ("uniform_", (0, 1j), {}),
    ("uniform_", (), {"generator": "x"}),
    ("uniform_", (1.0, 1.0), {}),
    ("uniform_", (True, 2), {}),
    ("uniform_", (torch.tensor(0.0), torch.tensor(1.0)), {}),
    ("normal_", (0.0, -1.0), {}),
    ("normal_", (0.0, nan), {}),
    ("normal_", (0.0, "x"), {}),
    ("normal_", (), {"generator": 5}),
    ("normal_", (0.0, 0.0), {}),
    ("normal_", (torch.tensor(0.0), torch.tensor(1.0)), {}),
    ("trunc_normal_", (), {"a": 1.0, "b": -1.0}),
    ("trunc_normal_", (), {"a": 1.0, "b": 1.0}),
    ("trunc_normal_", (), {"std": 0.0}),
    ("trunc_normal_", (), {"std": -1.0}),
    ("trunc_normal_", (), {"mean": 4.5}),
    ("trunc_normal_", (), {"mean": -4.5}),
    ("trunc_normal_", (), {"a": -inf, "b": inf}),
    ("trunc_normal_", (), {"a": -inf, "b": -3.0}),
    ("trunc_normal_", (), {"a": nan}),
    ("trunc_normal_", (), {"a": "x"}),
    ("trunc_normal_", (), {"generator": 5}),
    ("xavier_uniform_", (), {"gain": -1.0}),
    ("xavier_normal_", (), {"gain": -1.0}),
    ("xavier_uniform_", (), {"gain": "a"}),
    ("xavier_uniform_", (), {"gain": nan}),
    ("xavier_normal_", (), {"gain": nan}),
    ("xavier_uniform_", (), {"gain": inf}),
    ("xavier_uniform_", (), {"gain": 0}),
    ("xavier_normal_", (), {"gain": 0}),
    ("kaiming_normal_", (), {"mode": "x"}),
    ("kaiming_uniform_", (), {"mode": "fan_avg"}),
    ("kaiming_normal_", (), {"mode": "FAN_OUT"}),
    ("kaiming_normal_", (), {"mode": None}),
    ("kaiming_normal_", (), {"nonlinearity": "gelu"}),
    ("kaiming_normal_", (), {"nonlinearity": None}),
    ("kaiming_normal_", (), {"a": "x"}),
    ("kaiming_normal_", (), {"a": True}),
    ("kaiming_normal_", (), {"a": None}),
    ("kaiming_normal_", (), {"a": nan}),
    ("kaiming_normal_", (), {"a": inf}),
    ("kaiming_uniform_", (), {"a": "x", "nonlinearity": "relu"}),
    ("kaiming_normal_", (), {"a": torch.tensor(1.0)}),
    ("kaiming_normal_", (), {"foo": 1}),
    ("kaiming_normal_", (0, "fan_in", "relu", None, 1), {}),
    ("constant_", ("x",), {}),
    ("constant_", (1e39,), {}),
    ("constant_", (nan,), {}),
    ("ones_", (2,), {}),
]


@pytest.mark.parametrize("call", ARGUMENTS, ids=lambda call: f"{call[0]}{call[1]}{call[2]}")
def test_arguments_are_refused_or_taken_as_torch_does(call: Any) -> None:
    function, args, kwargs = call
    theirs, ours = both(function, *args, tensor=lambda: E(4, 4), **kwargs)
    if kwargs.get("foo") or len(args) > 4:  # whose text counts the arguments, of which there are more here
        theirs, ours = kind(theirs), kind(ours)
    if OTHER_METHOD and function == "trunc_normal_" and "generator" in kwargs:
        theirs, ours = kind(theirs), kind(ours)
    assert ours == theirs


@pytest.mark.parametrize("call", ARGUMENTS, ids=lambda call: f"{call[0]}{call[1]}{call[2]}")
def test_arguments_for_meta_tensors_too(call: Any) -> None:
    function, args, kwargs = call
    theirs, ours = both(function, *args, tensor=lambda: E(4, 4, device="meta"), **kwargs)
    if kwargs.get("foo") or len(args) > 4:
        theirs, ours = theirs[0][0], ours[0][0]
    assert ours == theirs


def test_the_comparison_can_fail() -> None:
    assert outcome(lambda: init.uniform_(E(4), 1.0, 0.0)) != outcome(lambda: ft.uniform_(E(4), 2.0, 0.0))
    assert outcome(lambda: init.trunc_normal_(E(4), mean=4.5)) != outcome(lambda: ft.trunc_normal_(E(4)))


TENSORS: dict[str, Callable[[], Any]] = {
    "int32": lambda: E(4, 4, dtype=torch.int32),
    "int8": lambda: E(4, 4, dtype=torch.int8),
    "bool": lambda: E(4, 4, dtype=torch.bool),
    "float8_e8m0fnu": lambda: E(4, 4, dtype=torch.float8_e8m0fnu),
    "expanded": lambda: E(1, 4).expand(4, 4),
    "rank 1": lambda: E(4),
    "rank 0": lambda: E(()),
    "no rows": lambda: E(0, 4),
    "nothing": lambda: E(0, 0),
    "list": lambda: [1.0, 2.0],
    "None": lambda: None,
    "view of a parameter": lambda: torch.nn.Parameter(E(4, 4))[1:],
    "parameter": lambda: torch.nn.Parameter(E(4, 4)),
    "meta": lambda: E(4, 4, device="meta"),
    "meta, rank 1": lambda: E(4, device="meta"),
    "inference": lambda: inference_tensor(),
}


def inference_tensor() -> Any:
    with torch.inference_mode():
        return E(4, 4)


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("function", [*RANDOM, *CONSTANT])
def test_tensors_are_refused_or_taken_as_torch_does(function: str, tensor: str) -> None:
    args = (0.25,) if function == "constant_" else ()
    theirs, ours = both(function, *args, tensor=TENSORS[tensor])
    if OTHER_METHOD and function == "trunc_normal_" and tensor in ("list", "None"):
        theirs, ours = kind(theirs), kind(ours)
    assert ours == theirs


UNSUPPORTED: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "quantised": lambda: quantised(),
    "mkldnn": lambda: torch.zeros(4, 4).to_mkldnn(),
    "complex": lambda: E(4, 4, dtype=torch.complex64),
    "negated": lambda: torch.zeros(4, 4, dtype=torch.complex64).conj().imag,
    "jagged": lambda: nested(),
}


def quantised() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(4, 4), 1.0, 0, torch.qint8)


def nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)], layout=torch.jagged)


@pytest.mark.parametrize("kind", UNSUPPORTED)
@pytest.mark.parametrize("function", ["uniform_", "normal_"])
def test_tensors_without_plain_memory_get_torchs_kind_of_error(function: str, kind: str) -> None:
    error, warned = outcome(lambda: getattr(ft, function)(UNSUPPORTED[kind]()))
    assert error is not None
    assert issubclass(error[0], NotImplementedError)
    assert not warned
    theirs, _ = outcome(lambda: getattr(init, function)(UNSUPPORTED[kind]()))
    assert theirs is None or issubclass(theirs[0], NotImplementedError | RuntimeError)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            lambda: torch.eye(4).to_sparse(),
            r"expected a dense tensor, of layout torch.strided; got one of layout",
        ),
        (
            lambda: E(4, dtype=torch.complex64),
            "expected a tensor of one of torch.float32, .* got torch.complex64",
        ),
        (UNSUPPORTED["negated"], r"lazily negated view .* resolve_neg"),
        (lambda: E(4, device="meta"), "expected a tensor on the CPU or on a CUDA device; got one on meta"),
    ],
)
def test_refusals_say_what_to_do(tensor: Callable[[], Any], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        assert_fillable(tensor())


def test_what_autograd_has_computed_is_refused_since_the_write_would_be_lost() -> None:
    """Of a parametrized weight, torch fills a copy that nobody ever reads."""
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))
    for lost in (layer.weight, layer.weight[1:], torch.nn.Parameter(E(4, 4)) * 2):
        before = lost.detach().clone()
        with pytest.raises(RuntimeError, match=r"holds its own values; got one .*; fill those"):
            ft.normal_(lost, seed=0)
        assert torch.equal(lost, before)
    ft.normal_(layer.weight.detach(), seed=0)
    kept = torch.nn.Parameter(E(4, 4))
    ft.zeros_(kept[1:])
    ft.normal_(kept[1:], seed=0)
    assert kept[1:].all()
    buffer = torch.zeros(4, 4)
    buffer[0] = kept[0]  # a write into it is no copy of it
    ft.normal_(buffer, seed=0)
    assert buffer.all()


class Symmetric(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).T


class Transposed(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.T


def parametrized(by: Any) -> Any:
    layer = torch.nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", by)
    return layer


@pytest.mark.parametrize("seen", ["first", "after a call like it"])
def test_a_cached_parametrized_weight_is_refused_without_autograd_too(seen: str) -> None:
    layer = parametrized(Symmetric())
    if seen != "first":
        for _ in range(2):
            ft.normal_(torch.zeros(4, 4), seed=0)
            ft.normal_(torch.zeros(3, 4), seed=0)
    with torch.no_grad(), parametrize.cached():
        for lost in (layer.weight, layer.weight[1:]):
            before = lost.clone()
            with pytest.raises(RuntimeError, match=r"computed .*\(by a parametrization.*; fill those"):
                ft.normal_(lost, seed=0)
            assert torch.equal(lost, before)
        assert ft.normal_(layer.weight.detach(), seed=0).all()
        assert ft.normal_(torch.zeros(4, 4), seed=0).all()
        with ft.accelerated(seed=0):  # torch's own, which fills it
            assert layer.weight.normal_() is layer.weight
    with parametrize.cached(), pytest.raises(RuntimeError, match="computed from others"):
        ft.normal_(layer.weight, seed=0)


def test_a_parametrization_that_returns_its_original_or_a_view_of_it_loses_nothing() -> None:
    expected = ft.normal_(torch.zeros(4, 4), seed=0)
    for by in (torch.nn.Identity(), Transposed()):
        layer = parametrized(by)
        with torch.no_grad(), parametrize.cached():
            ft.normal_(layer.weight, seed=0)
        assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_init_module_fills_what_a_parametrized_weight_is_computed_from(context: Any) -> None:
    layer = parametrized(Symmetric())
    with context():
        ft.init_module(layer, 0, rules={"*.original": ff.normal()})
        with pytest.raises(ValueError, match="fits none"):
            ft.init_module(layer, 0, rules={"weight": ff.normal(), "*": "zeros"})
    original = ft.normal_(torch.zeros(4, 4), seed=0, name="parametrizations.weight.original")
    assert torch.equal(layer.weight, Symmetric()(original))


def test_elements_that_share_memory_are_refused_where_torch_lets_them_pass() -> None:
    window = torch.zeros(10).as_strided((4, 3), (1, 1))
    init.normal_(torch.zeros(10).as_strided((4, 3), (1, 1)))
    with pytest.raises(
        RuntimeError, match="more than one element of the written-to tensor refers to a single"
    ):
        ft.normal_(window, seed=0)
    assert not window.any()


BY_TORCH = "from is out of bounds for float"  # where torch refuses by itself what it lets pass elsewhere


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda w: ft.normal_(w, mean=nan),
            "expected a number as mean; got nan",
        ),
        (lambda w: ft.normal_(w, std=inf), "expected a finite std; got inf"),
        (lambda w: ft.normal_(w, std=1e-30), "expected a std of 0 or at least 2\\^-80"),
        (lambda w: ft.normal_(w.half(), std=1e6), "largest finite value of float16"),
        (lambda w: ft.trunc_normal_(w, a=20.0, b=21.0), "hold"),
        (lambda w: ft.trunc_normal_(w, std=inf), "expected a finite std"),
        (
            lambda w: ft.trunc_normal_(w, mean=nan),
            BY_TORCH if OTHER_METHOD else "expected a number as mean; got nan",
        ),
        (lambda w: ft.xavier_normal_(w, gain=inf), "expected a finite gain"),
        (lambda w: ft.variance_scaling_(w, mode="fan"), "expected a mode among"),
        (lambda w: ft.variance_scaling_(w, distribution="cauchy"), "expected a distribution among"),
        (lambda w: ft.lecun_normal_(w[0]), "fewer than 2 dimensions"),
        (
            lambda w: ft.uniform_(w.to(torch.float8_e4m3fn), -1e3, 1e3),
            "largest finite value of float8_e4m3fn",
        ),
        (lambda w: ft.normal_(w, seed=-1), r"seed: expected an integer in \[0, 2\*\*64\); got -1"),
        (lambda w: ft.normal_(w, seed=2**64), r"seed: expected an integer in \[0, 2\*\*64\)"),
        (lambda w: ft.normal_(w, seed=0, name=-1), "name: expected an integer"),
    ],
)
@pytest.mark.filterwarnings("ignore:mean is more than 2 std:UserWarning")
def test_what_fanfill_alone_refuses_is_refused_before_anything_is_written(call: Any, message: str) -> None:
    w = torch.zeros(4, 4)
    before = w._version
    refused = RuntimeError if message is BY_TORCH else ValueError
    with pytest.raises(refused, match=message):
        call(w)
    assert not w.any()
    assert w._version == before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"seed": 0, "generator": torch.Generator()}, "expected a generator or a seed; got both"),
        ({"name": "w"}, "expected a seed with the name 'w'; got none"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"seed": 0, "name": 1.5}, "name: expected an integer"),
    ],
)
def test_seeds_and_names_are_checked(kwargs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ft.normal_(E(4), **kwargs)


def test_a_refused_call_takes_nothing_from_the_generator() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(RuntimeError, match=r"std >= 0\.0"):
        ft.normal_(E(4), 0.0, -1.0, generator)
    theirs, ours = both("normal_", tensor=lambda: E(4, dtype=torch.int32), generator=generator)
    assert ours == theirs
    assert "not implemented for 'Int'" in ours[0][1]
    assert torch.equal(generator.get_state(), before)


def test_warnings_come_every_time() -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="mean is more than 2 std"):
            ft.trunc_normal_(E(4), mean=4.5)
        with pytest.warns(UserWarning, match="zero-element"):
            ft.kaiming_normal_(E(0, 4))


def test_uninitialised_parameters_are_refused_by_torch_itself() -> None:
    for function in ("uniform_", "normal_"):
        theirs, ours = both(function, tensor=torch.nn.UninitializedParameter)
        assert ours == theirs
        assert ours[0][0] is ValueError


GAINS = [("linear",), ("tanh",), ("selu",), ("leaky_relu", 0.2), ("leaky_relu", True), ("gelu",)]


@pytest.mark.parametrize("args", GAINS)
def test_calculate_gain_is_torchs(args: Any) -> None:
    assert outcome(lambda: ft.calculate_gain(*args)) == outcome(lambda: init.calculate_gain(*args))
    assert ft.calculate_gain is init.calculate_gain
