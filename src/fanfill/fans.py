"""Fans of a weight tensor, and the gain of a nonlinearity."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

from fanfill.arguments import real
from fanfill.literals import Mode
from fanfill.messages import shown

__all__ = ["Axes", "Scaling", "axes_of", "fans", "gain", "rectifier_scale", "shape_of"]

Axes = int | Sequence[int]

_UNIT_GAINS = (
    "linear",
    "sigmoid",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
# For smooth rectifiers f: 1 / sqrt(E[f(z)^2]), z standard normal, as He et al. 2015 have it for relu. For
# gelu Stein's lemma gives the expectation; the others are integrals; tests/api/test_fans.py takes them again.
_SMOOTH = {
    "gelu": 1.0 / math.sqrt(1.0 / 3.0 + 1.0 / (2.0 * math.sqrt(3.0) * math.pi)),
    "silu": 1.676532470331091,
    "swish": 1.676532470331091,
    "mish": 1.486847581273208,
    "elu": 1.2451983007007066,
}
_GAINS = {
    **dict.fromkeys(_UNIT_GAINS, 1.0),
    "tanh": 5 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3 / 4,
    **_SMOOTH,
}


class Scaling(NamedTuple):
    """The rule that gives a variance for a shape: ``scale / fan``, where `mode` chooses the fan."""

    scale: float
    mode: Mode
    in_axis: int | tuple[int, ...]
    out_axis: int | tuple[int, ...]
    batch_axis: int | tuple[int, ...]

    def fans(self, shape: Sequence[int]) -> tuple[int, int]:
        """fan_in and fan_out of `shape` for these axes."""
        return fans(shape, self.in_axis, self.out_axis, self.batch_axis)

    def variance(self, shape: Sequence[int], times: int = 1) -> float:
        """``times * scale / fan`` in float64; a fan of zero (an empty tensor) counts as one.

        The fans are exact integers. They are rounded to nearest when they first meet a float.
        """
        fan_in, fan_out = self.fans(shape)
        try:
            if self.mode == "fan_in":
                fan = float(fan_in)
            elif self.mode == "fan_out":
                fan = float(fan_out)
            elif self.mode == "fan_avg":
                fan = (fan_in + fan_out) / 2
            else:
                fan = math.sqrt(fan_in * fan_out)
        except OverflowError:
            raise ValueError(
                f"expected fans within the range of float64; got a shape of {len(shape)} axes with fans "
                "beyond it; no tensor is that large: check the shape"
            ) from None
        variance = times * self.scale / (fan or 1.0)
        if variance == math.inf or (variance == 0.0 and self.scale != 0.0):
            raise ValueError(
                f"expected a scale whose variance float64 can hold; got {self.scale!r} for a fan of {fan!r}; "
                "scales are of the order of 1"
            )
        return variance


def fans(
    shape: Sequence[int], in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> tuple[int, int]:
    """fan_in and fan_out of a weight tensor.

    ``receptive`` is the product of all axes that none of the three arguments names (a convolution's kernel)::

        fan_in  = product of in_axis  * receptive
        fan_out = product of out_axis * receptive

    Parameters
    ----------
    shape : sequence of int
        The whole tensor's shape.
    in_axis, out_axis : int or sequence of int
        The axes of the layer's inputs and outputs. Negative ones count from the end.
    batch_axis : int or sequence of int
        Axes of independent layers of the same kind: groups, gates, heads, experts. They count in neither
        fan.

    Returns
    -------
    (int, int)
        Exact integers of any size; zero if an axis is empty.

    Raises
    ------
    ValueError
        If the rank is below 2 with the default axes; if an axis is out of range or named twice; if a
        dimension is negative.
    TypeError
        If a dimension or an axis is not an integer.

    Notes
    -----
    The default is the layout of Keras and JAX, (\\*k, in, out). torch's is (out, in, \\*k): pass
    ``in_axis=1, out_axis=0``.

    Grouped convolution: split the groups off into a separate axis. The C order of the elements stays the
    same, and so does every value. (torch's own fan_out of a grouped weight counts all groups.) Split off
    gates that are stacked in one weight, as in an LSTM, in the same way.

    Examples
    --------
    >>> fans((1024, 4096))  # dense, Keras and JAX: (in, out)
    (1024, 4096)
    >>> fans((4096, 1024), in_axis=1, out_axis=0)  # dense, torch: (out, in)
    (1024, 4096)
    >>> fans((3, 3, 64, 128))  # convolution, Keras and JAX: (*k, in, out)
    (576, 1152)
    >>> fans((128, 64, 3, 3), in_axis=1, out_axis=0)  # convolution, torch: (out, in, *k)
    (576, 1152)
    >>> fans((4, 32, 16, 3, 3), in_axis=2, out_axis=1, batch_axis=0)  # torch: (128, 16, 3, 3), 4 groups
    (144, 288)
    >>> fans((4, 512, 256), in_axis=2, out_axis=1, batch_axis=0)  # torch LSTM: (4*512, 256)
    (256, 512)
    >>> fans((256, 4, 512), in_axis=0, out_axis=2, batch_axis=1)  # Keras LSTM: (256, 4*512)
    (256, 512)
    >>> fans((512, 8, 64), in_axis=0, out_axis=(1, 2))  # attention: (model, heads, head)
    (512, 512)
    """
    dims = shape_of(shape)
    if len(dims) < 2 and (in_axis, out_axis) == (-2, -1):
        raise ValueError(
            "expected a shape of two axes or more, because fans need an input and an output axis; got "
            f"{shown(dims)}; name them with in_axis= and out_axis= (either may be ()), or use uniform, "
            "normal or constant"
        )
    rest = dict(enumerate(dims))
    in_size = _take("in_axis", in_axis, dims, rest)
    out_size = _take("out_axis", out_axis, dims, rest)
    _take("batch_axis", batch_axis, dims, rest)
    receptive = math.prod(rest.values())
    return in_size * receptive, out_size * receptive


def gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a layer's weights must grow to make up for its nonlinearity.

    ==========================================================  ==========================================
    linear, sigmoid, conv, conv1d ... conv_transpose3d          1
    tanh                                                        5/3
    relu                                                        sqrt(2)
    leaky_relu                                                  sqrt(2 / (1 + param^2)), param 0.01 if None
    selu                                                        3/4
    gelu, silu (swish), mish, elu                               1.5335, 1.6765, 1.4868, 1.2452
    ==========================================================  ==========================================

    Parameters
    ----------
    nonlinearity : str
        One of the names above.
    param : float, optional
        The negative slope of leaky_relu. The other nonlinearities take none.

    Raises
    ------
    ValueError
        If the name is unknown; if param is not finite, or the nonlinearity takes none.
    TypeError
        If param is not a real number (a bool is not).

    Notes
    -----
    The values are the usual ones (torch.nn.init.calculate_gain). relu and leaky_relu: He et al. 2015. For
    selu, 3/4 trades self-normalisation for better gradient flow. Klambauer et al. 2017 use 1, as
    `lecun_normal` does.

    torch knows no gain of gelu, silu, mish and elu. Theirs follow from the same condition as relu's, that a
    layer keep the second moment of a standard normal signal: ``gain^2 E[f(z)^2] = 1`` (He et al. 2015,
    section 2.2; Kumar 2017, arXiv:1704.08863).
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(rectifier_scale("param", 0.01 if param is None else param))
    given: object = nonlinearity
    if not isinstance(given, str) or given not in _GAINS:
        raise ValueError(
            f"expected a known nonlinearity; got {shown(nonlinearity)}; "
            f"the names are {', '.join([*_GAINS, 'leaky_relu'])}"
        )
    if param is not None:
        real("param", param)
        raise ValueError(
            f"expected no param for {nonlinearity!r}; got {shown(param)}; only leaky_relu takes one"
        )
    return _GAINS[given]


def rectifier_scale(what: str, slope: float) -> float:
    """2 / (1 + slope^2): the variance scale for a rectifier with this negative slope (He et al. 2015)."""
    slope = real(what, slope)
    scale = 2.0 / (1.0 + slope * slope)
    if scale == 0.0:
        raise ValueError(
            f"expected a {what} whose square is finite; got {slope!r}; slopes are of the order of 0.01"
        )
    return scale


def shape_of(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as a tuple of Python integers >= 0."""
    try:
        dims = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise TypeError(
            f"expected a shape, a sequence of integers; got {shown(shape)}; write (n,) for one axis"
        ) from None
    if any(n < 0 for n in dims):
        raise ValueError(
            f"expected dimensions >= 0; got the shape {shown(dims)}; give the whole tensor's shape"
        )
    return dims


def axes_of(what: str, axes: Axes) -> int | tuple[int, ...]:
    """`axes` in one form: a single axis is an int, anything else a tuple."""
    if type(axes) is int or (type(axes) is tuple and not axes):
        return axes
    if isinstance(axes, bool):
        raise TypeError(f"expected integers as {what}; got {shown(axes)}; give an int or a tuple of ints")
    try:
        return operator.index(axes)  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        many = tuple(operator.index(axis) for axis in axes)  # type: ignore[union-attr]
    except TypeError:
        raise TypeError(
            f"expected integers as {what}; got {shown(axes)}; give an int or a tuple of ints"
        ) from None
    return many[0] if len(many) == 1 else many


def _take(what: str, axes: Axes, dims: tuple[int, ...], rest: dict[int, int]) -> int:
    """The product of the dimensions on `axes`; removes them from `rest`."""
    one_or_many = axes_of(what, axes)
    size = 1
    for axis in (one_or_many,) if isinstance(one_or_many, int) else one_or_many:
        if not -len(dims) <= axis < len(dims):
            raise ValueError(
                f"expected axes of the shape {shown(dims)}, which has {len(dims)}; got {what}={shown(axes)}; "
                "count from 0, or from -1 at the end"
            )
        if axis % len(dims) not in rest:
            raise ValueError(
                f"expected every axis once among in_axis, out_axis and batch_axis; got {what}={shown(axes)}, "
                f"which names axis {axis % len(dims)} of {shown(dims)} again; give each axis one role"
            )
        size *= rest.pop(axis % len(dims))
    return size
