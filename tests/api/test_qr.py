"""The QR decomposition: right, and the same bits whatever BLAS does."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
from processes import child

from fanfill import qr


def matrix(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (16, 16), (17, 40), (90, 90), (300, 320)], ids=str)
def test_it_is_numpys_with_a_positive_diagonal(shape: tuple[int, int]) -> None:
    columns = matrix(*shape)
    q, r = np.linalg.qr(columns.T)
    found = qr.orthonormal(columns.copy())
    assert abs(found.T - q * np.sign(np.diag(r))).max() < 1e-9
    assert abs(found @ found.T - np.eye(shape[0])).max() < 1e-11
    assert (np.diag(found @ columns.T) > 0).all()


def test_columns_that_are_zero_are_left_out() -> None:
    assert np.array_equal(qr.orthonormal(np.zeros((3, 5))), np.eye(3, 5))
    assert qr.orthonormal(np.zeros((0, 4))).shape == (0, 4)


def test_a_product_has_44_bits_and_no_sum_that_can_be_rounded_differently() -> None:
    a, b = matrix(20, 700), matrix(700, 30)
    exact = (a.astype(np.longdouble) @ b.astype(np.longdouble)).astype(np.float64)
    first = qr._product(qr._parts(a), qr._parts(b))
    assert abs(first - exact).max() < 700 * 2.0**-44 * abs(a).max() * abs(b).max()
    assert np.array_equal(first, qr._product(qr._parts(a), qr._parts(b.T.copy()), transposed=True))
    # The sum of one block in another order, as another BLAS might take it.
    order = np.random.default_rng(1).permutation(256)
    one, two = a[:, :256], b[:256]
    turned = np.ascontiguousarray(one[:, order]), np.ascontiguousarray(two[order])
    exact_sums = qr._product(qr._parts(one), qr._parts(two))
    assert np.array_equal(exact_sums, qr._product(*map(qr._parts, turned)))
    assert not np.array_equal(one @ two, turned[0] @ turned[1])  # of which BLAS itself is not capable


def test_parts_are_multiples_of_their_units_and_add_up() -> None:
    x = matrix(50, 60) * 1e3
    coarse, fine = qr._parts(x)
    bound = 2.0 ** np.frexp(abs(x).max())[1]
    for part, unit, most in ((coarse, bound * 2.0**-22, 2.0**22), (fine, bound * 2.0**-44, 2.0**21)):
        units = part / unit
        assert np.array_equal(units, np.rint(units))
        assert abs(units).max() <= most
    assert abs(x - coarse - fine).max() <= bound * 2.0**-45


CHILD = """
import hashlib, sys
import numpy as np
from fanfill.qr import orthonormal
columns = np.random.default_rng(7).standard_normal((280, 520))
assert hashlib.sha256(orthonormal(columns).tobytes()).hexdigest() == "HASH"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS, as NumPy brings it for Linux")
def test_the_bits_do_not_depend_on_the_kernels_and_threads_of_blas() -> None:
    """OpenBLAS takes the processor that it is told of: other sums, without FMA, by two threads."""
    here = hashlib.sha256(qr.orthonormal(matrix(280, 520)).tobytes()).hexdigest()
    child(CHILD.replace("HASH", here), OPENBLAS_CORETYPE="Prescott", OPENBLAS_NUM_THREADS="2")
