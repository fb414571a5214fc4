"""The exact values that words stand for, and how far a kernel's values are from them.

A float32 kernel is measured in float64, whose unit roundoff is 2^-29 of a float32's. Each reference below
takes a handful of operations on well-conditioned arguments, so it is off by a few 2^-53 of itself: 2^-26 of
the 4 ulp or of the 2^-20 that are allowed, which no figure printed with three digits can show. Nothing is
lost at the ends: near u = 1 the logarithm is log1p of the integer complement, the angle is reduced in
integers, and the inverse normal CDF gets the nearer tail's probability as a sum of positive terms.

A float64 kernel is measured in mpmath with 50 digits; a reference is handed on as a pair of float64, the
number and what it lacks, so that the errors are NumPy's work again.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
from scipy.special import ndtri

from fanfill.recipes import Recipe
from fanfill_kernels.forms import form_of

Array = np.ndarray[Any, Any]
DIGITS = 50
FLOOR = 2.0**-10  # of |z|: normals are measured in ulp of max(|z|, FLOOR)
NORMAL_BOUND = 4.0
# One rounding, of a point that is off by a step of the words at most, 2^-8 ulp.
RANGE_BOUND = 0.51
ULP, COUNT = "ulp", "values"


class Exact(NamedTuple):
    """Exact values as float64, and the rest that this leaves (zero where float64 is exact enough)."""

    value: Array
    rest: Array | float = 0.0


def extreme_words(bits: int) -> Array:
    """0, 1, the sign's borders, the last word, and every power of two with its neighbours."""
    powers = [2**k + d for k in range(bits) for d in (-1, 0, 1)]
    found = sorted({*powers, 2**bits - 2, 2**bits - 1})
    return np.array(found, np.uint32 if bits == 32 else np.uint64)


def kernel_values(made: Recipe, *words: Array) -> Any:
    """What the kernels of a recipe make of words: one array, or two for a form that takes words in pairs."""
    form = form_of(made.form, made.dtype)
    with np.errstate(all="ignore"):  # as in fanfill_kernels.blocks.replay: integers wrap on purpose
        if form.arguments is None:
            return form.function(*words, made.params)
        (single,) = words
        padded = np.append(single, single[: single.size % 2])
        return form.function(
            form.arguments(padded.view(np.uint64), made.params).view(np.uint32)[: single.size], made.params
        )


def split(numbers: list[Any]) -> Exact:
    """mpmath numbers as float64 and rest."""
    value = np.array([float(x) for x in numbers])
    rest = [float(x - mp.mpf(v)) for x, v in zip(numbers, value.tolist(), strict=True)]
    return Exact(value, np.array(rest))


# --- normals
def radius_single(w: Array) -> Array:
    """sqrt(-2 ln u), u = (w + 1/2) / 2^32, of 32-bit words."""
    v = w.astype(np.float64)
    upper = w >= 2**31
    with np.errstate(divide="ignore"):  # log1p(-1) at word 0, where the other branch is taken
        log = np.where(upper, np.log1p((v - (2.0**32 - 0.5)) * 2.0**-32), np.log((v + 0.5) * 2.0**-32))
    return np.sqrt(-2.0 * log)


def angle_single(w: Array) -> tuple[Array, Array]:
    """cos(pi s) and sin(pi s) of the signed units s = k/2 + t of 32-bit words, |t| <= 1/4."""
    s = (w | np.uint32(1)).view(np.int32).astype(np.int64)
    k = (s + 2**29) >> 30
    t = (s - (k << 30)) * (np.pi * 2.0**-31)
    sine, cosine, turn = np.sin(t), np.cos(t), k & 3
    return np.choose(turn, [cosine, -sine, -cosine, sine]), np.choose(turn, [sine, cosine, -sine, -cosine])


def normal_single(w0: Array, w1: Array) -> tuple[Exact, Exact]:
    """The two normals of pairs of 32-bit words."""
    r, (cosine, sine) = radius_single(w0), angle_single(w1)
    return Exact(r * cosine), Exact(r * sine)


