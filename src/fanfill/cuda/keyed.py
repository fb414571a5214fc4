"""Draws whose seed lies in a device's memory, and with it where a part of a tensor begins.

The kernels read both (``keyed.cuh``), so the host copies nothing and waits for nothing, and a CUDA graph that
has captured the launches draws anew each time: what `fanfill.jax` needs inside of compiled programs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from fanfill.cuda import backend
from fanfill.cuda.driver import Driver
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.initializers import Initializer
from fanfill.regions import region
from fanfill.streams import halves
from fanfill.tiling import merge
from fanfill_kernels.cuda.geometry import STORE, Launch, addressed, keyed_launches, launches

__all__ = ["Draw", "Places", "fill_keyed"]


class Draw(NamedTuple):
    """What is drawn: a part, in C order, of a tensor of ``shape``. ``dtype`` is the name of a storage."""

    law: Initializer
    shape: tuple[int, ...]
    part: tuple[int, ...]
    name: str | int
    dtype: str


class Places(NamedTuple):
    """Addresses in a device's memory, each on a multiple of the size of what lies there.

    Attributes
    ----------
    out
        Of the part.
    words
        Of two uint32, the seed's halves, the high one first.
    offsets
        Of where the part begins along each axis, as uint32; not read if the part is the whole tensor.
    """

    out: int
    words: int
    offsets: int


def fill_keyed(draw: Draw, places: Sequence[Places], stream: int) -> None:
    """Put draws that differ in their places alone, all of them on one device, on one of its streams.

    Raises
    ------
    ValueError
        If no device knows the memory.
    BackendUnavailableError
        If the kernels cannot be compiled or loaded.
    """
    if not places or not prod(draw.part):
        return
    gpu = backend.driver()
    number = gpu.locate(places[0].out)
    if number is None:
        raise ValueError(
            f"expected memory of a CUDA device; got address {places[0].out:#x}, which no device knows"
        )
    with gpu.use(number):
        queue = backend.Queue(gpu, number, stream)
        for place in places:
            for one in _launches(draw, place.out % STORE):
                _load(queue, gpu, one.entry)
                queue.launch(one.entry, one.blocks, one.threads, _arguments(one, place))


@functools.lru_cache(maxsize=4096)
def _launches(draw: Draw, misplaced: int) -> tuple[Launch, ...]:
    """The launches for memory that lies so many bytes behind a multiple of STORE; addresses are missing."""
    law, shape, part, name, dtype = draw
    made = recipe(law, shape, dtype)
    size = STORAGES[dtype].itemsize
    if made.form == "constant":  # of which any place of any stream will do
        line = ((prod(part), 1, size),)
        return tuple(launches("constant", dtype, misplaced, 0, line, (0, 0, 0, 0), made.params))
    pitches = region(part, shape).pitches
    strides = tuple(size * prod(part[k + 1 :]) for k in range(len(part)))
    axes = merge(part, pitches, strides)
    moving = [(k, pitches[k]) for k in range(len(part)) if part[k] != shape[k]]
    return tuple(
        keyed_launches(made.form, dtype, misplaced, axes, moving, prod(shape), halves(name), made.params)
    )


def _arguments(launch: Launch, place: Places) -> tuple[bytes, ...]:
    return addressed(launch, place.out - place.out % STORE, place.words, place.offsets)


def _load(queue: backend.Queue, gpu: Driver, name: str) -> None:
    """Load a kernel that is not there yet, on a thread of its own.

    XLA captures calls into graphs before their first run. A thread that captures must load nothing, and the
    mode in which XLA captures forbids it to that thread alone.
    """
    if queue.has(name):
        return
    failed: list[BaseException] = []

    def load() -> None:
        try:
            with gpu.use(queue.number):
                queue.function(name)
        except BaseException as error:
            failed.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    loading.join()
    if failed:
        raise failed[0]
