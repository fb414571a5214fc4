"""The number contract, slowly: one element at a time, in Python integers up to the words.

Words come from a Philox of its own, each element looks up its own words, and only the arithmetic from words
to values is the product's (other tests hold it against exact formulas). Nothing here knows of layouts, tiles,
threads or backends.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import fanfill as ff
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill_kernels.forms import form_of
from fanfill_kernels.narrow import store_of

WORD = 2**32 - 1


def philox_block(ctr: tuple[int, ...], key: tuple[int, ...], rounds: int = 10) -> tuple[int, ...]:
    """Philox4x32 as the paper has it: one block, Python integers."""
    for _ in range(rounds):
        first, second = 0xD2511F53 * ctr[0], 0xCD9E8D57 * ctr[2]
        ctr = (second >> 32 ^ ctr[1] ^ key[0], second & WORD, first >> 32 ^ ctr[3] ^ key[1], first & WORD)
        key = ((key[0] + 0x9E3779B9) & WORD, (key[1] + 0xBB67AE85) & WORD)
    return ctr


def substream(name: str | int) -> int:
    if isinstance(name, int):
        return name
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def word(i: int, seed: int, sub: int) -> int:
    """Word i of (seed, substream)."""
    block = i // 4
    ctr = (block & WORD, block >> 32, sub & WORD, sub >> 32)
    return philox_block(ctr, (seed & WORD, seed >> 32))[i % 4]


def value(law: ff.Initializer, shape: tuple[int, ...], dtype: str, seed: int, sub: int, element: int) -> Any:
    """One element of the global tensor, as the machine word that is stored."""
    made = recipe(law, shape, dtype)
    store = STORAGES[dtype].lanes
    if made.form == "constant":
        return np.array(made.params[0], f"u{store.itemsize}").view(store)[()]
    form = form_of(made.form, dtype)

    def taken(e: int) -> np.ndarray:
        if dtype == "float64":
            return np.array([word(2 * e, seed, sub) | word(2 * e + 1, seed, sub) << 32], np.uint64)
        if form.arguments is None:
            return np.array([word(e, seed, sub)], np.uint32)
        even = e - e % 2
        pair = np.array([word(even, seed, sub) | word(even + 1, seed, sub) << 32], np.uint64)
        return form.arguments(pair, made.params).view(np.uint32)[e % 2 : e % 2 + 1]

    with np.errstate(all="ignore"):
        if form.paired:
            even = element - element % 2
            found = form.function(taken(even), taken(even + 1), made.params)[element % 2]
        else:
            found = form.function(taken(element), made.params)
        return store_of(dtype)(found).astype(store)[0]


def tensor(
    law: ff.Initializer, shape: tuple[int, ...], dtype: str, seed: int, name: str | int, elements: np.ndarray
) -> np.ndarray:
    """The elements of those global indices, in their array's shape."""
    sub = substream(name)
    flat = [value(law, shape, dtype, seed, sub, int(e)) for e in elements.reshape(-1).tolist()]
    return np.array(flat, STORAGES[dtype].lanes).reshape(elements.shape)
