"""The distributions: one record each, from which everything else about them follows.

A new one needs an entry here, a recipe in ``recipes.py`` and a kernel form in ``fanfill_kernels.formats``.
Tests and golden hashes take their cases from these records; ``docs/architecture.md`` lists the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from fanfill import recipes
from fanfill.cdf import moments
from fanfill.dtypes import STORAGES, round_down, round_nearest, round_up
from fanfill.messages import shown
from fanfill.recipes import Recipe
from fanfill.structures import STRUCTURES, Structure
from fanfill_kernels.formats import Format

if TYPE_CHECKING:
    from fanfill.initializers import Initializer

__all__ = ["DISTRIBUTIONS", "STD_OF_CUT_NORMAL", "Distribution", "distribution", "recipe", "record_of"]

# The standard deviation of N(0, 1) cut at 2 sigma, 0.87962566103423975..., to the nearest float64.
STD_OF_CUT_NORMAL: Final = float.fromhex("0x1.c25e4b6dba981p-1")


class Distribution(NamedTuple):
    """What is known about a distribution; each function takes its parameters, in float64.

    Attributes
    ----------
    parameters : tuple of str
        Their names.
    section : str
        The section of ``docs/stream.md`` that defines its values.
    recipe : callable
        ``(storage, *parameters)`` to what a kernel gets, or a ValueError.
    mean, std : callable
        Of the distribution, in float64.
    bounds : callable
        ``(storage, *parameters)`` to the closed interval of the values.
    below : callable
        ``(x, *parameters)`` to the probability of a value up to x, by libm: for pictures, not for values.
    scaled : callable or None
        From a variance to the parameters of the distribution with mean 0 and that variance; None if fans do
        not scale it. The argument is a function: ``variance(times)`` is the variance times an integer.
    golden : mapping
        Parameters of its golden fills, by their names.
    """

    parameters: tuple[str, ...]
    section: str
    recipe: Callable[..., Recipe]
    mean: Callable[..., float]
    std: Callable[..., float]
    bounds: Callable[..., tuple[float, float]]
    below: Callable[..., float]
    scaled: Callable[[Callable[[int], float]], tuple[float, ...]] | None
    golden: Mapping[str, tuple[float, ...]]


def _middle(low: float, high: float) -> float:
    return low / 2 + high / 2


def _uniform_std(low: float, high: float) -> float:
    return (high / 2 - low / 2) / math.sqrt(3.0)


def _symmetric(variance: Callable[[int], float]) -> tuple[float, ...]:
    bound = math.sqrt(variance(3))
    return 0.0 - bound, bound


def _point(storage: Format, value: float) -> tuple[float, float]:
    rounded = round_nearest(value, storage)
    return rounded, rounded


def _normal_bounds(storage: Format, mean: float, std: float) -> tuple[float, float]:
    return (-math.inf, math.inf) if std else _point(storage, mean)


def _uniform_below(x: float, low: float, high: float) -> float:
    return min(max((x - low) / (high - low), 0.0), 1.0) if low < high else _step(x, low)


def _step(x: float, at: float) -> float:
    return float(x >= at)


def _normal_mass(lower: float, upper: float) -> float:
    """The probability of N(0, 1) between two points, by the tails on their side, which are small."""
    if lower > 0:
        lower, upper = -upper, -lower
    return 0.5 * (math.erfc(-upper / math.sqrt(2.0)) - math.erfc(-lower / math.sqrt(2.0)))


def _normal_below(x: float, mean: float, std: float) -> float:
    return _normal_mass(-math.inf, (x - mean) / std) if std else _step(x, mean)


def _truncated_below(x: float, mean: float, std: float, lower: float, upper: float) -> float:
    if std == 0.0:
        return _step(x, mean)
    z = min(max((x - mean) / std, lower), upper)
    return _normal_mass(lower, z) / _normal_mass(lower, upper)


def _truncated_mean(mean: float, std: float, lower: float, upper: float) -> float:
    # Symmetric cuts keep the mean, exactly.
    return mean if std == 0.0 or lower == -upper else mean + std * moments(lower, upper)[0]


def _truncated_std(mean: float, std: float, lower: float, upper: float) -> float:
    return std * moments(lower, upper)[1] if std else 0.0


def _truncated_bounds(
    storage: Format, mean: float, std: float, lower: float, upper: float
) -> tuple[float, float]:
    if std == 0.0:
        return _point(storage, mean)
    low, high = recipes.ends(mean, std, lower, upper)
    return round_down(low, STORAGES["float64"]), round_up(high, STORAGES["float64"])


DISTRIBUTIONS: Final[dict[str, Distribution]] = {
    "uniform": Distribution(
        parameters=("low", "high"),
        section="4.1",
        recipe=recipes.uniform,
        mean=_middle,
        std=_uniform_std,
        bounds=lambda storage, low, high: (low, high),
        below=_uniform_below,
        scaled=_symmetric,
        golden={"uniform symmetric": (-0.1, 0.1), "uniform": (-0.5, 1.5)},
    ),
    "half_open_uniform": Distribution(
        parameters=("low", "high"),
        section="4.2",
        recipe=recipes.half_open_uniform,
        mean=_middle,
        std=_uniform_std,
        bounds=lambda storage, low, high: (low, math.nextafter(high, -math.inf)),
        below=_uniform_below,
        scaled=None,
        golden={"uniform symmetric half-open": (-0.2, 0.2), "uniform half-open": (0.0, 1.0)},
    ),
    "normal": Distribution(
        parameters=("mean", "std"),
        section="4.3",
        recipe=recipes.normal,
        mean=lambda mean, std: mean,
        std=lambda mean, std: std,
        bounds=_normal_bounds,
        below=_normal_below,
        scaled=lambda variance: (0.0, math.sqrt(variance(1))),
        golden={"normal": (0.25, 2.0)},
    ),
    "truncated_normal": Distribution(
        parameters=("mean", "std", "lower", "upper"),
        section="4.4",
        recipe=recipes.truncated_normal,
        mean=_truncated_mean,
        std=_truncated_std,
        bounds=_truncated_bounds,
        below=_truncated_below,
        scaled=lambda variance: (0.0, math.sqrt(variance(1)) / STD_OF_CUT_NORMAL, -2.0, 2.0),
        golden={
            "truncated_normal": (0.0, 1.0, -2.0, 2.0),
            "truncated_normal one-sided": (0.5, 1.5, -1.0, math.inf),
            "truncated_normal wide": (0.0, 1.0, -4.0, 3.0),
            "truncated_normal far": (0.0, 1.0, 3.0, 5.0),
            "truncated_normal far below": (0.0, 1.0, -math.inf, -4.0),
        },
    ),
    "constant": Distribution(
        parameters=("value",),
        section="4.5",
        recipe=recipes.constant,
        mean=lambda value: value,
        std=lambda value: 0.0,
        bounds=_point,
        below=_step,
        scaled=None,
        golden={"constant": (0.3,)},
    ),
}


def distribution(name: object) -> Distribution:
    """The record of that name; ValueError if there is none."""
    found = DISTRIBUTIONS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(
            f"expected a distribution among {', '.join(DISTRIBUTIONS)}; got {shown(name)}; choose one of "
            "these"
        )
    return found


def record_of(name: object) -> Distribution | Structure:
    """The record of a distribution or a structure; ValueError if there is neither."""
    structure = STRUCTURES.get(name) if isinstance(name, str) else None
    return distribution(name) if structure is None else structure


@lru_cache(maxsize=4096)
def recipe(initializer: Initializer, shape: tuple[int, ...], dtype_name: str) -> Recipe:
    """What a kernel gets for a tensor.

    Parameters
    ----------
    initializer : Initializer
    shape : tuple of int
        The whole tensor's shape.
    dtype_name : str
        A name of `fanfill.dtypes.STORAGES`.

    Raises
    ------
    ValueError
        For anything that section 7 of the number contract refuses.
    """
    name, params = initializer.law(shape)
    structure = STRUCTURES.get(name)
    if structure is not None:
        return structure.recipe(STORAGES[dtype_name], shape, *params)
    return distribution(name).recipe(STORAGES[dtype_name], *params)
