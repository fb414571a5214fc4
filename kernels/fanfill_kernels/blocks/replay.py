"""NumPy kernels: the lane functions over blocks of whole arrays. They are the fallback, and the oracle for
every other backend.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fanfill_kernels.blocks.tape import ALIGNED, Program, Replay, Tape
from fanfill_kernels.forms import Form, Kernels, form_of
from fanfill_kernels.lanes import select
from fanfill_kernels.narrow import store_of
from fanfill_kernels.philox import HALF, Key, philox_pairs

BLOCK = 1 << 18  # values computed at once by `run`, or as many as the arena holds
GATHER = 1 << 13  # values computed at once by `box` if runs are short: each value needs a separate block
LONG = 1 << 9  # runs of at least this length are worth a separate call
ARENA = 56 * BLOCK // 4  # bytes of temporaries for each thread, 3.5 MiB: enough for a block of normals
CALLS = 1000  # calls of bound programs per thread, about 200 bytes each: five of normals, nine of uniforms
REPLAY = 1536  # Philox blocks whose values take as long as the overhead of a replay's 180 calls: 60 us

Params = tuple[Any, ...]


def contiguous_program(form: Form, store: Any, steps: int, lanes: Any, params: Params) -> Program:
    """Record the values of consecutive Philox blocks. The index holds the counters' lower halves; the scalars
    are their upper half, the key and the parameters.
    """
    tape = Tape()
    low = tape.lane(np.uint64, 1)
    high, k0, k1, s0, s1 = (tape.lane(np.uint64, 0) for _ in range(5))
    given = tuple(tape.lane(p.dtype, 0) for p in params)
    out = tape.lane(lanes, steps)
    pairs = tape.lane(np.uint64, 2)
    for number, pair in enumerate(philox_pairs(low, high, s0, s1, k0, k1)):
        tape.send(pair, pairs[number::2])
    if form.arguments is not None:
        pairs = form.arguments(pairs, given)
    words = pairs if steps == 2 else pairs.view(np.uint32)
    if form.paired:
        for number, value in enumerate(form.function(words[0::2], words[1::2], given)):
            tape.send(store(value), out[number::2])
    else:
        tape.send(store(form.function(words, given)), out)
    return Program(tape, low, (high, k0, k1, s0, s1), given, out)


def gathered_program(form: Form, store: Any, steps: int, lanes: Any, params: Params) -> Program:
    """Record the values of elements anywhere, each from a separate block. The index holds the elements'
    indices; the scalars are the key and the parameters.
    """
    tape = Tape()
    index = tape.lane(np.uint64, 1)
    k0, k1, s0, s1 = (tape.lane(np.uint64, 0) for _ in range(4))
    given = tuple(tape.lane(p.dtype, 0) for p in params)
    out = tape.lane(lanes, 1)
    block = index >> np.uint64(2 if steps == 4 else 1)
    first, second = philox_pairs(block, block >> HALF, s0, s1, k0, k1)
    odd = (index & np.uint64(1)) != np.uint64(0)
    if steps == 4:
        pair = select((index & np.uint64(2)) != np.uint64(0), second, first)
        if form.arguments is not None:
            pair = form.arguments(pair, given)
        words = pair.view(np.uint32)
        first, second = words[0::2], words[1::2]
    if form.paired:
        even_value, odd_value = form.function(first, second, given)
        value = select(odd, odd_value, even_value)
    else:
        value = form.function(select(odd, second, first), given)
    tape.send(store(value), out)
    return Program(tape, index, (k0, k1, s0, s1), given, out)


class Workspace:
    """A thread's memory, and the programs bound to it."""

    def __init__(self) -> None:
        memory = np.empty(ARENA + ALIGNED, np.uint8)
        first = -memory.ctypes.data % ALIGNED
        self.arena = memory[first : first + ARENA]
        self.replays: dict[tuple[Program, int], Replay] = {}

    def replay(self, program: Program, steps: int, blocks: int) -> Replay:
        """The program bound to ``blocks`` blocks, or to fewer if the arena holds no more.

        Since binding takes 0.5 ms, the number of blocks is a power of two or the most that the arena holds.
        It is rounded up if the surplus takes less time than another replay, else down.
        """
        most = min(BLOCK // steps, ARENA // program.width // ALIGNED * ALIGNED)
        size = min(max(ALIGNED, 1 << (blocks - 1).bit_length()), most)
        if size - blocks > REPLAY:
            size = 1 << blocks.bit_length() - 1
        found = self.replays.get((program, size))
        if found is None:
            while self.replays and program.calls + sum(kept.calls for kept, _ in self.replays) > CALLS:
                del self.replays[next(iter(self.replays))]  # the oldest
            found = self.replays[program, size] = Replay(program, self.arena, size)
        return found


class Spare(threading.local):
    """The workspace that this thread keeps, if it has one."""

    workspace: Workspace | None = None


spare = Spare()


def count_up(index: Any, first: int) -> None:
    """Store first, first + 1, ... by doubling: `np.arange` would allocate another array."""
    index[0] = first
    done = 1
    while done < index.size:
        part = index[done : 2 * done]
        np.add(index[: part.size], np.uint64(done), part)
        done *= 2


@contextmanager
def a_workspace() -> Iterator[Workspace]:
    """Lend the thread's workspace, and ignore the caller's settings for floating-point errors.

    Integers wrap on purpose, and lanes that a select drops may overflow: neither concerns the caller. While
    the workspace is lent, nobody else can get it: a fill from a signal handler or a finalizer makes another.
    """
    workspace, spare.workspace = spare.workspace or Workspace(), None
    try:
        with np.errstate(all="ignore"):
            yield workspace
    finally:
        spare.workspace = workspace


def kernels(form: str, dtype: str) -> Kernels:
    """The functions that fill contiguous arrays of this dtype's lanes with values of this form.

    They record their programs at first use, which takes a few milliseconds, and keep them. So keep the
    functions.
    """
    made = form_of(form, dtype)
    store = store_of(dtype)
    steps = 2 if dtype == "float64" else 4
    programs: dict[Any, Program] = {}

    def recorded(record: Any, lanes: Any, params: Params) -> Program:
        if record not in programs:
            programs[record] = record(made, store, steps, lanes, params)
        return programs[record]

    def run(out: Any, start: int, key: Key, params: Params) -> None:
        program = recorded(contiguous_program, out.dtype, params)
        done = 0
        with a_workspace() as workspace:
            while done < out.size:
                block, head = divmod(start + done, steps)
                high, low = divmod(block, 1 << 32)
                left = min(-(-(head + out.size - done) // steps), (1 << 32) - low, BLOCK // steps)
                replay = workspace.replay(program, steps, left)
                count = min(min(replay.blocks, left) * steps - head, out.size - done)
                count_up(replay.index, low)
                values = out[done : done + count]
                if head == 0:
                    replay.run((high, *key), params, values)
                else:
                    replay.run((high, *key), params, replay.out)
                    values[...] = replay.out[head : head + count]
                done += count

    def box(out: Any, start: int, shape: Any, pitch: Any, key: Key, params: Params) -> None:
        if pitch[-1] == 1 and shape[-1] >= LONG:
            for number, outer in enumerate(np.ndindex(*shape[:-1])):
                first = start + sum(int(c) * int(p) for c, p in zip(outer, pitch[:-1], strict=True))
                run(out[number * shape[-1] : (number + 1) * shape[-1]], first, key, params)
            return
        program = recorded(gathered_program, out.dtype, params)
        done = 0
        with a_workspace() as workspace:
            # Two more arrays, beyond the program's reach: for GATHER blocks it takes a fifth of the arena.
            counters = workspace.arena[-16 * GATHER :].view(np.uint64).reshape(2, GATHER)
            while done < out.size:
                replay = workspace.replay(program, 1, min(GATHER, out.size - done))
                count = min(replay.blocks, out.size - done)
                index, rest, coordinate = replay.index[:count], *counters[:, :count]
                index[...] = start
                count_up(rest, done)
                for n, p in zip(reversed(shape), reversed(pitch), strict=True):
                    np.divmod(rest, np.uint64(n), rest, coordinate)
                    coordinate *= np.uint64(p)
                    index += coordinate
                replay.run(key, params, out[done : done + count])
                done += count

    return Kernels(run, box, run)
