"""Arrays for tests of the backend: another library's, and the host's to compare with."""

from __future__ import annotations

from typing import Any

import form_laws
import numpy as np

import fanfill as ff
from fanfill.dtypes import dtype_of

LAWS = form_laws.LAWS | {"constant": ff.constant(0.25)}


class Foreign:
    """Another library's array: the interface, and what it says beside it."""

    def __init__(self, array: Any, dtype: Any = None, stream: int | None = None, **changes: Any) -> None:
        dtype = np.dtype(dtype or array.dtype)
        self.dtype, self.array = dtype, array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": dtype.str,
            "data": (array.data.ptr, False),
            "version": 3,
            "stream": stream,
            **changes,
        }


def on_host(shape: Any, law: Any, dtype: str = "float32", **how: Any) -> Any:
    """What the device has to make."""
    return ff.fill(np.empty(shape, dtype_of(dtype)), law, backend="numpy", threads=1, **how)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """The same dtype and bytes."""
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()
