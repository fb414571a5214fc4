"""Fills without end in one process, as a program that ``test_leaks.py`` runs: does the process grow?

Its argument says of which size. It prints what grew: over many fills, then over some with a leak added.
Small fills are judged by what the allocators have handed out, which is exact, so that some thousand fills
show what is lost at each; large ones by the resident memory, where whatever else maps memory shows too.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fanfill as ff
from fanfill.cpu import threads as pool

LOOKS = 10
MIB = 1 << 20
KINDS, RARE = 40, 36  # of small fills, and from where on they are the slow ones
DTYPES = ("float32", "float64", "float16")
kept: list[object] = []


class Seen(NamedTuple):
    """This process from outside: bytes of memory, threads, open files."""

    memory: int
    threads: int
    files: int


class Handed(ctypes.Structure):
    """glibc's ``struct mallinfo2``: what its allocator holds, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def handed_out() -> int:
    """Bytes that glibc has handed out, and 16, the least that an object takes, for each of Python's."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Handed
    found = ask()
    return int(found.uordblks + found.hblkhd) + 16 * sys.getallocatedblocks()


def resident() -> int:
    """Bytes in memory, without what glibc keeps of freed scratch: some MiB for each thread that had any."""
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def look(memory: Callable[[], int]) -> Seen:
    gc.collect()
    return Seen(memory(), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))


def law(k: int) -> ff.Initializer:
    """Law number k: no other before it, so that what is kept for each shows if it has no end."""
    scale = 1.0 + k * 2.0**-20
    if k % 4 < 3:
        return (ff.normal(0.0, scale), ff.uniform(-scale, scale), ff.he_normal(negative_slope=scale))[k % 4]
    # The probabilities of new cuts take a millisecond: most of these are not new.
    return ff.truncated_normal(0.0, 1.0, -2.0, 2.0 + (scale if k % 97 == 0 else k // 4 % 61 / 64))


def fill_small(memory: np.ndarray, k: int) -> None:
    """Fill number k, of at most some thousand values, under a name of its own."""
    options: dict[str, Any] = {"seed": k, "name": f"layer.{k}"}
    values = memory.view(DTYPES[k % 3])
    shape = (1 + k % 13, 29)
    n = math.prod(shape)
    kind = k % KINDS
    if kind < 34:  # nothing else is named: the short way, where a plan is kept by law, shape and dtype
        ff.fill(values[:n].reshape(shape), law(k // KINDS % 8), **options)
        return
    if kind < RARE:  # NumPy binds its programs anew, which is slow, where they change
        ff.fill(memory.view(np.float32)[: n + k % 40], "normal", backend="numpy", **options)
        return
    turned = values[: 4 * n].reshape(2 * shape[1], 2 * shape[0]).T[::2, ::-2]
    options |= {"backend": ("numba", "numpy")[k // KINDS % 31 == 30], "threads": 1 + k // KINDS % 3}
    if kind == RARE:
        ff.fill(turned, law(k // KINDS), **options)
    elif kind == RARE + 1:
        box = values[:n].reshape(shape)
        ff.fill(box, law(k // KINDS), global_shape=(1000, 1000), offset=(k % 900, 3), **options)
    elif kind == RARE + 2:
        ff.fill(values[:n], ff.normal(), global_shape=2**40, offset=k, progress=int.__add__, **options)
    else:
        ff.draw(n + k % 40, "normal", device="cpu", **options)
        try:
            ff.fill(turned, law(k // KINDS), **(options | {"seed": -1}))
        except ValueError:
            return
        raise RuntimeError("a wrong call was not refused")


class Stop(Exception):
    """What a report raises."""


def stop(done: int, total: int) -> None:
    raise Stop


def fill_large(memory: np.ndarray, k: int, unit: int = MIB) -> None:
    """Fill number k, of 8 to 32 MiB, past the caches: here or elsewhere, on 1 to 4 threads, in any layout."""
    backend, dtype = ("numba", "numpy")[k % 7 == 6], DTYPES[k % 3]
    size = (8 if k % 8 else 8 + k * 5 % 25) * unit
    n = size // np.dtype(dtype).itemsize
    options: dict[str, Any] = {"seed": k, "name": f"layer.{k}", "backend": backend, "threads": 1 + k % 4}
    side = 4096
    values = memory[:size].view(dtype).reshape(-1, side)
    if k % 5 == 0:
        ff.draw((n // side, side), law(k), device="cpu", dtype=dtype, **options)
    elif k % 5 == 1:
        ff.fill(values.T, law(k), **options)
    elif k % 5 == 2:
        ff.fill(memory[: 2 * size].view(dtype).reshape(-1, 2 * side)[:, ::-2], law(k), **options)
    elif k % 5 == 3:
        ff.fill(values, law(k), global_shape=(2**20, 2 * side), offset=(k, side // 2), **options)
    else:
        try:
            ff.fill(values, law(k), progress=stop, **options)
        except Stop:
            ff.fill(values, law(k), **options)
            return
        raise RuntimeError("a report's error was lost")


def leak_nothing(k: int) -> None:
    pass


def leak_object(k: int) -> None:
    kept.append(bytes([k % 256]) * 64)


def leak_scratch(k: int) -> None:
    kept.append(np.ones(MIB // 4, np.uint8))


def leak_thread(k: int) -> None:
    if k == 7:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def leak_file(k: int) -> None:
    if k == 7:
        os.dup(0)


# How many fills, and what is lost at each: nothing first, and what the same look must then see.
Watch = tuple[int, Callable[[int], None]]
SMALL: dict[str, Watch] = {
    "nothing": (5000, leak_nothing),
    "object": (5000, leak_object),
    "thread": (100, leak_thread),
    "file": (100, leak_file),
}
LARGE: dict[str, Watch] = {"nothing": (100, leak_nothing), "scratch": (24, leak_scratch)}


def growth(seen: list[Seen], spare: int) -> str:
    """What there is more or less of at any look than at the first, but for some bytes of memory to spare."""
    first = seen[0]
    for each in seen[1:]:
        if each.memory - first.memory > spare:
            return f"{each.memory - first.memory} bytes more"
        if each.threads != first.threads:
            return f"threads: {first.threads}, then {each.threads}"
        if each.files != first.files:
            return f"file descriptors: {first.files}, then {each.files}"
    return "flat"


def watch(
    fill: Callable[[int], object], watches: dict[str, Watch], memory: Callable[[], int], spare: int
) -> None:
    """Fill and look: before, and ten times on the way.

    Memory that grows once may be a helper's scratch, when the machine has let it take part for the first
    time; a leak grows each of three times. Threads and files stay from the first.
    """
    gc.collect()
    gc.freeze()  # Numba's objects, if it had to compile: each look would visit them
    for name, (count, leak) in watches.items():
        for _ in range(3):
            seen = [look(memory)]
            for k in range(count):
                fill(k)
                leak(k)
                if (k + 1) % (count // LOOKS) == 0:
                    seen.append(look(memory))
            found = growth(seen, spare)
            if leak is not leak_nothing or not found.endswith("bytes more"):
                break
        print(f"{name}: {found}")  # noqa: T201


def small() -> None:
    memory, warm = np.ones(64 << 10, np.uint8), 7_000
    for k in range(warm):  # until every kernel is there and every cache full, of 4096 laws and names at most
        fill_small(memory, k * KINDS + RARE + k // 4 % 4)  # each of the four laws
    numbers = itertools.count(warm * KINDS)
    for _ in range(9000):  # past the last time that a table of theirs grows
        fill_small(memory, next(numbers))
    # 13 bytes a fill are less than the smallest object.
    watch(lambda _: fill_small(memory, next(numbers)), SMALL, handed_out, 64 << 10)


def work_on_all_threads() -> None:
    """Every helper fills once with NumPy, in whole blocks, for which each keeps some 3 MiB."""
    met = threading.Barrier(4)

    def work(number: int) -> int:
        met.wait(60)
        for dtype in DTYPES:
            ff.fill(np.empty(2 * MIB, dtype), ff.normal(), seed=number, backend="numpy", threads=4)
        return 1

    pool.share(4, lambda: work, 4)


def large() -> None:
    memory, numbers = np.ones(64 * MIB, np.uint8), itertools.count()
    work_on_all_threads()
    for _ in range(3 * 4 * 5 * 7):  # of every kind, not large yet
        fill_large(memory, next(numbers), MIB // 16)
    # The kernels of large ones, for every law and dtype: in place, then transposed.
    for k in [*range(0, 2 * 3 * 4 * 5, 5), *range(1, 6 * 5, 5)]:
        fill_large(memory, k)
    # A sixth of a thread's least scratch a fill. The programs that NumPy's threads keep bound come and go.
    watch(lambda _: fill_large(memory, next(numbers)), LARGE, resident, 4 * MIB)


if __name__ == "__main__":
    {"small": small, "large": large}[sys.argv[1]]()
