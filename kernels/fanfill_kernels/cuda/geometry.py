"""How the CUDA kernels are launched: from a region of a tensor and its memory to grids and parameters.

What is decided here never enters a value. The layouts are those of the structs of the same names in
``philox.cuh`` and ``fill.cu``.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fanfill_kernels.cuda import entry
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import forms_of
from fanfill_kernels.philox import HALF, M0, M1, MASK, ROUNDS, W0, W1, Key

THREADS = 256
STORE = 16  # bytes of the widest store
AXES = 16
GRID = 2**31 - 1  # thread blocks of a launch at most
HALF_LINE = 1 << 32  # Philox blocks that share the upper half of their number
# Forms whose values take longer to make than to store.
COSTLY = ("normal", "normal_centred", "truncated_central", "truncated")
# How many thread blocks of a strided kernel a multiprocessor gets: two rounds of those that it holds, or more
# for large fills, as long as each has this many chunks. In prototypes on an H200, for 2^28 values, 16 and 64
# were within 1 % of one another; one chunk a thread block was 6 % slower.
FEWEST, MOST, CHUNKS = 16, 64, 4

KEYS = np.dtype(
    {
        "names": ["round", "sub", "second_c2", "third_c0", "third_c2", "fourth_c2"],
        "formats": [("<u4", 2 * ROUNDS), ("<u4", 2), "<u4", "<u4", "<u4", "<u4"],
    }
)
RUN = np.dtype([("count", "<u8"), ("block", "<u4"), ("head", "<u4"), ("lead", "<u4"), ("whole", "<u4")])
AXIS = np.dtype(
    [
        ("count", "<u8"),
        ("magic", "<u8"),
        ("pitch", "<u8"),
        ("stride", "<i8"),
        ("shift", "<u4"),
        ("unused", "<u4"),
    ]
)
BOX = np.dtype(
    [
        ("threads", "<u8"),
        ("first", "<u8"),
        ("start", "<u8"),
        ("length", "<u8"),
        ("step", "<i8"),
        ("rank", "<u4"),
        ("row", "<u4"),
        ("axis", AXIS, AXES),
    ]
)
NOTHING = np.uint8(0)  # the parameters of a form that has none: an empty struct has one byte

Axes = Sequence[tuple[int, int, int]]


class Launch(NamedTuple):
    """One launch: the entry point, thread blocks, threads in each, and arguments of the parameters' sizes. A
    strided kernel is best launched with as many of the thread blocks as `resident` says.
    """

    entry: str
    blocks: int
    threads: int
    arguments: tuple[Any, ...]


def keys(key: Key, high: int) -> Any:
    """The struct Keys of a launch: round keys, and two rounds of the words of the counter that are constants
    where ``high`` is the upper half of all block numbers. ``key``: seed and substream, low word first.
    """
    mask, half, m0, m1 = int(MASK), int(HALF), int(M0), int(M1)
    seed, (s0, s1) = key[:2], key[2:]
    made = np.zeros((), KEYS)
    k = [[(part + r * int(w)) & mask for part, w in zip(seed, (W0, W1), strict=True)] for r in range(ROUNDS)]
    made["round"] = np.ravel(k)
    made["sub"] = s0, s1
    first = m1 * s0
    second = m0 * ((first >> half) ^ high ^ k[0][0])
    made["second_c2"] = s1 ^ k[0][1]
    made["third_c0"] = (first & mask) ^ k[1][0]
    made["third_c2"] = (second >> half) ^ k[1][1]
    made["fourth_c2"] = (second & mask) ^ k[2][1]
    return made[()]


def taken(form: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The kernels' form for a recipe, and its parameters: what the host can work out for all values at once.

    * A normal of mean 0 needs no sum.
    * A truncated normal clamps z between its cuts, and the value between its ends. But fl(fl(z std) + mean)
      rises with z, so that one clamp of the value does both, between what the two make of the cuts.
    """
    if form == "normal" and params[1] == 0:
        return "normal_centred", params[:1]
    if form not in ("truncated_central", "truncated"):
        return form, params
    *line, lower, upper, std, mean, low, high = params
    ends = []
    for cut in (lower, upper):
        with np.errstate(over="ignore"):  # a cut far out, of whose value the end is the end
            end = cut * std + mean
        ends.append(low if end < low else min(end, high))
    return form, (*line, std, mean, *ends)


def kernel_forms(form: str) -> tuple[str, ...]:
    """The kernels' forms that `taken` may name for a recipe's."""
    return ("normal", "normal_centred") if form == "normal" else (form,)


def strided(form: str, dtype: str) -> bool:
    """Whether the run kernel of a form goes from chunk to chunk, so that any number of thread blocks will do.
    Those that wait for memory do not; in float64 it was no gain.
    """
    found = FORMATS[dtype]
    return form != "constant" and found.compute is np.float32 and (form in COSTLY or found.itemsize < 4)


