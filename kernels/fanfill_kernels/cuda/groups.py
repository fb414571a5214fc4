"""Tables for the grouped kernels: many runs of one seed, form and dtype in one launch; see ``grouped.cuh``.

A table is made by NumPy for all its items at once: 10,000 of them take a few ms, and a loop over them ten
times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanfill_kernels.cuda.geometry import GRID, STORE, THREADS, Span, rounds_of, values_in_block
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.philox import HALF, M0, M1, MASK, ROUNDS

__all__ = ["Items", "Table", "capacity", "parameters", "tables"]

# A thread block makes as many chunks as leave a multiprocessor BLOCKS of them, and MOST_TURNS at most.
BLOCKS, MOST_TURNS = 64, 16
_HEAD = 8 * ROUNDS + 8  # bytes before the items
_NOWHERE = 2**32 - 1  # the first thread block of no item


class Items(NamedTuple):
    """Tensors of a launch, or parts of them, that differ in address and substream alone: the span of one of
    them, and their form's parameters.
    """

    span: Span
    make: bytes
    addresses: NDArray[np.uint64]
    substreams: NDArray[np.uint64]


class Table(NamedTuple):
    """A launch: its thread blocks and its parameter."""

    blocks: int
    parameter: bytes


def parameters(cuda: tuple[int, int], architecture: int) -> int:
    """How many bytes of parameters a kernel may have: by the older of driver and compiler, as (12, 1)."""
    return 32764 if cuda >= (12, 1) and architecture >= 70 else 4096


def capacity(make: int, most: int) -> int:
    """How many items a table holds whose forms' parameters have ``make`` bytes, if it may have ``most``."""
    size = _item(make).itemsize + 4
    n = 1
    while _HEAD + 2 * n * size <= most:
        n *= 2
    return n


def _item(make: int) -> np.dtype[Any]:
    words = ("block", "head", "lead", "whole", "second_c2", "third_c0", "third_c2", "fourth_c2")
    fields = [("pointer", "<u8"), ("count", "<u8"), *((name, "<u4") for name in words)]
    return np.dtype([*fields, ("make", "u1", -(-make // 8) * 8)])


def turns_of(chunks: int, multiprocessors: int) -> int:
    """How many chunks each thread block of a launch makes."""
    return min(MOST_TURNS, max(1, chunks // (multiprocessors * BLOCKS)))


def tables(
    dtype: str, form: str, seed: tuple[int, int], items: list[Items], most: int, multiprocessors: int
) -> Iterator[Table]:
    """The launches that make these items, all of one form and dtype, in their order.

    Parameters
    ----------
    seed
        Its halves, low one first.
    most
        How many bytes a table may have: see `parameters`.
    multiprocessors
        How many the device has.
    """
    group = STORE // FORMATS[dtype].itemsize
    chunk = THREADS * (2 if group == values_in_block(form, dtype) else 1)
    counts = [len(item.addresses) for item in items]
    total, size = sum(counts), len(items[0].make)
    address = np.concatenate([item.addresses for item in items])
    substream = np.concatenate([item.substreams for item in items])
    spans = np.repeat(np.array([item.span[1:] for item in items], np.uint64), counts, axis=0).T
    above, length, block, head, lead, _ = spans
    made = np.zeros(total, _item(size))
    end = head + length
    inside = end // np.uint64(group)
    whole = np.where(inside > lead, inside - lead, np.uint64(0)) // np.uint64(chunk)
    made["pointer"], made["count"], made["block"] = address, length, block
    made["head"], made["lead"], made["whole"] = head, lead, whole
    makes = np.frombuffer(b"".join([item.make for item in items]), np.uint8).reshape(-1, size)
    made["make"][:, :size] = np.repeat(makes, counts, axis=0)

    rounds = rounds_of(*seed)
    word, half = np.uint64(MASK), np.uint64(HALF)
    low, high = substream & word, substream >> half
    first = np.uint64(M1) * low
    second = np.uint64(M0) * ((first >> half) ^ above ^ np.uint64(rounds.k00))
    made["second_c2"] = high ^ np.uint64(rounds.k01)
    made["third_c0"] = (first & word) ^ np.uint64(rounds.k10)
    made["third_c2"] = (second >> half) ^ np.uint64(rounds.k11)
    made["fourth_c2"] = (second & word) ^ np.uint64(rounds.k21)

    rest = (whole * np.uint64(chunk) + lead) * np.uint64(group) < end
    chunks = (whole + lead + rest).astype(np.int64)
    most_items = capacity(size, most)
    words = [("turns", "<u4"), ("unused", "<u4"), ("first", "<u4", most_items)]
    layout = np.dtype([("round", "u1", 8 * ROUNDS), *words, ("item", made.dtype, most_items)], align=False)
    begin = 0
    while begin < total:
        some = chunks[begin : begin + most_items]
        turns = turns_of(int(some.sum()), multiprocessors)
        ends = np.cumsum(-(-some // turns))
        count = max(1, int(np.searchsorted(ends, GRID, side="right")))
        table = np.zeros((), layout)
        table["round"] = np.frombuffer(rounds.packed, np.uint8)
        table["turns"] = turns
        table["first"][:] = _NOWHERE
        table["first"][0] = 0
        table["first"][1:count] = ends[: count - 1]
        table["item"][:count] = made[begin : begin + count]
        yield Table(int(ends[count - 1]), table.tobytes())
        begin += count
