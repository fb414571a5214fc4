"""Memory that JAX takes over, and arrays whose shards are drawn into such memory."""

from __future__ import annotations

from typing import Any

import jax
from numpy.typing import NDArray

from fanfill.cpu.buffers import aligned
from fanfill.fill import fill
from fanfill.initializers import Initializer

__all__ = ["aligned", "draw_shards", "fill_part"]


def fill_part(
    out: NDArray[Any],
    law: Initializer,
    seed: int,
    name: str | int,
    shape: tuple[int, ...],
    offset: tuple[int, ...],
) -> NDArray[Any]:
    """Fill the part of a tensor of that shape that begins at `offset`."""
    if out.shape == shape:  # the whole: a third of the time of a small part
        return fill(out, law, seed=seed, name=name)
    return fill(out, law, seed=seed, name=name, global_shape=shape, offset=offset)


def draw_shards(
    law: Initializer, seed: int, name: str | int, shape: tuple[int, ...], dtype: Any, sharding: Any = None
) -> jax.Array:
    """An array of which this process draws its own shards, each once; None: on JAX's default device.

    JAX asks for a shard once for each device that holds it. Replicas get the same memory, and CPU devices
    keep it, so that they share one buffer.
    """
    drawn: dict[tuple[tuple[int, int], ...], NDArray[Any]] = {}

    def shard(index: tuple[slice, ...]) -> NDArray[Any]:
        box = tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))
        if box not in drawn:
            out = aligned(tuple(stop - start for start, stop in box), dtype)
            drawn[box] = fill_part(out, law, seed, name, shape, tuple(start for start, _ in box))
        return drawn[box]

    if sharding is None:
        return jax.device_put(shard(tuple(slice(0, n) for n in shape)))
    return jax.make_array_from_callback(shape, sharding, shard, dtype=dtype)
