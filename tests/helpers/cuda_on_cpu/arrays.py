"""Arrays for tests of the backend: another library's, and the host's to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import INITIALIZERS, OF_FORM

import fanfill as ff
from fanfill.dtypes import dtype_of

LAWS = OF_FORM | {"constant": INITIALIZERS["constant"]}


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
