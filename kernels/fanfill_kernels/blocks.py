"""NumPy kernels: the lane functions over blocks of whole arrays. The fallback, and the oracle of every
other backend.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fanfill_kernels.forms import STORES, Form, Kernels, form_of
from fanfill_kernels.lanes import select
from fanfill_kernels.philox import HALF, MASK, philox_pairs
from fanfill_kernels.tape import ALIGNED, Lane, Program, Replay, Tape

ARENA = 3 << 19  # bytes of temporaries for each thread
BLOCK = 1 << 15  # values computed at once by `run`, or fewer where the arena is too small for them
GATHER = 1 << 13  # values computed at once by `box` where runs are short: each value makes a block of its own
LONG = 1 << 9  # runs of this length and more are worth a call of their own
REPLAYS = 16  # bound programs kept for each thread, some 50 KB each

Params = tuple[Any, ...]
Key = tuple[int, int, int, int]


def contiguous_program(form: Form, store: Any, steps: int, lanes: Any, params: Params) -> Program:
    """Record the values of consecutive Philox blocks: the index holds the counters' lower halves, and the
    scalars are their upper half, the key and the parameters.
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
    return Program(tape, low, (high, k0, k1, s0, s1, *given), out)


def gathered_program(form: Form, store: Any, steps: int, lanes: Any, params: Params) -> Program:
    """Record the values of elements anywhere, each from a block of its own: the index holds the elements'
    indices, and the scalars are the key and the parameters.
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
    return Program(tape, index, (k0, k1, s0, s1, *given), out)


class Workspace:
    """A thread's memory, and the programs bound to it."""

    def __init__(self) -> None:
        memory = np.empty(ARENA + ALIGNED, np.uint8)
        first = -memory.ctypes.data % ALIGNED
        self.arena = memory[first : first + ARENA]
        self.count = np.arange(BLOCK // 2, dtype=np.uint64)
        self.replays: dict[tuple[Program, int], Replay] = {}

    def replay(self, program: Program, blocks: int) -> Replay:
        """The program bound to at least so many blocks, or to as many as the arena holds.

        Their number is a power of two, so that few bindings, of some 0.2 ms each, serve every length.
        """
        most = 1 << (ARENA // program.width).bit_length() - 1
        size = min(most, max(ALIGNED, 1 << (blocks - 1).bit_length()))
        found = self.replays.get((program, size))
        if found is None:
            if len(self.replays) == REPLAYS:
                self.replays.clear()
            found = self.replays[program, size] = Replay(program, self.arena, size)
        return found


class Spare(threading.local):
    """The workspace that this thread keeps; none while a fill uses it, so that a fill from a signal handler
    or a finalizer gets one of its own.
    """

    workspace: Workspace | None = None


spare = Spare()


def with_workspace(work: Callable[[Workspace], None]) -> None:
    """Do the work with the thread's workspace, deaf to what the caller says about floating-point errors.

    Integers wrap on purpose, and lanes that a select drops may overflow: neither is the caller's business.
    """
    workspace = spare.workspace or Workspace()
    spare.workspace = None
    try:
        with np.errstate(all="ignore"):
            work(workspace)
    finally:
        spare.workspace = workspace


def kernels(form: str, dtype: str) -> Kernels:
    """The functions that fill contiguous arrays of the dtype's lanes with values of the form.

    They record their programs at first use, some 3 ms each, and keep them: keep these functions.
    """
    made = form_of(form, dtype)
    store = STORES[dtype]
    steps = 2 if dtype == "float64" else 4
    wrap = 1 << 32
    programs: dict[Any, Program] = {}

    def recorded(record: Any, lanes: Any, params: Params) -> Program:
        if record not in programs:
            programs[record] = record(made, store, steps, lanes, params)
        return programs[record]

    def run(out: Any, start: int, key: Key, params: Params) -> None:
        program = recorded(contiguous_program, out.dtype, params)

        def work(workspace: Workspace) -> None:
            done = 0
            while done < out.size:
                block, head = divmod(start + done, steps)
                left = min(-(-(head + out.size - done) // steps), wrap - block % wrap, BLOCK // steps)
                replay = workspace.replay(program, left)
                size = replay.index.size
                count = min(size * steps - head, left * steps - head, out.size - done)
                np.add(workspace.count[:size], np.uint64(block % wrap), replay.index)
                target = out[done : done + count]
                values = (np.uint64(block // wrap), *(np.uint64(part) for part in key), *params)
                if count == size * steps:
                    replay.run(values, target)
                else:
                    replay.run(values, replay.out)
                    target[...] = replay.out[head : head + count]
                done += count

        with_workspace(work)

    def box(out: Any, start: int, shape: Any, pitch: Any, key: Key, params: Params) -> None:
        if pitch[-1] == 1 and shape[-1] >= LONG:
            for number, outer in enumerate(np.ndindex(*shape[:-1])):
                first = start + sum(int(c) * int(p) for c, p in zip(outer, pitch[:-1], strict=True))
                run(out[number * shape[-1] : (number + 1) * shape[-1]], first, key, params)
            return
        program = recorded(gathered_program, out.dtype, params)
        values = (*(np.uint64(part) for part in key), *params)

        def work(workspace: Workspace) -> None:
            done = 0
            while done < out.size:
                replay = workspace.replay(program, min(GATHER, out.size - done))
                count = min(replay.index.size, out.size - done)
                flat = np.arange(done, done + count)
                index = replay.index[:count]
                index[...] = start
                for coordinate, p in zip(np.unravel_index(flat, tuple(shape)), pitch, strict=True):
                    index += coordinate.astype(np.uint64) * np.uint64(p)
                replay.run(values, replay.out)
                out[done : done + count] = replay.out[:count]
                done += count

        with_workspace(work)

    return Kernels(run, box)
