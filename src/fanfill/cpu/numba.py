"""Fills host memory by compiled kernels: they release the GIL and write in order, at full vector width."""

from __future__ import annotations

import functools
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill import system
from fanfill.backends import Backend, HostKernels, put_by_numpy
from fanfill.cpu import run
from fanfill_kernels.process.undivided import undivided

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fanfill.backends import Put

# About 1.5 ms of float32 normals, which is how long Ctrl-C may wait. Two threads are 2 to 5 % slower with
# 2^20 and no faster with 2^24.
_CHUNK = 1 << 21
# Bytes of a strided tile's scratch: half of a 1 MiB L2. Smaller ones cost more calls from Python (8 us a
# tile), and more walks of the page tables, since they write a shorter part of each page of the target.
_SCRATCH = 1 << 19
# The newest release of Numba that the tests have run with.
TESTED = "0.68"


@functools.cache
def _unusable() -> str | None:
    """Try Numba out, unless it has been tried here before, since stored kernels load without it."""
    try:
        return undivided(_tried)
    except Exception as error:  # a Numba that breaks, for whatever reason, must not break the fill
        return _broken(error)


def _tried() -> str | None:
    from fanfill_kernels.compile import probe
    from fanfill_kernels.store import objects

    try:
        probe.try_out()
    except objects.ForbiddenError as error:
        return str(error)
    return None


def _broken(error: Exception) -> str:
    """What to say of a Numba that does not import or compile."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in ("numba", "llvmlite"):
        place = system.without_numba()
        if place is not None:
            return (
                f"Numba cannot be imported ({text}), and PyPI has none for {place}; set "
                "FANFILL_BACKEND=numpy to choose NumPy, which draws the same bits"
            )
        return f"Numba cannot be imported ({text}); pip install numba"
    known = getattr(sys.modules.get("numba"), "__version__", None)
    if known is not None:
        return (
            f"Numba {known} does not compile what fanfill needs ({type(error).__name__}: {text}); take Numba "
            f"{TESTED}, or reinstall numba and llvmlite"
        )
    if isinstance(error, ImportError):
        return f"Numba cannot be imported ({text}); pip install numba"
    return f"importing Numba failed ({type(error).__name__}: {text}); reinstall numba and llvmlite"


def _note() -> str | None:
    """What a user should know of a Numba that can be used."""
    from fanfill_kernels.store.keys import numba_version

    found = numba_version()
    if found is None or _release(found) <= _release(TESTED):
        return None
    return f"Numba {found} is newer than {TESTED}, the last that fanfill was tested with"


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


@functools.cache
def _kernels(form: str, dtype: str) -> HostKernels:
    from fanfill_kernels.compile import cpu

    return HostKernels(*cpu.kernels(form, dtype))


def _scatter(target: NDArray[Any]) -> Put:
    size, shape = target.itemsize, target.shape
    last = target.strides[-1]
    nothing_to_turn = last != -size and abs(last) == min(map(abs, target.strides))
    if nothing_to_turn or not target.flags.aligned or any(stride % size for stride in target.strides):
        return put_by_numpy(target)

    from fanfill_kernels.compile import cpu
    from fanfill_kernels.compile.scatter import scatter_by

    nontemporal = target.nbytes >= run.NONTEMPORAL
    strides = tuple(stride // size for stride in target.strides)
    ends = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    lowest = target[
        tuple(slice(n - 1, n) if end < 0 else slice(1) for n, end in zip(shape, ends, strict=True))
    ]
    memory = np.lib.stride_tricks.as_strided(lowest, (1 + sum(map(abs, ends)),), (size,)).view(f"u{size}")
    beginning = -sum(end for end in ends if end < 0)

    @functools.lru_cache(maxsize=2)  # all whole tiles share one answer, and may stand beside others in turn
    def scatter(lengths: tuple[int, ...]) -> Callable[[NDArray[Any], int, NDArray[Any]], None]:
        return scatter_by(functools.partial(cpu.scatter, size), lengths, strides, size, nontemporal)

    def put(where: tuple[slice, ...], values: NDArray[Any]) -> None:
        at = beginning
        for part, stride in zip(where, strides, strict=True):
            at += part.start * stride
        lengths = tuple([part.stop - part.start for part in where])
        scatter(lengths)(memory, at, values.view(memory.dtype))

    return put


def _addresses(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    from fanfill_kernels.compile import rows

    return rows.addresses_of(arrays)


BACKEND = Backend(
    name="numba",
    device="cpu",
    unusable=_unusable,
    note=_note,
    kernels=_kernels,
    scatter=_scatter,
    chunk=lambda itemsize, threads: _CHUNK,
    tile=lambda itemsize, threads: _SCRATCH // itemsize,
    addresses=_addresses,
)
