"""What the interface says to callers who expect another library's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fanfill as ff


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ff.normal(stddev=0.02),
            "the arguments mean, std for normal; got stddev; write std for stddev",
        ),
        (lambda: ff.normal(loc=1, scale=2), "write mean for loc; write std for scale"),
        (lambda: ff.uniform(minval=0, maxval=1), "write high for maxval; write low for minval"),
        (lambda: ff.uniform(a=0, b=1), "write low for a; write high for b"),
        (lambda: ff.truncated_normal(a=-1, b=1), "write lower for a; write upper for b"),
        (lambda: ff.kaiming_uniform(a=5**0.5), "for he_uniform; got a; write negative_slope for a"),
        (lambda: ff.he_normal(nonlinearity="relu"), "leave out nonlinearity: a leaky ReLU's slope is"),
        (lambda: ff.normal(seed=1), "leave out seed: pass it to fill or draw"),
        (lambda: ff.normal(0.0, 1.0, dtype="float32"), "leave out dtype: pass it to draw, or fill a buffer"),
        (lambda: ff.constant(val=1), "write value for val"),
        (lambda: ff.lecun_normal(colour=1), "got colour; leave out colour"),
        (lambda: ff.initializer("normal", stddev=1), "write std for stddev"),
        (lambda: ff.initializer("uniform", minval=1), "write low for minval; add high, low"),
        (lambda: ff.uniform(1), "missing 1 required positional argument: 'high'"),
        (lambda: ff.normal("a"), "expected a real number as mean"),
        (lambda: ff.xavier_normal(gain="tanh"), r"as gain; got 'tanh'; write gain=gain\('tanh'\)"),
        (lambda: ff.truncated_normal(absolute=1), "expected True or False as absolute; got 1; give a bool"),
    ],
)
def test_a_wrong_argument_is_told_what_it_is_called_here(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "text",
    [
        "he_normal()",
        "he_uniform('fan_out')",
        "he_normal(truncated=True)",
        "xavier_normal(truncated=True, in_axis=1, out_axis=0)",
        "xavier_uniform()",
        "lecun_uniform(batch_axis=0)",
        "lecun_normal()",
        "variance_scaling(2.0, 'fan_avg', 'normal')",
        "variance_scaling(2.0, 'fan_geo_avg', 'uniform')",
        "variance_scaling(1.0, 'fan_out', 'truncated_normal', in_axis=1)",
    ],
)
def test_an_initializer_shows_the_name_that_people_know(text: str) -> None:
    assert repr(eval(text, vars(ff).copy())) == text


def test_absolute_cuts_are_values() -> None:
    law = ff.truncated_normal(0.5, 0.25, 0.0, 1.25, absolute=True)
    assert law == ff.truncated_normal(0.5, 0.25, -2.0, 3.0)
    assert law.bounds(()) == (0.0, 1.25)
    far = ff.truncated_normal(0, 0.02, -2, 2, absolute=True).bounds(())
    assert far == pytest.approx((-2.0, 2.0), rel=1e-15)
    with pytest.raises(ValueError, match=r"lower < upper; got lower=1.0, upper=0.0; the cuts are values"):
        ff.truncated_normal(0, 1, 1, 0, absolute=True)
    with pytest.raises(ValueError, match=r"std > 0 with absolute cuts; got std=0.0; write constant\(3.0\)"):
        ff.truncated_normal(3, 0, 1, 4, absolute=True)


def test_seeds_come_from_what_other_libraries_call_one() -> None:
    assert [ff.seed_from(number) for number in (5, -1, 2**64 + 3, np.int8(-2))] == [
        5,
        2**64 - 1,
        3,
        2**64 - 2,
    ]
    assert ff.seed_from() != ff.seed_from(None)
    sequence = np.random.SeedSequence(7)
    assert ff.seed_from(sequence) == ff.seed_from(sequence) == ff.seed_from(np.random.SeedSequence(7))
    for make in (
        lambda: np.random.default_rng(1),
        lambda: np.random.MT19937(1),
        lambda: np.random.RandomState(1),
    ):
        source = make()
        first, second = ff.seed_from(source), ff.seed_from(source)
        assert first == ff.seed_from(make())
        assert first != second
        assert 2**48 < first < 2**64
    with pytest.raises(TypeError, match=r"^source: expected None, an int, .* JAX key; got 'a' \(str\)"):
        ff.seed_from("a")


def test_seeds_come_from_torch() -> None:
    torch = pytest.importorskip("torch")
    source = torch.Generator().manual_seed(3)
    first, second = ff.seed_from(source), ff.seed_from(source)
    assert first == ff.seed_from(torch.Generator().manual_seed(3)) != second
    with pytest.raises(TypeError, match=r"^source: expected None"):
        ff.seed_from(torch.zeros(2))


def test_seeds_come_from_jax() -> None:
    jax = pytest.importorskip("jax")
    assert ff.seed_from(jax.random.key(5)) == ff.seed_from(jax.random.PRNGKey(5)) == 5


@pytest.mark.parametrize("seed", [None, np.random.default_rng(0), "7", 1.5])
def test_a_seed_of_another_kind_is_told_of_seed_from(seed: Any) -> None:
    with pytest.raises(TypeError, match=r"^seed: expected an integer .*; fanfill.seed_from makes one"):
        ff.fill(np.empty(3, np.float32), ff.normal(), seed=seed)


def test_only_public_names_are_listed() -> None:
    assert sorted(dir(ff)) == sorted(ff.__all__)
