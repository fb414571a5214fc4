"""Equal bit by bit: the one comparison that tests make of drawn values."""

from __future__ import annotations

from typing import Any

import numpy as np


def bits(values: Any) -> np.ndarray:
    """The values as unsigned integers, in C order."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def assert_same_bits(found: np.ndarray, expected: np.ndarray, what: object = "") -> None:
    """The same dtype, shape and bits: -0.0 is not 0.0, and a NaN equals one of the same bits alone.

    The message says where the first difference is, and `what` was compared.
    """
    assert found.dtype == expected.dtype, f"{what}: dtype {found.dtype}, not {expected.dtype}"
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}"
    one, other = bits(found), bits(expected)
    if (differ := one != other).any():
        place = tuple(int(n) for n in np.argwhere(differ)[0])
        digits = 2 * found.dtype.itemsize
        raise AssertionError(
            f"{what}: {differ.sum()} of {differ.size} values differ, first at {place}: "
            f"{one[place]:#0{digits + 2}x} ({found[place]}), not {other[place]:#0{digits + 2}x} "
            f"({expected[place]})"
        )
