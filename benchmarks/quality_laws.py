"""The ideal distributions, as exact expectations for what ``quality_passes`` counts.

Ideal is a real number of the law, rounded once to the nearest value of the dtype, and kept inside the bounds.
So every edge between two cells lies half way between two neighbouring values of the dtype: at 10^11 draws a
half step left out would show.
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
from fanfill_kernels.formats import Format

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
# Last bits of a mantissa that are counted, and octaves below the scale in which they are.
LAST_BITS, LAST_OCTAVES = 3, 16
# Of a binade, this much lies inside the bounds, or its last bits are not held against one half: the bound
# itself, a power of two, is a binade of one value.
LEAST_PART = 2.0**-10


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

    ``kind`` is uniform (on middle +- scale), normal (of standard deviation scale) or truncated (the same, cut
    at +-2 scale). The middle is zero, and the law symmetric, but for uniforms that lie on the positive side.
    """

    kind: str
    scale: float
    dtype: str
    middle: float = 0.0

    def __post_init__(self) -> None:
        if self.middle and (self.kind != "uniform" or self.middle < self.scale):
            raise ValueError(f"expected middle 0, or a uniform that is nowhere negative; got {self}")

    @property
    def label(self) -> str:
        """The law in words of the interface."""
        s = self.scale
        if self.kind == "uniform":
            return f"uniform({self.middle - s:g}, {self.middle + s:g})"
        return f"normal(0, {s:g})" if self.kind == "normal" else f"truncated_normal(0, {s:g}, -2, 2)"

    @property
    def cut(self) -> float:
        """Where the law ends, in units of the scale."""
        return {"uniform": 1.0, "normal": math.inf, "truncated": 2.0}[self.kind]

    @property
    def initializer(self) -> init.Initializer:
        """What fanfill draws."""
        if self.kind == "uniform":
            return init.uniform(self.middle - self.scale, self.middle + self.scale)
        if self.kind == "normal":
            return init.normal(0.0, self.scale)
        return init.truncated_normal(0.0, self.scale, -2.0, 2.0)

    @property
    def number(self) -> Number:
        return FLOAT64 if self.dtype == "float64" else FLOAT32

    @property
    def storage(self) -> Format:
        return STORAGES[self.dtype]

    @property
    def narrow(self) -> bool:
        """Whether the dtype is one of those that are float32 values rounded once more."""
        return self.storage.lanes.kind == "u"

    @cached_property
    def magnitudes(self) -> Array:
        """A narrow type's values by their bits without the sign, as float32; NaN where there is none."""
        s = self.storage
        field, mantissa = np.divmod(np.arange(1 << (8 * s.itemsize - 1)), 1 << (s.precision - 1))
        whole = mantissa + (field > 0) * (1 << (s.precision - 1))
        values = np.ldexp(whole.astype(np.float64), np.maximum(field, 1) - 1 + s.least)
        return np.where(values <= s.largest, values, np.nan).astype(np.float32)

    @cached_property
    def step(self) -> int:
        """What is between neighbouring normal values of the dtype, in the bits of the number."""
        return 1 << (self.number.mantissa + 1 - self.storage.precision)

    @cached_property
    def limit(self) -> float:
        """The largest value of the dtype inside the bounds."""
        if self.cut == math.inf:
            return math.inf
        return round_down(Fraction(self.middle) + Fraction(self.scale) * Fraction(self.cut), self.storage)

    def beyond(self, x: Any, sign: int) -> Any:
        """P(sign * X > x), x >= 0 in units of the scale."""
        x = np.asarray(x, np.float64)
        if self.kind == "uniform":
            return np.clip((1.0 - x + sign * (self.middle / self.scale)) / 2, 0.0, 1.0)
        if self.kind == "normal":
            return special.erfc(x * ROOT) / 2
        far = special.erfc(self.cut * ROOT)
        return np.clip((special.erfc(x * ROOT) - far) / (1.0 - far), 0.0, 1.0) / 2

    def below(self, values: Array) -> Array:
        """The value of the dtype before each of these positive ones."""
        half, exponent = np.frexp(values)
        quantum = np.maximum(exponent - (half == 0.5) - self.storage.precision, self.storage.least)
        return values - np.ldexp(1.0, quantum)

    def reaching(self, bits: Any) -> Array:
        """P(|value| >= v) for magnitudes v, given as bits: from half a step below the least value of the
        dtype that reaches v. Two rows, of the positive and of the negative values.
        """
        n = self.number
        v = np.asarray(bits).astype(n.bits).view(n.real).astype(np.float64)
        exponent = np.frexp(v)[1]
        quantum = np.ldexp(1.0, np.maximum(exponent - self.storage.precision, self.storage.least))
        own = np.ceil(v / quantum) * quantum
        with np.errstate(over="ignore", invalid="ignore"):
            edge = np.where(own > self.limit, math.inf, self.below(own) / 2 + own / 2) / self.scale
        return np.stack([self.beyond(edge, sign) for sign in (1, -1)])

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
        reach = self.middle + self.scale * min(self.cut, 7.0)
        top = math.frexp(reach)[1] + (math.frexp(reach)[0] == 0.5)  # reach < 2^top, or is a power of two
        n = self.number
        return ((top - OCTAVES + n.exponent_bias) << (n.mantissa - self.shift)) - 1

    @property
    def cells(self) -> int:
        """Cells of each sign; the first begins at zero, the last has no end."""
        return OCTAVES << (self.number.mantissa - self.shift)

    @cached_property
    def probabilities(self) -> Array:
        """Of the cells from zero outward, in two rows: of the positive values, of the negative ones."""
        first = (np.arange(self.base + 1, self.base + self.cells, dtype=np.int64) << self.shift).astype(
            self.number.bits
        )
        begin = np.array([[self.beyond(0.0, 1)], [self.beyond(0.0, -1)]])
        return -np.diff(np.hstack((begin, self.reaching(first), np.zeros((2, 1)))))

    @cached_property
    def ordered(self) -> Array:
        """The same, from the lowest value to the highest."""
        positive, negative = self.probabilities
        return np.concatenate((negative[::-1], positive))

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
        ordered = self.ordered.reshape(-1, 1 << down).sum(1)
        middle = np.cumsum(ordered) - ordered / 2
        number = np.minimum(256 * middle, 255).astype(np.uint8)
        negative, positive = number[: number.size // 2][::-1], number[number.size // 2 :]
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
        edges = np.concatenate(([0.0], 1.0 - self.reaching(fields << n.mantissa).sum(0)))
        number = np.clip(np.arange(2 * n.exponent_bias + 2) - last + 1, 0, fields.size - 1)
        return number, np.diff(edges)

    # Moments and tails
    @cached_property
    def std(self) -> float:
        """The standard deviation of X / scale; its mean is middle / scale."""
        return math.sqrt(self._moment(2))

    def _moment(self, power: int) -> float:
        """E ((X - middle) / scale)^power of the real number."""
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
        """E Z^k, k = 0..16, of Z = (value - middle) / (scale * std). Rounding adds 10^-15 to a float32's
        second moment; those of the narrow types are sums over their values.
        """
        if self.shift != self.step.bit_length() - 1:
            return np.array([self._moment(k) / self.std**k for k in range(17)])
        z = (np.stack((self.values, -self.values)) - self.middle) / (self.scale * self.std)
        return np.array([float((self.probabilities * z**k).sum()) for k in range(17)])

    @cached_property
    def levels(self) -> tuple[tuple[str, int], ...]:
        """Named magnitudes, as bits: how many values lie at or beyond them is counted."""
        if self.cut == math.inf:
            sigmas = (3.0, 4.0, 5.0, 5.5, 5.77, 6.0)
            return tuple((f">= {t:g} sigma", self.bits_of(t * self.scale)) for t in sigmas)
        last = self.bits_of(self.limit)
        ends = (("at the bound", last), ("beyond the bound", last + self.step))
        if self.middle > self.scale:
            low = self.bits_of(self.middle - self.scale)
            ends = (("from the lower bound on", low), ("above the lower bound", low + self.step), *ends)
        width = (1 + bool(self.middle)) * self.scale * self.cut
        top = self.middle + self.scale * self.cut
        inner = {self.bits_of(top - 2.0**-k * width): k for k in (16, 13, 10, 7)[: 6 - len(ends)]}
        word = "width from the bound" if self.middle else "bound"
        within = "within 2^-{} of the " + word if self.middle else ">= (1 - 2^-{}) bound"
        return (*((within.format(k), bits) for bits, k in sorted(inner.items()) if bits < last), *ends)

    # The last bits of the mantissa
    @property
    def last_shape(self) -> tuple[int, int]:
        """Exponent fields of the dtype, and values of its mantissa's last LAST_BITS bits."""
        return 1 << (8 * self.storage.itemsize - self.storage.precision), 1 << min(
            LAST_BITS, self.storage.precision - 1
        )

    @cached_property
    def last_shares(self) -> Array:
        """The shares of the last bits' values in each binade (exponent field); zeros where nothing is held
        against them.

        The narrow types' come from the probability of every single value. In float32 and float64 all values
        of the last bits are equally likely, but for 2^-20, where the lattice allows it: a uniform of one word
        has 31 (63) bits beside the sign, and so two and more of its points to a last place down to 2^-6
        (2^-9) of the scale; below that its last bits are what the lattice makes of them.
        """
        fields, classes = self.last_shape
        s = self.storage
        if self.narrow:
            values = self.magnitudes[np.isfinite(self.magnitudes)]
            reach = self.reaching(values[1:].view(self.number.bits)).sum(0)
            p = np.zeros(fields << (s.precision - 1))
            p[: values.size] = -np.diff(np.concatenate(([1.0], reach, [0.0])))
            shares = p.reshape(fields, -1, classes).sum(1)
            total = shares.sum(1, keepdims=True)
            return np.divide(shares, total, out=np.zeros_like(shares), where=total > 1e-15)
        exponents = np.arange(fields) - self.number.exponent_bias
        low = math.ceil(math.log2(self.scale)) - LAST_OCTAVES
        if self.kind == "uniform":
            bits = 8 * s.itemsize - 2  # 2^bits points on each side of the middle
            low = max(low, math.ceil(math.log2(self.scale)) + s.precision - bits)
        binade = np.ldexp(1.0, exponents.clip(-1000, 1000))
        inside = np.minimum(self.limit, 2 * binade) - binade >= LEAST_PART * binade
        return np.where((exponents >= low) & inside, 1.0 / classes, 0.0)[:, None] * np.ones(classes)

    @cached_property
    def lattice(self) -> float:
        """How many points there are, where values are functions of points whose last bits are as good as
        tossed, but tossed once: float32 truncated normals. Infinite for the others: normals have two words, a
        uniform's points are spread evenly, and rounding to a narrow type leaves none to toss.
        """
        if self.kind == "truncated" and self.dtype == "float32":
            return float(1.0 - special.erfc(self.cut * ROOT)) * 2.0**30
        return math.inf
