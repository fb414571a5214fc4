"""Weighted minimax fits P(x)/Q(x) by the Remez exchange, their rounding, and the functions that are fitted.

All in multiprecision. P has degree m, Q degree n, and any coefficient can be pinned to a value. One always
is, so that the quotient is normalised; rounding is pinning as well: one coefficient is rounded, and the
others are fitted again around it. The exchange solves the linearised equations P - g Q = +-E Q_old / w on the
reference and repeats them, which is why a rational fit needs no starting guess.
"""

import itertools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np

mp.mp.prec = 160
Array = np.ndarray[Any, Any]
Function = Callable[[Any], Any]
Pins = dict[tuple[str, int], Any]
# 401 Chebyshev points miss the maximum by about (pi * alternations / 1200)^2 of it: 0.3 % for twenty
# coefficients
POINTS = 401
TINY = mp.mpf(10) ** -9  # where a weight would vanish
PHI2 = mp.erfc(mp.sqrt(2)) / 2
Q_MAX = (mp.mpf(1) / 2 - PHI2) * (1 + mp.mpf(2) ** -20)


class Grid(NamedTuple):
    """Points of an interval with the function g and the weight w there (object arrays of mpf)."""

    x: Array
    g: Array
    w: Array


class Fit(NamedTuple):
    """Coefficients of P and Q, lowest power first, and the largest weighted error on the grid."""

    p: list[Any]
    q: list[Any]
    error: float


def grid(g: Function, w: Function, low: Any, high: Any) -> Grid:
    """Chebyshev points of [low, high], ends included, with g(x) and w(x) there."""
    mid, half = (mp.mpf(high) + low) / 2, (mp.mpf(high) - low) / 2
    x = np.array([mid - half * mp.cos(mp.pi * k / (POINTS - 1)) for k in range(POINTS)], dtype=object)
    return Grid(x, np.array([g(v) for v in x], dtype=object), np.array([w(v) for v in x], dtype=object))


def horner(coefficients: list[Any], x: Array) -> Array:
    """Evaluate a polynomial, lowest power first."""
    total = x * 0
    for c in reversed(coefficients):
        total = total * x + c
    return total


def errors(p: list[Any], q: list[Any], at: Grid) -> Array:
    """Weighted signed errors of P/Q on the grid."""
    return (horner(p, at.x) / horner(q, at.x) - at.g) * at.w


def _alternation(error: Array, count: int) -> list[int]:
    """Indices of `count` extrema of alternating sign; fewer when the error does not alternate so often."""
    sign = np.array([v > 0 for v in error])
    size = np.abs(error)
    ends = [0, *(np.flatnonzero(sign[1:] != sign[:-1]) + 1), len(error)]
    peaks = [int(a) + int(np.argmax(size[a:b])) for a, b in itertools.pairwise(ends)]
    while len(peaks) > count:
        if len(peaks) == count + 1:
            peaks.pop(0 if size[peaks[0]] < size[peaks[-1]] else -1)
        else:
            k = int(np.argmin([max(size[a], size[b]) for a, b in itertools.pairwise(peaks)]))
            del peaks[k : k + 2]
    return peaks


def _exchange_one(error: Array, reference: list[int]) -> list[int]:
    """The reference with the worst point let in, in place of its nearest neighbour of the same sign."""
    worst = int(np.argmax(np.abs(error)))
    same = [i for i, r in enumerate(reference) if (error[r] > 0) == (error[worst] > 0)]
    nearest = min(same or range(len(reference)), key=lambda i: abs(reference[i] - worst))
    return sorted({*reference[:nearest], worst, *reference[nearest + 1 :]})