def resident(name: str, blocks: int, multiprocessors: int) -> int:
    """How many of a launch's thread blocks the entry point of this name needs on a device."""
    if name not in _strided():
        return blocks
    return min(blocks, multiprocessors * MOST, max(multiprocessors * FEWEST, blocks // CHUNKS))


@functools.cache
def _strided() -> frozenset[str]:
    """The entry points of strided kernels."""
    return frozenset(
        entry("run", of_kernel, dtype)
        for dtype in FORMATS
        for form in forms_of(dtype)
        if strided(form, dtype)
        for of_kernel in kernel_forms(form)
    )


def packed(form: str, dtype: str, params: Sequence[Any]) -> Any:
    """The parameters of a kernel's form as one argument: a struct in their order, or a constant's bits."""
    if form == "constant":
        return np.dtype(f"<u{FORMATS[dtype].itemsize}").type(params[0])
    if not params:
        return NOTHING
    layout = np.dtype([(f"p{n}", np.asarray(p).dtype) for n, p in enumerate(params)], align=True)
    return np.array(tuple(params), layout)[()]


def values_in_block(form: str, dtype: str) -> int:
    """Values that a thread makes at once: of one Philox block, or as many of a constant."""
    return 2 if FORMATS[dtype].itemsize == 8 else 4


def launches(
    form: str, dtype: str, address: int, start: int, axes: Axes, key: Key, params: Sequence[Any]
) -> Iterator[Launch]:
    """The launches that fill memory with a box of a tensor.

    Parameters
    ----------
    form, dtype
        Of ``fanfill_kernels.forms``, or the form "constant".
    address, start
        Where the first element lies, and its index in the tensor.
    axes
        (length, step of the index, step of the address in bytes) for each axis.
    key
        Seed and substream as 32-bit words, low one first.
    params
        The recipe's.
    """
    size = FORMATS[dtype].itemsize
    if any(n == 0 for n, _, _ in axes):
        return
    axes = [axis for axis in axes if axis[0] != 1]
    constant = form == "constant"
    name = str(8 * size) if constant else dtype
    if constant:
        # Any numbering will do: one that goes with the addresses, so that stores are wide.
        axes = [(n, int(stride == size), stride) for n, _, stride in axes]
        start = address // size % STORE
    count, pitch, stride = axes[0] if axes else (1, 1, size)
    of_kernel, values = taken(form, params)
    given = packed(form, dtype, values)
    if len(axes) <= 1 and (pitch, stride) == (1, size) and (address - start * size) % STORE == 0:
        kernel = entry("run", of_kernel, name)
        yield from _runs(kernel, form, dtype, address, start, count, key, given)
        return
    if constant:
        start = 0
    # The last axis is the fastest of the thread numbers: neighbours in memory belong to neighbours.
    axes = sorted(axes, key=lambda axis: -abs(axis[2]))
    yield from _boxes(entry("box", of_kernel, name), form, dtype, address, start, axes, key, given)


def _runs(
    kernel: str, form: str, dtype: str, address: int, start: int, count: int, key: Key, given: Any
) -> Iterator[Launch]:
    """Consecutive elements, in launches whose Philox blocks share the upper half of their number."""
    size = FORMATS[dtype].itemsize
    group = STORE // size
    blocks = group // values_in_block(form, dtype)
    side_by_side = 2 if blocks == 1 else 1
    chunk = THREADS * side_by_side
    end = start + count
    while start < end:
        high, low = divmod(start // group * blocks, HALF_LINE)
        stop = min(end, (high + 1) * HALF_LINE // blocks * group)
        head = start % group
        lead = int(head > 0)
        last = head + stop - start  # behind the last element, counted from the first group's beginning
        whole = last // group - lead
        if strided(form, dtype):
            whole = max(0, whole) // chunk
            thread_blocks = whole + lead + ((lead + whole * chunk) * group < last)
        else:
            # Of a thread's groups the last one lies THREADS * (side_by_side - 1) behind the first.
            whole = max(0, whole - THREADS * (side_by_side - 1))
            thread_blocks = -(-last // (group * chunk))
        run = np.zeros((), RUN)
        for field, value in zip(RUN.names or (), (stop - start, low, head, lead, whole), strict=True):
            run[field] = value
        arguments = (np.uint64(address - head * size), run[()], keys(key, high), given)
        yield Launch(kernel, thread_blocks, THREADS, arguments)
        address += (stop - start) * size
        start = stop


def _boxes(
    kernel: str, form: str, dtype: str, address: int, start: int, axes: Axes, key: Key, given: Any
) -> Iterator[Launch]:
    """A box; one with more axes than a launch takes as several, place by place of its first axis."""
    if len(axes) > AXES:
        n, pitch, stride = axes[0]
        for place in range(n):
            part = address + place * stride, start + place * pitch
            yield from _boxes(kernel, form, dtype, *part, axes[1:], key, given)
        return
    values = values_in_block(form, dtype)
    row = next((k for k, (_, pitch, _) in enumerate(axes) if pitch == 1), None)
    box = np.zeros((), BOX)
    box["start"], box["rank"] = start, len(axes)
    box["length"], box["step"], box["row"] = 1, 0, AXES
    threads = 1
    for k, (n, pitch, stride) in enumerate(axes):
        axis = box["axis"][k]
        if k == row:
            box["length"], box["step"], box["row"] = n, stride, k
            # Rows that all begin at the same place of a block touch as many blocks as the first.
            alike = all(p % values == 0 for j, (_, p, _) in enumerate(axes) if j != row)
            n = -(-((start % values if alike else values - 1) + n) // values)
        else:
            axis["pitch"], axis["stride"] = pitch, stride
        axis["count"] = n
        axis["shift"] = (n - 1).bit_length()
        axis["magic"] = (1 << 62 + (n - 1).bit_length()) // n + 1
        threads *= n
    box["threads"] = threads
    for first in range(0, threads, GRID * THREADS):
        box["first"] = first
        blocks = min(GRID, -(-(threads - first) // THREADS))
        yield Launch(kernel, blocks, THREADS, (np.uint64(address), box[()].copy(), keys(key, 0), given))
