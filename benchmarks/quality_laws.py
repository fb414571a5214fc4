"""The ideal distributions, as exact expectations for what ``quality_passes`` counts.

Ideal is a real number of the law, rounded once to the nearest value of the dtype, and kept inside the bounds.
So every edge between two cells lies half way between two neighbouring values of the dtype: at 10^11 draws a
half step left out would show. All laws are symmetric about zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fanfill import initializers as init
from fanfill.dtypes import STORAGES, round_down

Array = NDArray[Any]

OCTAVES = 22  # from the largest magnitude down; what is smaller is counted by its exponent
MANTISSA_BITS = (
    14  # of a cell's number: so cells of 2^-16 at most, and what is counted often fits a core's cache
)
OCTET_BITS = 10  # the same, for the 256 classes of the pairs
# A float32 takes one word of 32 bits, so that values below 2^-31 of the scale lie on a lattice. Octaves are
# told apart down to here; what is nearer to zero makes one class.
RESOLUTION = -28
ROOT = math.sqrt(0.5)


class Number(NamedTuple):
    """A floating-point type as integers: the statistics see bfloat16 values as the float32 they are."""

    real: Any
    bits: Any
    mantissa: int
    exponent_bias: int

    @property
    def sign(self) -> int:
        return 8 * np.dtype(self.bits).itemsize - 1


FLOAT32 = Number(np.float32, np.uint32, 23, 127)
FLOAT64 = Number(np.float64, np.uint64, 52, 1023)


@dataclass(frozen=True)
class Law:
    """One distribution in one dtype.

    ``kind`` is uniform (on +-scale), normal (of standard deviation scale) or truncated (the same, cut at
    +-2 scale).
    """

    kind: str
    scale: float
    dtype: str

    @property
    def cut(self) -> float:
        """Where the law ends, in units of the scale."""
        return {"uniform": 1.0, "normal": math.inf, "truncated": 2.0}[self.kind]

    @property
    def initializer(self) -> init.Initializer:
        """What fanfill draws."""
        if self.kind == "uniform":
            return init.uniform(-self.scale, self.scale)
        if self.kind == "normal":
            return init.normal(0.0, self.scale)
        return init.truncated_normal(0.0, self.scale, -2.0, 2.0)

    @property
    def number(self) -> Number:
        return FLOAT64 if self.dtype == "float64" else FLOAT32

    @cached_property
    def step(self) -> int:
        """What is between neighbouring values of the dtype, in the bits of the number."""
        return 1 << (self.number.mantissa + 1 - STORAGES[self.dtype].precision)

    @cached_property
    def limit(self) -> float:
        """The largest value of the dtype inside the bounds."""
        if self.cut == math.inf:
            return math.inf
        return round_down(Fraction(self.scale) * Fraction(self.cut), STORAGES[self.dtype])

    def beyond(self, x: Any) -> Any:
        """P(|X| > x), x >= 0 in units of the scale."""
        x = np.asarray(x, np.float64)
        if self.kind == "uniform":
            return np.clip(1.0 - x, 0.0, 1.0)
        if self.kind == "normal":
            return special.erfc(x * ROOT)
        far = special.erfc(self.cut * ROOT)
        return np.clip((special.erfc(x * ROOT) - far) / (1.0 - far), 0.0, 1.0)

    def reaching(self, bits: Array) -> Array:
        """P(|value| >= v) for magnitudes v of the dtype, given as bits: from half a step below each."""
        n = self.number
        own = np.asarray(bits, n.bits).view(n.real).astype(np.float64)
        below = (np.asarray(bits, n.bits) - n.bits(self.step)).view(n.real).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            edge = np.where(own > self.limit, math.inf, below / 2 + own / 2)
        return self.beyond(edge / self.scale)

    def bits_of(self, x: float) -> int:
        """The bits of the least value of the dtype that is at least x."""
        exact = self.number.real(x)
        found = int(exact.view(self.number.bits))
        found += float(exact) < x
        return -(-found // self.step) * self.step

    # The cells
    @property
    def shift(self) -> int:
        return max(self.number.mantissa - MANTISSA_BITS, self.step.bit_length() - 1)

    @cached_property
    def base(self) -> int:
        """The number of the first cell, which is all below the lowest octave: magnitude bits, shifted."""
        reach = self.scale * min(self.cut, 7.0)
        top = math.frexp(reach)[1] + (math.frexp(reach)[0] == 0.5)  # reach < 2^top, or is a power of two
        n = self.number
        return ((top - OCTAVES + n.exponent_bias) << (n.mantissa - self.shift)) - 1

    @property
    def cells(self) -> int:
        """Cells of each sign; the first begins at zero, the last has no end."""
        return OCTAVES << (self.number.mantissa - self.shift)

    @cached_property
    def probabilities(self) -> Array:
        """Of the cells of one sign, from zero outward; their sum is a half."""
        first = (np.arange(self.base + 1, self.base + self.cells, dtype=np.int64) << self.shift).astype(
            self.number.bits
        )
        edges = np.concatenate(([1.0], self.reaching(first), [0.0]))
        return -np.diff(edges) / 2

    @cached_property
    def values(self) -> Array:
        """The first value of every cell, from zero outward; in bfloat16 each cell is one value."""
        bits = (np.arange(self.base, self.base + self.cells, dtype=np.int64) << self.shift).astype(
            self.number.bits
        )
        return bits.view(self.number.real).astype(np.float64)

    @cached_property
    def octets(self) -> tuple[Array, Array, int]:
        """256 classes, as equal in probability as runs of cells can be: (class of a cell number shifted,
        probability of a class, shift). Numbers of negative cells follow those of the positive ones.
        """
        down = max(0, self.number.mantissa - self.shift - OCTET_BITS)
        p = self.probabilities.reshape(-1, 1 << down).sum(1)
        ordered = np.concatenate((p[::-1], p))  # from the lowest value to the highest
        middle = np.cumsum(ordered) - ordered / 2
        number = np.minimum(256 * middle, 255).astype(np.uint8)
        negative, positive = number[: p.size][::-1], number[p.size :]
        return np.concatenate((positive, negative)), np.bincount(number, ordered, 256), down

    @cached_property
    def octaves(self) -> tuple[Array, Array]:
        """(class of an exponent field, probability of a class): the octaves below the cells, counted from
        the highest; all below RESOLUTION in one class.
        """
        n = self.number
        top = (self.base + 1) >> (n.mantissa - self.shift)
        last = math.frexp(self.scale)[1] - 1 + RESOLUTION + n.exponent_bias
        fields = np.arange(last, top + 1)
        edges = np.concatenate(([0.0], 1.0 - self.reaching(fields << n.mantissa)))
        number = np.clip(np.arange(2 * n.exponent_bias + 2) - last + 1, 0, fields.size - 1)
        return number, np.diff(edges)

    # Moments and tails
    @cached_property
    def std(self) -> float:
        """The standard deviation of X / scale."""
        return math.sqrt(self._moment(2))

    def _moment(self, power: int) -> float:
        """E (X / scale)^power of the real number."""
        if power % 2:
            return 0.0
        if self.kind == "uniform":
            return 1.0 / (power + 1)
        if power == 0:
            return 1.0
        c, before = self.cut, (power - 1) * self._moment(power - 2)
        if c == math.inf:
            return before
        density = math.exp(-c * c / 2) / math.sqrt(2 * math.pi) / math.erf(c * ROOT)
        return before - 2 * c ** (power - 1) * density

    @cached_property
    def moments(self) -> Array:
        """E Z^k, k = 0..16, of Z = value / (scale * std). Rounding adds 10^-15 to a float32's second moment;
        a bfloat16's are sums over its values.
        """
        if self.shift != self.step.bit_length() - 1:
            return np.array([self._moment(k) / self.std**k for k in range(17)])
        z = self.values / (self.scale * self.std)
        return np.array([0.0 if k % 2 else 2.0 * float(self.probabilities @ z**k) for k in range(17)])

    @cached_property
    def levels(self) -> tuple[tuple[str, int], ...]:
        """Named magnitudes, as bits: how many values lie at or beyond them is counted."""
        if self.cut == math.inf:
            sigmas = (3.0, 4.0, 5.0, 5.5, 5.77, 6.0)
            return tuple((f">= {t:g} sigma", self.bits_of(t * self.scale)) for t in sigmas)
        last = self.bits_of(self.limit)
        inner = {self.bits_of((1 - 2.0**-k) * self.scale * self.cut): k for k in (16, 13, 10, 7)}
        return (
            *((f">= (1 - 2^-{k}) bound", bits) for bits, k in sorted(inner.items()) if bits < last),
            ("at the bound", last),
            ("beyond the bound", last + self.step),
        )
