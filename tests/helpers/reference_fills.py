"""Fills to compare others with, by the NumPy backend on one thread."""

from __future__ import annotations

import numpy as np

import fanfill as ff

BACKENDS = [status.name for status in ff.backends() if status.usable and status.name != "cuda"]
SHAPE = (60, 70)


def reference(shape=SHAPE, initializer="he_normal", dtype=np.float32, seed=3, name="w"):
    """The fill of this seed and name that every other one has to equal."""
    return ff.fill(np.empty(shape, dtype), initializer, seed=seed, name=name, backend="numpy", threads=1)
