"""The table of formats: what a buffer may hold, and how its values are stored.

Everything that depends on a dtype derives from its entry here: exact rounding on the host, the kernels'
rounding, the sizes and types of CUDA kernels, the golden hashes. A new floating-point format of 8 or 16 bits
with IEEE 754's layout (sign, biased exponent, fraction, subnormals) needs an entry here, and a line in
``cuda/narrow.cuh`` and ``cuda/fill.cu``. This module imports NumPy alone: ``import fanfill`` reads it.
"""

from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """How a dtype stores a value.

    Attributes
    ----------
    name : str
        NumPy's name of the dtype, or ml_dtypes'.
    itemsize : int
        Bytes per value.
    compute : type
        Where the arithmetic takes place: float32 or float64. The 16- and 8-bit formats are float32 values,
        rounded once more. Raw words are uint32.
    lanes : np.dtype
        What kernels write: the dtype itself if NumPy computes with it, else the unsigned integer of its size.
    largest : float
        The largest finite value.
    precision : int
        Bits of the significand, the hidden one included.
    least : int
        The smallest positive value is ``2.0 ** least`` (a subnormal one).
    signed_zero : bool
        Whether a zero has a sign. If not, the sign bit alone is the format's NaN, and whatever rounds to zero
        is stored without its sign.
    """

    name: str
    itemsize: int
    compute: type[Any]
    lanes: np.dtype[Any]
    largest: float
    precision: int
    least: int
    signed_zero: bool = True


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("float32", 4, np.float32, np.dtype(np.float32), (2 - 2.0**-23) * 2.0**127, 24, -149),
        Format("float64", 8, np.float64, np.dtype(np.float64), (2 - 2.0**-52) * 2.0**1023, 53, -1074),
        Format("float16", 2, np.float32, np.dtype(np.uint16), 65504.0, 11, -24),
        Format("bfloat16", 2, np.float32, np.dtype(np.uint16), (2 - 2.0**-7) * 2.0**127, 8, -133),
        # No infinity: the top exponent holds values up to 448, and one NaN.
        Format("float8_e4m3fn", 1, np.float32, np.dtype(np.uint8), 448.0, 4, -9),
        Format("float8_e5m2", 1, np.float32, np.dtype(np.uint8), 57344.0, 3, -16),
        # No infinity, and one NaN in place of the negative zero: the formats of AMD's MI300 and Graphcore.
        Format("float8_e4m3fnuz", 1, np.float32, np.dtype(np.uint8), 240.0, 4, -10, signed_zero=False),
        Format("float8_e5m2fnuz", 1, np.float32, np.dtype(np.uint8), 57344.0, 3, -17, signed_zero=False),
        Format("uint32", 4, np.uint32, np.dtype(np.uint32), 2.0**32 - 1, 32, 0, signed_zero=False),
    )
}
