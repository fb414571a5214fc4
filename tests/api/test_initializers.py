"""Initializers as values: equality, repr, pickling, the scalars of section 4, and what they refuse."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import FIXED, INITIALIZERS
from scipy import stats

import fanfill as ff
from fanfill import named
from fanfill.distributions import DISTRIBUTIONS
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.fans import gain
from fanfill.initializers import Initializer, constant, normal, truncated_normal, uniform
from fanfill.named import initializer
from fanfill.scaled import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)

INF = math.inf
SHAPE = (3, 3, 64, 128)
EXAMPLES = [
    *INITIALIZERS.values(),
    variance_scaling(1 / 3, "fan_geo_avg", "uniform", in_axis=1, out_axis=(0, 2), batch_axis=3),
    xavier_uniform(5 / 3),
    he_uniform("fan_out", 0.01),
    he_normal(in_axis=[1], out_axis=0, batch_axis=(2, 3)),
    lecun_normal(truncated=True, batch_axis=()),
    normal(1e-5, 0.1),
    truncated_normal(0.1, 0.2, -INF, 1.5),
    constant(0.1),
    constant(-0.0),
]
IDS = list(map(repr, EXAMPLES))


@pytest.mark.parametrize("init", EXAMPLES, ids=IDS)
def test_repr_evaluates_back(init: Initializer) -> None:
    names = {name: getattr(ff, name) for name in (*named.NAMED, "Initializer")}
    again = eval(repr(init), names)
    assert again == init
    assert repr(again) == repr(init)


@pytest.mark.parametrize("init", EXAMPLES, ids=IDS)
def test_copies_and_pickles_are_equal_and_hash_alike(init: Initializer) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(init, protocol))
        assert again == init
        assert hash(again) == hash(init)
        assert again.default_axes == init.default_axes
    assert copy.copy(init) == copy.deepcopy(init) == init


def test_unequal_initializers_are_unequal() -> None:
    assert len(set(EXAMPLES)) == len(EXAMPLES)
    assert all((a == b) == (a is b) for a in EXAMPLES for b in EXAMPLES)
    assert he_normal() != "he_normal"
    assert constant(0.0) != constant(-0.0)
    assert uniform(-0.0, 1) == uniform(0, 1)


@pytest.mark.parametrize("name", ["distribution", "params", "scaling", "default_axes", "other"])
def test_an_initializer_is_immutable(name: str) -> None:
    init = he_normal()
    with pytest.raises(AttributeError, match=f"expected no assignment to an Initializer.* got '{name}'"):
        setattr(init, name, 1)
    with pytest.raises(AttributeError, match=f"expected no deletion from an Initializer.* got '{name}'"):
        delattr(init, name)
    assert init == he_normal()


def test_the_other_names_are_the_same_functions() -> None:
    assert glorot_uniform is xavier_uniform
    assert glorot_normal is xavier_normal
    assert kaiming_uniform is he_uniform
    assert kaiming_normal is he_normal


@pytest.mark.parametrize(
    ("named", "primitive"),
    [
        (xavier_uniform(), variance_scaling(1.0, "fan_avg", "uniform")),
        (xavier_normal(2), variance_scaling(4.0, "fan_avg", "normal")),
        (xavier_normal(truncated=True), variance_scaling(1.0, "fan_avg", "truncated_normal")),
        (he_uniform(), variance_scaling(2.0, "fan_in", "uniform")),
        (he_normal("fan_out"), variance_scaling(2.0, "fan_out", "normal")),
        (he_normal(negative_slope=1), lecun_normal()),
        (he_normal(truncated=True), variance_scaling(2.0, "fan_in", "truncated_normal")),
        (he_normal(negative_slope=0.2), variance_scaling(2 / (1 + 0.2 * 0.2))),
        (lecun_uniform(), variance_scaling(1.0, "fan_in", "uniform")),
        (lecun_normal(), variance_scaling()),
        (lecun_normal(truncated=True), variance_scaling(distribution="truncated_normal")),
        (lecun_normal(in_axis=(1,), out_axis=[0]), variance_scaling(in_axis=1, out_axis=0)),
        (xavier_uniform(np.float32(0.5)), variance_scaling(0.25, "fan_avg", "uniform")),
    ],
)
def test_a_named_initializer_is_one_call_of_the_primitive(named: Initializer, primitive: Initializer) -> None:
    assert named == primitive
    assert repr(named) == repr(primitive)


@pytest.mark.parametrize(
    "function", [f for f in named.NAMED.values() if "batch_axis" in inspect.signature(f).parameters]
)
def test_every_fan_scaled_name_takes_the_axes_as_keywords(function: object) -> None:
    init = function(in_axis=1, out_axis=0, batch_axis=2)
    assert init.fans((5, 7, 11, 2)) == (14, 10)
    assert not init.default_axes
    assert function().default_axes
    assert function(batch_axis=0).default_axes


@pytest.mark.parametrize("init", [uniform(0, 1), normal(), truncated_normal(), constant(1)])
def test_a_fixed_distribution_takes_any_shape_and_has_no_axes(init: Initializer) -> None:
    assert not init.default_axes
    assert init.std(()) == init.std((3, 4, 5))
    assert init.bounds(()) == init.bounds((7,))
    assert init.fans((3, 4)) == (3, 4)
    with pytest.raises(ValueError, match="two axes or more"):
        init.fans((3,))


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        (xavier_normal(5 / 3), 5 / 3 * (5 / 3) / ((576 + 1152) / 2)),
        (he_normal(), 2 / 576),
        (he_normal("fan_out", 0.01), 2 / (1 + 0.01 * 0.01) / 1152),
        (lecun_normal(), 1 / 576),
        (variance_scaling(0.7, "fan_geo_avg"), 0.7 / math.sqrt(576 * 1152)),
        (variance_scaling(0.7, "fan_avg"), 0.7 / 864),
    ],
)
def test_a_normal_has_the_std_of_section_four(init: Initializer, variance: float) -> None:
    std = math.sqrt(variance)
    assert init.std(SHAPE) == std
    assert init.law(SHAPE) == ("normal", (0.0, std))
    assert init.bounds(SHAPE) == (-INF, INF)
    assert init.mean(SHAPE) == 0.0


def test_a_uniform_has_the_bound_of_section_four() -> None:
    bound = math.sqrt(3 * 2.0 / 576)
    init = he_uniform()
    assert init.law(SHAPE) == ("uniform", (-bound, bound))
    assert init.bounds(SHAPE) == (-bound, bound)
    assert init.std(SHAPE) == math.sqrt(2.0 / 576)
    assert init.mean(SHAPE) == 0.0


def test_a_truncated_one_is_corrected_so_that_its_std_is_the_stated_one() -> None:
    init = he_normal(truncated=True)
    std = math.sqrt(2.0 / 576) / float.fromhex("0x1.c25e4b6dba981p-1")
    assert init.law(SHAPE) == ("truncated_normal", (0.0, std, -2.0, 2.0))
    assert init.std(SHAPE) == math.sqrt(2.0 / 576)
    assert init.bounds(SHAPE) == (-2 * std, 2 * std)
    assert truncated_normal(std=std).std(()) == pytest.approx(init.std(SHAPE), rel=1e-15)


def test_the_old_uniform_is_one_over_the_root_of_the_fan() -> None:
    assert variance_scaling(1 / 3, "fan_in", "uniform").bounds((400, 7)) == (-0.05, 0.05)


@pytest.mark.parametrize("init", [xavier_uniform(), he_normal(), lecun_normal(truncated=True)])
def test_fans_of_zero_count_as_one(init: Initializer) -> None:
    scaling = init.scaling
    assert scaling is not None
    assert init.std((0, 0)) == math.sqrt(scaling.scale)


def test_fixed_distributions_know_their_moments_and_bounds() -> None:
    assert uniform(-1, 3).mean(()) == 1.0
    assert uniform(-1, 3).std(()) == pytest.approx(4 / math.sqrt(12), rel=1e-15)
    assert uniform(-1, 3).bounds(()) == (-1.0, 3.0)
    assert uniform(-1.7e308, 1.7e308).std(()) == pytest.approx(1.7e308 / math.sqrt(3))
    assert (normal(0.5, 2).mean(()), normal(0.5, 2).std(())) == (0.5, 2.0)
    assert normal(0.5, 0).bounds(()) == (0.5, 0.5)
    assert (constant(3).mean(()), constant(3).std(()), constant(3).bounds(())) == (3.0, 0.0, (3.0, 3.0))
    half = truncated_normal(1.0, 2.0, 0.0, INF)
    assert half.mean(()) == pytest.approx(1 + 2 * math.sqrt(2 / math.pi), rel=1e-15)
    assert half.std(()) == pytest.approx(2 * math.sqrt(1 - 2 / math.pi), rel=1e-15)
    assert half.bounds(()) == (1.0, INF)
    assert truncated_normal(0.3, 0.1).mean(()) == 0.3
    point = truncated_normal(0.3, 0.0, 7.0, 8.0)
    assert (point.mean(()), point.std(()), point.bounds(())) == (0.3, 0.0, (0.3, 0.3))


# Mean, standard deviation and support of each distribution, by others' formulas.
Facts = tuple[float, float, tuple[float, float]]
EXACT: dict[str, Callable[..., Facts]] = {
    "uniform": lambda low, high: facts(stats.uniform(low, high - low)),
    "half_open_uniform": lambda low, high: facts(stats.uniform(low, high - low)),
    "normal": lambda mean, std: facts(stats.norm(mean, std)),
    "truncated_normal": lambda mean, std, lower, upper: facts(stats.truncnorm(lower, upper, mean, std)),
    "constant": lambda value: (value, 0.0, (value, value)),
}


def facts(exact: Any) -> Facts:
    return float(exact.mean()), float(exact.std()), exact.support()


def test_every_distribution_has_facts_of_others_here() -> None:
    assert EXACT.keys() == DISTRIBUTIONS.keys(), "a distribution needs an entry in EXACT"


@pytest.mark.parametrize("case", FIXED)
def test_mean_std_and_bounds_are_those_of_the_distribution(case: str) -> None:
    init = FIXED[case]
    mean, std, support = EXACT[init.distribution](*init.params)
    assert init.mean(()) == pytest.approx(mean, rel=1e-10, abs=1e-15)
    assert init.std(()) == pytest.approx(std, rel=1e-10, abs=1e-15)
    assert init.bounds((), "float64") == pytest.approx(support, rel=1e-15)


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize(
    "init",
    [
        *INITIALIZERS.values(),
        constant(-0.0),
        constant(200.7),
        normal(0.1, 0.0),
        truncated_normal(0.1, 0.0),
        truncated_normal(-0.3, 0.0, 1.0, 2.0),
        uniform(0.25, 0.25),
        uniform(0.1, 0.7),
        variance_scaling(0.0, distribution="truncated_normal"),
        truncated_normal(0.1, 0.3, -0.5, 0.7),
        truncated_normal(0.1, 0.3, 1.0, INF),
    ],
    ids=repr,
)
def test_every_value_of_every_dtype_lies_within_its_bounds(init: Initializer, dtype: str) -> None:
    values = ff.draw((50, 60), init, seed=0, dtype=dtype).astype(np.float64)
    for name in (dtype, dtype_of(dtype)):
        low, high = init.bounds((50, 60), name)
        assert low <= values.min() <= values.max() <= high
        assert (low == high) == (values.min() == values.max())


def test_the_bounds_of_a_constant_are_what_its_dtype_stores() -> None:
    for init in (constant(0.1), normal(0.1, 0.0), truncated_normal(0.1, 0.0)):
        assert init.bounds(()) == init.bounds((), np.float64) == (0.1, 0.1)
        assert init.bounds((), "float16") == (float(np.float16(0.1)),) * 2
        assert init.bounds((), "float8_e4m3fn") == (0.1015625, 0.1015625)
    with pytest.raises(ValueError, match=r"within 448\.0, the largest of float8_e4m3fn"):
        constant(1e3).bounds((), "float8_e4m3fn")
    for wrong in ("float12", np.int32, 7.5):
        with pytest.raises(TypeError, match=r"expected one of .*float32"):
            constant(0.1).bounds((), wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cauchy", (0.0, 1.0)),
            r"expected a distribution among uniform, half_open_uniform, normal, .*; got 'cauchy'; choose",
        ),
        ((7, ()), "expected a distribution among uniform, .*; got 7"),
        (([], ()), r"expected a distribution among uniform, .*; got \[\]"),
        (
            ("constant", (), he_normal().scaling),
            "expected a distribution that fans can scale, one of .*; got 'constant'; leave the scaling",
        ),
        (
            ("uniform", (1.0,)),
            r"expected the parameters low, high for uniform, or none and a scaling; got \(1.0,\)",
        ),
        (("normal", ()), "expected the parameters mean, std for normal"),
        (("normal", (0.0, 1.0), he_normal().scaling), "or none and a scaling; got"),
    ],
)
def test_an_unknown_distribution_is_neither_made_nor_unpickled(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Initializer(*arguments)

    class Pickled:
        def __reduce__(self) -> tuple:
            return Initializer, arguments

    with pytest.raises(ValueError, match=message):
        pickle.loads(pickle.dumps(Pickled()))


@pytest.mark.parametrize("ask", ["mean", "std", "bounds"])
@pytest.mark.parametrize("init", [normal(), he_normal()])
def test_no_question_falls_through_for_an_unknown_distribution(init: Initializer, ask: str) -> None:
    init = copy.copy(init)
    object.__setattr__(init, "distribution", "cauchy")
    if ask == "std" and init.scaling is not None:
        assert init.std((4, 4)) == he_normal().std((4, 4))  # the scaling's, whatever the distribution
        return
    with pytest.raises(ValueError, match=r"expected a distribution among .*; got 'cauchy'"):
        getattr(init, ask)((4, 4))


def test_the_bounds_of_a_truncated_normal_hold_the_exact_interval() -> None:
    rng = np.random.default_rng(3)
    for mean, std, cut in rng.normal(size=(200, 3)).tolist():
        low, high = truncated_normal(mean, abs(std), cut, cut + 1).bounds(())
        for got, at in ((low, cut), (high, cut + 1)):
            exact = Fraction(mean) + Fraction(abs(std)) * Fraction(at)
            assert abs(Fraction(got) - exact) <= Fraction(math.ulp(got))
            assert (Fraction(got) <= exact) if at == cut else (Fraction(got) >= exact)


def test_he_with_relu_and_xavier_with_its_gain_agree_on_square_layers() -> None:
    assert xavier_normal(gain("relu")).std((64, 64)) == pytest.approx(he_normal().std((64, 64)), rel=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_scaling(-1), r"expected a scale >= 0; got -1"),
        (lambda: variance_scaling(INF), r"expected a finite scale; got inf"),
        (lambda: variance_scaling(math.nan), r"expected a number as scale; got nan"),
        (lambda: variance_scaling(mode="fan"), r"expected a mode among fan_in, fan_out, .* got 'fan'"),
        (
            lambda: variance_scaling(distribution="gauss"),
            r"expected a distribution among normal, .* got 'gauss'",
        ),
        (lambda: he_normal(mode=None), r"expected a mode among .* got None"),
        (lambda: he_uniform(negative_slope=INF), r"expected a finite negative_slope; got inf"),
        (lambda: he_uniform(negative_slope=1e200), r"expected a negative_slope whose square is finite"),
        (lambda: xavier_normal(-0.5), r"expected a gain >= 0; got -0\.5"),
        (lambda: xavier_uniform(-INF), r"expected a finite gain; got -inf"),
        (lambda: xavier_uniform(1e200), r"expected a gain whose square float64 can hold; got 1e\+200"),
        (lambda: xavier_uniform(1e-200), r"expected a gain whose square float64 can hold; got 1e-200"),
        (lambda: normal(std=-1), r"expected a std >= 0; got -1"),
        (lambda: normal(std=INF), r"expected a finite std; got inf"),
        (lambda: normal(INF), r"expected a finite mean; got inf"),
        (lambda: truncated_normal(-INF), r"expected a finite mean; got -inf"),
        (lambda: truncated_normal(std=math.nan), r"expected a number as std; got nan"),
        (lambda: truncated_normal(lower=math.nan), r"expected a number as lower; got nan"),
        (lambda: truncated_normal(lower=2), r"expected lower < upper; got lower=2\.0, upper=2\.0"),
        (lambda: truncated_normal(lower=3, upper=1), r"expected lower < upper; got lower=3\.0, upper=1\.0"),
        (lambda: truncated_normal(lower=INF, upper=INF), r"expected lower < upper"),
        (lambda: truncated_normal(lower=-INF, upper=-INF), r"expected lower < upper"),
        (
            lambda: truncated_normal(lower=7, upper=8).std(()),
            r"hold at least 2\^-24 of the normal distribution",
        ),
        (lambda: uniform(1, 0), r"expected low <= high; got low=1\.0, high=0\.0; swap them"),
        (lambda: uniform(-INF, 0), r"expected a finite low; got -inf"),
        (lambda: uniform(0, INF), r"expected a finite high; got inf"),
        (lambda: constant(INF), r"expected a finite value; got inf"),
        (lambda: constant(10**400), r"expected a value within the range of float64"),
    ],
)
def test_a_bad_value_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normal(std="1"), r"expected a real number as std; got '1'"),
        (lambda: normal(True), r"expected a real number as mean; got True"),
        (lambda: constant(1j), r"expected a real number as value; got 1j"),
        (lambda: uniform(None, 1), r"expected a real number as low; got None"),
        (lambda: variance_scaling(np.True_), r"expected a real number as scale"),
        (lambda: he_normal(negative_slope=False), r"expected a real number as negative_slope; got False"),
        (lambda: he_normal(truncated=1), r"expected True or False as truncated; got 1"),
        (lambda: lecun_normal(in_axis=1.5), r"expected integers as in_axis; got 1\.5"),
        (lambda: lecun_normal(batch_axis=(0, "x")), r"expected integers as batch_axis"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(call: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_an_initializer_is_found_by_name() -> None:
    assert initializer("glorot_uniform") == xavier_uniform()
    assert initializer("he_normal", mode="fan_out", truncated=True) == he_normal("fan_out", truncated=True)
    assert initializer("constant", value=2) == constant(2)
    for name, function in named.NAMED.items():
        assert getattr(ff, name) is function


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("he_norml", r"\(did you mean 'he_normal'\?\)"),
        ("Xavier-Uniform", r"\(did you mean 'xavier_uniform'\?\)"),
        ("HeNormal", r"\(did you mean 'he_normal'\?\)"),
        ("GlorotUniform", r"\(did you mean 'glorot_uniform'\?\)"),
        ("RandomNormal", r"\(did you mean 'normal'\?\)"),
        ("VarianceScaling", r"\(did you mean 'variance_scaling'\?\)"),
        ("he-normal", r"\(did you mean 'he_normal'\?\)"),
        ("he normal", r"\(did you mean 'he_normal'\?\)"),
        ("kaiming_normal_", r"\(did you mean 'kaiming_normal'\?\)"),
        ("trunc_normal_", r"\(did you mean 'truncated_normal'\?\)"),
        ("TruncatedNormal", r"\(did you mean 'truncated_normal'\?\)"),
        ("glorot", r"\(did you mean 'glorot_uniform' or 'glorot_normal'\?\)"),
        ("He", r"\(did you mean 'he_uniform' or 'he_normal'\?\)"),
        ("Zeros", r"\(did you mean 'zeros'\?\)"),
        ("Orthogonal", r"\(did you mean 'orthogonal'\?\)"),
        ("STFT", r"\(Keras' Fourier kernels are not drawn: copy their values\)"),
        ("", r"''; the names"),
        (7, ""),
        (None, ""),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint_and_the_list(name: object, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"expected the name of an initializer; got .*{hint}") as caught:
        initializer(name)
    assert all(known in str(caught.value) for known in named.NAMED)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "he_normal",
            {"gain": 2},
            r"some of the arguments mode, .* for he_normal; got gain; leave out gain$",
        ),
        ("uniform", {"low": 1}, r"the arguments low, high, endpoint for uniform; got low; add high$"),
        ("constant", {}, r"the arguments value for constant; got none; add value$"),
        ("constant", {"x": 1}, r"got x; leave out x; add value$"),
    ],
)
def test_wrong_arguments_by_name_are_refused(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        initializer(name, **kwargs)
