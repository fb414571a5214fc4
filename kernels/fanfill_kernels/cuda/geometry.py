"""How the CUDA kernels are launched: from a region of a tensor and its memory to grids and parameters.

What is decided here never enters a value. The layouts are those of the structs of the same names in
``philox.cuh`` and ``fill.cu``.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from fanfill_kernels.cuda import KEYED
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import forms_of
from fanfill_kernels.philox import HALF, M0, M1, MASK, ROUNDS, W0, W1, Key

CENTRED = 0xC0000000  # arithmetic.cuh
THREADS = 256
STORE = 16  # bytes of the widest store
AXES = 16
GRID = 2**31 - 1  # thread blocks of a launch at most
HALF_LINE = 1 << 32  # Philox blocks that share the upper half of their number
# Forms whose values take longer to make than to store.
COSTLY = ("normal", "normal_centred", "truncated_central", "truncated")
# How many thread blocks of a strided kernel a multiprocessor gets: two rounds of those that it holds, or more
# for large fills, as long as each has this many chunks. On an H200, for 2^28 values, 16, 32 and 64 are within
# 1 % of one another: bfloat16 uniforms are quickest by 16, truncated normals by 64. One chunk a thread block
# was 6 % slower.
FEWEST, MOST, CHUNKS = 16, 32, 4

# Structured NumPy arrays in place of these took a fill 23 us.
POINTER = Struct("<Q")
KEYS = Struct(f"<{8 * ROUNDS}s6I")  # round keys, substream, second_c2, third_c0, third_c2, fourth_c2
RUN = Struct("<Q4I")  # count, block, head, lead, whole
AXIS = Struct("<3QqII")  # count, magic, pitch, stride, shift, unused
BOX = Struct(f"<4QqII{AXES * AXIS.size}s")  # threads, first, start, length, step, rank, row, axes
SOURCE = Struct(f"<2Q{AXES}Q{AXES}I4I")  # words, offsets, pitches, axes, rank, substream, above

_WORD, _HALF, _M0, _M1 = int(MASK), int(HALF), int(M0), int(M1)
_NUMBERS: dict[type, str] = {np.uint64: "Q", np.uint32: "I", np.float64: "d", np.float32: "f"}

Axes = Sequence[tuple[int, int, int]]
# The argument of a kernel that says which stream it draws, by the upper half of its blocks' numbers.
Stream = Callable[[int], bytes]


class Launch(NamedTuple):
    """One launch: the entry point, thread blocks, threads in each, and arguments: the parameters' bytes. A
    strided kernel is best launched with as many of the thread blocks as `resident` says.
    """

    entry: str
    blocks: int
    threads: int
    arguments: tuple[bytes, ...]


class Span(NamedTuple):
    """Consecutive elements that a kernel for runs makes in one launch; the other fields are as in ``Run``.

    Attributes
    ----------
    address : int
        Of group 0, a multiple of STORE.
    high : int
        Upper half of the numbers of all its Philox blocks.
    length, groups : int
        How many elements, and groups that they lie in.
    """

    address: int
    high: int
    length: int
    block: int
    head: int
    lead: int
    groups: int


def taken(form: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The kernels' form for a recipe, and its parameters: what the host can work out for all values at once.

    * A normal of mean 0 needs no sum.
    * A central truncated normal's argument has CENTRED added, which the origin brings along.
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
    if form == "truncated_central" and isinstance(std, np.float32):
        line[0] = np.uint64((int(line[0]) + (CENTRED << _HALF)) % 2**64)
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
        f"{kind}_{of_kernel}_{dtype}"
        for dtype in FORMATS
        for form in forms_of(dtype)
        if strided(form, dtype)
        for of_kernel in kernel_forms(form)
        for kind in ("run", f"{KEYED}_run")
    )


class Rounds(NamedTuple):
    """The round keys of a seed as bytes, and those that are mixed into the counter's constant words."""

    packed: bytes
    k00: int
    k01: int
    k10: int
    k11: int
    k21: int


@functools.lru_cache(maxsize=64)
def rounds_of(low: int, high: int) -> Rounds:
    """The round keys of a seed's halves: a model has one."""
    k = [((low + r * int(W0)) & _WORD, (high + r * int(W1)) & _WORD) for r in range(ROUNDS)]
    packed = Struct(f"<{2 * ROUNDS}I").pack(*(word for pair in k for word in pair))
    return Rounds(packed, *k[0], *k[1], k[2][1])


