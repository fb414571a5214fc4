"""Fills under load, as a module that ``test_load.py`` runs: its first argument says who fills.

It prints how many fills had the right bits, and ends with an error if one had not.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

import fanfill as ff

LAWS = {
    "small": (ff.normal(), (37, 13), "float32"),
    "large": (ff.he_normal(), (300, 1000), "float32"),
    "strided": (ff.uniform(-1, 1), (250, 400), "float32"),
    "narrow": (ff.he_normal(truncated=True), (500, 300), "float16"),
    "wide": (ff.truncated_normal(lower=-2.7, upper=9.0), (90_000,), "float64"),
}
# Light modules of the standard library, imported anew again and again.
MODULES = ("colorsys", "sched", "this_is_no_module", "stringprep", "tabnanny", "netrc", "fileinput", "bisect")


@cache
def wanted(case: str) -> bytes:
    """The case's bytes by the NumPy backend, on one thread."""
    law, shape, dtype = LAWS[case]
    return ff.fill(np.empty(shape, dtype), law, seed=5, name=case, backend="numpy", threads=1).tobytes()


def fill_case(case: str, seed: int = 5) -> str | None:
    """Fill as any caller would; what is wrong with it, if anything."""
    law, shape, dtype = LAWS[case]
    memory = np.full((3, *shape), 7, dtype)  # the outer two guard the inner one
    buffer = memory[1]
    if case == "strided":
        turned = np.full((3, *shape[::-1]), 7, dtype)
        memory, buffer = turned.transpose(0, 2, 1), turned[1].T
    ff.fill(buffer, law, seed=seed, name=case, threads=None if case == "small" else 3)
    if not (memory[[0, 2]] == 7).all():
        return f"{case}: written outside"
    return None if buffer.tobytes() == wanted(case) else f"{case}: other bits"


def fill_all(seed: int = 5, cases: Collection[str] = LAWS) -> int:
    """Fill every case; RuntimeError if one is wrong, else how many there were."""
    for case in cases:
        wrong = fill_case(case, seed)
        if wrong is not None:
            raise RuntimeError(wrong)
    return len(cases)


def fill_number(number: int) -> int:
    """What pools map over numbers."""
    return fill_all()


def ended(child: Any, seconds: float = 60.0) -> int:
    """A forked child's exit code; one that hangs is killed, and the code is that of SIGKILL.

    It hangs if it uses no processor for so long: on a busy machine to compile may take longer than that.
    """
    used, limit = 0, time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = processor_time(child)
        if now > used:
            used, limit = now, time.monotonic() + seconds
        if time.monotonic() > limit:
            os.kill(child, 9)
            limit += seconds
        time.sleep(0.005)


def processor_time(process: int) -> int:
    """What a process has used so far, in ticks of 10 ms."""
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def fork_and_fill(cases: Collection[str] = LAWS) -> int:
    with warnings.catch_warnings():
        # Python 3.12 and newer warn of every fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            fill_all(cases=cases)
            code = 0
        finally:
            os._exit(code)
    code = ended(child)
    if code:
        raise RuntimeError(f"a forked child ended with {code}")
    return len(cases)


def spawn_and_fill() -> int:
    child = multiprocessing.get_context("spawn").Process(target=fill_all)
    child.start()
    child.join(120)
    if child.exitcode != 0:
        child.kill()
        raise RuntimeError(f"a spawned child ended with {child.exitcode}")
    return len(LAWS)


def import_anew() -> int:
    for module in MODULES:
        sys.modules.pop(module, None)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            assert module == "this_is_no_module"
    return 0


def threads(seconds: float, count: int, seed: int = 5) -> int:
    """`count` threads fill without pause, while others import, fork and spawn."""
    fill_all()  # a fork that meets another thread at its first import of a module hangs in any program

    def repeat(task: Callable[[], int]) -> int:
        met.wait(60)  # on a busy machine the last thread begins seconds after the first
        done, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            done += task()
        return done

    tasks = [lambda: fill_all(seed), *[fill_all] * (count - 1), fork_and_fill, spawn_and_fill, import_anew]
    met = threading.Barrier(len(tasks))
    with ThreadPoolExecutor(len(tasks)) as pool:
        counts = [future.result() for future in [pool.submit(repeat, task) for task in tasks]]
    assert all(counts[:-1]), counts
    return sum(counts)


def first_fills() -> int:
    """A fork while another thread loads or compiles its first kernels, as soon as it can be made to wait."""
    cases = ("small", "wide")
    filler = threading.Thread(target=lambda: fill_all(cases=cases))
    filler.start()
    while "fanfill_kernels.compile.cpu" not in sys.modules:
        time.sleep(0.0005)
    done = fork_and_fill(cases)
    while filler.is_alive():
        done += fork_and_fill(cases)
        time.sleep(0.02)
    return done


def processes(method: str) -> int:
    fill_all()
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool,
    ):
        warnings.simplefilter("ignore", DeprecationWarning)
        return sum(pool.map(fill_number, range(6)))


def joblib_pool(backend: str) -> int:
    from joblib import Parallel, delayed

    fill_all()
    return sum(Parallel(n_jobs=2, backend=backend)(delayed(fill_number)(k) for k in range(6)))


def dask_threads() -> int:
    import dask

    fill_all()
    tasks = [dask.delayed(fill_number)(k) for k in range(6)]
    return sum(dask.compute(*tasks, scheduler="threads", num_workers=4))


class Drawn:
    """A data set whose every row is drawn in a worker."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Any:
        fill_all()
        return ff.draw(1000, ff.normal(), seed=number, device="cpu")


def torch_workers(method: str) -> int:
    from torch.utils.data import DataLoader

    fill_all()
    loader = DataLoader(Drawn(), batch_size=3, num_workers=2, multiprocessing_context=method)
    rows = [row for batch in loader for row in batch]
    for number, row in enumerate(rows):
        expected = ff.draw(1000, ff.normal(), seed=number, device="cpu", backend="numpy")
        if row.numpy().tobytes() != expected.tobytes():
            raise RuntimeError(f"row {number}: other bits")
    return len(LAWS) * len(rows)


WHO: dict[str, Callable[..., int]] = {
    "threads": lambda seconds, count, seed="5": threads(float(seconds), int(count), int(seed)),
    "first": first_fills,
    "processes": processes,
    "joblib": joblib_pool,
    "dask": dask_threads,
    "torch": torch_workers,
}


def main(who: str, *words: str) -> None:
    print(WHO[who](*words), "right")  # noqa: T201
