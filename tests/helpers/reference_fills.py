"""Fills to compare others with, by the NumPy backend on one thread; and the comparison, bit by bit."""

from __future__ import annotations

import numpy as np

import fanfill as ff

BACKENDS = [status.name for status in ff.backends() if status.usable and status.name != "cuda"]
SHAPE = (60, 70)


def bits(values):
    """The values as unsigned integers, in C order."""
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def assert_same_bits(one, other):
    """The same dtype, shape and bits."""
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(bits(one), bits(other))


def reference(shape=SHAPE, initializer="he_normal", dtype=np.float32, seed=3, name="w"):
    """The fill of this seed and name that every other one has to equal."""
    return ff.fill(np.empty(shape, dtype), initializer, seed=seed, name=name, backend="numpy", threads=1)
