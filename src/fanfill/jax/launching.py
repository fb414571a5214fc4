"""What a compiled program asks of a CUDA device: launches on XLA's stream, of keys that the device alone
knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import prod

from fanfill.cuda.keyed import Draw, Places, fill_keyed
from fanfill.dtypes import storage_of
from fanfill.jax.callframe import Buffer
from fanfill.jax.spec import decode

__all__ = ["launch_parts"]

_WORD = 4  # bytes


def launch_parts(words: Buffer, offsets: Buffer, out: Buffer, text: str, stream: int) -> None:
    """As `fanfill.jax.spec.fill_parts`, in a device's memory: nothing of it is read here, or waited for.

    Raises
    ------
    ValueError
        If a key has not two words: others are hashed before (`fanfill.jax.keys.two_words`).
    """
    if words.shape[-1] != 2:
        raise ValueError(
            f"expected keys of two words on a CUDA device; got {words.shape[-1]}; compile the program anew"
        )
    law, shape, name = decode(text)
    batch = out.shape[: len(out.shape) - len(shape)]
    part = out.shape[len(batch) :]
    draw = Draw(law, shape, part, name, storage_of(out.dtype).name)
    fill_keyed(draw, list(_places(words, offsets, out, batch, part)), stream)


def _places(
    words: Buffer, offsets: Buffer, out: Buffer, batch: tuple[int, ...], part: tuple[int, ...]
) -> Iterator[Places]:
    """Where each part of a batch and its key and place are; an axis of length 1 stands for any length."""
    size = prod(part) * out.dtype.itemsize
    for number, where in enumerate(itertools.product(*map(range, batch))):
        yield Places(out.address + number * size, _row(words, where), _row(offsets, where))


def _row(buffer: Buffer, where: tuple[int, ...]) -> int:
    """The address of the last axis of uint32, at a place of those before it."""
    *axes, length = buffer.shape
    number = 0
    for n, place in zip(axes, where, strict=True):
        number = number * n + (place if n > 1 else 0)
    return buffer.address + number * length * _WORD
