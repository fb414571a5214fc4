"""fanfill for Dask: an array whose chunks are drawn where they are needed.

A chunk is a box of the tensor, filled by ``global_shape`` and ``offset``. So no value depends on the chunks,
on the workers, or on what is done with the array later. ``docs/distributed.md`` has recipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import dask.array as da
    from dask.array.core import normalize_chunks
    from dask.base import tokenize
    from dask.layers import ArraySliceDep
except ImportError as error:
    raise ImportError(
        f"fanfill.dask needs dask.array, which cannot be imported ({error}); pip install 'fanfill[dask]'"
    ) from error

from fanfill.arguments import shape_of
from fanfill.distributions import recipe
from fanfill.dtypes import dtype_of, storage_of
from fanfill.fill import fill
from fanfill.initializers import Initializer
from fanfill.messages import shown, type_name
from fanfill.named import initializer_of
from fanfill.streams import key_of
from fanfill_kernels import STREAM_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanfill.literals import DtypeName

__all__ = ["draw"]


def draw(
    shape: int | Iterable[int],
    initializer: Initializer | str,
    *,
    seed: int,
    name: str | int = 0,
    dtype: DtypeName | type | np.dtype[Any] = "float32",
    chunks: Any = "auto",
    meta: Any = None,
) -> Any:
    """A lazy array with the values of `fanfill.draw`, whatever its chunks.

    Its name is a function of what it holds: equal arguments give equal names, in every process, and Dask
    computes such arrays once.

    Parameters
    ----------
    shape, initializer, seed, name, dtype
        As in `fanfill.draw`.
    chunks
        As in ``dask.array``: "auto", which aims at ``array.chunk-size`` (128 MiB), or sizes. They determine
        what one task draws, and no value.
    meta
        An array of the type that chunks are to have, such as ``cupy.empty(0)``; None: NumPy's.

    Returns
    -------
    dask.array.Array

    Raises
    ------
    TypeError, ValueError
        As `fanfill.draw`, here and not on a worker; also for chunks that do not fit.
    """
    sizes, kind = shape_of(shape, "shape"), dtype_of(dtype)
    law, key = initializer_of(initializer), key_of(seed, name)
    recipe(law, sizes, storage_of(kind).name)  # what the contract refuses, it refuses now
    if not (meta is None or hasattr(type(meta), "__array_function__")):
        raise TypeError(
            f"meta: expected an array of the type that chunks are to have, such as cupy.empty(0); got "
            f"{shown(meta)}; leave it out for NumPy's"
        )
    index = tuple(range(len(sizes)))
    parts = normalize_chunks(chunks, sizes, dtype=kind)
    like = np.empty_like(np.empty(0) if meta is None else meta, shape=(0,) * len(sizes), dtype=kind)
    facts = (repr(law), key, sizes, kind.name, parts, type_name(like), STREAM_VERSION)
    arguments = (law, seed, name, sizes, kind.name, None if meta is None else like)
    return da.blockwise(
        _block,
        index,
        # Of a scalar there is one block, and no slice to be told.
        *((ArraySliceDep(parts), index) if sizes else ((), None)),
        *(entry for argument in arguments for entry in (argument, None)),
        name=f"fanfill-{tokenize(*facts)}",
        dtype=kind,
        meta=like,
        new_axes=dict(zip(index, parts, strict=True)),
        align_arrays=False,
    )


def _block(
    where: tuple[slice, ...],
    law: Initializer,
    seed: int,
    name: str | int,
    shape: tuple[int, ...],
    dtype: str,
    like: Any,
) -> Any:
    """One chunk. By one thread: Dask has as many tasks at work as there are CPUs."""
    sizes = [part.stop - part.start for part in where]
    kind = dtype_of(dtype)
    out = np.empty(sizes, kind) if like is None else np.empty_like(like, shape=sizes, dtype=kind)
    corner = tuple(part.start for part in where)
    return fill(out, law, seed=seed, name=name, global_shape=shape, offset=corner, threads=1)
