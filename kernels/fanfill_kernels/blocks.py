"""NumPy kernels: the lane functions over blocks of whole arrays. The fallback, and the oracle of every
other backend.
"""

from functools import cache
from typing import Any

import numpy as np

from fanfill_kernels.forms import STORES, Form, Kernels, form_of
from fanfill_kernels.philox import HALF, MASK, philox_pairs

BLOCK = 1 << 16  # values computed at once by `run`: about 2 MiB of temporaries
GATHER = 1 << 14  # values computed at once by `box` where runs are short: each value makes a block of its own
LONG = 1 << 9  # runs of this length and more are worth a call of their own


def word_pairs(block: int, count: int, key: tuple[int, ...]) -> Any:
    """``count`` Philox blocks from ``block`` on, none across a multiple of 2^32, as 2 * count uint64 word
    pairs.
    """
    pairs = np.empty((count, 2), np.uint64)
    low = np.arange(block & int(MASK), (block & int(MASK)) + count, dtype=np.uint64)
    k0, k1, s0, s1 = (np.uint64(part) for part in key)
    pairs[:, 0], pairs[:, 1] = philox_pairs(low, np.uint64(block >> 32), s0, s1, k0, k1)
    return pairs.reshape(-1)


def fill_block(
    out: Any, start: int, key: tuple[int, ...], params: Any, form: Form, store: Any, steps: int
) -> None:
    """Fill ``out``, whose words do not cross a multiple of 2^32 blocks."""
    head = start % steps
    pairs = word_pairs(start // steps, -(-(head + out.size) // steps), key)
    if form.arguments is not None:
        pairs = form.arguments(pairs, params)
    words = pairs if steps == 2 else pairs.view(np.uint32)
    if not form.paired:
        out[...] = store(form.function(words[head : head + out.size], params))
        return
    first = head - head % 2
    words = words[first : first + out.size + head % 2 + (out.size + head) % 2]
    even, odd = form.function(words[0::2], words[1::2], params)
    out[head % 2 :: 2] = store(even[head % 2 :])
    out[1 - head % 2 :: 2] = store(odd[: (out.size + head % 2) // 2])


def fill_gathered(
    out: Any, index: Any, key: tuple[int, ...], params: Any, form: Form, store: Any, steps: int
) -> None:
    """Fill ``out`` with the elements of the given indices, each from a block of its own."""
    shift = np.uint64(2 if steps == 4 else 1)
    block = index >> shift
    k0, k1, s0, s1 = (np.uint64(part) for part in key)
    first, second = philox_pairs(block, block >> HALF, s0, s1, k0, k1)
    odd = (index & np.uint64(1)) != 0
    if steps == 4:
        pair = np.where((index & np.uint64(2)) != 0, second, first)
        if form.arguments is not None:
            pair = form.arguments(pair, params)
        words = pair.view(np.uint32)
        first, second = words[0::2], words[1::2]
    if form.paired:
        even_value, odd_value = form.function(first, second, params)
        out[...] = store(np.where(odd, odd_value, even_value))
    else:
        out[...] = store(form.function(np.where(odd, second, first), params))


@cache
def kernels(form: str, dtype: str) -> Kernels:
    """The functions that fill contiguous arrays of the dtype's lanes with values of the form."""
    made = form_of(form, dtype)
    store = STORES[dtype]
    steps = 2 if dtype == "float64" else 4
    wrap = steps << 32

    def run(out: Any, start: int, key: tuple[int, ...], params: Any) -> None:
        # Integers wrap on purpose, and lanes that a select drops may overflow: neither is the caller's
        # business.
        with np.errstate(all="ignore"):
            done = 0
            while done < out.size:
                count = min(BLOCK, out.size - done, wrap - (start + done) % wrap)
                fill_block(out[done : done + count], start + done, key, params, made, store, steps)
                done += count

    def box(out: Any, start: int, shape: Any, pitch: Any, key: tuple[int, ...], params: Any) -> None:
        if pitch[-1] == 1 and shape[-1] >= LONG:
            for number, outer in enumerate(np.ndindex(*shape[:-1])):
                first = start + sum(int(c) * int(p) for c, p in zip(outer, pitch[:-1], strict=True))
                run(out[number * shape[-1] : (number + 1) * shape[-1]], first, key, params)
            return
        with np.errstate(all="ignore"):
            for done in range(0, out.size, GATHER):
                flat = np.arange(done, min(done + GATHER, out.size))
                index = np.full(flat.size, start, np.uint64)
                for coordinate, p in zip(np.unravel_index(flat, tuple(shape)), pitch, strict=True):
                    index += coordinate.astype(np.uint64) * np.uint64(p)
                fill_gathered(out[done : done + GATHER], index, key, params, made, store, steps)

    return Kernels(run, box)