def _solve(
    at: Grid, free: list[tuple[str, int]], pins: Pins, q_old: Array, reference: list[int]
) -> tuple[Pins, Any]:
    """Coefficients and level that equalise the linearised error on the reference."""
    count = len(free) + 1
    a, b = mp.matrix(count, count), mp.matrix(count, 1)
    for i, r in enumerate(reference):
        for j, (kind, power) in enumerate(free):
            a[i, j] = at.x[r] ** power * (1 if kind == "p" else -at.g[r])
        a[i, count - 1] = (-1) ** i * q_old[r] / at.w[r]
        b[i] = sum(c * at.x[r] ** j * (-1 if kind == "p" else at.g[r]) for (kind, j), c in pins.items())
    solution = mp.lu_solve(a, b)
    return pins | {key: solution[i] for i, key in enumerate(free)}, abs(solution[count - 1])


def remez(at: Grid, m: int, n: int, pins: Pins, rounds: int = 30) -> Fit:
    """Minimise max |P/Q - g| w over the coefficients that `pins`, keyed ("p" or "q", power), leaves free."""
    free = [k for k in [("p", j) for j in range(m + 1)] + [("q", j) for j in range(n + 1)] if k not in pins]
    values, best = dict(pins), None
    count, q_old = len(free) + 1, at.x * 0 + 1
    reference = [int(len(at.x) * (k + 0.5) / count) for k in range(count)]
    for _ in range(rounds if free else 1):
        level = mp.mpf(0)
        for _ in range((3 if n else 1) if free else 0):
            values, level = _solve(at, free, pins, q_old, reference)
            q_old = horner([values[("q", j)] for j in range(n + 1)], at.x)
        p, q = [values[("p", j)] for j in range(m + 1)], [values[("q", j)] for j in range(n + 1)]
        error = errors(p, q, at)
        worst = float(np.max(np.abs(error)))
        if best is None or worst < best.error:
            best = Fit(p, q, worst)
        peaks = _alternation(error, count)
        if len(peaks) < count:
            peaks = _exchange_one(error, reference)
        if peaks == reference or len(peaks) < count or worst < level * mp.mpf("1.0005"):
            break
        reference = peaks
    if best is None:
        raise ValueError(f"expected at least one round of the exchange, got rounds={rounds}")
    return best


def rounded(at: Grid, m: int, n: int, pins: Pins, dtype: type) -> tuple[Fit, Fit]:
    """The best fit, and the best of those with coefficients in `dtype` that two orders of rounding give.

    Each coefficient in turn takes the better of its two neighbours in `dtype`, and those still free are
    fitted again.
    """
    best = remez(at, m, n, pins)
    keys = [("p", j) for j in range(m + 1)] + [("q", j) for j in range(n + 1)]
    fits = []
    for order in (sorted(keys, key=lambda k: k[1]), sorted(keys, key=lambda k: k[0], reverse=True)):
        fit, taken = best, dict(pins)
        for key in order:
            if key in taken:
                continue
            value = (fit.p if key[0] == "p" else fit.q)[key[1]]
            near = dtype(float(value))
            other = np.nextafter(near, dtype(np.inf if float(near) < value else -np.inf))
            trials = [taken | {key: mp.mpf(float(c))} for c in (near, other)]
            fit, taken = min(((remez(at, m, n, t, 10), t) for t in trials), key=lambda pair: pair[0].error)
        fits.append(fit)
        if n == 0 or dtype is np.float64:  # no second order, or too little to gain
            break
    return best, min(fits, key=lambda fit: fit.error)


def others(at: Grid, degrees: tuple[tuple[int, int], ...]) -> str:
    """Errors of other degrees, in words."""
    left = (f"{m}/{n} 2^{np.log2(remez(at, m, n, {('q', 0): mp.mpf(1)}).error):.2f}" for m, n in degrees)
    return f"    not taken: {', '.join(left)}"


# --- the functions ------------------------------------------------------------
def lower_quantile(p: Any) -> Any:
    """Phi^-1(p) for 0 < p <= 1/2: Halley's steps from the double-precision quantile."""
    x = mp.mpf(statistics.NormalDist().inv_cdf(float(p)))
    for _ in range(2):
        step = (mp.erfc(-x / mp.sqrt(2)) / 2 - p) * mp.sqrt(2 * mp.pi) * mp.exp(x * x / 2)
        x -= step / (1 + x * step / 2)
    return x


