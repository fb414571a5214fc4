"""A fill while it runs: its progress, the threads and the memory that it takes, and Ctrl-C."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from equality import bits
from reference_fills import BACKENDS, reference

import fanfill as ff

host = importlib.import_module("fanfill.cpu.run")
threads = importlib.import_module("fanfill.cpu.threads")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(0,), (10,), (700, 700)])
@pytest.mark.parametrize("law", [ff.normal(), ff.constant(1.0)])
def test_progress_rises_to_the_total_on_the_calling_thread(count, shape, law):
    seen, here = [], threading.get_ident()

    def progress(done, total):
        assert threading.get_ident() == here
        seen.append((done, total))

    w = ff.fill(np.empty(shape), law, seed=0, threads=count, progress=progress, backend="numpy")
    assert seen == sorted(seen)
    assert seen[-1] == (w.size, w.size)
    assert seen.count(seen[-1]) == 1
    assert w.size < host.SMALL or count > 1 or len(seen) > 2


def test_an_error_in_progress_stops_the_fill():
    def progress(done, total):
        raise ZeroDivisionError

    w = np.zeros(4_000_000)
    with pytest.raises(ZeroDivisionError):
        ff.fill(w, ff.normal(), seed=0, threads=3, progress=progress, backend="numpy")
    assert (w == 0).sum() > w.size // 2


def test_small_fills_stay_on_the_calling_thread(monkeypatch):
    monkeypatch.setattr(threads._Pool, "enlist", None)
    ff.fill(np.empty(host.SMALL, np.float32), ff.normal(), seed=0, threads=8)
    with pytest.raises(TypeError):
        ff.fill(np.empty(host.SMALL * 2, np.float32), ff.normal(), seed=0, threads=8)


def test_many_python_threads_fill_at_once():
    base, wrong = reference((400, 500)), []

    def caller():
        for _ in range(5):
            w = ff.fill(np.empty((400, 500), np.float32), "he_normal", seed=3, name="w", threads=3)
            if not (bits(w) == bits(base)).all():
                wrong.append(1)

    callers = [threading.Thread(target=caller) for _ in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in callers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strided", [False, True])
def test_memory_beyond_the_buffer_is_small(backend, strided):
    w = np.empty((3000, 2000), np.float32)
    view = w.T if strided else w
    ff.fill(view, ff.normal(), seed=0, backend=backend, threads=1)
    tracemalloc.start()
    ff.fill(view, ff.normal(), seed=0, backend=backend, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= {"numba": 1 << 20, "numpy": 4 << 20}[backend]


INTERRUPTED = """
import numpy as np, sys, time, threading
import fanfill as ff
w = np.zeros(100_000_000, np.float32)
ff.fill(w[:4_000_000], ff.normal(), seed=0, backend={backend!r}, threads={count})
print("ready", flush=True)
try:
    while True:
        ff.fill(w, ff.normal(), seed=0, backend={backend!r}, threads={count})
except KeyboardInterrupt:
    ended = time.time()
    w[:] = 0
    time.sleep(0.2)
    print(ended, int(np.count_nonzero(w)), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals as POSIX does")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_stops_a_long_fill_within_0_3_seconds(backend, count):
    """The fastest of at most five: a busy machine may stall for longer than that."""
    code = INTERRUPTED.format(backend=backend, count=count)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.1)
            sent = time.time()
            process.send_signal(signal.SIGINT)
            ended, written = process.stdout.readline().split()
        assert written == "0"
        took = float(ended) - sent
        if took < 0.3:
            return
    raise AssertionError(f"stopped after {took:.2f} s")