def key_words(rounds: Rounds, low: int, high: int, above: int) -> tuple[int, int, int, int, int, int]:
    """What ``Keys`` holds beside the round keys: a substream's halves, and two rounds of the words of the
    counter that are constants where ``above`` is the upper half of all block numbers.
    """
    first = _M1 * low
    second = _M0 * ((first >> _HALF) ^ above ^ rounds.k00)
    return (
        low,
        high,
        high ^ rounds.k01,
        (first & _WORD) ^ rounds.k10,
        (second >> _HALF) ^ rounds.k11,
        (second & _WORD) ^ rounds.k21,
    )


def keys(key: Key, high: int) -> bytes:
    """The struct Keys of a launch whose block numbers have the upper half ``high``; see `key_words`.
    ``key``: seed and substream, low word first.
    """
    rounds = rounds_of(key[0], key[1])
    return KEYS.pack(rounds.packed, *key_words(rounds, key[2], key[3], high))


def packed(form: str, dtype: str, params: Sequence[Any]) -> bytes:
    """The parameters of a kernel's form as one argument: a struct in their order, or a constant's bits. That
    of a form without parameters has one byte, like any empty struct.
    """
    if form == "constant":
        return int(params[0]).to_bytes(FORMATS[dtype].itemsize, "little")
    if not params:
        return b"\0"
    return _layout("".join([_NUMBERS[type(p)] for p in params])).pack(*params)


@functools.cache
def _layout(numbers: str) -> Struct:
    """A struct as C lays it out, whose size is a multiple of its widest member's."""
    widest = "Q" if {"Q", "d"} & {*numbers} else "I"
    return Struct(f"@{numbers}0{widest}")


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
    name, given = prepared(form, dtype, params)
    stream = functools.partial(keys, key)
    found = run_of(form, size, address, start, axes)
    if found is not None:
        yield from _runs(f"run_{name}", form, dtype, address, *found, stream, given)
        return
    axes = _in_order_of_memory(axes)
    if form == "constant":
        start, axes = 0, [(n, int(stride == size), stride) for n, _, stride in axes]
    yield from _boxes(f"box_{name}", form, dtype, address, start, axes, stream, given)


