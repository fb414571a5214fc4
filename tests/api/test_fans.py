"""Fans of a shape, and gains."""

import math
from typing import Any

import numpy as np
import pytest

from fanfill.fans import Scaling, fans, gain


@pytest.mark.parametrize(
    ("shape", "axes", "want"),
    [
        ((1024, 4096), {}, (1024, 4096)),
        ((4096, 1024), {"in_axis": 1, "out_axis": 0}, (1024, 4096)),
        ((3, 3, 64, 128), {}, (576, 1152)),
        ((128, 64, 3, 3), {"in_axis": 1, "out_axis": 0}, (576, 1152)),
        ((4, 32, 16, 3, 3), {"in_axis": 2, "out_axis": 1, "batch_axis": 0}, (144, 288)),
        ((4, 512, 256), {"in_axis": 2, "out_axis": 1, "batch_axis": [0]}, (256, 512)),
        ((256, 4, 512), {"in_axis": 0, "out_axis": 2, "batch_axis": 1}, (256, 512)),
        ((512, 8, 64), {"in_axis": 0, "out_axis": (1, 2)}, (512, 512)),
        ((7,), {"in_axis": (), "out_axis": 0}, (1, 7)),
        ((), {"in_axis": (), "out_axis": ()}, (1, 1)),
        ((0, 5), {}, (0, 5)),
        ((5, 0, 3), {}, (0, 15)),
        ([np.int64(6), 7], {"in_axis": np.int8(-1), "out_axis": (np.int64(0),)}, (7, 6)),
        ((2**40, 2**40, 2**40), {}, (2**80, 2**80)),
    ],
)
def test_fans_are_the_products_of_the_named_axes_and_the_receptive_field(
    shape: tuple[int, ...], axes: dict, want: tuple[int, int]
) -> None:
    got = fans(shape, **axes)
    assert got == want
    assert all(type(n) is int for n in got)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_rank_below_two_needs_explicit_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape of two axes or more.* got \(.*name them with in_axis="):
        fans(shape)


@pytest.mark.parametrize(
    ("axes", "which"),
    [
        ({"in_axis": 3}, "in_axis=3"),
        ({"out_axis": -4}, "out_axis=-4"),
        ({"batch_axis": (0, 7)}, "batch_axis"),
    ],
)
def test_an_axis_out_of_range_is_refused(axes: dict, which: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected axes of the shape \(2, 3, 4\), which has 3; got {which}"
    ):
        fans((2, 3, 4), **axes)


@pytest.mark.parametrize(
    "axes", [{"in_axis": -1}, {"in_axis": (0, -3)}, {"batch_axis": 1}, {"in_axis": 0, "out_axis": 0}]
)
def test_an_axis_named_twice_is_refused(axes: dict) -> None:
    with pytest.raises(ValueError, match=r"expected every axis once .* names axis \d of \(2, 3, 4\) again"):
        fans((2, 3, 4), **axes)


@pytest.mark.parametrize("axis", [1.0, "0", None, True, (0.5,), object()])
def test_an_axis_that_is_no_integer_is_a_type_error(axis: object) -> None:
    with pytest.raises(TypeError, match="expected integers as in_axis; got"):
        fans((2, 3, 4), in_axis=axis)


@pytest.mark.parametrize("shape", [5, (2.0, 3), "ab", None])
def test_a_shape_that_is_no_sequence_of_integers_is_a_type_error(shape: object) -> None:
    with pytest.raises(TypeError, match="expected a shape, a sequence of integers; got"):
        fans(shape)


def test_a_negative_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected dimensions >= 0; got the shape \(2, -3\)"):
        fans((2, -3))


@pytest.mark.parametrize(
    ("mode", "shape", "fan"),
    [
        ("fan_in", (3, 8), 3.0),
        ("fan_out", (3, 8), 8.0),
        ("fan_avg", (3, 8), 5.5),
        ("fan_geo_avg", (3, 8), math.sqrt(24.0)),
        ("fan_in", (2**53 + 1, 8), 2.0**53),
        ("fan_in", (2**53 + 3, 8), 2.0**53 + 4),
        ("fan_avg", (2**60 + 1, 2**60 + 255), 2.0**60),
        ("fan_geo_avg", (2**40, 2**42), 2.0**41),
        ("fan_in", (0, 8), 1.0),
        ("fan_out", (8, 0), 1.0),
        ("fan_avg", (0, 0), 1.0),
        ("fan_avg", (0, 8), 4.0),
        ("fan_geo_avg", (0, 8), 1.0),
    ],
)
def test_a_variance_is_the_scale_by_the_fan_and_a_fan_of_zero_counts_as_one(
    mode: str, shape: tuple[int, int], fan: float
) -> None:
    scaling = Scaling(1.7, mode, -2, -1, ())
    assert scaling.variance(shape) == 1.7 / fan
    assert scaling.variance(shape, times=3) == 3 * 1.7 / fan


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
def test_fans_beyond_float64_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"expected fans within the range of float64; got a shape of 2 axes"):
        Scaling(1.0, mode, -2, -1, ()).variance((2**1100, 2**1100))