def normal_double(w0: Array, w1: Array) -> tuple[Exact, Exact]:
    """The two normals of pairs of 64-bit words; each word's functions are evaluated once."""
    with mp.workdps(DIGITS):
        radius = {w: mp.sqrt(-2 * _log_unit(w)) for w in set(w0.tolist())}
        angle = {w: _turn(w) for w in set(w1.tolist())}
        pairs = list(zip(w0.tolist(), w1.tolist(), strict=True))
        first = split([radius[u] * angle[v][0] for u, v in pairs])
        return first, split([radius[u] * angle[v][1] for u, v in pairs])


def _log_unit(w: int) -> Any:
    u = mp.ldexp(2 * w + 1, -65)
    return mp.log(u) if w < 2**63 else mp.log1p(u - 1)  # u - 1 is exact: u has 65 bits, of 166


def _turn(w: int) -> tuple[Any, Any]:
    s = mp.ldexp((w | 1) - (2**64 if w >= 2**63 else 0), -63)
    return mp.cospi(s), mp.sinpi(s)


# --- truncated normals
class Cut(NamedTuple):
    """N(0, 1) below, within and above two cuts, from mpmath, not from the library's own constants."""

    below: Any
    mass: Any
    above: Any


def cut(lower: float, upper: float) -> Cut:
    """The probabilities of [lower, upper], each to about DIGITS digits."""
    with mp.workdps(2 * DIGITS):
        below, above = _tail(-lower), _tail(upper)
        mass = _tail(lower) - above if lower > 0 else _tail(-upper) - below
        return Cut(below, mass, above)


def _tail(x: float) -> Any:
    """The probability of N(0, 1) above x."""
    return mp.erfc(mp.mpf(x) / mp.sqrt(2)) / 2 if math.isfinite(x) else mp.mpf(x < 0)


def truncated_single(w: Array, lower: float, upper: float) -> Exact:
    """z of 32-bit words, uncut beyond the exact probability: the quantile at P(lower) + u mass."""
    below, mass, above = (float(x) for x in cut(lower, upper))
    v = w.astype(np.float64)
    left = below + mass * ((v + 0.5) * 2.0**-32)
    right = above + mass * (((2.0**32 - 0.5) - v) * 2.0**-32)
    return Exact(np.where(left < right, ndtri(left), -ndtri(right)))


def truncated_double(w: Array, lower: float, upper: float) -> Exact:
    """z of 64-bit words: a Newton step in mpmath from SciPy's quantile.

    The step squares the start's error: from 2^-40 of max(1, |z|) it would leave less than 2^-74, for a bound
    of 2^-48. A start that is further off is an error here, not a figure.
    """
    with mp.workdps(DIGITS):
        below, mass, above = (+x for x in cut(lower, upper))
        root, numbers = mp.sqrt(2), []
        for word in w.tolist():
            u = mp.ldexp(2 * word + 1, -65)
            left, right = below + mass * u, above + mass * (1 - u)
            d = min(left, right)
            x = mp.mpf(float(ndtri(float(d))))
            step = (mp.erfc(-x / root) / 2 - d) / mp.npdf(x)
            if abs(step) > mp.ldexp(max(1, abs(x)), -40):
                raise ArithmeticError(f"the quantile's start for word {word} is off by {float(step)!r}")
            numbers.append(x - step if left < right else step - x)
        return split(numbers)


# --- uniforms
def uniform_exact(made: Recipe, w: Array) -> tuple[Exact, Array]:
    """s * bound, exactly, and with each operation rounded: of a symmetric uniform.

    In Fractions for float64. For float32 in float64: there a product of two float32 is exact.
    """
    (scale,) = made.params
    if made.dtype == "float32":
        s = (w | np.uint32(1)).view(np.int32).astype(np.float64) * 2.0**-31
        once = (s.astype(np.float32).astype(np.float64) * float(scale)).astype(np.float32)
        return Exact(s * float(scale)), once
    signed = [Fraction((v | 1) - (2**64 if v >= 2**63 else 0), 2**63) for v in w.tolist()]
    once = np.array([float(Fraction(float(s)) * Fraction(float(scale))) for s in signed])
    return _nearest([s * Fraction(float(scale)) for s in signed]), once


