"""Seeds from what other libraries call one."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from fanfill.arguments import integer_of
from fanfill.messages import shown

__all__ = ["seed_from"]

_SEEDS = 2**64


def seed_from(source: Any = None) -> int:
    """A seed for `fill`, in [0, 2^64), from a generator, a seed sequence or a key of another library.

    Parameters
    ----------
    source
        * None: 64 bits of the operating system's randomness. Print or store the result, or nobody can
          repeat the draw.
        * an int: itself, modulo 2^64, so that negative seeds are seeds too.
        * `numpy.random.SeedSequence`: 64 bits of its state, always the same.
        * `numpy.random.Generator`, `BitGenerator` or `RandomState`: its next 64 bits, so that it moves on.
        * `torch.Generator`: 64 bits drawn from it, so that it moves on.
        * a JAX key: its words, so that ``seed_from(jax.random.key(5))`` is 5.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import numpy as np, fanfill as ff
    >>> seed_from(np.random.SeedSequence(1)) == seed_from(np.random.SeedSequence(1))
    True
    >>> seed_from(-1) == 2**64 - 1
    True
    """
    if source is None:
        return int.from_bytes(os.urandom(8), "little")
    number = integer_of(source)
    if number is not None:
        return number % _SEEDS
    if isinstance(source, np.random.SeedSequence):
        return int(source.generate_state(1, np.uint64)[0])
    if isinstance(source, np.random.Generator):
        source = source.bit_generator
    if isinstance(source, np.random.BitGenerator):
        return int(np.random.Generator(source).integers(0, _SEEDS, dtype=np.uint64))
    if isinstance(source, np.random.RandomState):
        return int(source.randint(0, _SEEDS, dtype=np.uint64))
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(source, torch.Generator):
        halves = torch.randint(0, 2**32, (2,), generator=source, device=source.device).tolist()
        return int(halves[0] << 32 | halves[1])
    if jax is not None and isinstance(source, jax.Array):
        from fanfill.jax.keys import seed_of, words_of

        return seed_of(words_of(source))
    raise TypeError(
        "source: expected None, an int, a numpy.random.SeedSequence, Generator or RandomState, a "
        f"torch.Generator or a JAX key; got {shown(source)} ({type(source).__name__})"
    )
