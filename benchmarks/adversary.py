"""The worst float32 normals that can be put together.

A normal is a radius, which one word gives, times a cosine or a sine, which another word gives. Random pairs
hardly ever meet the worst of both; this searches each on its own, through the compiled kernels, and
multiplies them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from reference import (
    FLOOR,
    NORMAL_BOUND,
    ULP,
    Array,
    Finding,
    kernel_values,
    merged,
    normal_single,
    ulps,
    worst_of,
)

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill_kernels import arithmetic
from fanfill_kernels.compile.compiler import operation

SLICES = 1024
WORDS = 2**32
ANGLES = 2**28  # odd t in (0, 2^29): every other angle is one of these but for signs and a swap


@cache
def scanners() -> Any:
    """Compiled loops over words that keep the worst relative error of each slice and sign, and its word.

    They call the compiled kernels, and libm in float64. Word i is i times an odd constant, modulo 2^32: any
    number of first words is spread over all of them, and 2^32 of them are all of them.
    """
    radius, box_muller, spread = operation(arithmetic.radius), operation(arithmetic.box_muller), 2654435769

    @njit(error_model="numpy")
    def keep(worst: Any, at: Any, w: Any, found: float, exact: float) -> None:
        mantissa, _ = math.frexp(abs(exact))
        error = (found - exact) / exact
        place = 2 * int((mantissa - 0.5) * 2 * SLICES) + (error < 0)
        if abs(error) > worst[place]:
            worst[place] = abs(error)
            at[place] = w

    @njit(error_model="numpy")
    def radii(start: int, stop: int, worst: Any, at: Any) -> None:
        for i in range(start, stop):
            w = np.uint32(i * spread)
            if w < 2**31:
                log = math.log((w + 0.5) * 2.0**-32)
            else:
                log = math.log1p((w - (2.0**32 - 0.5)) * 2.0**-32)
            keep(worst, at, w, np.float64(radius(w)), math.sqrt(-2.0 * log))

    @njit(error_model="numpy")
    def angles(
        start: int, stop: int, word: Any, std: Any, cosines: Any, sines: Any, atc: Any, ats: Any
    ) -> None:
        for i in range(start, stop):  # the odd t = w / 2^31 of (0, 1/4): all others are these but for signs
            w = np.uint32(2 * ((i * spread) % ANGLES) + 1)
            c, s = box_muller(np.uint32(word), w, (std, np.float32(0.0)))
            t = w * 2.0**-31 * math.pi
            keep(cosines, atc, w, np.float64(c), math.cos(t))
            keep(sines, ats, w, np.float64(s), math.sin(t))

    return radii, angles


def unit_radius() -> tuple[int, np.float32]:
    """A word and a std with radius * std = 1 exactly: Box-Muller then shows its cosine and sine."""
    words = np.arange(2**28, 2**28 + 1000, dtype=np.uint32)
    r = arithmetic.radius(words)
    std = np.float32(1.0) / r
    return next((int(w), s) for w, s, one in zip(words, std, r * std == 1.0, strict=True) if one)


def scan(job: tuple[str, int, int]) -> tuple[str, Array, Array]:
    """Worst errors and their words over a range of radii or of angles (cosines, then sines)."""
    what, start, stop = job
    radii, angles = scanners()
    worst, at = np.zeros((2, 2 * SLICES)), np.zeros((2, 2 * SLICES), np.uint32)
    if what == "radii":
        radii(start, stop, worst[0], at[0])
    else:
        angles(start, stop, *unit_radius(), worst[0], worst[1], at[0], at[1])
    return what, worst, at


def worst_pairs(radii: Array, angles: Array, odd: int) -> Finding:
    """The worst cosine (odd = 0) or sine (odd = 1) of all pairs of the given words."""
    made, best = recipe(init.normal(), (1,), "float32"), []
    for block in np.array_split(radii, max(1, radii.size // 64)):
        words = np.repeat(block, angles.size), np.tile(angles, block.size)
        error = ulps(kernel_values(made, *words)[odd], normal_single(*words)[odd], FLOOR)
        best.append(worst_of(error.size, error, ULP, NORMAL_BOUND, words))
    return merged(best)


def ceiling(radii: Array, angles: Array) -> float:
    """An upper bound in ulp of |z| from the worst relative errors of the slices, signs as in `keep`.

    The exact product lies in [low, high) of its slices. Its binade gives the ulp; the relative errors add up,
    and the last rounding leaves half an ulp, or a whole one where the product may have been carried into the
    next binade.
    """
    edge = 0.5 + np.arange(SLICES + 1) / (2 * SLICES)
    low, high = np.multiply.outer(edge[:-1], edge[:-1]), np.multiply.outer(edge[1:], edge[1:])
    worst = 0.0
    for sign in (0, 1):
        a, b = radii[sign::2][:, None], angles[sign::2][None, :]
        error = a + b + a * b
        for bottom, top in ((0.25, 0.5), (0.5, 1.0)):
            here = (high > bottom) & (low < top)
            reach, ulp = np.minimum(high, top), bottom * 2.0**-23
            last = np.where(reach * (1 + error) >= top, 1.0, 0.5)
            worst = max(worst, float(np.max((reach * error / ulp + last)[here])))
    return worst


def adversarial(pool: ProcessPoolExecutor, count: int, processes: int) -> Iterator[tuple[str, str, Finding]]:
    """The lines of the worst pairs, and the ceiling where every word was scanned."""
    parts = 8 * processes
    jobs = [
        (what, n * k // parts, n * (k + 1) // parts)
        for what, n in (("radii", min(count, WORDS)), ("angles", min(count, ANGLES)))
        for k in range(parts)
    ]
    found = list(pool.map(scan, jobs))
    table = {}
    for what in ("radii", "angles"):
        worst, at = (np.stack(rows) for rows in zip(*(f[1:] for f in found if f[0] == what), strict=True))
        best = worst.argmax(axis=0)[None]
        table[what] = np.take_along_axis(worst, best, 0)[0], np.take_along_axis(at, best, 0)[0]
    radii, words = table["radii"][0][0], table["radii"][1][0]
    for odd, name in enumerate(("cosines", "sines")):
        pairs = pool.submit(worst_pairs, words, table["angles"][1][odd], odd).result()
        yield f"normal, worst radii x worst {name}", "float32", pairs
    if count >= WORDS:
        top = max(ceiling(radii, table["angles"][0][odd]) for odd in (0, 1))
        yield "normal, ceiling for every pair of words", "float32", Finding(2**64, top, ULP, math.inf, 0)
