"""The loop that fills contiguous memory, compiled once for each form and dtype by ``cpu.py``.

It makes a group of Philox blocks at a time, in vectors as wide as the processor's, and turns their words into
values while they are still in registers. LLVM does not vectorise such a loop by itself: it makes the words at
a seventh of the rate. With two loops and a tile between them, it pays for the trip through memory (a sixth of
a uniform's time).

``STEPS`` (a block holds 4 words of 32 bits or 2 of 64), ``TURNS``, ``NONTEMPORAL``, ``words``, ``write``,
``values``, ``value``, ``pair``, ``arguments`` and ``store`` are bound when a loop is compiled; so are
``GROUP`` and ``WIDTH``, which depend on the processor.
"""

from typing import Any

import numpy as np

from fanfill_kernels.lanes import (
    consecutive,
    i64,
    interleave,
    lead,
    least,
    loop,
    parts,
    publish,
    scratch_of,
    u64,
    unpack,
)
from fanfill_kernels.philox import HALF, MASK, philox_pairs, philox_strands

STEPS = 4
GROUP = 32  # blocks made at once
WIDTH = 8  # blocks in one register
TURNS = 1  # passes in which a group's values are made
NONTEMPORAL = False  # whether values go past the caches
LINE = 64  # bytes of a cache line, or of the widest register


def value(w: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's function of one word
    raise NotImplementedError


def pair(
    w0: Any, w1: Any, params: Any
) -> Any:  # pragma: no cover - stands for the form's function of two words
    raise NotImplementedError


def arguments(word: Any, params: Any) -> Any:  # pragma: no cover - stands for the form's own
    raise NotImplementedError


def store(x: Any) -> Any:  # pragma: no cover - stands for the dtype's rounding
    raise NotImplementedError


def words(
    low: Any, high: Any, key: Any, params: Any
) -> Any:  # pragma: no cover - stands for one of the three below
    raise NotImplementedError


def values(first: Any, second: Any, params: Any) -> Any:  # pragma: no cover - stands for one of the two below
    raise NotImplementedError


def short_words(low: Any, high: Any, key: Any, params: Any) -> Any:
    """The even and the odd words of blocks, as uint32."""
    even, odd = philox_strands(low, high, u64(key[2]), u64(key[3]), u64(key[0]), u64(key[1]))
    return even.view(np.uint32), odd.view(np.uint32)


def short_arguments(low: Any, high: Any, key: Any, params: Any) -> Any:
    """What the form's ``arguments`` makes of these words, two words of a lane at a time."""
    even, odd = philox_strands(low, high, u64(key[2]), u64(key[3]), u64(key[0]), u64(key[1]))
    return arguments(even, params).view(np.uint32), arguments(odd, params).view(np.uint32)


def long_words(low: Any, high: Any, key: Any, params: Any) -> Any:
    """The even and the odd words of blocks, two 64-bit words each."""
    return philox_pairs(low, high, u64(key[2]), u64(key[3]), u64(key[0]), u64(key[1]))


def singles(first: Any, second: Any, params: Any) -> Any:
    """Values of neighbouring elements when one word makes one value."""
    return store(value(first, params)), store(value(second, params))


def twins(first: Any, second: Any, params: Any) -> Any:
    """The same when two words make two values."""
    a, b = pair(first, second, params)
    return store(a), store(b)


def write(out: Any, at: Any, first: Any, second: Any, params: Any, nontemporal: bool) -> None:
    """Write the values of a group's words from element ``at`` on, in ``TURNS`` passes."""
    for a, b in zip(parts(first, TURNS), parts(second, TURNS), strict=True):
        x, y = values(a, b, params)
        interleave(out, at, x, y, nontemporal)
        at = at + 2 * a.size


def make_group(i: Any, out: Any, low: Any, high: Any, key: Any, params: Any) -> None:
    """Write the values of the ``GROUP`` blocks from ``low + i * GROUP`` on; ``high`` is their upper half."""
    first, second = words(consecutive(low + u64(i) * u64(GROUP), GROUP, WIDTH), high, key, params)
    write(out, i * (GROUP * STEPS), first, second, params, NONTEMPORAL)


def can_bypass_caches(out: Any, start: int, steps: int) -> bool:
    """Whether a Philox block of ``steps`` elements begins at each cache line when ``out`` is filled from
    element ``start`` on.
    """
    return bool((start + lead(out, LINE)) % steps == 0)


def fill(arguments: Any) -> None:
    """(out, start, key, params): fill ``out`` with elements ``start``, ``start + 1``, ...

    While the upper half of the block's index and the substream are fixed, a third of the first three rounds
    leaves the loop. A part that is smaller than a group, or does not begin with a block, is copied from a
    spare group. So is what comes before the first cache line if values bypass the caches: a block must begin
    at each line (``can_bypass_caches``).
    """
    out, start, key, params = unpack(arguments)
    spare = scratch_of(out, GROUP * STEPS)
    block = u64(start) // u64(STEPS)
    head = i64(u64(start) % u64(STEPS))
    done = 0
    while done < out.size:
        ahead = lead(out[done:], LINE) if NONTEMPORAL else 0
        low = block & MASK
        left = least(i64(MASK - low) + 1, (head + out.size - done + STEPS - 1) // STEPS)
        groups = 0
        target = spare
        if head == 0 and ahead == 0 and (out.size - done) // STEPS >= GROUP and left >= GROUP:
            groups = least(left, (out.size - done) // STEPS) // GROUP
            target = out[done:]
        loop(groups + i64(groups == 0), make_group, (target, low, block >> HALF, key, params))
        if groups > 0:
            done += groups * GROUP * STEPS
            block += u64(groups * GROUP)
        else:
            blocks = least(left, GROUP)
            count = least(STEPS * blocks - head, out.size - done)
            if ahead > 0:
                count = least(count, ahead)
                blocks = (head + count) // STEPS
            for k in range(count):
                out[u64(done + k)] = spare[u64(head + k)]
            done += count
            block += u64(blocks)
            head = 0
    if NONTEMPORAL:
        publish()
