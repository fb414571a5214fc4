"""Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw.

"Parallel random numbers: as easy as 1, 2, 3", SC11. A block of four 32-bit words is a pure function of a
128-bit counter and a 64-bit key::

    ten times:  (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0))
                (k0, k1)         <- (k0 + W0, k1 + W1)

The words live in 64-bit lanes whose upper halves may hold garbage: ``(c & MASK) * M`` is then one widening
multiply (``vpmuludq``) and both halves of the product are at hand, twice the rate of 32-bit lanes. A block
comes out as two 64-bit pairs: word 0 | word 1 << 32 and word 2 | word 3 << 32, which little-endian memory
shows in natural order, or words 0 and 2, 1 and 3.
"""

from typing import Any

import numpy as np

from fanfill_kernels.lanes import interleaved, low_half

M0 = np.uint64(0xD2511F53)
M1 = np.uint64(0xCD9E8D57)
W0 = np.uint64(0x9E3779B9)
W1 = np.uint64(0xBB67AE85)
MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
ROUNDS = 10

Key = tuple[int, int, int, int]  # seed and substream, each as two 32-bit words, the low one first


def philox_pairs(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return words (0, 1) and (2, 3) of the block with counter (c0, c1, c2, c3) and key (k0, k1) as two
    uint64.

    Counters and keys are uint64 lanes; counters may carry garbage above bit 31, keys may not.
    """
    p0, p1, c1, c3, k0, k1 = last_round(c0, c1, c2, c3, k0, k1)
    # The last round leaves its products rotated: low word below, high word above is a pair already.
    return (
        ((p1 >> HALF) | (p1 << HALF)) ^ ((c1 & MASK) ^ k0),
        ((p0 >> HALF) | (p0 << HALF)) ^ ((c3 & MASK) ^ k1),
    )


def philox_strands(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return words (0, 2) and words (1, 3) of the same block as two uint64, low half first.

    Seen as uint32, the two words of a normal lie in the same places of two vectors without a free lane.
    """
    p0, p1, c1, c3, k0, k1 = last_round(c0, c1, c2, c3, k0, k1)
    p0, p1, c1, c3 = (x.view(np.uint32) for x in (p0, p1, c1, c3))
    upper = interleaved(p1, p0, 1).view(np.uint64)
    return upper ^ interleaved(c1, c3, 0).view(np.uint64) ^ (k0 | (k1 << HALF)), interleaved(p1, p0, 0).view(
        np.uint64
    )


def last_round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return what the last round makes its block of: two products, two words of the counter, the key."""
    for _ in range(ROUNDS - 1):
        p0 = low_half(c0) * M0
        p1 = low_half(c2) * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1, (p0 >> HALF) ^ c3 ^ k1, p0
        k0 = (k0 + W0) & MASK
        k1 = (k1 + W1) & MASK
    return low_half(c0) * M0, low_half(c2) * M1, c1, c3, k0, k1
