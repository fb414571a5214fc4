"""fanfill.torch has every name of torch.nn.init; orthogonal_, sparse_, eye_ and dirac_."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.nn import init  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.job import Job  # noqa: E402
from fanfill.torch import modules, tensors  # noqa: E402
from fanfill.torch.sharding import Part  # noqa: E402

E = torch.empty
NAMES = [
    name
    for name, found in vars(init).items()
    if not name.startswith("_") and getattr(found, "__module__", "") == init.__name__
]
DEPRECATED = [name for name in NAMES if f"{name}_" in NAMES]


def expected(law: ff.Initializer, shape: tuple[int, ...], **key: Any) -> torch.Tensor:
    return torch.from_numpy(ff.draw(shape, law, **key))


@pytest.mark.parametrize("name", NAMES)
def test_every_function_of_torchs_is_here_and_takes_what_torchs_takes(name: str) -> None:
    assert len(NAMES) >= 26
    assert name in ft.__all__
    if getattr(ft, name) is getattr(init, name):
        return
    ours = list(inspect.signature(getattr(ft, name), follow_wrapped=False).parameters.values())
    theirs = list(inspect.signature(getattr(init, name), follow_wrapped=False).parameters.values())
    for own, their in zip(ours, theirs, strict=False):
        assert (own.name, own.kind, own.default) == (their.name, their.kind, their.default)
    added = {parameter.name for parameter in ours[len(theirs) :]}
    assert added <= {"seed", "name", "global_shape", "offset"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in ours[len(theirs) :])


@pytest.mark.parametrize("name", DEPRECATED)
def test_old_names_warn_and_do_the_same(name: str) -> None:
    assert len(DEPRECATED) == 11
    shape = (6, 4, 3) if name == "dirac" else (6, 4)
    arguments = {"constant": (0.3,), "sparse": (0.5,)}.get(name, ())
    torch.manual_seed(1)
    with pytest.warns(FutureWarning) as caught:
        made = getattr(ft, name)(E(shape), *arguments)
    with pytest.warns(FutureWarning) as torchs:
        getattr(init, name)(E(shape), *arguments)
    assert [str(w.message) for w in caught] == [str(w.message) for w in torchs]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(1)
        assert torch.equal(made, getattr(ft, f"{name}_")(E(shape), *arguments))
    assert getattr(ft, name).__name__ == name


def test_values_are_those_of_fill_with_torchs_axes() -> None:
    key: dict[str, Any] = {"seed": 4, "name": "w"}
    for shape in ((6, 9), (9, 6), (7, 4, 3)):
        made = ft.orthogonal_(E(shape), 2.0, **key)
        assert torch.equal(made, expected(ff.orthogonal(2.0, out_axis=0), shape, **key))
        turned = ft.orthogonal_(E(shape[::-1]).permute(*range(len(shape))[::-1]), 2.0, **key)
        assert torch.equal(turned, made)
    made = ft.sparse_(E(40, 9), 0.3, 0.5, **key)
    assert torch.equal(made, expected(ff.sparse(0.3, 0.5), (40, 9), **key))
    part = ft.sparse_(E(40, 4), 0.3, 0.5, **key, global_shape=(40, 9), offset=(0, 5))
    assert torch.equal(part, made[:, 5:])
    part = ft.orthogonal_(E(3, 9), **key, global_shape=(9, 9), offset=(6, 0))
    assert torch.equal(part, ft.orthogonal_(E(9, 9), **key)[6:])
    part = ft.eye_(E(3, 4), global_shape=(9, 9), offset=(3, 1))
    assert torch.equal(part, torch.eye(9)[3:6, 1:5])
    part = ft.dirac_(E(3, 2, 3), 2, global_shape=(8, 2, 3), offset=(3, 0, 0))
    assert torch.equal(part, init.dirac_(E(8, 2, 3), 2)[3:6])
    assert torch.equal(ft.eye_(E(3, 4)), torch.eye(3, 4))
    assert torch.equal(ft.dirac_(E(6, 2, 5), 3), init.dirac_(E(6, 2, 5), 3))


def test_torchs_generator_governs_the_values_and_the_rows() -> None:
    for draw in (ft.orthogonal_, lambda w, **how: ft.sparse_(w, 0.5, **how)):
        torch.manual_seed(7)
        one = draw(E(9, 9))
        two = draw(E(9, 9))
        torch.manual_seed(7)
        assert torch.equal(draw(E(9, 9)), one)
        assert not torch.equal(one, two)
        generator = torch.Generator().manual_seed(7)
        assert torch.equal(draw(E(9, 9), generator=generator), one)


def test_no_random_number_is_taken_for_what_is_not_random() -> None:
    before = torch.get_rng_state()
    ft.eye_(E(3, 4), global_shape=(9, 9))
    ft.dirac_(E(3, 2, 3), global_shape=(4, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_are_filled_outside_of_autograd_and_meta_tensors_stay() -> None:
    for function in (ft.orthogonal_, lambda w: ft.sparse_(w, 0.1)):
        weight = nn.Parameter(E(5, 4))
        assert function(weight) is weight
        assert weight._version > 0
        assert weight.grad_fn is None
        assert function(E(5, 4, device="meta")).is_meta
    assert ft.orthogonal_(E(0, 4)).shape == (0, 4)


def test_subclasses_see_the_call() -> None:
    seen = []

    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    for function, arguments in ((ft.orthogonal_, ()), (ft.sparse_, (0.5,))):
        w = torch.zeros(9, 4).as_subclass(Loud)
        seen.clear()
        assert function(w, *arguments, seed=3) is w
        assert seen[0] is function
        assert torch.equal(w.as_subclass(torch.Tensor), function(E(9, 4), *arguments, seed=3))


WRONG: list[Callable[[Any], Any]] = [
    lambda home: home.orthogonal_(E(4)),
    lambda home: home.sparse_(E(4, 4, 4), 0.1),
    lambda home: home.eye_(E(4)),
    lambda home: home.dirac_(E(4, 4)),
    lambda home: home.dirac_(E(4, 4, 4), 3),
    lambda home: home.orthogonal_(E(4, 4, dtype=torch.int32)),
    lambda home: home.sparse_(E(4, 4, dtype=torch.int32), 0.1),
    lambda home: home.orthogonal_(E(4, 4), generator=5),
    lambda home: home.sparse_(E(4, 4), 0.1, generator=5),
]


@pytest.mark.parametrize("call", WRONG)
def test_mistakes_get_torchs_errors(call: Callable[[Any], Any]) -> None:
    errors = []
    for home in (init, ft):
        with pytest.raises((ValueError, TypeError, RuntimeError, NotImplementedError)) as caught:
            call(home)
        errors.append((caught.type, str(caught.value).split("\n")[0].split(" in <")[0]))
    assert errors[0] == errors[1]


def test_parts_of_what_has_no_such_matrix_get_torchs_errors_too() -> None:
    with pytest.raises(ValueError, match="Only tensors with 2 dimensions are supported"):
        ft.eye_(E(4), global_shape=(9,))
    with pytest.raises(ValueError, match="Only tensors with 3, 4, or 5 dimensions are supported"):
        ft.dirac_(E(4, 4), global_shape=(9, 9))
    with pytest.raises(ValueError, match="dim 0 must be divisible by groups"):
        ft.dirac_(E(4, 4, 1), 2, global_shape=(9, 9, 1))
    with pytest.raises(ValueError, match=r"a sparsity in \[0, 1\]; got 1.5"):
        ft.sparse_(E(4, 4), 1.5)


def test_fill_wants_torchs_axes_said_where_they_matter() -> None:
    with pytest.raises(ValueError, match=r"got orthogonal\(1.0\), whose axes are .*; pass out_axis=0, or"):
        ff.fill(E(4, 3, 3), ff.orthogonal(), seed=0)
    with pytest.raises(
        ValueError, match=r"got dirac\(1\), whose axes are .*; pass in_axis=1, out_axis=0, or"
    ):
        ff.fill(E(4, 3, 3), ff.dirac(), seed=0)
    assert torch.equal(ff.fill(E(4, 3), ff.orthogonal(), seed=0), ft.orthogonal_(E(4, 3), seed=0))


def test_init_module_draws_them_by_rules() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Conv2d(3, 4, 3), nn.Linear(5, 5), nn.Linear(40, 3))
    rules: Any = {
        "0.weight": "orthogonal",
        "1.weight": ff.dirac(),
        "2.weight": "eye",
        "3.weight": ff.sparse(0.5),
        "*.bias": "zeros",
    }
    ft.init_module(model, 2, rules=rules)
    weights = [layer.weight.detach() for layer in model]
    assert torch.equal(weights[0], expected(ff.orthogonal(), (5, 4), seed=2, name="0.weight"))
    assert torch.equal(weights[1], init.dirac_(E(4, 3, 3, 3)))
    assert torch.equal(weights[2], torch.eye(5))
    assert torch.equal(weights[3], expected(ff.sparse(0.5), (3, 40), seed=2, name="3.weight"))
    with pytest.raises(ValueError, match=r"initializer of single values for a box of '0.weight'; got orthog"):
        ft.init_module(model, 2, rules={"0.weight": [(slice(0, 2), "orthogonal")]})
    with pytest.raises(ValueError, match=r"parameter '0.bias': expected a shape of at least 2 axes for orth"):
        ft.init_module(model, 2, rules={"*.bias": "orthogonal"})


def test_what_is_computed_on_the_cpu_is_copied_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    law, key = ff.orthogonal(out_axis=0), (3, "w")
    there = nn.Parameter(E(5, 4))  # stands for a tensor on a device, of which only copy_ is asked
    tensors.fill_by_copy(there, law, *key)
    assert torch.equal(there.detach(), expected(law, (5, 4), seed=3, name="w"))
    assert there._version > 0

    class Device:
        """What `fill_memory` and `init_module` ask a CUDA tensor."""

        is_cuda, shape, dtype = True, (5, 4), torch.float32

        def copy_(self, made: torch.Tensor) -> None:
            self.made = made

    device: Any = Device()
    assert tensors.fill_memory(device, law, *key) is None
    assert torch.equal(device.made, there.detach())
    job = modules._Task("w", nn.Parameter(E(5, 4)), [object()], [modules.Draw(law)])  # type: ignore[list-item]
    monkeypatch.setattr(
        modules,
        "parts",
        lambda place, box: [Part(device, (0, 0))],
    )
    device.made = None
    place: Any = type("Place", (), {"local": None, "global_shape": (5, 4)})()
    modules._fill_all(Job(3, None), [job._replace(places=[place])], 3, None)
    assert np.array_equal(device.made.numpy(), there.detach().numpy())


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large, self.scaled, self.sparse, self.eye = (nn.Linear(2200, 30, bias=False) for _ in range(4))
        self.conv, self.small = nn.Conv2d(8, 4, 3, bias=False), nn.Linear(6, 6, bias=False)
        self.gates = nn.Linear(4, 8, bias=False)
        init.orthogonal_(self.large.weight, gain=2.0)
        init.orthogonal_(self.small.weight)
        init.orthogonal_(self.scaled.weight).data.mul_(0.25)
        init.dirac_(self.conv.weight, 2)
        init.sparse_(self.sparse.weight, sparsity=0.1)
        init.eye_(self.eye.weight)
        for half in self.gates.weight.data.chunk(2):
            init.orthogonal_(half)


def test_recipes_know_them(tmp_path: Any) -> None:
    found = ft.recipe(Layers)
    laws = {name.removesuffix(".weight"): tensor.whole_law() for name, tensor in found.tensors.items()}
    assert laws == {
        "large": ff.orthogonal(2.0, out_axis=0),
        "small": ff.orthogonal(1.0, out_axis=0),
        "scaled": ff.orthogonal(0.25, out_axis=0),
        "conv": ff.dirac(2, in_axis=1, out_axis=0),
        "sparse": ff.sparse(0.1),
        "eye": ff.identity(),
        "gates": None,
    }
    assert found.tensors["gates.weight"].values is not None  # two matrices in one tensor are no law
    assert type(found).loads(found.dumps()) == found
    model = ft.init_module(Layers(), 5, rules=found)
    found.write(tmp_path, 5, threads=2)
    from safetensors.torch import load_file

    (file,) = tmp_path.glob("*.safetensors")
    written = load_file(file)
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    drawn = expected(ff.orthogonal(2.0), (30, 2200), seed=5, name="large.weight")
    assert torch.equal(written["large.weight"], drawn)
