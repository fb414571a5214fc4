"""Where the seed and the substream of one call come from: the caller, or a torch.Generator.

From a generator a call takes two int64, with ``torch.empty(2, dtype=torch.int64).random_(-(2**63), None,
generator=generator)``: the first modulo 2^64 is the seed, the second the substream. So ``torch.manual_seed``
governs the values, calls follow each other in the generator's sequence whatever the shapes, and two calls
share a stream with a probability of 2^-128.
"""

from __future__ import annotations

import threading

import torch

from fanfill.arguments import integer
from fanfill.fill import substream
from fanfill.messages import shown

__all__ = ["Stream", "from_generator", "seed_of", "stream"]

Stream = tuple[int, str | int]  # (seed, name), as fanfill.fill takes them

_SEEDS = 2**64
_own = threading.local()


def stream(generator: torch.Generator | None, seed: int | None, name: str | int | None) -> Stream:
    """The (seed, name) of one call.

    Raises
    ------
    TypeError, ValueError
        A generator beside a seed; a name without a seed; a seed or a name that `fanfill.fill` refuses.
    """
    if seed is None:
        if name is not None:
            raise TypeError(
                f"expected a seed beside the name {shown(name)}; got none; pass seed= too, or neither"
            )
        return from_generator(generator)
    if generator is not None:
        raise TypeError("expected a generator or a seed; got both; pass one of them")
    number = seed_of(seed)
    if name is None:
        return number, 0
    substream(name)  # refuses what is no name
    return number, name


def from_generator(generator: torch.Generator | None) -> Stream:
    """Draw a seed and a substream; None is torch's default CPU generator."""
    if generator is None or generator.device.type == "cpu":
        words = getattr(_own, "words", None)
        if words is None:
            # Each thread's own: making it takes a tenth of a small fill's time. Made in inference mode it
            # could not be written outside.
            with torch.inference_mode(False):
                words = _own.words = torch.empty(2, dtype=torch.int64, device="cpu")
    else:
        words = torch.empty(2, dtype=torch.int64, device=generator.device)
    seed, sub = words.random_(-(2**63), None, generator=generator).tolist()
    return seed % _SEEDS, sub % _SEEDS


def seed_of(seed: object) -> int:
    """A seed as a Python int; TypeError or ValueError unless it is an integer in [0, 2^64)."""
    return integer(seed, "seed", 0, _SEEDS, "[0, 2**64)")
