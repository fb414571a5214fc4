"""From the words of a key to an array: known or traced, on one device or sharded."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fanfill.distributions import recipe
from fanfill.dtypes import storage_of
from fanfill.initializers import Initializer
from fanfill.jax import ffi, on_cuda
from fanfill.jax.keys import assert_words, seed_of, staged
from fanfill.jax.memory import draw_shards, on_devices
from fanfill.jax.shardings import assert_sharding, known, within_trace
from fanfill.jax.spec import Spec, encode
from fanfill.jax.tracing import traced, traced_sharded
from fanfill.messages import shown
from fanfill.streams import substream

__all__ = ["draw_staged", "draw_words"]

# Offsets are uint32 in a compiled program: JAX has no 64-bit integers by default.
_LONGEST = 2**32


def draw_words(
    law: Initializer,
    shape: tuple[int, ...],
    dtype: Any,
    words: Any,
    *,
    name: str | int = 0,
    out_sharding: Any = None,
) -> jax.Array:
    """The array of ``fanfill.draw(shape, law, seed=seed, name=name, dtype=dtype)``, made by JAX.

    Parameters
    ----------
    law
        A `fanfill.Initializer`.
    shape
        A tuple of integers >= 0.
    dtype
        One that fanfill draws. float64 becomes float32 unless ``jax_enable_x64`` is set, as in all of JAX.
    words
        One-dimensional, uint32, known or traced. Two are the seed, the high one first: ``[0, 5]`` is seed 5.
        Any other number is hashed (`fanfill.jax.keys.seed_of`).
    name
        The substream, as in `fanfill.fill`.
    out_sharding
        None, a `PartitionSpec` for the mesh of `jax.set_mesh`, or a `NamedSharding`. Without one, a traced
        draw is sharded as the program around it asks, and a known one is replicated over the mesh of
        `jax.set_mesh`, or lies on the default device.

    Raises
    ------
    ValueError, TypeError
        As `fanfill.fill`; at once, also while tracing. Also for a sharding that does not fit.
    """
    assert_words(words)
    return draw_staged(law, shape, dtype, staged(words), name, out_sharding)


def draw_staged(
    law: Initializer, shape: tuple[int, ...], dtype: Any, words: Any, name: str | int, out_sharding: Any
) -> jax.Array:
    """As `draw_words`, for words that `fanfill.jax.keys.words_of` has given."""
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    recipe(law, shape, storage_of(dtype).name)  # all refusals, instead of errors out of XLA
    substream(name)
    assert_sharding(out_sharding)
    if not isinstance(words, jax.core.Tracer):
        try:
            sharding = known(out_sharding)
        except ValueError:
            # A known key within the trace of a grad or a vmap, where JAX does not tell its mesh.
            if jax.sharding.get_abstract_mesh().empty:
                raise
        else:
            # One device's array is not to be committed to it, as memory that JAX takes over from CuPy is.
            in_program = (
                sharding is None and ffi.available_on_cuda and not law.structured and on_devices(None)
            )
            if not in_program or on_cuda.unusable() is not None or max(shape, default=0) > _LONGEST:
                return draw_shards(law, seed_of(words), name, shape, dtype, sharding)
    if max(shape, default=0) > _LONGEST:
        raise ValueError(
            f"shape: expected axes of at most 2**32 elements in a compiled program; got {shown(shape)}; "
            "reshape afterwards, or use materialize"
        )
    spec = encode(Spec(law, shape, name))
    if out_sharding is None:
        return traced(words, shape, dtype, spec)
    return traced_sharded(words, shape, dtype, spec, *within_trace(out_sharding))
