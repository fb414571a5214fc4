"""Where every coefficient of the kernels comes from: minimax fits, rounded to the working type.

    python benchmarks/fit_polynomials.py [normal32 truncated32 normal64 truncated64]    (all: two minutes)

Prints each polynomial as hexadecimal literals, lowest power first, and the order of evaluation (Horner
inside, each operation rounded, none fused); the largest error of the exact fit and of the rounded one; and
the error measured in the working type, whose unit roundoff u is 2^-24 or 2^-53. Degrees that were not taken
are listed with their errors. Stops with exit code 1 where the kernels' own constants are others.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
from remez import (
    Q_MAX,
    Array,
    Grid,
    central,
    central_grid,
    central_rest_grid,
    cos_grid,
    log_grid,
    others,
    quotient_grid,
    rounded,
    sin_grid,
    tail,
    tail_grid,
)

from fanfill_kernels import arithmetic, arithmetic64

BITS = {np.float32: 24, np.float64: 53}  # u = 2^-BITS
BOUND = {np.float32: 20, np.float64: 48}  # truncated normals: 2^-BOUND max(1, |z|)
Trig = Callable[..., tuple[Array, Array]]
found: dict[str, list[Any]] = {}


def fit(order: str, at: Grid, degrees: tuple[int, int], one: tuple[str, int], f: type, *kept: str) -> None:
    """Fit P/Q with the coefficient `one` set to 1, print it, and keep P and Q under the names in `kept`."""
    best, chosen = rounded(at, *degrees, {one: mp.mpf(1)}, f)
    print(f"  {order}: error 2^{np.log2(best.error):.2f}, rounded 2^{np.log2(chosen.error):.2f}")
    for key, side in zip(kept, (chosen.p, chosen.q), strict=False):
        found[key] = [f(float(c)) for c in side]
        print(f"    {key} = {' '.join(float(c).hex() for c in side)}", flush=True)


def poly(c: list[Any], x: Array) -> Array:
    """Horner in the working type; a leading 1 costs no multiplication, and none is done."""
    total = x + c[-2] if c[-1] == 1 else x * c[-1] + c[-2]
    for k in c[-3::-1]:
        total = total * x + k
    return total


# --- kernels in the working type ------------------------------------------------------------
def types(f: type) -> tuple[Any, Any, int, int]:
    """Signed and unsigned words of a working type, their width, and the bits of its fraction."""
    return (np.int32, np.uint32, 32, 23) if f is np.float32 else (np.int64, np.uint64, 64, 52)


def radius(w: Array, f: type, log: Callable[[Array], Array]) -> Array:
    """sqrt(-2 ln u), u = (w + 1/2) / 2^width; the upper half is taken by its complement, a signed integer."""
    i, _, width, fraction = types(f)
    sign = w.view(i) >> i(width - 1)
    v = (w.view(i) ^ sign).astype(f) + f(0.5)
    b = v.view(i)
    bias = (1 << (width - 2 - fraction)) - 1
    e = ((b >> i(fraction)) - i(bias + width - 1)) & ~sign
    m = ((b & i((1 << fraction) - 1)) | i(bias << fraction)).view(f)
    g = np.where(sign < 0, v * f(2.0 ** (1 - width)), f(2) - m)
    return np.sqrt((e.astype(f) * f(-2 * np.log(2)) + g) + log(g))


def by_polynomial(c: list[Any]) -> Callable[[Array], Array]:
    """-2 ln(1 - g/2) - g without a division."""
    return lambda g: (poly(c, g) * g) * g


def by_quotient(c: list[Any]) -> Callable[[Array], Array]:
    """The same with one: 4 s = g + s g exactly."""

    def log(g: Array) -> Array:
        s = g / (4 - g)
        z = s * s
        return s * (g + z * poly(c, z))

    return log


def sincos(k: Array, f: type, t: list[Any], d: list[Any]) -> tuple[Array, Array]:
    """sin and cos of pi k / 2^(width - 1), 0 < k < 2^(width - 3), within 0.8 ulp; a k < 0 would cancel.

    k is split so that 3 A and 1 - 5 A^2, which are most of the sine and of the cosine, are exact.
    """
    i, _, width, _ = types(f)
    low, unit = i((1 << (width - 1 - BITS[f] // 2)) - 1), f(2.0 ** (1 - width))
    a, b = (k & ~low).astype(f) * unit, (k & low).astype(f) * unit
    x = a + b
    z = x * x
    sine = a * f(3) + (b * f(3) + x * poly(t, z))
    return sine, ((a * f(-5)) * a + f(1)) + ((a + x) * (b * f(-5)) + z * poly(d, z))


def kernel_sincos(k: Array, f: type, t: list[Any], c: list[Any]) -> tuple[Array, Array]:
    """The kernels' form, by 7 operations less: only 3 A is exact."""
    i, _, width, _ = types(f)
    low, unit = i((1 << (width - BITS[f])) - 1), f(2.0 ** (1 - width))
    a, b = (k & ~low).astype(f), (k & low).astype(f)
    x = (a + b) * unit
    z = x * x
    return a * (f(3) * unit) + (b * (f(3) * unit) + poly(t, z) * x), poly(c, z) * z + f(1)


