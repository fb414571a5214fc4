"""A QR decomposition whose bits are the same on every machine, as fast as BLAS allows.

The result of a matrix product depends on the order of its sums, and each BLAS, processor and number of
threads has its own. So no sum here is ever rounded by BLAS. Each factor is split into a coarse and a fine
part of 22 bits, multiples of one unit; 256 products of two such parts add up to less than 2^53 units, which
float64 holds exactly, in any order, with or without fused multiply-adds (Ozaki et al. 2012). What is left are
additions, multiplications, divisions and square roots of arrays, one IEEE operation at a time, in the order
written here.

The two fine parts are not multiplied, so that a product has 44 bits: orthonormal to about 1e-11, for three
products in place of one. At 4096 x 4096 the whole takes 2 to 3 times as long as LAPACK's; see
``docs/initializers.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["orthonormal"]

_BITS = 22
_INNER = 256  # products that are added before a rounding: 2 * 22 bits and 8 more; two such sums 53
_PANEL = 256  # columns that are eliminated before the others learn of it
_COLUMNS = 256  # of the others, at a time: with their parts and products they fit a cache of some MiB
_ALONE = 16  # columns that are eliminated one by one


def orthonormal(rows: Matrix) -> Matrix:
    """The factor Q of the matrix with these rows as its columns: A = Q R, the diagonal of R positive.

    Parameters
    ----------
    rows
        n rows of length m >= n, contiguous; overwritten. Numbers of the order of 1.

    Returns
    -------
    Q's columns as n rows of length m.

    Notes
    -----
    Householder reflections, gathered as I - V T V^T (Schreiber & Van Loan 1989). It holds a second matrix of
    the same size and about 64 times the size of a column; between two steps, of some ms each, it can be
    interrupted.
    """
    n, m = rows.shape
    q = np.zeros((n, m))
    blocks = [(first, min(first + _PANEL, n)) for first in range(0, n, _PANEL)]
    factors: list[Matrix] = []
    with np.errstate(all="ignore"):  # what a caller has asked for is about their own arithmetic
        for first, end in blocks:
            panel = np.ascontiguousarray(rows[first:end, first:])
            t, signs = _eliminate(panel)
            rows[first:end, first:] = panel
            q[np.arange(first, end), np.arange(first, end)] = signs
            factors.append(t)
            _reflect(rows[end:, first:], panel, t)
        for (first, end), t in zip(reversed(blocks), reversed(factors), strict=True):
            panel = np.ascontiguousarray(rows[first:end, first:])
            _reflect(q[first:, first:], panel, np.ascontiguousarray(t.T))
    return q


def _eliminate(panel: Matrix) -> tuple[Matrix, Matrix]:
    """Replace a panel, whose rows are columns, by V^T; return T and the signs of R's diagonal."""
    width = len(panel)
    if width <= _ALONE:
        return _eliminate_alone(panel)
    half = width // 2
    t = np.zeros((width, width))
    t[:half, :half], before = _eliminate(panel[:half])
    _reflect(panel[half:], panel[:half], t[:half, :half])
    rest = np.ascontiguousarray(panel[half:, half:])
    t[half:, half:], after = _eliminate(rest)
    panel[half:, half:] = rest
    panel[half:, :half] = 0.0
    both = _product(_parts(panel[:half], 1.0), _parts(panel[half:], 1.0), transposed=True)
    left = _product(_parts(t[:half, :half]), _parts(both))
    t[:half, half:] = -_product(_parts(left), _parts(t[half:, half:]))
    return t, np.concatenate([before, after])


def _eliminate_alone(panel: Matrix) -> tuple[Matrix, Matrix]:
    """The same, column by column."""
    width = len(panel)
    t, signs = np.zeros((width, width)), np.ones(width)
    for j in range(width):
        v = panel[j, j:]
        head = float(v[0])
        norm = float(np.sqrt(_sum(v * v)))
        panel[j, :j] = 0.0
        if norm == 0.0:  # nothing to eliminate, and no reflection: its factor in T stays zero
            v[0] = 1.0
            continue
        beta = -norm if head >= 0.0 else norm
        signs[j] = -1.0 if head >= 0.0 else 1.0
        factor = (beta - head) / beta
        v /= head - beta  # no element is larger than this
        v[0] = 1.0
        later = panel[j + 1 :, j:]
        later -= (_sum(later * v) * factor)[:, None] * v
        t[:j, j] = _sum(t[:j, :j] * (_sum(panel[:j, j:] * v) * -factor))
        t[j, j] = factor
    return t, signs


def _reflect(rows: Matrix, panel: Matrix, t: Matrix) -> None:
    """Multiply columns, which are rows here, by I - V T^T V^T from the left."""
    v, factor = _parts(panel, 1.0), _parts(t)
    for first in range(0, len(rows), _COLUMNS):
        some = rows[first : first + _COLUMNS]
        along = _product(_parts(some), v, transposed=True)
        some -= _product(_parts(_product(_parts(along), factor)), v)


def _parts(x: Matrix, bound: float | None = None) -> tuple[Matrix, Matrix]:
    """x as a multiple of 2^-22 times its bound, and the rest as a multiple of 2^-44 times it.

    ``bound``: a power of two that no element exceeds; None: the least.
    """
    if bound is None:
        largest = max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))
        bound = 2.0 ** float(np.frexp(largest)[1]) if largest else 1.0
    # Added to a number, it leaves no bit below the unit; subtracted again, it leaves what was rounded there.
    unit = 1.5 * 2.0 ** (52 - _BITS) * bound
    coarse = x + unit
    coarse -= unit
    fine = x - coarse
    unit *= 2.0**-_BITS
    fine += unit
    fine -= unit
    return coarse, fine


def _product(a: tuple[Matrix, Matrix], b: tuple[Matrix, Matrix], *, transposed: bool = False) -> Matrix:
    """a @ b, or a @ b.T, of matrices in parts."""
    (coarse, fine), (other, rest) = a, (tuple(part.T for part in b) if transposed else b)
    large = small = None
    for first in range(0, coarse.shape[1], _INNER):
        inner = slice(first, first + _INNER)
        high = coarse[:, inner] @ other[inner]
        low = coarse[:, inner] @ rest[inner]
        low += fine[:, inner] @ other[inner]
        if large is None or small is None:
            large, small = high, low
        else:
            large += high
            small += low
    if large is None or small is None:
        return np.zeros((coarse.shape[0], other.shape[1]))
    large += small
    return large


def _sum(x: Matrix) -> Any:
    """The sums along the last axis: the upper half is added to the lower one until one element is left."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        y = x[..., : x.shape[-1] - half].copy()
        y[..., :half] += x[..., x.shape[-1] - half :]
        x = y
    return x[..., 0] if x.shape[-1] else np.zeros(x.shape[:-1])
