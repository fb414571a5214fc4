"""The storage types: what a buffer may hold, and exact rounding into it on the host.

Requirements this module answers:

* a buffer's dtype is recognised by its name, without importing ml_dtypes;
* rounding is exact and directed, in integers: a closed interval must be rounded inward by a rule that no
  rounding mode, flush-to-zero mode or library version can change.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill.messages import shown
from fanfill_kernels.formats import FORMATS, Format

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = [
    "STORAGES",
    "bits",
    "numpy_dtype",
    "round_down",
    "round_nearest",
    "round_up",
    "storage_named",
    "storage_of",
]

# What can be filled: all formats but that of raw words.
STORAGES: dict[str, Format] = {name: f for name, f in FORMATS.items() if name != "uint32"}


@lru_cache(maxsize=64)
def storage_of(dtype: np.dtype[Any]) -> Format:
    """The storage type of a dtype.

    Parameters
    ----------
    dtype : np.dtype
        One of NumPy's or ml_dtypes', by a name of `STORAGES`.

    Raises
    ------
    TypeError
        The dtype is none of these (integers, complex, object, structured, long double, other 8-bit formats).
    ValueError
        The byte order is not this machine's.
    """
    storage = STORAGES.get(dtype.name)
    home = dtype.type.__module__.partition(".")[0]
    if not dtype.isnative and (storage is not None or home == "ml_dtypes"):
        raise ValueError(
            f"expected values in this machine's byte order; got dtype {dtype.str!r}; "
            "fill a native array and convert it with .astype()"
        )
    if storage is None or home not in ("numpy", "ml_dtypes"):
        raise TypeError(
            f"expected one of the dtypes {', '.join(STORAGES)}; got {dtype}; "
            "fill an array of one of these and convert it with .astype()"
        )
    return storage


def storage_named(dtype: str | type | np.dtype[Any]) -> Format:
    """The storage type of a dtype or of the name of one, ml_dtypes being there or not.

    Raises
    ------
    TypeError, ValueError
        As `storage_of`.
    """
    named = STORAGES.get(dtype) if isinstance(dtype, str) else None
    return storage_of(numpy_dtype(dtype)) if named is None else named


def numpy_dtype(dtype: str | type | np.dtype[Any]) -> np.dtype[Any]:
    """What NumPy takes for a dtype; TypeError for anything else."""
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"dtype: expected one of {', '.join(STORAGES)}; got {shown(dtype)}") from error


def round_down(x: float | Fraction, s: Format) -> float:
    """The largest value of the storage type that is <= `x`; ``-inf`` where there is none."""
    if x > s.largest:
        return s.largest
    if x < -s.largest:
        return -math.inf
    n, d, q = _quantum(x, s)
    return math.ldexp(n // d, q)


def round_up(x: float | Fraction, s: Format) -> float:
    """The smallest value of the storage type that is >= `x`; ``inf`` where there is none."""
    return 0.0 - round_down(-x, s)


def round_nearest(x: float | Fraction, s: Format) -> float:
    """The value of the storage type nearest to `x`, ties to the even one; a zero keeps its sign if the
    format has one.

    Raises
    ------
    ValueError
        `x` lies beyond the largest finite value: the number contract refuses it, and float8_e4m3fn has no
        infinity.
    """
    size = -x if x < 0 else x
    if size > s.largest:
        raise ValueError(
            f"expected a value within {s.largest!r}, the largest of {s.name}; got {float(x)!r}; "
            "scale it down or use a wider dtype"
        )
    n, d, q = _quantum(size, s)
    m, rest = divmod(n, d)
    m += 2 * rest > d or (2 * rest == d and m % 2 == 1)
    return math.copysign(math.ldexp(m, q), x) if m or s.signed_zero else 0.0


def bits(x: float, s: Format) -> int:
    """The storage bit pattern of `x`.

    Raises
    ------
    ValueError
        `x` is not exactly a value of the storage type.
    """
    n, d, q = _quantum(abs(x), s) if abs(x) <= s.largest else (1, 2, 0)
    m, rest = divmod(n, d)
    if rest:
        raise ValueError(f"expected a value that {s.name} holds exactly; got {x!r}; round it first")
    # A quantum above the least one means a normal number: its hidden bit adds 1 to the exponent field.
    negative = math.copysign(1.0, x) < 0 and (s.signed_zero or n != 0)
    return (int(negative) << (8 * s.itemsize - 1)) + ((q - s.least) << (s.precision - 1)) + m


def _quantum(x: float | Fraction, s: Format) -> tuple[int, int, int]:
    """(n, d, q) with x = n/d * 2^q, where 2^q is the distance of the type's values around x."""
    n, d = x.as_integer_ratio()
    if n == 0:
        return 0, 1, s.least
    exponent = n.bit_length() - d.bit_length()
    if abs(n) << max(-exponent, 0) < d << max(exponent, 0):
        exponent -= 1
    q = max(exponent - s.precision + 1, s.least)
    return n << max(-q, 0), d << max(q, 0), q


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