# --- measurements ------------------------------------------------------------
def ladder(high: float, count: int) -> Array:
    """Integers of every size up to 2^high; the low bits that a double lacks are random too."""
    rng = np.random.default_rng(1)
    low = rng.integers(0, 2048 if high > 53 else 2, count, np.uint64)
    return np.exp2(rng.uniform(1, high, count)).astype(np.uint64) ^ low


def words(f: type, count: int) -> Array:
    """Words of every size, from both ends and around powers of two, and uniform ones."""
    _, unsigned, width, _ = types(f)
    sizes = ladder(width - 1, count)
    ends = np.array([(1 << j) + d for j in range(2, width) for d in range(-3, 4)], dtype=np.uint64)
    uniform = np.random.default_rng(2).integers(0, 2**width, 2 * count, dtype=np.uint64)
    return np.concatenate([sizes, ~sizes, ends, ~ends, uniform]).astype(unsigned)


def angles(f: type, count: int) -> Array:
    """Odd reduced angles of every size, and uniform ones."""
    i, _, width, _ = types(f)
    uniform = np.random.default_rng(3).integers(0, 2 ** (width - 3), count, dtype=np.uint64)
    return np.concatenate([ladder(width - 3.001, count), uniform]).astype(i) | i(1)


def exact_radius(w: Array) -> Array:
    """The radius in double, or in multiprecision for 64-bit words."""
    width = w.itemsize * 8
    if width == 64:
        scale = mp.mpf(2) ** -65
        return np.array([mp.sqrt(-2 * mp.log((2 * int(v) + 1) * scale)) for v in w], dtype=object)
    up, d = w >= 2**31, w.astype(np.float64)
    complement = np.where(up, 2.0**32 - 0.5 - d, 0) / 2**32
    return np.sqrt(-2 * np.where(up, np.log1p(-complement), np.log((d + 0.5) / 2**32)))


def exact_sincos(k: Array) -> tuple[Array, Array]:
    """The same for the angles."""
    if k.itemsize == 4:
        return np.sin(np.pi * k * 2.0**-31), np.cos(np.pi * k * 2.0**-31)
    x = [mp.ldexp(int(v), -63) for v in k]
    return np.array([mp.sinpi(v) for v in x], dtype=object), np.array([mp.cospi(v) for v in x], dtype=object)


def relative(value: Array, exact: Array, f: type) -> Array:
    """Relative error in units of u."""
    wide = value.astype(np.float64) if f is np.float32 else value.astype(object)
    return np.asarray((wide / exact - 1) * 2 ** BITS[f], dtype=np.float64)


def span(e: Array) -> str:
    """The two ends of an error."""
    return f"{float(np.min(e)):.3f} .. {float(np.max(e)):.3f}"


def extremes(error: Array, exact: Array, count: int) -> Array:
    """Indices of the largest errors of either sign in each of sixteen slices of the binade."""
    mantissa = np.frexp(exact.astype(np.float64))[0]
    slices = ((mantissa - 0.5) * 32).astype(int)
    chosen = []
    for s in range(16):
        i = np.flatnonzero(slices == s)
        order = i[np.argsort(error[i])]
        chosen += [order[:count], order[-count:]]
    return np.unique(np.concatenate(chosen))