def range_exact(made: Recipe, low: float, high: float, w: Array) -> tuple[Exact, Array]:
    """low + (high - low) (w + 1/2) / 2^N exactly, and the lattice point of the word rounded once, both inside
    the recipe's ends: of a uniform that is not symmetric.

    In Fractions for float64. For float32 in integers and float64, which holds its points.
    """
    *constants, unit, least, greatest = made.params
    *origin, width, shift = (int(x) for x in constants)
    whole = origin[0] - int(np.float64(1.5 * 2.0**52).view(np.uint64))
    if made.dtype == "float32":
        points = whole + (np.uint64(width) * w.astype(np.uint64) >> np.uint64(shift)).astype(np.int64)
        once = (points * float(unit)).astype(np.float32)
        exact = low + (high - low) * ((w + 0.5) * 2.0**-32)
        return Exact(np.clip(exact, float(least), float(greatest))), np.clip(once, least, greatest)
    rest = origin[1] - int(np.float64(2.0**52).view(np.uint64))
    exact, rounded, ends = [], [], (Fraction(float(least)), Fraction(float(greatest)))
    for v in w.tolist():
        x = Fraction(low) + (Fraction(high) - Fraction(low)) * Fraction(2 * v + 1, 2**65)
        exact.append(min(max(x, ends[0]), ends[1]))
        step, part = divmod(width * v >> 64, 2**shift)
        point = whole + step + Fraction(rest + (part << 64 - shift >> 13), 2**51)
        rounded.append(float(point * Fraction(float(unit))))
    return _nearest(exact), np.clip(np.array(rounded), least, greatest)


def _nearest(numbers: list[Fraction]) -> Exact:
    near = [float(x) for x in numbers]
    return Exact(
        np.array(near), np.array([float(x - Fraction(v)) for x, v in zip(numbers, near, strict=True)])
    )


# --- errors
def difference(found: Array, exact: Exact) -> Array:
    """|found - exact|; the first difference is of neighbours, and so exact."""
    return np.abs((found.astype(np.float64) - exact.value) - exact.rest)


def ulps(found: Array, exact: Exact, floor: float = 0.0) -> Array:
    """Error in ulp, of the found values' type, of max(|exact|, floor)."""
    _, exponent = np.frexp(np.maximum(np.abs(exact.value), floor))
    return np.ldexp(difference(found, exact), np.finfo(found.dtype).nmant + 1 - exponent)


def shares(found: Array, exact: Exact) -> Array:
    """Error as a share of what a truncated normal is allowed: 2^-20 (float64: 2^-48) of max(1, |z|)."""
    bits = 20 if found.dtype == np.float32 else 48
    return np.ldexp(difference(found, exact) / np.maximum(1.0, np.abs(exact.value)), bits)


# --- findings
class Finding(NamedTuple):
    """How many values were measured, the worst error in its unit, its bound, how often the bound was broken
    (by a value or a pair), and the words that the worst came from.
    """

    values: int
    worst: float
    unit: str
    bound: float
    beyond: int
    words: tuple[int, ...] = ()


def worst_of(values: int, error: Array, unit: str, bound: float, words: tuple[Array, ...]) -> Finding:
    """The largest of errors, and the words at that place."""
    at = int(error.argmax())  # a NaN counts as the largest
    beyond = int(np.count_nonzero(~(error <= bound)))
    return Finding(values, float(error[at]), unit, bound, beyond, tuple(int(w[at]) for w in words))


def merged(findings: list[Finding]) -> Finding:
    """One finding of many of a kind."""
    values, beyond = sum(f.values for f in findings), sum(f.beyond for f in findings)
    worst = max(findings, key=lambda f: math.inf if math.isnan(f.worst) else f.worst)
    if worst.unit == COUNT:
        worst = worst._replace(worst=float(beyond))
    return worst._replace(values=values, beyond=beyond)