def keyed_launches(
    form: str,
    dtype: str,
    address: int,
    axes: Axes,
    moving: Sequence[tuple[int, int]],
    total: int,
    substream: tuple[int, int],
    params: Sequence[Any],
) -> Iterator[Launch]:
    """The launches that fill memory with a part of a tensor; the device knows the seed, and where it begins.

    The third argument of each has 0 for the addresses of the seed's words and of the place: see `addressed`.

    Parameters
    ----------
    form, dtype, address, axes, params
        As for `launches`, but for the form "constant", whose values need no seed.
    moving
        (number of the axis in the tensor, step of the index) for each axis along which the part may begin
        elsewhere than at 0.
    total
        Elements of the whole tensor.
    substream
        Its halves, low one first.
    """
    size = FORMATS[dtype].itemsize
    if len(moving) > AXES:
        raise ValueError(
            f"expected a part that may lie anywhere along at most {AXES} axes of its tensor; got "
            f"{len(moving)}"
        )
    if any(n == 0 for n, _, _ in axes):
        return
    name, given = prepared(form, dtype, params)
    places = [*moving, *[(0, 0)] * (AXES - len(moving))]

    def stream(above: int) -> bytes:
        numbers, pitches = zip(*places, strict=True)
        return SOURCE.pack(0, 0, *pitches, *numbers, len(moving), *substream, above)

    found = run_of(form, size, address, 0, axes)
    # Wherever a run begins, its groups lie on 16 bytes, and its blocks' numbers have an upper half of 0.
    anywhere = all(pitch % (STORE // size) == 0 for _, pitch in moving)
    if found is not None and (not moving or (anywhere and total <= HALF_LINE * values_in_block(form, dtype))):
        yield from _runs(f"{KEYED}_run_{name}", form, dtype, address, *found, stream, given)
        return
    axes = _in_order_of_memory(axes)
    pitches = [pitch for _, pitch in moving]
    yield from _boxes(f"{KEYED}_box_{name}", form, dtype, address, 0, axes, stream, given, pitches)


def addressed(launch: Launch, address: int, words: int, offsets: int) -> tuple[bytes, ...]:
    """The arguments of a launch whose memory lies ``address`` bytes further on, and of one of
    `keyed_launches` with the addresses of its seed's words and of its place.
    """
    pointer, span, source, given = launch.arguments
    pointer = POINTER.pack(POINTER.unpack(pointer)[0] + address)
    if launch.entry.startswith(f"{KEYED}_"):
        source = POINTER.pack(words) + POINTER.pack(offsets) + source[2 * POINTER.size :]
    return pointer, span, source, given


def prepared(form: str, dtype: str, params: Sequence[Any]) -> tuple[str, bytes]:
    """Which family of kernels draws a recipe, as "normal_float32", and its parameters: see `taken`."""
    of_kernel, values = taken(form, params)
    name = str(8 * FORMATS[dtype].itemsize) if form == "constant" else dtype
    return f"{of_kernel}_{name}", packed(form, dtype, values)


def run_of(form: str, size: int, address: int, start: int, axes: Axes) -> tuple[int, int] | None:
    """(start, length) of what is consecutive elements in consecutive memory, whose groups lie on 16 bytes;
    None for all else.
    """
    axes = _longer(axes)
    length, pitch, stride = axes[0] if axes else (1, 1, size)
    if form == "constant":
        # Any numbering will do: one that goes with the addresses, so that stores are wide.
        start, pitch = address // size % STORE, 1
    if len(axes) > 1 or (pitch, stride) != (1, size) or (address - start * size) % STORE:
        return None
    return start, length


def _in_order_of_memory(axes: Axes) -> Axes:
    """The last axis is the fastest of the thread numbers: neighbours in memory belong to neighbours."""
    return sorted(_longer(axes), key=lambda axis: -abs(axis[2]))


def _longer(axes: Axes) -> Axes:
    """The axes that have more than one place."""
    return [axis for axis in axes if axis[0] != 1]


def spans(form: str, dtype: str, address: int, start: int, count: int) -> Iterator[Span]:
    """Consecutive elements, in spans whose Philox blocks share the upper half of their number."""
    size = FORMATS[dtype].itemsize
    group = STORE // size
    blocks = group // values_in_block(form, dtype)
    end = start + count
    while start < end:
        high, low = divmod(start // group * blocks, HALF_LINE)
        stop = min(end, (high + 1) * HALF_LINE // blocks * group)
        head = start % group
        groups = -(-(head + stop - start) // group)
        yield Span(address - head * size, high, stop - start, low, head, int(head > 0), groups)
        address += (stop - start) * size
        start = stop


def _runs(
    kernel: str, form: str, dtype: str, address: int, start: int, count: int, stream: Stream, given: bytes
) -> Iterator[Launch]:
    """Consecutive elements, a launch for each span."""
    group = STORE // FORMATS[dtype].itemsize
    side_by_side = 2 if group == values_in_block(form, dtype) else 1
    chunk = THREADS * side_by_side
    for span in spans(form, dtype, address, start, count):
        last = span.head + span.length  # behind the last element, counted from the first group's beginning
        whole = last // group - span.lead
        if strided(form, dtype):
            whole = max(0, whole) // chunk
            thread_blocks = whole + span.lead + ((span.lead + whole * chunk) * group < last)
        else:
            # Of a thread's groups the last one lies THREADS * (side_by_side - 1) behind the first.
            whole = max(0, whole - THREADS * (side_by_side - 1))
            thread_blocks = -(-span.groups // chunk)
        yield Launch(
            kernel,
            thread_blocks,
            THREADS,
            (
                POINTER.pack(span.address),
                RUN.pack(span.length, span.block, span.head, span.lead, whole),
                stream(span.high),
                given,
            ),
        )


def _boxes(
    kernel: str,
    form: str,
    dtype: str,
    address: int,
    start: int,
    axes: Axes,
    stream: Stream,
    given: bytes,
    moving: Sequence[int] = (),
) -> Iterator[Launch]:
    """A box; one with more axes than a launch takes as several, place by place of its first axis. ``moving``:
    pitches by multiples of which it may lie elsewhere.
    """
    if len(axes) > AXES:
        n, pitch, stride = axes[0]
        for place in range(n):
            part = address + place * stride, start + place * pitch
            yield from _boxes(kernel, form, dtype, *part, axes[1:], stream, given, moving)
        return
    values = values_in_block(form, dtype)
    row = next((k for k, (_, pitch, _) in enumerate(axes) if pitch == 1), AXES)
    length, step = (axes[row][0], axes[row][2]) if row < AXES else (1, 0)
    packed_axes, threads = b"", 1
    for k, (n, pitch, stride) in enumerate(axes):
        if k == row:
            # Rows that all begin at the same place of a block touch as many blocks as the first.
            others = [p for j, (_, p, _) in enumerate(axes) if j != row]
            alike = all(p % values == 0 for p in (*others, *moving))
            n = -(-((start % values if alike else values - 1) + n) // values)
            pitch = stride = 0
        shift = (n - 1).bit_length()
        packed_axes += AXIS.pack(n, (1 << 62 + shift) // n + 1, pitch, stride, shift, 0)
        threads *= n
    for first in range(0, threads, GRID * THREADS):
        blocks = min(GRID, -(-(threads - first) // THREADS))
        box = BOX.pack(threads, first, start, length, step, len(axes), row, packed_axes)
        yield Launch(kernel, blocks, THREADS, (POINTER.pack(address), box, stream(0), given))