def measure_normals(f: type, count: int, log: Callable[[Array], Array], trig: Trig, *kept: str) -> None:
    """Worst normals: the extreme radii times the extreme sines and cosines, in ulp of max(|z|, 2^-10)."""
    w, k = words(f, count), angles(f, count)
    r, exact_r = radius(w, f, log), exact_radius(w)
    radius_error = relative(r, exact_r, f)
    print(f"  radius of {w.size} words: relative error {span(radius_error)} u")
    i = extremes(radius_error, exact_r, 24)
    rng = np.random.default_rng(3)
    stds = [f(1), f(0.02)] + [f(s) for s in np.exp2(rng.uniform(0, 1, 30))]
    values = trig(k, f, *(found[name] for name in kept))
    for label, value, exact in zip(("sin", "cos"), values, exact_sincos(k), strict=True):
        error = relative(value, exact, f)
        j = extremes(error, exact, 24)
        ulps, trig_error = [], error[j][None]
        for s in stds:
            z = (r[i] * s)[:, None] * value[j][None]
            # both factors' errors are known: the exact normal follows from their long double product
            product = r[i].astype(np.longdouble)[:, None] * value[j].astype(np.longdouble)[None] * s
            truth = product * (1 - (radius_error[i][:, None] + trig_error) * np.longdouble(2.0) ** -BITS[f])
            floor = np.maximum(np.abs(truth), np.longdouble(s) / 1024).astype(f)
            ulps.append(float(np.max(np.abs((z - truth) / np.spacing(floor)))))
        worst = f"worst q * {label} for std 1: {ulps[0]:.2f} ulp, for {len(stds)} stds: {max(ulps):.2f}"
        print(f"  {label} of {k.size} angles: {span(error)} u; {worst}", flush=True)


