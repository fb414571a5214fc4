"""The initializers that scale with a tensor's fans.

One primitive for all of them, `variance_scaling`; every named one is one call of it, so that two names for
the same law are equal values.

Keras and JAX cut their ``he_normal``, ``glorot_normal`` and ``lecun_normal`` at two standard deviations;
torch and the papers do not, and neither do these names unless told ``truncated=True``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from fanfill.arguments import at_least_zero
from fanfill.distributions import DISTRIBUTIONS
from fanfill.fans import Axes, Scaling, axes_of, rectifier_scale
from fanfill.hints import hinted
from fanfill.initializers import Initializer
from fanfill.literals import Mode
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.literals import ScaledName

__all__ = [
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
]

Word = TypeVar("Word", bound=str)

_MODES: tuple[Mode, ...] = get_args(Mode)
_DISTRIBUTIONS = cast(
    "tuple[ScaledName, ...]", tuple(sorted(name for name, record in DISTRIBUTIONS.items() if record.scaled))
)


@hinted
def variance_scaling(
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: ScaledName = "normal",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Mean 0 and variance ``scale / fan``: the primitive of all fan-scaled initializers.

    ======================  ======================================================================
    fan_in, fan_out         as `fanfill.fans` counts them
    fan_avg                 (fan_in + fan_out) / 2
    fan_geo_avg             sqrt(fan_in * fan_out)
    normal                  N(0, scale / fan)
    uniform                 the closed interval +-sqrt(3 * scale / fan)
    truncated_normal        cut at 2 sigma, sigma = sqrt(scale / fan) / 0.8796256610342398, so that the
                            standard deviation after the cut is sqrt(scale / fan)
    ======================  ======================================================================

    A fan of zero, that of an empty tensor, counts as one.

    Parameters
    ----------
    scale : float
        Finite, >= 0. Zero gives the constant +0.
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
    distribution : {"normal", "truncated_normal", "uniform"}
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: the defaults are the layout (\\*k, in, out) of Keras and JAX; for torch's (out,
        in, \\*k) say ``in_axis=1, out_axis=0``.

    Raises
    ------
    ValueError
        A negative or non-finite scale; an unknown mode or distribution.
    TypeError
        A scale that is not a real number, axes that are not integers.

    Notes
    -----
    Called VarianceScaling in Keras (whose "untruncated_normal" is "normal" here) and variance_scaling in JAX.
    The old uniform +-1/sqrt(fan_in) is ``variance_scaling(1/3, "fan_in", "uniform")``.
    """
    mode = _one_of("mode", mode, _MODES)
    distribution = _one_of("distribution", distribution, _DISTRIBUTIONS)
    axes = axes_of("in_axis", in_axis), axes_of("out_axis", out_axis), axes_of("batch_axis", batch_axis)
    return Initializer(distribution, (), Scaling(at_least_zero("scale", scale), mode, *axes))


