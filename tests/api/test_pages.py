"""A fill asks for huge pages under memory that it is about to touch whole, and under no other."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import child

import fanfill as ff
from fanfill import system
from fanfill.cpu import pages

BYTES = 4 * pages.LEAST
SMAPS = Path("/proc/self/smaps")
SUPPORTED = Path("/sys/kernel/mm/transparent_hugepage").is_dir()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")


def fresh_memory(nbytes: int = BYTES) -> np.ndarray:
    """Bytes that nobody has touched, and that the system knows nothing about."""
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def is_advised(memory: np.ndarray) -> bool:
    """Whether the mapping in which the middle of the memory lies is marked ``hg`` by the system."""
    middle = memory.ctypes.data + memory.nbytes // 2
    inside = False
    for line in SMAPS.read_text().splitlines():
        head, _, rest = line.partition(" ")
        if head == "VmFlags:" and inside:
            return "hg" in rest.split()
        if "-" in head and not head.endswith(":"):
            first, end = (int(part, 16) for part in head.split("-"))
            inside = first <= middle < end
    raise AssertionError("the memory is in no mapping")


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("law", [ff.normal(), ff.constant(0.5)], ids=["normal", "constant"])
def test_a_large_fill_asks_for_huge_pages_first(backend, law):
    memory = fresh_memory()
    assert not is_advised(memory)
    ff.fill(memory.view(np.float32), law, seed=0, backend=backend)
    assert is_advised(memory) == SUPPORTED


def test_any_order_of_axes_is_one_dense_piece_of_memory():
    memory = fresh_memory()
    tensor = memory.view(np.float32).reshape(64, 32, -1).transpose(2, 0, 1)[::-1]
    ff.fill(tensor, ff.normal(), seed=0)
    assert is_advised(memory) == SUPPORTED


def test_memory_with_gaps_is_left_alone():
    memory = fresh_memory()
    ff.fill(memory.view(np.float32).reshape(-1, 1024)[:, :512], ff.normal(), seed=0)
    assert not is_advised(memory)


def test_small_fills_do_not_ask():
    memory = fresh_memory()
    ff.fill(memory[: pages.LEAST - 4].view(np.float32), ff.normal(), seed=0)
    assert not is_advised(memory)


def test_the_request_stays_inside_the_buffer(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "_advise", lambda: lambda *request: asked.append(request))
    memory = fresh_memory()
    view = memory[mmap.PAGESIZE + 4 : -8]
    pages.ask(view)
    ((first, length, advice),) = asked
    assert first == memory.ctypes.data + 2 * mmap.PAGESIZE
    assert first + length == memory.ctypes.data + BYTES - mmap.PAGESIZE
    assert advice == 14


@pytest.mark.parametrize(("value", "asks"), [("0", False), ("1", True), (None, True)])
def test_the_environment_switches_it_off(value, asks):
    child(
        f"from fanfill.cpu import pages\nassert (pages._advise() is not None) is {asks}",
        FANFILL_HUGE_PAGES=value,
    )


def test_a_system_without_the_call_is_no_error(monkeypatch):
    class Library:
        def __init__(self, name):
            pass

    monkeypatch.setattr(system.ctypes, "CDLL", Library)
    pages._advise.cache_clear()
    try:
        memory = fresh_memory()
        ff.fill(memory.view(np.float32), ff.normal(), seed=0)
        assert not is_advised(memory)
    finally:
        pages._advise.cache_clear()
    assert np.array_equal(memory.view(np.float32), ff.draw(BYTES // 4, ff.normal(), seed=0))