def measure_central(f: type, count: int, kept: tuple[str, str]) -> None:
    """Central form against the exact quantile, q rounded from its fixed-point argument."""
    i, _, width, _ = types(f)
    bits, rng = BOUND[f], np.random.default_rng(4)
    top = float(Q_MAX) * 2.0 ** (width - 1)
    edge = top * (1 - np.exp2(rng.uniform(-20, -1, count // 4)))
    spread = np.concatenate([rng.uniform(1, top, count), edge]).astype(i) & ~i(0x7FF if width == 64 else 0)
    spread |= rng.integers(0, 2048 if width == 64 else 1, spread.size)
    n = np.concatenate([spread, ladder(width - 2.1, count // 4).astype(i)])
    inverse = statistics.NormalDist().inv_cdf
    if f is np.float64:
        exact = np.array([central(mp.ldexp(int(v), -63)) for v in n], dtype=object)
    if f is np.float32:
        n |= 1
        exact = np.array([inverse(0.5 + v * 2.0**-31) for v in n])
        d = (np.int32(2**30) - n).astype(f) * f(2.0**-31)
        x = d - d * d
        coarse, fine, three = (n & np.int32(-256)).astype(f), (n & np.int32(255)).astype(f), f(3 * 2.0**-31)
        ratio = poly(found[kept[0]], x) / poly(found[kept[1]], x)
        z = coarse * three + (fine * three + (coarse + fine) * f(2.0**-31) * ratio)
    else:
        q = n.astype(f) * f(2.0 ** (1 - width))
        x = f(0.25) - q * q
        z = (q * poly(found[kept[0]], x)) / poly(found[kept[1]], x)
    wide = z.astype(np.float64 if f is np.float32 else object)
    e = (wide - exact) / np.maximum(1, exact) * 2**bits
    form = "3*q + q*(P(x) / Q(x))" if f is np.float32 else "(q*P(x)) / Q(x)"
    print(f"    {form}, {n.size} points: {span(e)} of 2^-{bits} max(1, |z|)")


def measure_tail(f: type, count: int, kept: tuple[str, str], high: float) -> None:
    """Tail form, r off by two units of roundoff either way, as the logarithm and the root leave it."""
    bits = BOUND[f]
    exact_r = np.random.default_rng(5).uniform(2.7505, high, count)
    if f is np.float32:
        exact = np.array([-statistics.NormalDist().inv_cdf(float(np.exp(-v * v / 2))) for v in exact_r])
    else:
        exact = np.array([tail(mp.mpf(float(v))) for v in exact_r], dtype=object)
    ends = []
    for off in (-2, 0, 2):
        r = (exact_r * (1 + off * 2.0 ** -BITS[f])).astype(f)
        z = poly(found[kept[0]], r) / poly(found[kept[1]], r)
        ends.append((z.astype(np.float64 if f is np.float32 else object) - exact) / exact * 2**bits)
    off = f"{span(ends[1])}, with r off by 2 u: {span(np.concatenate(ends))}"
    print(f"    P(r) / Q(r), {count} points: {off} of 2^-{bits} |z|")


# --- sections ------------------------------------------------------------
def check(module: Any, **names: str) -> None:
    """Stop unless the kernels' constants are those just printed."""
    for name, key in names.items():
        if list(getattr(module, name)) != found[key][::-1]:
            sys.exit(f"{module.__name__}.{name} is not {key}")
        print(f"  {module.__name__}.{name} = {key}")


def trigonometry(f: type, degree: int) -> None:
    """The sine's and the cosine's polynomials: the kernels' form, and a stricter one."""
    n, at, q0 = f.__name__[-2:], cos_grid(), ("q", 0)
    fit("sin: A*3 + (B*3 + x*T(z))", sin_grid(), (degree, 0), q0, f, "T" + n)
    fit("cos: C(z)*z + 1", Grid(at.x, at.g - 5, at.w), (degree, 0), q0, f, "C" + n)
    fit("not taken: cos = ((A*-5)*A + 1) + ((A + x)*(B*-5) + z*D(z))", at, (degree, 0), q0, f, "D" + n)


def normal32() -> None:
    f = np.float32
    trigonometry(f, 3)
    print(others(log_grid(), ((6, 0),)))
    fit("sqrt(E*K + (g + (L(g)*g)*g))", log_grid(), (7, 0), ("q", 0), f, "L32")
    check(arithmetic, LOG="L32", SIN="T32", COS="C32")
    measure_normals(f, 1 << 21, by_polynomial(found["L32"]), kernel_sincos, "T32", "C32")
    fit("not taken: the same", log_grid(), (8, 0), ("q", 0), f, "L32")
    measure_normals(f, 1 << 21, by_polynomial(found["L32"]), sincos, "T32", "D32")


def normal64() -> None:
    f = np.float64
    trigonometry(f, 6)
    fit("sqrt((E*K + g) + s*(g + z*W(z)))", quotient_grid(), (9, 0), ("q", 0), f, "W64")
    print(others(quotient_grid(), ((8, 0),)))
    check(arithmetic64, LOG="W64", SIN="T64", COS="C64")
    measure_normals(f, 6000, by_quotient(found["W64"]), kernel_sincos, "T64", "C64")
    fit("not taken: sqrt((E*K + g) + (L(g)*g)*g)", log_grid(), (19, 0), ("q", 0), f, "L64")
    print(others(log_grid(), ((18, 0), (20, 0))))


def truncated32() -> None:
    f = np.float32
    at = central_rest_grid()
    fit("x = d - d*d, z = A*3 + (B*3 + (A + B)*(P(x) / Q(x)))", at, (4, 4), ("q", 0), f, "CP32", "CQ32")
    print(others(at, ((3, 4), (4, 3), (4, 5))))
    measure_central(f, 1 << 20, ("CP32", "CQ32"))
    fit("z = P(r) / Q(r)", tail_grid(9.0), (3, 2), ("p", 3), f, "TP32", "TQ32")
    print(others(tail_grid(9.0), ((2, 2), (3, 3))))
    check(arithmetic, CENTRE_P="CP32", CENTRE_Q="CQ32", TAIL_P="TP32", TAIL_Q="TQ32")
    measure_tail(f, 1 << 19, ("TP32", "TQ32"), 8.97)


def truncated64() -> None:
    f = np.float64
    fit("x = 1/4 - q*q, z = (q*P(x)) / Q(x)", central_grid(), (8, 9), ("p", 8), f, "CP64", "CQ64")
    print(others(central_grid(), ((8, 8), (9, 8), (9, 9))))
    measure_central(f, 20_000, ("CP64", "CQ64"))
    fit("z = P(r) / Q(r)", tail_grid(11.3), (8, 7), ("p", 8), f, "TP64", "TQ64")
    print(others(tail_grid(11.3), ((7, 6), (7, 7))))
    check(arithmetic64, CENTRE_P="CP64", CENTRE_Q="CQ64", TAIL_P="TP64", TAIL_Q="TQ64")
    measure_tail(f, 20_000, ("TP64", "TQ64"), 11.25)


if __name__ == "__main__":
    for section in (normal32, truncated32, normal64, truncated64):
        if len(sys.argv) == 1 or section.__name__ in sys.argv[1:]:
            print(section.__name__)
            section()
