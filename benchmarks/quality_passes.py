"""The loops over a block of values. Compiled by Numba; they hold no lock, so that threads run side by side.

Integers and floats are the two views of the same block. Sums of floats may be reordered; NaN is found by its
bits, before any sum.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

LAGS = (1, 2, 3, 4, 5, 6, 7, 8, 768, 1024, 4096, 11008)
TILE = 4096  # sums in float32 are this long: 256 terms a lane, whose rounding is nothing beside their noise

compiled = nb.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")


@compiled
def powers(x: Any, inverse: float, middle: float, sums: Any, z: Any) -> None:
    """z = (x - middle) * inverse, kept in float32; sums += z, z^2, ..., z^8 in float64."""
    s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = 0.0
    for i in range(x.size):
        a = (np.float64(x[i]) - middle) * inverse
        b = a * a
        c = b * b
        s1 += a
        s2 += b
        s3 += b * a
        s4 += c
        s5 += c * a
        s6 += c * b
        s7 += c * b * a
        s8 += c * c
        z[i] = a
    for k, s in enumerate((s1, s2, s3, s4, s5, s6, s7, s8)):
        sums[k] += s


@compiled
def extremes(magnitudes: Any, levels: Any, infinite: Any, found: Any) -> None:
    """found[0..5] += how many magnitudes reach the six levels; [6] += zeros; [7] += infinities and NaN;
    [8] = the largest finite one so far. Magnitudes are bits without the sign, signed, so that they compare
    in vectors.
    """
    t0, t1, t2, t3, t4, t5 = levels[0], levels[1], levels[2], levels[3], levels[4], levels[5]
    c0 = c1 = c2 = c3 = c4 = c5 = zeros = odd = magnitudes[0] * 0
    one, none = c0 + 1, c0
    most = none
    for i in range(magnitudes.size):
        m = magnitudes[i]
        c0 += one if m >= t0 else none
        c1 += one if m >= t1 else none
        c2 += one if m >= t2 else none
        c3 += one if m >= t3 else none
        c4 += one if m >= t4 else none
        c5 += one if m >= t5 else none
        zeros += one if m == none else none
        odd += one if m >= infinite else none
        finite = m if m < infinite else none
        most = max(most, finite)
    for k, count in enumerate((c0, c1, c2, c3, c4, c5, zeros, odd)):
        found[k] += count
    found[8] = max(found[8], most)


@compiled
def magnitudes_of(bits: Any, magnitudes: Any, sign: int) -> None:
    """The bits without the sign."""
    for i in range(bits.size):
        magnitudes[i] = np.int64(bits[i]) & ((np.int64(1) << sign) - 1)


@compiled
def number_cells(bits: Any, magnitudes: Any, sign: int, shift: int, base: int, cells: int, out: Any) -> None:
    """The magnitudes, and the numbers of their cells: negative values' cells follow the positive ones'."""
    for i in range(bits.size):
        b = np.int64(bits[i])
        m = b & ((np.int64(1) << sign) - 1)
        magnitudes[i] = m
        k = min(max((m >> shift) - base, 0), cells - 1)
        out[i] = k + (cells if bits[i] >> sign else 0)


@compiled
def count_cells(
    numbers: Any, counts: Any, octets: Any, down: int, pairs: Any, magnitudes: Any, mantissa: int, small: Any
) -> None:
    """counts[cell] += 1 of each value; pairs[octet, octet] += 1 of values 2j and 2j + 1; and of values in
    the first cells, which begin at zero, small[exponent field] += 1.
    """
    cells = counts.size // 2
    for j in range(numbers.size // 2):
        a, b = numbers[2 * j], numbers[2 * j + 1]
        counts[a] += 1
        counts[b] += 1
        pairs[octets[a >> down], octets[b >> down]] += 1
        if a == 0 or a == cells:
            small[magnitudes[2 * j] >> mantissa] += 1
        if b == 0 or b == cells:
            small[magnitudes[2 * j + 1] >> mantissa] += 1


@compiled
def squares(z: Any, inverse: Any, out: Any) -> None:
    """(z^2 - 1) * inverse: they show a radius that two values share, where the values do not."""
    for i in range(z.size):
        out[i] = (z[i] * z[i] - np.float32(1)) * inverse


@compiled
def product(a: Any, b: Any) -> float:
    """The sum of a * b: in float32 by tiles, these in float64."""
    total = 0.0
    for start in range(0, a.size, TILE):
        x, y = a[start : start + TILE], b[start : start + TILE]
        part = np.float32(0)
        for i in range(x.size):
            part += x[i] * y[i]
        total += np.float64(part)
    return total


@compiled
def lagged(z: Any, sums: Any) -> None:
    """sums[k] += the sum of z[i] * z[i + LAGS[k]]."""
    for k, lag in enumerate(LAGS):
        sums[k] += product(z[: z.size - lag], z[lag:])


@compiled
def last_bits(bits: Any, sign: int, mantissa: int, found: Any) -> None:
    """found[exponent field, last bits of the mantissa] += 1 of each value, in the dtype's own bits."""
    kept = found.shape[1] - 1
    for i in range(bits.size):
        m = np.int64(bits[i]) & ((np.int64(1) << sign) - 1)
        found[m >> mantissa, m & kept] += 1


@compiled
def widen(narrow: Any, out: Any) -> None:
    """bfloat16, as integers, to float32's bits."""
    for i in range(narrow.size):
        out[i] = np.uint32(narrow[i]) << np.uint32(16)


@compiled
def look_up(narrow: Any, table: Any, out: Any) -> None:
    """float16 and the 8-bit types, as integers, to float32's bits, by a table of all their values."""
    for i in range(narrow.size):
        out[i] = table[narrow[i]]
