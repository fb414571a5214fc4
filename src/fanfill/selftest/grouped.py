"""The golden cases once more, through `fill_many`: many tensors of one form and dtype are one launch.

A case is cut into pieces, each a tensor of its own for `fill_many`: the rows of a box, and short ranges of a
flat part. All pieces of an initializer and dtype go into one call, so a launch's table has some 250 entries.
An entry that says a wrong place, length, index or key leaves bytes that are not the committed ones, or writes
beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np

import fanfill as ff
from fanfill import selftest
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda.buffers import DeviceBuffer
from fanfill.distributions import recipe
from fanfill.dtypes import dtype_of
from fanfill.selftest import Check, Subject, golden
from fanfill.selftest.golden import Case

__all__ = ["LAYOUT", "cases", "run"]

LAYOUT = "grouped"  # what a check says in place of a layout
LENGTH = 11  # elements of a piece of a flat part
STORE = 16  # bytes: a piece lies as far behind a multiple of them as its first element in its tensor
GAP = 16  # poisoned bytes behind a piece


class Piece(NamedTuple):
    """A part of a case: its shape, its place in the tensor, its index there, and where it lies in memory."""

    case: Case
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offset: int | tuple[int, ...]
    begin: int

    def bytes(self, itemsize: int) -> slice:
        """Its place in memory."""
        return slice(self.begin, self.begin + prod(self.shape) * itemsize)


def cases(subject: Subject) -> Iterator[Case]:
    """The golden cases that go into grouped launches: not words, and no matrix, whose zeros come first."""
    return (case for case in selftest.cases(subject) if case.initializer in golden.INITIALIZERS)


def run(subject: Subject) -> Iterator[Check]:
    """Check these cases on a CUDA device, one call of `fill_many` for each initializer and dtype."""
    prepare(subject)
    for _, some in groupby(cases(subject), key=lambda case: case[:2]):
        yield from checks(subject, list(some))


def prepare(subject: Subject) -> None:
    """Compile all kernels side by side; a call would compile its own alone."""
    from fanfill_kernels.cuda.geometry import prepared

    assert subject.number is not None
    names = set()
    for case in cases(subject):
        law, place, _ = golden.drawn_by(case)
        made = recipe(law, place.global_shape or place.shape, case.dtype)
        names.add(f"grouped_{prepared(made.form, made.dtype, made.params)[0]}")
    gpu = cuda_backend.driver()
    with gpu.use(subject.number):
        cuda_backend.Queue(gpu, subject.number, gpu.stream(subject.number)).prepare(names)


def checks(subject: Subject, together: list[Case]) -> Iterator[Check]:
    """Draw cases of one initializer and dtype in one call, and compare each with its committed hash."""
    assert subject.number is not None
    dtype = dtype_of(together[0].dtype)
    pieces, size = placed(together, dtype.itemsize)
    memory = drawn(subject.number, pieces, size, dtype)
    digests = {case: hashlib.sha256() for case in together}
    for piece in pieces:
        digests[piece.case].update(memory[piece.bytes(dtype.itemsize)].tobytes())
        memory[piece.bytes(dtype.itemsize)] = selftest.POISON
    beside = bool((memory != selftest.POISON).any())
    for case, made in digests.items():
        found, expected = made.hexdigest(), golden.expected()[str(case)]
        problem = None
        if beside:
            problem = "bytes outside the buffers were written"
        elif found != expected:
            problem = f"SHA-256 {found[:16]}..., expected {expected[:16]}..."
        yield Check(subject, case, LAYOUT, problem)


def placed(together: list[Case], itemsize: int) -> tuple[list[Piece], int]:
    """The pieces of some cases, C order within a case, and how many bytes hold them all."""
    pieces, end = [], selftest.GUARD
    for case in together:
        for shape, whole, offset in cut(golden.drawn_by(case)[1]):
            first = offset if isinstance(offset, int) else _index(offset, whole)
            begin = -(-end // STORE) * STORE + first * itemsize % STORE
            pieces.append(Piece(case, shape, whole, offset, begin))
            end = pieces[-1].bytes(itemsize).stop + GAP
    return pieces, end + selftest.GUARD


def cut(place: golden.Place) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int | tuple[int, ...]]]:
    """The shape, global shape and offset of each piece of a place."""
    shape, whole = place.shape, place.global_shape or place.shape
    if isinstance(place.offset, int):
        for begin in range(0, shape[0], LENGTH):
            yield (min(LENGTH, shape[0] - begin),), whole, place.offset + begin
        return
    origin = place.offset or (0,) * len(shape)
    for row in np.ndindex(*shape[:-1]):
        yield (*[1] * len(row), shape[-1]), whole, tuple(map(sum, zip(origin, (*row, 0), strict=True)))


def _index(offset: tuple[int, ...], whole: tuple[int, ...]) -> int:
    """The index of a place in its tensor, which may have more elements than 63 bits number."""
    return sum(k * prod(whole[axis + 1 :]) for axis, k in enumerate(offset))


def drawn(number: int, pieces: list[Piece], size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Draw the pieces in a device's memory, and return a copy of all of that memory."""
    gpu = cuda_backend.driver()
    with gpu.use(number):
        memory = gpu.allocate(size)
        gpu.memset(memory.ptr, selftest.POISON, size, gpu.stream(number))
        items = []
        for piece in pieces:
            law, _, name = golden.drawn_by(piece.case)
            strides = tuple(dtype.itemsize * prod(piece.shape[k + 1 :]) for k in range(len(piece.shape)))
            buffer = DeviceBuffer(memory.ptr + piece.begin, piece.shape, strides, dtype, number)
            items.append((buffer, law, name, piece.global_shape, piece.offset))
        ff.fill_many(items, seed=golden.SEED, backend="cuda")
        return np.frombuffer(gpu.read(memory.ptr, size), np.uint8).copy()
