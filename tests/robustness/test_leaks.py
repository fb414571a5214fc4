"""A process that has filled thousands of times stays as large as it was."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import pytest
from processes import HELPERS, assert_ends, python, start

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="reads /proc and asks glibc 2.33",
)


@cache
def growth(size: str) -> dict[str, str]:
    """What grew in a process of its own: by what was lost at each fill, which is nothing at first."""
    ended = assert_ends(start(python("-W", "error", str(HELPERS / "leak_program.py"), size)), 240)
    assert (ended.code, ended.err) == (0, ""), ended
    return dict(line.split(": ", 1) for line in ended.out.splitlines())


def test_five_thousand_small_fills_leave_memory_threads_and_files_as_they_were() -> None:
    """By both backends, of all layouts, under new names and laws, refused ones among them."""
    assert growth("small")["nothing"] == "flat"


def test_a_hundred_large_fills_leave_memory_threads_and_files_as_they_were() -> None:
    """8 to 32 MiB each, by both backends, of all layouts, on one to four threads; some end by an error."""
    assert growth("large")["nothing"] == "flat"


@pytest.mark.parametrize(
    ("size", "lost", "grown"),
    [
        ("small", "object", "bytes more"),
        ("small", "thread", "threads: "),
        ("small", "file", "file descriptors: "),
        ("large", "scratch", "bytes more"),
    ],
)
def test_a_leak_of_64_bytes_or_one_thread_or_one_file_is_noticed(size: str, lost: str, grown: str) -> None:
    assert grown in growth(size)[lost]
