"""Which stream of words a seed and a name mean: keys and substreams, section 2 of the number contract."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fanfill import imports
from fanfill.arguments import integer, integer_of
from fanfill.messages import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fanfill_kernels.philox import Key

__all__ = ["SEEDS", "WORD", "digests", "halves", "key_of", "substream"]

WORD = 2**32 - 1
SEEDS = 2**64


def substream(name: str | int) -> int:
    """Return a name's 64-bit substream: an integer itself, a string's 8-byte BLAKE2b (little-endian)."""
    if isinstance(name, str):
        return int.from_bytes(blake2b()(name.encode(), digest_size=8).digest(), "little")
    return integer(name, "name", 0, SEEDS, "[0, 2**64), or a str")


@functools.lru_cache(maxsize=4096, typed=True)
def halves(name: str | int) -> tuple[int, int]:
    """A name's substream as the last two words of a key; TypeError or ValueError as `fill`."""
    number = substream(name)
    return number & WORD, number >> 32


def digests(names: Iterable[str]) -> bytes:
    """The substreams of many names, 8 bytes each: by copies of one hash, which is quicker than new ones."""
    found, copy = [], blake2b()(digest_size=8).copy
    for name in names:
        hashed = copy()
        hashed.update(name.encode())
        found.append(hashed.digest())
    return b"".join(found)


@functools.cache
def blake2b() -> Any:
    """The hash of names."""
    return imports.module("hashlib").blake2b  # some ms that `import fanfill` need not pay


def key_of(seed: object, name: str | int) -> Key:
    """Seed and substream as a kernel's key; TypeError or ValueError as `fill`."""
    if integer_of(seed) is None:
        raise TypeError(
            f"seed: expected an integer in [0, 2**64); got {shown(seed)} ({type(seed).__name__}); "
            "fanfill.seed_from makes one of generators, keys and None"
        )
    number = integer(seed, "seed", 0, SEEDS, "[0, 2**64)")
    stream = substream(name)
    return number & WORD, number >> 32, stream & WORD, stream >> 32