@pytest.mark.parametrize(("scale", "times"), [(5e-324, 1), (1e308, 3)])
def test_a_variance_that_float64_cannot_hold_is_refused(scale: float, times: int) -> None:
    with pytest.raises(ValueError, match="expected a scale whose variance float64 can hold; got"):
        Scaling(scale, "fan_in", -2, -1, ()).variance((2 if times == 1 else 1, 2), times=times)


@pytest.mark.parametrize(
    ("nonlinearity", "param", "want"),
    [
        ("linear", None, 1.0),
        ("sigmoid", None, 1.0),
        ("conv", None, 1.0),
        ("conv2d", None, 1.0),
        ("conv_transpose3d", None, 1.0),
        ("tanh", None, 5 / 3),
        ("relu", None, math.sqrt(2)),
        ("selu", None, 0.75),
        ("leaky_relu", None, math.sqrt(2 / (1 + 0.01 * 0.01))),
        ("leaky_relu", 0.2, math.sqrt(2 / (1 + 0.2 * 0.2))),
        ("leaky_relu", np.float32(0.5), math.sqrt(1.6)),
        ("leaky_relu", 0, math.sqrt(2)),
    ],
)
def test_gains_are_those_of_the_field(nonlinearity: str, param: float | None, want: float) -> None:
    assert gain(nonlinearity, param) == want


@pytest.mark.parametrize(
    ("names", "function"),
    [
        (("relu",), lambda m, z: z if z > 0 else m.mpf(0)),  # the control: a known value by the same integral
        (("gelu",), lambda m, z: z * m.ncdf(z)),
        (("silu", "swish"), lambda m, z: z / (1 + m.exp(-z))),
        (("mish",), lambda m, z: z * m.tanh(m.log1p(m.exp(z)))),
        (("elu",), lambda m, z: z if z > 0 else m.expm1(z)),
    ],
)
def test_gains_of_rectifiers_keep_the_second_moment(names: tuple[str, ...], function: Any) -> None:
    import mpmath

    moment = mpmath.quad(
        lambda z: function(mpmath, z) ** 2 * mpmath.npdf(z), [-40, -8, -4, -2, 0, 2, 4, 8, 40]
    )
    for name in names:
        assert gain(name) == pytest.approx(float(1 / mpmath.sqrt(moment)), rel=4e-16)


def test_gains_agree_with_torch() -> None:
    init = pytest.importorskip("torch").nn.init
    for name in ("linear", "conv1d", "conv_transpose2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert gain(name) == pytest.approx(init.calculate_gain(name), rel=1e-15)


@pytest.mark.parametrize("name", ["sine", "", None, 3, ["relu"]])
def test_an_unknown_nonlinearity_is_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(
        ValueError, match=r"expected a known nonlinearity; got .* names are linear, .*leaky_relu"
    ):
        gain(name)


def test_a_param_where_there_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected no param for 'relu'; got 0\.1; only leaky_relu"):
        gain("relu", 0.1)


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
@pytest.mark.parametrize("param", [True, "0.1", 1j, np.True_])
def test_a_param_that_is_no_real_number_is_a_type_error(name: str, param: object) -> None:
    with pytest.raises(TypeError, match="expected a real number as param; got"):
        gain(name, param)


@pytest.mark.parametrize("param", [math.inf, -math.inf])
def test_an_infinite_param_is_refused(param: float) -> None:
    with pytest.raises(ValueError, match="expected a finite param; got"):
        gain("leaky_relu", param)


def test_a_nan_param_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a number as param; got nan"):
        gain("leaky_relu", math.nan)


def test_a_param_whose_square_overflows_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a param whose square is finite; got 1e\\+200"):
        gain("leaky_relu", 1e200)


def test_an_integer_beyond_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a param within the range of float64"):
        gain("leaky_relu", 10**400)
