"""Where a call's seed and substream come from: the caller, or a torch.Generator.

A call takes two int64 from a generator, with ``torch.empty(2, dtype=torch.int64).random_(-(2**63), None,
generator=generator)``: the first modulo 2^64 is the seed, the second the substream. So ``torch.manual_seed``
determines the values, each call takes the next two numbers of the generator whatever the shapes, and two
calls share a stream with a probability of 2^-128.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from fanfill.arguments import integer
from fanfill.messages import shown
from fanfill.streams import halves, substream

if TYPE_CHECKING:
    from fanfill_kernels.philox import Key

__all__ = ["Stream", "default_key", "from_generator", "seed_of", "stream"]

Stream = tuple[int, str | int]  # (seed, name), as fanfill.fill takes them

_SEEDS = 2**64
_WORD = 2**32 - 1
_LOWEST = -(2**63)
_own = threading.local()


def stream(generator: torch.Generator | None, seed: int | None, name: str | int | None) -> Stream:
    """The (seed, name) of one call.

    Raises
    ------
    TypeError, ValueError
        If there is a generator as well as a seed, or a name without a seed; if `fanfill.fill` refuses the
        seed or the name.
    """
    if seed is None:
        if name is not None:
            raise TypeError(
                f"expected a seed with the name {shown(name)}; got none; pass seed= too, or neither"
            )
        return from_generator(generator)
    if generator is not None:
        raise TypeError("expected a generator or a seed; got both; pass one of them")
    number = seed_of(seed)
    if name is None:
        return number, 0
    # Refuses an invalid name, and keeps what the fill will ask for.
    _ = halves(name) if type(name) is str or type(name) is int else substream(name)
    return number, name


def default_key() -> Key:
    """The key of a call that names no seed and no generator, where no mode changes what torch's calls do."""
    words = getattr(_own, "words", None)
    if words is None:
        words = _make_words()
    words.random_(_LOWEST, None)
    seed, sub = _own.numbers.tolist()
    return seed & _WORD, seed >> 32, sub & _WORD, sub >> 32


def _make_words() -> torch.Tensor:
    """One pair per thread: making it takes a tenth of a small fill's time."""
    with torch.inference_mode(False):  # else it could not be written outside that mode
        words = _own.words = torch.empty(2, dtype=torch.int64, device="cpu")
    _own.numbers = words.numpy().view(np.uint64)
    return words


def from_generator(generator: torch.Generator | None) -> Stream:
    """Draw a seed and a substream; None is torch's default CPU generator."""
    if generator is None or generator.device.type == "cpu":
        words = getattr(_own, "words", None)
        if words is None:
            words = _make_words()
        if not torch._C._len_torch_dispatch_stack():  # no mode changes what torch's calls do
            words.random_(_LOWEST, None, generator=generator)
            seed, sub = _own.numbers.tolist()  # an eighth of the time that torch's own tolist takes
            return seed, sub
    else:
        words = torch.empty(2, dtype=torch.int64, device=generator.device)
    seed, sub = words.random_(_LOWEST, None, generator=generator).tolist()
    return seed % _SEEDS, sub % _SEEDS


def seed_of(seed: object) -> int:
    """A seed as a Python int; TypeError or ValueError unless it is an integer in [0, 2^64)."""
    return integer(seed, "seed", 0, _SEEDS, "[0, 2**64)")
