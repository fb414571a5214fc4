"""Filling host memory with NumPy alone: the same functions over blocks of arrays. Several times slower,
the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanfill.backends import Backend, HostKernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Ufuncs release the GIL, and a second thread gains 1.6x on blocks of 64 Ki values; on 16 Ki it loses, but one
# thread alone gains a tenth there, since its temporaries stay in L2.
_ALONE = 1 << 14
_TOGETHER = 1 << 16


def _kernels(form: str, dtype: str) -> HostKernels:
    from fanfill_kernels import blocks

    run, box = blocks.kernels(form, dtype)
    return HostKernels(run, box)


def _scatter(dest: NDArray[Any], values: NDArray[Any]) -> None:
    dest[...] = values


def _block(itemsize: int, threads: int) -> int:
    return _TOGETHER if threads > 1 else _ALONE


BACKEND = Backend(
    name="numpy",
    device="cpu",
    unusable=lambda: None,
    kernels=_kernels,
    scatter=_scatter,
    chunk=_block,
    tile=_block,
)
