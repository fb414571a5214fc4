"""What a compiled program knows of a draw, as text; and the host's part of running it.

The text is an attribute of XLA's custom call. Compiled programs are cached and exported with it, so it is a
format: whoever changes it, or the operands, gives the call another name (`fanfill.jax.ffi.TARGET`).
"""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanfill.fans import Scaling
from fanfill.initializers import Initializer
from fanfill.jax.keys import seed_of
from fanfill.jax.memory import fill_part

__all__ = ["Spec", "decode", "encode", "fill_parts"]


class Spec(NamedTuple):
    """An initializer, the whole tensor's shape, and the name of its substream."""

    law: Initializer
    shape: tuple[int, ...]
    name: str | int


def encode(spec: Spec) -> str:
    """A spec as JSON; parameters are hexadecimal, so that no digit of them is lost."""
    law, shape, name = spec
    return json.dumps(
        {
            "distribution": law.distribution,
            "params": [x.hex() for x in law.params],
            "scaling": None if law.scaling is None else [law.scaling.scale.hex(), *law.scaling[1:]],
            "shape": shape,
            "name": name,
        }
    )


@functools.lru_cache(maxsize=4096)
def decode(text: str) -> Spec:
    """The spec that `encode` wrote."""
    made = json.loads(text)
    scaling = made["scaling"]
    if scaling is not None:
        scale, mode, *axes = scaling
        scaling = Scaling(float.fromhex(scale), mode, *(tuple(x) if isinstance(x, list) else x for x in axes))
    law = Initializer(made["distribution"], tuple(map(float.fromhex, made["params"])), scaling)
    return Spec(law, tuple(made["shape"]), made["name"])


def fill_parts(words: NDArray[Any], offsets: NDArray[Any], out: NDArray[Any], text: str) -> None:
    """Fill one part, or a batch of them, of tensors that differ in their keys alone.

    Parameters
    ----------
    words : (\\*batch, words of a key), uint32
    offsets : (\\*batch, rank), uint32
        Where each part begins. Here and in `words` a batch axis of length 1 stands for any length.
    out : (\\*batch, \\*part)
    """
    law, shape, name = decode(text)
    batch = out.shape[: out.ndim - len(shape)]
    words = np.broadcast_to(words, (*batch, words.shape[-1]))
    offsets = np.broadcast_to(offsets, (*batch, len(shape)))
    for where in np.ndindex(batch):
        part = out[where] if where else out
        fill_part(part, law, seed_of(words[where]), name, shape, tuple(map(int, offsets[where])))
