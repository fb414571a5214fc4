"""fanfill.torch's functions draw torch's distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from samples import same

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402

init = torch.nn.init
COUNT = 2**18

# (function, arguments, shape): by fans that differ, so that a mistaken fan shows.
LAWS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("uniform_", {"a": -0.25, "b": 1.5}, (COUNT,)),
    ("uniform_", {}, (COUNT,)),
    ("normal_", {"mean": 0.5, "std": 2.0}, (COUNT,)),
    ("normal_", {}, (COUNT,)),
    ("trunc_normal_", {}, (COUNT,)),
    ("trunc_normal_", {"std": 0.02}, (COUNT,)),
    ("trunc_normal_", {"mean": 1.0, "std": 2.0, "a": 0.0, "b": 1.5}, (COUNT,)),
    (
        "trunc_normal_",
        {"mean": 0.0, "std": 1.0, "a": 1.5, "b": 3.0},
        (COUNT // 2,),
    ),  # torch: 12 us a value
    ("xavier_uniform_", {"gain": 5 / 3}, (256, 1024)),
    ("xavier_normal_", {}, (64, 32, 8, 16)),
    ("xavier_normal_", {"gain": 5 / 3}, (256, 1024)),
    ("xavier_uniform_", {}, (64, 32, 8, 16)),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, (256, 1024)),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}, (64, 32, 8, 16)),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, (256, 1024)),
    ("kaiming_normal_", {"a": 0.2}, (64, 32, 8, 16)),
    ("kaiming_normal_", {"nonlinearity": "tanh"}, (256, 1024)),
    ("kaiming_normal_", {"nonlinearity": "selu"}, (256, 1024)),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law[0]}{law[1]}")
def test_distributions_are_torchs(law: Any) -> None:
    function, kwargs, shape = law
    torch.manual_seed(11)
    theirs = getattr(init, function)(torch.empty(shape), **kwargs)
    ours = getattr(ft, function)(torch.empty(shape), **kwargs)
    assert same(theirs, ours)
    assert not same(theirs, ours * 1.02)
    assert not same(theirs, ours + 0.02 * ours.std())