def central(q: Any) -> Any:
    """Phi^-1(1/2 + q), by its series where the subtraction from 1/2 would cancel."""
    a = q * mp.sqrt(2 * mp.pi)
    return a + a**3 / 6 + 7 * a**5 / 120 if q < 1e-7 else -lower_quantile(mp.mpf(1) / 2 - q)


def log_rest(g: Any) -> Any:
    """Q of -2 ln(1 - g/2) = g + g^2 Q(g)."""
    return (-2 * mp.log1p(-g / 2) - g) / g**2 if g > TINY else mp.mpf(1) / 4 + g / 12


def log_grid() -> Grid:
    """The squared radius for u >= 1/2, relative error; g = 2 - m for a mantissa m in [1, 2)."""
    return grid(log_rest, lambda g: max(g, TINY) ** 2 / (-2 * mp.log1p(-max(g, TINY) / 2)), 0, 1)


def quotient_grid() -> Grid:
    """W of 4 atanh(s) = 4 s + s^3 W(s^2), the same logarithm for s = g / (4 - g)."""

    def w(z: Any) -> Any:
        s = mp.sqrt(z)
        return 4 * (mp.atanh(s) - s) / s**3 if z > TINY**2 else mp.mpf(4) / 3 + z * 4 / 5

    return grid(w, lambda z: max(z, TINY**2) / (4 + z * w(z)), 0, mp.mpf(1) / 9)


def sin_grid() -> Grid:
    """T, for the relative error of the sine."""
    return grid(sin_rest, lambda z: 1 / (3 + sin_rest(z)), 0, mp.mpf(1) / 16)


def cos_grid() -> Grid:
    """D, for the relative error of the cosine."""
    return grid(cos_rest, lambda z: max(z, TINY) / mp.cospi(mp.sqrt(z)), 0, mp.mpf(1) / 16)


def sin_rest(z: Any) -> Any:
    """T of sin(pi x) = x (3 + T(x^2)): 3 has two bits, and pi's own rounding falls on T."""
    return (mp.sin(mp.pi * mp.sqrt(z)) / mp.sqrt(z) if z else +mp.pi) - 3


def cos_rest(z: Any) -> Any:
    """D of cos(pi x) = 1 - 5 x^2 + x^2 D(x^2)."""
    return 5 + ((mp.cos(mp.pi * mp.sqrt(z)) - 1) / z if z else -(mp.pi**2) / 2)


def central_grid() -> Grid:
    """z/q against x = 1/4 - q^2 = p (1 - p): no coefficient changes sign there, so nothing is lost by
    cancellation.
    """

    def q(x: Any) -> Any:
        return mp.sqrt(max(mp.mpf(1) / 4 - x, TINY**2))

    quarter = mp.mpf(1) / 4
    return grid(
        lambda x: central(q(x)) / q(x), lambda x: q(x) / max(1, central(q(x))), quarter - Q_MAX**2, quarter
    )


def central_rest_grid() -> Grid:
    """z/q - 3 against x = p (1 - p), the error relative to z/q; eight times less of it at two sigma, where a
    cut is to be reached as often as it should.
    """
    at = central_grid()
    near = np.array([mp.exp((at.x[0] - x) * 5000) for x in at.x], dtype=object)
    return Grid(at.x, at.g - 3, (1 + 7 * near) / at.g)


def tail(r: Any) -> Any:
    """z of r = sqrt(-2 ln d), d = Phi(-z)."""
    return -lower_quantile(mp.exp(-r * r / 2))


def tail_grid(high: float) -> Grid:
    """z against r, relative error."""
    return grid(tail, lambda r: 1 / tail(r), 2.75, high)
