"""Fills host memory by NumPy alone: the same functions on blocks of arrays; slower, the same bits."""

from __future__ import annotations

import functools

from fanfill.backends import Backend, HostKernels, put_by_numpy
from fanfill_kernels.blocks import replay as blocks

# One thread alone is as fast on 2^16 values as on any more, and a tenth slower on 2^15. Two would lose by
# that: ufuncs release the GIL, and a thread that finds it taken sleeps some 30 us, so the calls must last
# longer. A second thread gains 1.2x on blocks of 2^16 values and 1.4 to 1.7x on the largest, which are what
# 4 MiB a thread hold. Joining calls on two rows gained nothing: NumPy holds the GIL longer for each.
_ALONE = 1 << 16


@functools.cache
def _kernels(form: str, dtype: str) -> HostKernels:
    return HostKernels(*blocks.kernels(form, dtype))


def _block(itemsize: int, threads: int) -> int:
    return blocks.BLOCK if threads > 1 else _ALONE


BACKEND = Backend(
    name="numpy",
    device="cpu",
    unusable=lambda: None,
    kernels=_kernels,
    scatter=put_by_numpy,
    chunk=_block,
    tile=_block,
)
