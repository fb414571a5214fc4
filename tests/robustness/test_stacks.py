"""Threads whose stack is too small for a kernel or a compiler: another does the work, or none."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import child

import fanfill as ff
from fanfill_kernels.compile import boxes
from fanfill_kernels.process import stacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the size of a stack")


@pytest.fixture
def small() -> Iterator[None]:
    """New threads have 32 KiB."""
    before = threading.stack_size(32 << 10)
    yield
    assert threading.stack_size(before) == 32 << 10


def on_a_thread(function: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_knows_its_stack(small: None) -> None:
    assert on_a_thread(stacks.size) < stacks.KERNEL
    assert stacks.size() >= stacks.COMPILER


def test_threads_that_are_started_here_have_enough_and_the_programs_choice_stays(small: None) -> None:
    sizes: list[int] = []
    done = threading.Event()
    assert stacks.start(lambda: (sizes.append(stacks.size()), done.set()))
    assert done.wait(20)
    assert sizes[0] >= stacks.STARTED


def test_the_programs_choice_stays_where_no_thread_can_be_started(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(stacks, "start_new_thread", refuse)
    assert not stacks.start(print)


def test_the_scratch_of_a_box_is_taken_from_a_stack_that_holds_it(small: None) -> None:
    sizes: list[int] = []
    box = boxes.box_by(lambda *_: sizes.append(stacks.size()), lambda *_: sizes.append(stacks.size()))
    for shape, pitch in (((3, 4), (100, 1)), ((3, 4), (100, 2))):
        on_a_thread(lambda shape=shape, pitch=pitch: box(None, 0, shape, pitch, None, None))
    assert len(sizes) == 2
    assert min(sizes) >= stacks.KERNEL


def test_where_no_stack_is_enough_the_fill_is_refused(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    part: dict[str, Any] = {"global_shape": (100, 100), "offset": (3, 4), "backend": "numba", "seed": 1}
    wanted = ff.fill(np.empty((50, 60), np.float32), ff.normal(), **part)
    buffer = np.full((50, 60), 7, np.float32)

    def fill() -> None:
        with pytest.raises(
            RuntimeError,
            match=r"stack: expected 64 KiB on the thread that fills, or a thread that can be started; got 32 "
            r"KiB, and none can be; pass more to threading\.stack_size before you start that thread",
        ):
            ff.fill(buffer, ff.normal(), **part)

    with monkeypatch.context() as patch:
        patch.setattr(stacks, "start", lambda *_: False)
        on_a_thread(fill)
    assert (buffer == 7).all()
    on_a_thread(lambda: ff.fill(buffer, ff.normal(), **part))
    assert buffer.tobytes() == wanted.tobytes()


SMALL = """
threading.stack_size(32 << 10)
part = dict(global_shape=(1000, 1000), offset=(3, 4))
def box(dtype, backend="numba"):
    return ff.fill(np.empty((250, 260), dtype), LAW, seed=3, backend=backend, **part).tobytes()
right()
right_reversed()
found = []
threads = [threading.Thread(target=lambda: found.append(box("f8"))) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 2
assert found == 2 * [box("f8", "numpy")]
assert threading.stack_size(32 << 10) == 32 << 10
"""


def test_a_program_whose_threads_have_32_kib_compiles_and_fills_boxes(tmp_path: Path) -> None:
    for _ in ("kernels are compiled", "kernels come from disk"):
        child(SMALL, FANFILL_CACHE_DIR=str(tmp_path))
