"""Filling host memory with Numba-compiled kernels, which hold no GIL and write natural order at full
vector width.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill.backends import Backend, HostKernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.backends import Key

# About half a millisecond of float32 normals: the call from Python (3 us) is lost in it, Ctrl-C is not kept
# waiting.
_CHUNK = 1 << 20
# Bytes of a strided tile's scratch: fits in L2 beside what it is copied to.
_SCRATCH = 1 << 18


@functools.cache
def _unusable() -> str | None:
    try:
        import numba
    except ImportError as error:
        return f"Numba cannot be imported ({error}); pip install numba"
    except Exception as error:  # a Numba that breaks on import, for whatever reason, must not break the fill
        return f"importing Numba failed ({type(error).__name__}: {error}); reinstall numba and llvmlite"
    del numba
    return None


@functools.cache
def _kernels(form: str, dtype: str) -> HostKernels:
    from fanfill_kernels import cpu

    run, box = cpu.kernels(form, dtype)

    def box_of(
        out: NDArray[Any],
        start: int,
        shape: tuple[int, ...],
        pitches: tuple[int, ...],
        key: Key,
        params: tuple[Any, ...],
    ) -> None:
        box(out, start, np.array(shape, np.int64), np.array(pitches, np.int64), key, params)

    return HostKernels(run, box_of)


def _scatter(dest: NDArray[Any], values: NDArray[Any]) -> None:
    dest[...] = values


BACKEND = Backend(
    name="numba",
    device="cpu",
    unusable=_unusable,
    kernels=_kernels,
    scatter=_scatter,
    chunk=lambda itemsize, threads: _CHUNK,
    tile=lambda itemsize, threads: _SCRATCH // itemsize,
)
