"""A fill beside its law: how many values each bin has, and how many the distribution expects there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fanfill.arguments import integer
from fanfill.distributions import distribution
from fanfill.fill import draw
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.named import initializer_of

if TYPE_CHECKING:
    from fanfill.literals import DtypeName

__all__ = ["Histogram", "histogram"]

_MOST_BINS = 10_000
_SIGMAS = 4.5  # how far bins reach where the law has no end; 7 of a million values lie beyond


@dataclass(frozen=True)
class Histogram:
    """Counts by bin, and what the law expects of as many values.

    Attributes
    ----------
    initializer, distribution, dtype : str
    parameters : tuple of float
        Of the distribution.
    shape : tuple of int
    seed : int
    name : int or str
    edges : tuple of float
        One more than there are bins.
    counts : tuple of int
    expected : tuple of float
    outside : int
        Values below the first edge or above the last one: of a law without ends.
    """

    initializer: str
    distribution: str
    parameters: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str
    seed: int
    name: int | str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]
    outside: int

    @property
    def values(self) -> int:
        """How many values were drawn."""
        return math.prod(self.shape)

    @property
    def departures(self) -> tuple[float, ...]:
        """Count less expectation, in standard errors; of a bin that holds everything, 0."""
        return tuple(
            (count - wanted) / error if (error := math.sqrt(wanted * (1 - wanted / self.values))) else 0.0
            for count, wanted in zip(self.counts, self.expected, strict=True)
        )


def histogram(
    initializer: Initializer | str,
    shape: int | Sequence[int],
    *,
    dtype: DtypeName = "float32",
    seed: int = 0,
    name: int | str = 0,
    bins: int = 40,
) -> Histogram:
    """Draw a tensor, and count its values in bins of equal width.

    Parameters
    ----------
    initializer : Initializer or str
    shape : int or sequence of int
    dtype : str
        One of `fanfill.draw`'s. Of 16 and 8 bits, bins may be finer than the steps between values, so that
        departures are those of the rounding, too.
    seed, name
        As in `fanfill.fill`.
    bins : int
        In [1, 10000]. They span the law's interval, or 4.5 standard deviations on either side of its mean.

    Raises
    ------
    ValueError
        A law that draws only one value; no values; what `fanfill.draw` refuses.
    TypeError
        What `fanfill.draw` refuses.
    """
    law = initializer_of(initializer)
    integer(bins, "bins", 1, _MOST_BINS + 1, f"[1, {_MOST_BINS}]")
    values = draw(shape, law, seed=seed, name=name, dtype=dtype)
    kind, parameters = law.law(values.shape)
    mean, std = law.mean(values.shape), law.std(values.shape)
    if std == 0.0:
        raise ValueError(f"expected an initializer that draws; got {law!r}, of which each value is the same")
    if not values.size:
        raise ValueError(f"expected a shape that holds values; got {shown(values.shape)}")
    low, high = law.bounds(values.shape)
    edges = np.linspace(max(low, mean - _SIGMAS * std), min(high, mean + _SIGMAS * std), bins + 1)
    counts, _ = np.histogram(values.astype(np.float64), edges)
    below = [distribution(kind).below(float(edge), *parameters) for edge in edges]
    return Histogram(
        initializer=repr(law),
        distribution=kind,
        parameters=parameters,
        shape=values.shape,
        dtype=dtype,
        seed=seed,
        name=name,
        edges=tuple(map(float, edges)),
        counts=tuple(map(int, counts)),
        expected=tuple(values.size * (after - before) for before, after in pairwise(below)),
        outside=values.size - int(counts.sum()),
    )
