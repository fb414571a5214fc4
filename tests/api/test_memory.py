"""What a fill takes beyond its buffer is bounded for each thread, whatever the shape, strides and dtype."""

from __future__ import annotations

import math
import random
import threading
import tracemalloc
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import fanfill as ff

MIB = 1 << 20
DTYPES = {
    "float8": ml_dtypes.float8_e5m2,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}
LAWS = (ff.uniform(-1.0, 1.0), ff.normal(), ff.truncated_normal(lower=1.0, upper=5.0), ff.constant(1.0))


class Layout(NamedTuple):
    """A buffer: its shape, its axes' order in memory, and the step along each."""

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    steps: tuple[int, ...]

    def view(self) -> np.ndarray:
        extents = [self.shape[axis] * abs(self.steps[axis]) for axis in self.order]
        base = np.empty(extents, DTYPES[self.dtype]).transpose(np.argsort(self.order))
        return base[tuple(slice(None, None, step) for step in self.steps)]


# The worst that a search over thousands of layouts found: short rows or columns, and many of them.
WORST = (
    Layout("float16", (143, 92, 28, 2), (0, 1, 2, 3), (1, 1, 1, -1)),
    Layout("float8", (257, 2, 63, 63, 2), (0, 1, 2, 3, 4), (1, 1, 1, 1, -1)),
    Layout("float8", (500_000, 2, 2), (0, 2, 1), (1, 1, -1)),
    Layout("float8", (44, 5, 63, 143, 2), (0, 3, 2, 1, 4), (-1, 1, 1, 2, -1)),
    Layout("float8", (5000, 257, 3), (0, 1, 2), (2, 1, -1)),
    Layout("float8", (8, 43_000, 2), (1, 2, 0), (1, 1, 1)),
    Layout("float16", (2, 1_000_000, 2), (2, 1, 0), (1, 1, 1)),
    Layout("float32", (350_000, 2), (0, 1), (1, -1)),
    Layout("float64", (80, 5000, 5), (2, 1, 0), (1, 1, -1)),
    Layout("float64", (2000, 2000), (1, 0), (1, 1)),
)


def layouts(count: int, seed: int) -> list[Layout]:
    """Layouts at random, of up to three million values and twelve axes."""
    chance, found = random.Random(seed), []
    while len(found) < count:
        rank = chance.choice((1, 2, 2, 3, 3, 4, 5, 6, 8, 12))
        room = chance.choice((200_000, 700_000, 3_000_000))
        shape = [1] * rank
        for axis in range(rank):
            shape[axis] = min(chance.choice((2, 2, 3, 5, 8, 17, 63, 143, 1000, 5000, 100_000)), room)
            room //= shape[axis]
        shape[chance.randrange(rank)] *= max(room, 1)
        chance.shuffle(shape)
        order = list(range(rank))
        if chance.random() < 0.7:
            chance.shuffle(order)
        steps = tuple(chance.choice((1, 1, 1, -1, 2)) for _ in shape)
        if math.prod(shape) * math.prod(map(abs, steps)) < 10_000_000:
            found.append(Layout(chance.choice(tuple(DTYPES)), tuple(shape), tuple(order), steps))
    return found


def taken(view: Any, law: ff.Initializer, backend: str, threads: int = 1) -> float:
    """The most bytes that a fill holds beside the buffer for each thread, the calling one new to fills."""
    peaks: list[int] = []

    def fill() -> None:
        tracemalloc.start()
        try:
            ff.fill(view, law, seed=0, backend=backend, threads=threads)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    ff.fill(view, law, seed=0, backend=backend, threads=threads)  # kernels are no part of it
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    return peaks[0] / threads


def most(backend: str, view: np.ndarray) -> int:
    """What README promises."""
    if backend == "numba":
        return MIB
    return 4 * MIB if view.flags.c_contiguous else 6 * MIB


def assert_little(layout: Layout, law: ff.Initializer, backend: str, threads: int) -> None:
    view = layout.view()
    assert view.shape == layout.shape
    assert taken(view, law, backend, threads) <= most(backend, view), (layout, law, threads)


@pytest.mark.parametrize("layout", WORST, ids=str)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_worst_layouts_take_no_more_than_is_promised(layout: Layout, backend: str) -> None:
    assert_little(layout, LAWS[0], backend, 1)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_contiguous_buffers_take_no_more_than_is_promised(law: ff.Initializer, backend: str) -> None:
    assert_little(Layout("float64", (1500, 1000), (0, 1), (1, 1)), law, backend, 1)


def test_no_layout_takes_more_than_is_promised() -> None:
    for number, layout in enumerate(layouts(40, seed=0)):
        assert_little(layout, LAWS[number % 2], "numba", 1 + number % 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_no_layout_of_many_takes_more_than_is_promised(backend: str) -> None:
    for number, layout in enumerate(layouts(1500, seed=1)):
        assert_little(layout, LAWS[number % len(LAWS)], backend, 1 + number % 3)


def test_the_measure_sees_what_a_fill_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ff.fill

    def wasteful(buffer: Any, *arguments: Any, **named: Any) -> Any:
        waste = np.ones(5 * MIB // 4, np.uint8)
        return real(buffer, *arguments, **named), waste

    monkeypatch.setattr(ff, "fill", wasteful)
    with pytest.raises(AssertionError, match="float32"):
        assert_little(Layout("float32", (400, 500), (0, 1), (1, 1)), LAWS[0], "numba", 1)
