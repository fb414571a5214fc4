"""Memory that JAX takes over, and arrays whose shards are drawn into such memory."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fanfill.cpu.buffers import aligned
from fanfill.fill import fill
from fanfill.initializers import Initializer
from fanfill.jax import on_cuda
from fanfill.structures import HOST_ALONE

__all__ = ["aligned", "draw_shards", "fill_part"]


def fill_part(
    out: Any,
    law: Initializer,
    seed: int,
    name: str | int,
    shape: tuple[int, ...],
    offset: tuple[int, ...],
) -> Any:
    """Fill a buffer with the part of a tensor of that shape that begins at `offset`; return it."""
    if out.shape == shape:  # the whole: a third of the time of a small part
        return fill(out, law, seed=seed, name=name)
    return fill(out, law, seed=seed, name=name, global_shape=shape, offset=offset)


def draw_shards(
    law: Initializer,
    seed: int,
    name: str | int,
    shape: tuple[int, ...],
    dtype: Any,
    sharding: Any = None,
    *,
    through_host: bool = False,
) -> jax.Array:
    """An array of which this process draws its own shards; None: on JAX's default device.

    CUDA devices draw theirs themselves, unless fanfill has no kernels there, the initializer is one that the
    host alone draws, or the host is asked to. Else
    JAX asks for a shard once for each device that holds it. Replicas get the same memory, and CPU devices
    keep it, so that they share one buffer.
    """
    on_host = through_host or law.distribution in HOST_ALONE
    if not on_host and on_devices(sharding) and on_cuda.unusable() is None:
        return _draw_on_devices(law, seed, name, shape, np.dtype(dtype), sharding)
    drawn: dict[tuple[tuple[int, int], ...], NDArray[Any]] = {}

    def shard(index: tuple[slice, ...]) -> NDArray[Any]:
        box = _box(index, shape)
        if box not in drawn:
            out = aligned(tuple(stop - start for start, stop in box), dtype)
            drawn[box] = fill_part(out, law, seed, name, shape, tuple(start for start, _ in box))
        return drawn[box]

    if sharding is None:
        return jax.device_put(shard(tuple(slice(0, n) for n in shape)))
    return jax.make_array_from_callback(shape, sharding, shard, dtype=dtype)


def on_devices(sharding: Any) -> bool:
    """Whether this process's devices of a sharding (None: JAX's default device) are CUDA devices."""
    if not on_cuda.has_plugin():  # asks no device, and makes none known
        return False
    devices = _default_devices() if sharding is None else sharding.addressable_devices
    return bool(devices) and all(map(on_cuda.is_cuda, devices))


def _default_devices() -> set[Any]:
    return _devices_by(jax.config.jax_default_device)


@functools.lru_cache(maxsize=16)
def _devices_by(setting: Any) -> set[Any]:
    """Where JAX puts an array by this setting of its default device. Asking takes half of a leaf's time."""
    return set(jax.device_put(np.empty(0, np.uint8)).devices())


def _draw_on_devices(
    law: Initializer, seed: int, name: str | int, shape: tuple[int, ...], dtype: np.dtype[Any], sharding: Any
) -> jax.Array:
    def drawn(device: Any, index: tuple[slice, ...]) -> jax.Array:
        box = _box(index, shape)
        offset = tuple(start for start, _ in box)
        fill = functools.partial(fill_part, law=law, seed=seed, name=name, shape=shape, offset=offset)
        return on_cuda.filled(device, tuple(stop - start for start, stop in box), dtype, fill)

    if sharding is None:
        (device,) = _default_devices()
        return drawn(device, (slice(None),) * len(shape))
    places = sharding.addressable_devices_indices_map(shape).items()
    shards = [drawn(device, index) for device, index in places]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))
