"""Arguments that come in several forms, brought into one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fanfill.backends import get
from fanfill.buffers import Device
from fanfill.dtypes import STORAGES, numpy_dtype
from fanfill.initializers import initializer as initializer_named
from fanfill.laws import Initializer
from fanfill.messages import shown

__all__ = ["device_of", "dtype_of", "initializer_of", "number_of"]

# Of a number in text that may be one: 2^64 has 20.
_MOST_DIGITS = 40


def initializer_of(given: object) -> Initializer:
    """An initializer, or the one of a name."""
    if isinstance(given, Initializer):
        return given
    if isinstance(given, str):
        return initializer_named(given)
    raise TypeError(
        f"initializer: expected an Initializer, such as he_normal(), or its name; got {shown(given)}"
    )


def number_of(digits: str, what: str) -> int:
    """An integer, signed or not, from decimal digits; Python itself reads no more than 4,300 of them."""
    if len(digits.strip()) > _MOST_DIGITS:
        raise ValueError(
            f"{what}: expected a number of at most {_MOST_DIGITS} digits; got {len(digits.strip())} of them"
        )
    return int(digits)


def device_of(device: object, backend: str | None) -> tuple[Device, int | None]:
    """The kind of device that ``draw`` is to allocate on, and the number if one is named."""
    if device == "auto":
        if backend is not None:
            return get(backend).device, None
        return "cuda" if get("cuda").unusable() is None else "cpu", None
    if device == "cpu":
        return "cpu", None
    match = re.fullmatch(r"cuda(?::([0-9]+))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; got {shown(device)}")
    return "cuda", None if match[1] is None else number_of(match[1], "device")


def dtype_of(dtype: str | type | np.dtype[Any]) -> np.dtype[Any]:
    """A NumPy dtype, of ml_dtypes by name."""
    if isinstance(dtype, str) and dtype in STORAGES and not hasattr(np, dtype):
        try:
            import ml_dtypes
        except ImportError as error:
            raise TypeError(
                f"dtype: {shown(dtype)} needs ml_dtypes, which cannot be imported; pip install ml_dtypes"
            ) from error
        dtype = getattr(ml_dtypes, dtype)
    return numpy_dtype(dtype)
