"""The forms of whole matrices in host memory, as kernels: made of a backend's own, NumPy and BLAS.

They have the interface of `fanfill.backends.HostKernels`, so that `fanfill.cpu.run` cuts, shares and places
such a fill as it does any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill.backends import Backend, HostKernels
from fanfill.dtypes import STORAGES
from fanfill.qr import orthonormal
from fanfill.recipes import Recipe, normal
from fanfill.regions import Region, region
from fanfill.structures import Diagonals, Orthonormal, Sparse, places
from fanfill_kernels.narrow import store_of
from fanfill_kernels.process.forks import lock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill_kernels.formats import Format
    from fanfill_kernels.philox import Key

    Fill = Callable[[NDArray[Any], Region, Recipe, Key], None]
    Run = Callable[[NDArray[Any], int, Key, tuple[Any, ...]], None]
    Box = Callable[[NDArray[Any], int, tuple[int, ...], tuple[int, ...], Key, tuple[Any, ...]], None]

__all__ = ["bound", "ranks"]

_BLOCK = 1 << 16  # values at a time where an array of their indices is made
_WORDS = 1 << 20  # words of whole columns at a time


def bound(
    recipe: Recipe, where: Region, shape: tuple[int, ...], key: Key, backend: Backend, fill: Fill
) -> HostKernels:
    """The kernels that draw a part of a matrix; what they need of the whole is computed here.

    Parameters
    ----------
    recipe
        Of one of the three forms.
    where, shape
        The part: its place, and the buffer's shape.
    key
        Seed and substream.
    backend
        Whose kernels draw words and normals.
    fill
        Fills an array: ``fill(view, region, recipe, key)``.
    """
    (params,) = recipe.params
    storage = STORAGES[recipe.dtype]
    if isinstance(params, Diagonals):
        run, box = _diagonals(params)
    elif isinstance(params, Sparse):
        run, box = _sparse(params, where, shape, key, backend, storage)
    else:
        run, box = _stored(_matrix(params, where, shape, key, storage, fill))
    return HostKernels(run, box, run)


# One value at some places


def _diagonals(found: Diagonals) -> tuple[Run, Box]:
    first, step, *_ = found.progression()
    outputs, inputs = found.shape[found.out], found.shape[found.into]
    output, into = prod(found.shape[found.out + 1 :]), prod(found.shape[found.into + 1 :])

    def run(out: NDArray[Any], start: int, key: Key, params: tuple[Any, ...]) -> None:
        words = out.view(f"u{out.itemsize}")
        words.fill(0)
        for place, many, repeats, apart in places(found, start, out.size):
            for group in range(repeats):
                begin = place + group * apart
                words[begin : begin + (many - 1) * step + 1 : step] = found.bits

    def box(
        out: NDArray[Any],
        start: int,
        shape: tuple[int, ...],
        pitches: tuple[int, ...],
        key: Key,
        params: tuple[Any, ...],
    ) -> None:
        words = out.view(f"u{out.itemsize}")
        words.fill(0)
        for part, indices in _blocks(out.size, start, shape, pitches):
            of, to = indices // output % outputs, indices // into % inputs
            central = indices - of * output - to * into == first
            words[part][central & (of % found.group == to)] = found.bits

    return run, box


def _blocks(size: int, start: int, shape: tuple[int, ...], pitches: tuple[int, ...]) -> Any:
    """Slices of a flat array, and the indices in the whole tensor of the elements there."""
    for begin in range(0, size, _BLOCK):
        rest = np.arange(begin, min(begin + _BLOCK, size), dtype=np.int64)
        part, indices = slice(begin, begin + rest.size), np.full(rest.size, start, np.int64)
        for n, pitch in zip(reversed(shape), reversed(pitches), strict=True):
            rest, along = np.divmod(rest, n)
            indices += along * pitch
        yield part, indices


# Zeros in each column


class _Ranks(NamedTuple):
    """Up to which word, and of equal ones up to which row, the rows of a column are zero."""

    words: NDArray[np.uint32]
    rows: NDArray[np.int64]


def _key_of_ranks(key: Key) -> Key:
    """Seed and the substream of the words that rank rows."""
    name = key[2] | key[3] << 32
    digest = blake2b(name.to_bytes(8, "little"), digest_size=8, person=b"sparse").digest()
    number = int.from_bytes(digest, "little")
    return key[0], key[1], number & 0xFFFFFFFF, number >> 32


@functools.lru_cache(maxsize=8)
def ranks(key: Key, rows: int, columns: int, zeros: int, first: int, count: int, backend: Backend) -> _Ranks:
    """The ranks of some columns, 0 < zeros < rows: the words of all their rows decide."""
    words = backend.kernels("words", "uint32")
    found = _Ranks(np.empty(count, np.uint32), np.empty(count, np.int64))
    wide = max(1, _WORDS // rows)
    for begin in range(0, count, wide):
        some = slice(begin, min(begin + wide, count))
        shape = (rows, some.stop - begin)
        drawn = np.empty(prod(shape), np.uint32)
        words.box(drawn, first + begin, shape, (columns, 1), key, ())
        column = np.ascontiguousarray(drawn.reshape(shape).T)
        limit = np.partition(column, zeros - 1, axis=1)[:, zeros - 1]
        equal = column == limit[:, None]
        missing = zeros - (column < limit[:, None]).sum(axis=1)
        found.words[some] = limit
        found.rows[some] = (np.cumsum(equal, axis=1) >= missing[:, None]).argmax(axis=1)
    return found


def _sparse(
    params: Sparse, where: Region, shape: tuple[int, ...], key: Key, backend: Backend, storage: Format
) -> tuple[Run, Box]:
    rows, columns, zeros, normals = params
    first, count = 0, columns
    if len(shape) == 2 and len(where.pitches) == 2 and shape[1]:
        first, count = where.start % columns, shape[1]
    rank_key = _key_of_ranks(key)
    found = ranks(rank_key, rows, columns, zeros, first, count, backend)
    kernels, words = backend.kernels("normal", storage.name), backend.kernels("words", "uint32")

    def clear(out: NDArray[Any], ranking: NDArray[np.uint32], indices: NDArray[np.int64]) -> None:
        row, column = np.divmod(indices, columns)
        column -= first
        limit = found.words[column]
        zero = (ranking < limit) | ((ranking == limit) & (row <= found.rows[column]))
        out.view(f"u{out.itemsize}")[zero] = 0

    def run(out: NDArray[Any], start: int, key: Key, params: tuple[Any, ...]) -> None:
        kernels.run(out, start, key, normals)
        for part, indices in _blocks(out.size, start, (out.size,), (1,)):
            ranking = np.empty(indices.size, np.uint32)
            words.run(ranking, int(indices[0]), rank_key, ())
            clear(out[part], ranking, indices)

    def box(
        out: NDArray[Any],
        start: int,
        shape: tuple[int, ...],
        pitches: tuple[int, ...],
        key: Key,
        params: tuple[Any, ...],
    ) -> None:
        kernels.box(out, start, shape, pitches, key, normals)
        ranking = np.empty(out.size, np.uint32)
        words.box(ranking, start, shape, pitches, rank_key, ())
        for part, indices in _blocks(out.size, start, shape, pitches):
            clear(out[part], ranking[part], indices)

    return run, box


# A matrix of orthonormal rows or columns

# The tensors that parts were drawn of, the newest last. Two of them: of the files of a checkpoint one thread
# writes the end of a tensor while the next one begins with another.
_kept: dict[Any, NDArray[Any]] = {}
_MOST = 2
_computing = lock()


def _matrix(
    params: Orthonormal, where: Region, shape: tuple[int, ...], key: Key, storage: Format, fill: Fill
) -> NDArray[Any]:
    """All values of the tensor, as they are stored, in C order.

    Of a part the whole is kept for the next one: a checkpoint is written in units of 4 MiB.
    """
    if shape == params.shape:
        return _whole(params, where, key, storage, fill)
    named = params, key, storage.name
    with _computing:
        found = _kept.pop(named, None)
        if found is None:
            while len(_kept) >= _MOST:
                del _kept[next(iter(_kept))]
            found = _whole(params, where, key, storage, fill)
        _kept[named] = found
        return found


def _whole(params: Orthonormal, where: Region, key: Key, storage: Format, fill: Fill) -> NDArray[Any]:
    gain, shape, start, lengths, out = params
    others = [axis for axis in range(len(shape)) if axis != out]
    # The outputs come first if their axis does: then two axes are the same matrix, whichever is theirs.
    order = [out, *others] if out == 0 else [*others, out]
    moved = tuple(lengths[axis] for axis in order)
    rows, columns = (moved[0], prod(moved[1:])) if out == 0 else (prod(moved[:-1]), moved[-1])

    def seen(matrix: NDArray[Any]) -> NDArray[Any]:
        """The box, with the tensor's axes, of which the matrix holds the longer side in rows."""
        tall = matrix if rows < columns else matrix.T
        return tall.reshape(moved).transpose(np.argsort(order))

    gaussian = np.empty((min(rows, columns), max(rows, columns)))
    whole = region(lengths, shape, start)
    fill(seen(gaussian), whole, normal(STORAGES["float64"], 0.0, 1.0), key)
    found = seen(orthonormal(gaussian))
    del gaussian
    stored: NDArray[Any] = np.zeros(shape, storage.lanes)
    box = stored[tuple(slice(a, a + n) for a, n in zip(start, lengths, strict=True))]
    _store(box, found, gain, storage)
    return stored.reshape(-1)


def _store(box: NDArray[Any], found: NDArray[np.float64], gain: float, storage: Format) -> None:
    """Round ``gain * found`` into lanes, row by row of the first axes, so that temporaries stay small."""
    if found.ndim > 1 and found.size > _BLOCK:
        for some, values in zip(box, found, strict=True):
            _store(some, values, gain, storage)
        return
    values = np.clip(found, -1.0, 1.0) * gain
    if storage.compute is np.float64:
        box[...] = values
        return
    bits = np.ascontiguousarray(values.astype(np.float32))
    box[...] = store_of(storage.name)(bits).astype(storage.lanes)


def _stored(values: NDArray[Any]) -> tuple[Run, Box]:
    def run(out: NDArray[Any], start: int, key: Key, params: tuple[Any, ...]) -> None:
        out[...] = values[start : start + out.size]

    def box(
        out: NDArray[Any],
        start: int,
        shape: tuple[int, ...],
        pitches: tuple[int, ...],
        key: Key,
        params: tuple[Any, ...],
    ) -> None:
        strides = tuple(pitch * values.itemsize for pitch in pitches)
        out.reshape(shape)[...] = np.lib.stride_tricks.as_strided(values[start:], shape, strides)

    return run, box
