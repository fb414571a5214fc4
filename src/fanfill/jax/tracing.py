"""Draws inside `jax.jit` and other transformations, where the key is not known yet.

On CPUs and on CUDA devices it is the custom call of `fanfill.jax.ffi`, of which XLA's partitioner may give
each device its part. Elsewhere, and without the custom call, the host draws by `jax.pure_callback`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fanfill.jax import ffi, on_cuda
from fanfill.jax.keys import two_words
from fanfill.jax.memory import aligned
from fanfill.jax.spec import decode, fill_parts

__all__ = ["traced", "traced_sharded"]


def _traced(words: Any, shape: tuple[int, ...], dtype: Any, spec: str) -> Any:
    def here(words: Any) -> Any:
        return _partitioned(shape, dtype, spec, 0)(words)

    def elsewhere(words: Any) -> Any:
        return _by_callback(words, jnp.zeros(len(shape), jnp.uint32), shape, dtype, spec)

    # The choice is made here, not within the partitioned call: a callback lowered there crashes when it runs.
    return _by_platform(spec, here, elsewhere, words)


# Flax's Linen asks for the shape of each parameter's initializer at every apply. Traced once for each shape,
# that takes 300 us instead of 1,200 (JAX's own initializers: 495).
traced = jax.jit(_traced, static_argnums=(1, 2, 3))


def traced_sharded(
    words: Any, shape: tuple[int, ...], dtype: Any, spec: str, mesh: Any, partition: PartitionSpec
) -> Any:
    """As `traced`, each device drawing the part that `partition` gives it, on mesh axes of any type."""
    local = NamedSharding(mesh, partition).shard_shape(shape)

    def part(words: Any) -> Any:
        offsets = _offsets(dict(mesh.shape), partition, local)
        return _by_platform(
            spec,
            functools.partial(ffi.fill_by_ffi, local=local, dtype=dtype, spec=spec),
            functools.partial(_by_callback, local=local, dtype=dtype, spec=spec),
            words,
            offsets,
        )

    # Neither way tells which mesh axes its values vary over, so nothing can be checked.
    return jax.shard_map(part, mesh=mesh, in_specs=PartitionSpec(), out_specs=partition, check_vma=False)(
        words
    )


def _by_platform(
    spec: str, ours: Callable[..., Any], elsewhere: Callable[..., Any], words: Any, *others: Any
) -> Any:
    """Our call on the platforms that have it, whichever of them the program is compiled for."""
    having: dict[str, Callable[..., Any]] = {}
    if ffi.available:
        having["cpu"] = ours
    # Matrices as a whole have no kernel that reads its key from the device.
    if ffi.available_on_cuda and on_cuda.unusable() is None and not decode(spec).law.structured:
        having["cuda"] = lambda words, *others: ours(two_words(words), *others)
    if not having:
        return elsewhere(words, *others)
    return jax.lax.platform_dependent(words, *others, **having, default=elsewhere)


def _by_callback(words: Any, offsets: Any, local: tuple[int, ...], dtype: Any, spec: str) -> Any:
    def host(words: Any, offsets: Any) -> Any:
        words, offsets = np.asarray(words), np.asarray(offsets)
        batch = np.broadcast_shapes(words.shape[:-1], offsets.shape[:-1])
        out = aligned((*batch, *local), dtype)
        fill_parts(words, offsets, out, spec)
        return out

    return jax.pure_callback(
        host, jax.ShapeDtypeStruct(local, dtype), words, offsets, vmap_method="expand_dims"
    )


def _offsets(sizes: Mapping[str, int], partition: PartitionSpec, local: tuple[int, ...]) -> Any:
    """Where this device's part begins; shards count along an axis's mesh axes, the first one slowest."""
    begins = []
    for axis, size in enumerate(local):
        names = partition[axis] if axis < len(partition) else None
        names = () if names is None else (names,) if isinstance(names, str) else names
        number = jnp.uint32(0)
        for name in names:
            number = number * np.uint32(sizes[name]) + jax.lax.axis_index(name).astype(jnp.uint32)
        begins.append(number * np.uint32(size))
    return jnp.stack(begins) if begins else jnp.zeros(0, jnp.uint32)


@functools.lru_cache(maxsize=4096)
def _partitioned(shape: tuple[int, ...], dtype: Any, spec: str, batch: int) -> Callable[[Any], Any]:
    """A function of key words (\\*batch, words of a key), whose result XLA's partitioner may cut in any way.

    The custom call alone would be run in full by every device.
    """
    rank = len(shape)

    def filled(words: Any, offsets: Any, local: tuple[int, ...]) -> Any:
        fill = functools.partial(ffi.fill_by_ffi, local=local[batch:], dtype=dtype, spec=spec)
        for _ in range(batch):
            fill = jax.vmap(fill, in_axes=(0, None))
        return fill(words, offsets)

    def whole(words: Any) -> Any:
        return filled(words, jnp.zeros(rank, jnp.uint32), (*words.shape[:batch], *shape))

    def infer(mesh: Any, operands: Any, result: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec())

    def partition(mesh: Any, operands: Any, result: Any) -> tuple[Any, Any, Any, Any]:
        # Under nnx.jit the mesh is empty and the sharding has no names. So the devices are numbered, and a
        # table says where each one's part begins.
        boxes = result.sharding.devices_indices_map(result.shape)  # in the order of the partitions
        begins = np.array(
            [
                [part.indices(n)[0] for part, n in zip(box, result.shape, strict=True)]
                for box in boxes.values()
            ],
            np.uint32,
        ).reshape(len(boxes), batch + rank)
        local = result.sharding.shard_shape(result.shape)
        devices = Mesh(np.array(list(boxes)), ("partition",))

        def lower(words: Any) -> Any:
            begin = jnp.asarray(begins)[jax.lax.axis_index("partition")]
            if batch:  # every device has all words, and takes its part's
                sizes = (*local[:batch], words.shape[-1])
                words = jax.lax.dynamic_slice(words, (*begin[:batch], np.uint32(0)), sizes)
            return filled(words, begin[batch:], local)

        return devices, lower, result.sharding, (NamedSharding(devices, PartitionSpec()),)

    cut = custom_partitioning(whole)
    axes = " ".join([*(f"b{k}" for k in range(batch)), "w"])
    cut.def_partition(
        partition=partition,
        infer_sharding_from_operands=infer,
        sharding_rule=f"{axes} -> {' '.join(f'd{k}' for k in range(batch + rank))}",
    )

    # Partitioned calls cannot be mapped; but one with another axis of words can be made.
    def mapped(size: int, is_mapped: Any, words: Any) -> tuple[Any, bool]:
        return _partitioned(shape, dtype, spec, batch + 1)(words), True

    function = jax.custom_batching.custom_vmap(cut)
    function.def_vmap(mapped)
    return function  # type: ignore[no-any-return]