@hinted
def xavier_uniform(
    gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> Initializer:
    """Uniform on +-sqrt(3 V) with variance ``V = gain^2 * 2 / (fan_in + fan_out)``; also `glorot_uniform`.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks": for
    linear, tanh and sigmoid layers. As in Keras, JAX and torch; texts that print 1 / (fan_in + fan_out) mean
    ``gain=0.5**0.5``.

    Parameters
    ----------
    gain : float
        Finite, >= 0; see `fanfill.gain`.
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        A gain that is negative, not finite or no real number; axes that are not integers.
    """
    return variance_scaling(
        _square(gain), "fan_avg", "uniform", in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


@hinted
def xavier_normal(
    gain: float = 1.0,
    *,
    truncated: bool = False,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Normal of variance ``gain^2 * 2 / (fan_in + fan_out)``; also `glorot_normal`.

    Glorot & Bengio 2010. ``truncated=True`` cuts at 2 sigma and keeps the variance: that is what Keras and
    JAX call glorot_normal; torch's xavier_normal_ is not cut.

    Parameters
    ----------
    gain : float
        Finite, >= 0; see `fanfill.gain`.
    truncated : bool
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        A gain that is negative, not finite or no real number; axes that are not integers.
    """
    return variance_scaling(
        _square(gain), "fan_avg", _cut(truncated), in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


@hinted
def he_uniform(
    mode: Mode = "fan_in",
    negative_slope: float = 0.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Uniform on +-sqrt(3 V) with variance ``V = 2 / (1 + negative_slope^2) / fan``; also `kaiming_uniform`.

    He et al. 2015, "Delving deep into rectifiers": for ReLU and leaky ReLU layers. (torch.nn.Linear's own
    default calls kaiming_uniform_ with a slope of sqrt(5), which is +-1/sqrt(fan_in).)

    Parameters
    ----------
    mode : str
        "fan_in" keeps the variance of the signal forward, "fan_out" that of the gradient backward; or as in
        `variance_scaling`.
    negative_slope : float
        Of the leaky ReLU; 0 for ReLU.
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        An unknown mode; a slope that is not finite or no real number; axes that are not integers.
    """
    scale = rectifier_scale("negative_slope", negative_slope)
    return variance_scaling(scale, mode, "uniform", in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)


@hinted
def he_normal(
    mode: Mode = "fan_in",
    negative_slope: float = 0.0,
    *,
    truncated: bool = False,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Normal of variance ``2 / (1 + negative_slope^2) / fan``; also `kaiming_normal`.

    He et al. 2015. ``truncated=True`` cuts at 2 sigma and keeps the variance: that is what Keras and JAX call
    he_normal; the paper and torch's kaiming_normal_ do not cut.

    Parameters
    ----------
    mode : str
        "fan_in" keeps the variance of the signal forward, "fan_out" that of the gradient backward; or as in
        `variance_scaling`.
    negative_slope : float
        Of the leaky ReLU; 0 for ReLU.
    truncated : bool
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        An unknown mode; a slope that is not finite or no real number; axes that are not integers.
    """
    scale = rectifier_scale("negative_slope", negative_slope)
    return variance_scaling(
        scale, mode, _cut(truncated), in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


@hinted
def lecun_uniform(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Uniform on +-sqrt(3 / fan_in), variance ``1 / fan_in``: LeCun et al. 1998, "Efficient BackProp".

    For SELU networks, or linear ones.

    Parameters
    ----------
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    TypeError
        Axes that are not integers.
    """
    return variance_scaling(
        1.0, "fan_in", "uniform", in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


@hinted
def lecun_normal(
    *, truncated: bool = False, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> Initializer:
    """Normal of variance ``1 / fan_in``: LeCun et al. 1998; for SELU, Klambauer et al. 2017.

    ``truncated=True`` cuts at 2 sigma and keeps the variance: that is what Keras and JAX call lecun_normal.
    Some texts call 1 / fan_in "Xavier".

    Parameters
    ----------
    truncated : bool
    in_axis, out_axis, batch_axis : int or sequence of int
        As in `fanfill.fans`: (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1,
        out_axis=0``.

    Raises
    ------
    TypeError
        A truncated that is neither True nor False; axes that are not integers.
    """
    return variance_scaling(
        1.0, "fan_in", _cut(truncated), in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


glorot_uniform = xavier_uniform
glorot_normal = xavier_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal


def _cut(truncated: bool) -> ScaledName:
    if not isinstance(truncated, bool):
        raise TypeError(f"expected True or False as truncated; got {shown(truncated)}; give a bool")
    return "truncated_normal" if truncated else "normal"


def _square(gain: float) -> float:
    if isinstance(gain, str):
        raise TypeError(f"expected a real number as gain; got {shown(gain)}; write gain=gain({shown(gain)})")
    gain = at_least_zero("gain", gain)
    square = gain * gain
    if math.isinf(square) or (gain and not square):
        raise ValueError(
            f"expected a gain whose square float64 can hold; got {gain!r}; gains are of the order of 1"
        )
    return square


def _one_of(what: str, value: object, known: tuple[Word, ...]) -> Word:
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"expected a {what} among {', '.join(known)}; got {shown(value)}; choose one of these"
        )
    return known[known.index(value)]
