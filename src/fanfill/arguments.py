"""Arguments that come in several forms, brought into one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fanfill.backends import get
from fanfill.buffers import Device
from fanfill.dtypes import STORAGES
from fanfill.initializers import initializer as initializer_named
from fanfill.laws import Initializer

__all__ = ["device_of", "dtype_of", "initializer_of"]


def initializer_of(given: object) -> Initializer:
    """An initializer, or the one of a name."""
    if isinstance(given, Initializer):
        return given
    if isinstance(given, str):
        return initializer_named(given)
    raise TypeError(f"initializer: expected an Initializer, such as he_normal(), or its name; got {given!r}")


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
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    return "cuda", None if match[1] is None else int(match[1])


def dtype_of(dtype: str | type | np.dtype[Any]) -> np.dtype[Any]:
    """A NumPy dtype, of ml_dtypes by name."""
    if isinstance(dtype, str) and dtype in STORAGES and not hasattr(np, dtype):
        try:
            import ml_dtypes
        except ImportError as error:
            raise TypeError(
                f"dtype: {dtype!r} needs ml_dtypes, which cannot be imported; pip install ml_dtypes"
            ) from error
        dtype = getattr(ml_dtypes, dtype)
    try:
        return np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: expected one of {', '.join(STORAGES)}; got {dtype!r}") from error
