"""Values reach every memory layout, whatever its strides, and nothing between or around them is written."""

from __future__ import annotations

import functools
import itertools
import math
import platform
import re
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanfill.backends import put_by_numpy
from fanfill.cpu import run as cpu_run
from fanfill.cpu.numba import BACKEND
from fanfill_kernels.compile import cpu, scatter
from fanfill_kernels.compile.loops import LINE

if TYPE_CHECKING:
    from fanfill.backends import Put

POISON = 0xA5
GUARD = 64  # items
SIZES = (1, 2, 4, 8)
Layout = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@st.composite
def layouts(draw: st.DrawFn, most: int = 60_000) -> Layout:
    """A shape, the order of its axes in memory, and a step along each: blocks and remainders of all sizes."""
    shape = tuple(
        draw(st.lists(st.sampled_from((1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33, 70)), max_size=4, min_size=1))
    )
    while math.prod(shape) > most:
        shape = shape[1:]
    order = tuple(draw(st.permutations(range(len(shape)))))
    steps = tuple(draw(st.sampled_from((1, 1, 1, -1, 2, -3))) for _ in shape)
    return shape, order, steps


def poisoned(layout: Layout, size: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(all bytes of a piece of memory, a view of its middle with the layout, ``shift`` bytes off)."""
    shape, order, steps = layout
    extents = [shape[k] * abs(steps[k]) for k in order]
    count = math.prod(extents) + 2 * GUARD
    memory = np.full(count * size + shift, POISON, np.uint8)
    middle = memory[GUARD * size + shift : (count - GUARD) * size + shift].view(f"u{size}").reshape(extents)
    view = middle.transpose(np.argsort(order))
    return memory, view[tuple(slice(None, None, step) for step in steps)]


def values_for(shape: tuple[int, ...], size: int) -> np.ndarray:
    numbers = np.random.default_rng(0).integers(
        0, 2 ** (8 * size), math.prod(shape), np.uint64, endpoint=False
    )
    return numbers.astype(f"u{size}") if size < 8 else numbers


def whole(view: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in view.shape)


def assert_put(put: Put, memory: np.ndarray, view: np.ndarray, where: tuple[slice, ...]) -> None:
    """``put`` writes the values to their places, and leaves every other byte as it is."""
    values = values_for(view[where].shape, view.itemsize)
    put(where, values)
    np.testing.assert_array_equal(view[where], values.reshape(view[where].shape))
    view[where] = np.full((), int.from_bytes(bytes([POISON] * view.itemsize)), view.dtype)
    assert (memory == POISON).all(), "a byte beside the view was written"


@settings(max_examples=300, deadline=None)
@given(layout=layouts(), size=st.sampled_from(SIZES), data=st.data())
@example(((70, 33), (1, 0), (1, 1)), 4, None)
@example(((3, 70), (1, 0), (1, 1)), 4, None)
@example(((70,), (0,), (-1,)), 1, None)
def test_every_layout_gets_its_values_and_nothing_else_is_written(
    layout: Layout, size: int, data: Any
) -> None:
    memory, view = poisoned(layout, size)
    where = whole(view)
    assert_put(BACKEND.scatter(view), memory, view, where)
    if data is not None:
        cuts = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in view.shape]
        if all(low < high for low, high in cuts):
            assert_put(BACKEND.scatter(view), memory, view, tuple(slice(low, high) for low, high in cuts))


@settings(max_examples=200, deadline=None)
@given(layout=layouts(), size=st.sampled_from(SIZES), stream=st.booleans())
def test_the_kernel_itself_takes_layouts_that_the_backend_leaves_to_numpy(
    layout: Layout, size: int, stream: bool
) -> None:
    memory, view = poisoned(layout, size)
    items = memory.view(view.dtype)
    origin = (view.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // size
    strides = tuple(stride // size for stride in view.strides)

    def put(where: tuple[slice, ...], values: np.ndarray) -> None:
        kernel = functools.partial(cpu.scatter, size)
        scatter.scatter_by(kernel, view.shape, strides, size, stream)(items, origin, values)

    assert_put(put, memory, view, whole(view))


@settings(max_examples=200, deadline=None)
@given(layout=layouts(most=6_000), size=st.sampled_from(SIZES), most=st.sampled_from((1, 2, 5, 16, 40)))
@example(((17, 2, 33), (2, 0, 1), (1, 1, 1)), 2, 5)
@example(((7, 9, 3, 2), (0, 1, 2, 3), (1, 1, 1, -1)), 1, 5)
def test_places_in_several_lists_are_the_same_places(layout: Layout, size: int, most: int) -> None:
    memory, view = poisoned(layout, size)
    shape, strides = view.shape, view.strides
    with mock.patch.object(scatter, "LISTED", most):
        lists = list(scatter.listed(shape, strides))
        assert_put(BACKEND.scatter(view), memory, view, whole(view))
    assert all(0 < len(offsets) <= most for _, _, offsets in lists)
    assert [before for before, _, _ in lists] == [0, *np.cumsum([len(places) for *_, places in lists])[:-1]]
    joined = np.concatenate([base + offsets for _, base, offsets in lists])
    np.testing.assert_array_equal(joined, scatter.offsets_of(shape, strides))


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_unaligned_views_get_their_values(size: int, shift: int) -> None:
    memory, view = poisoned(((70, 33), (1, 0), (1, 1)), size, shift % size or 1)
    assert not view.flags.aligned
    assert_put(BACKEND.scatter(view), memory, view, whole(view))


def test_strides_that_are_no_multiple_of_the_item_are_left_to_numpy() -> None:
    records = np.zeros((40, 30), np.dtype([("value", "u2"), ("tag", "u1")]))["value"].T
    records[...] = 0
    values = values_for(records.shape, 2)
    BACKEND.scatter(records)(whole(records), values)
    np.testing.assert_array_equal(records, values.reshape(records.shape))


@pytest.mark.parametrize(
    ("order", "steps", "expected"),
    [
        ((1, 0), (1, 1), scatter.transpose),
        ((0, 1), (1, -1), scatter.reverse),
        ((0, 1), (1, 2), None),
        ((0, 1), (1, 1), None),
    ],
)
def test_each_layout_goes_to_its_own_loop(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...], steps: tuple[int, ...], expected: object
) -> None:
    asked = note_loops(monkeypatch)
    memory, view = poisoned(((40, 50), order, steps), 4)
    assert_put(BACKEND.scatter(view), memory, view, whole(view))
    assert asked == ([] if expected is None else [(expected, False)])


def note_loops(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """The loops that are asked for from here on, and whether they are to write past the caches."""
    asked: list[tuple[Any, bool]] = []
    compiled = cpu.scatter

    def note(size: int, loop: Any, stream: bool = False) -> Any:
        asked.append((loop, stream))
        return compiled(size, loop, stream)

    monkeypatch.setattr(cpu, "scatter", note)
    return asked


def columns_apart(count: int, rows: int, pitch: int, size: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """(all bytes, a view of so many rows and columns): columns lie ``pitch`` items apart and begin ``shift``
    bytes after a cache line.
    """
    memory = np.full((count * pitch + 2 * GUARD) * size + 2 * LINE, POISON, np.uint8)
    first = GUARD * size + (shift - memory.ctypes.data - GUARD * size) % LINE
    view = memory[first : first + count * pitch * size].view(f"u{size}").reshape(count, pitch)[:, :rows].T
    assert view.ctypes.data % LINE == shift
    return memory, view


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("count", [5, 16, 37])
def test_wherever_columns_begin_they_are_written_past_the_caches_and_to_their_ends(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    monkeypatch.setattr(cpu_run, "NONTEMPORAL", 1)
    asked = note_loops(monkeypatch)
    for rows, shift in itertools.product((*range(8, 52), 100), range(0, LINE, size)):
        memory, view = columns_apart(count, rows, 112, size, shift)
        assert_put(BACKEND.scatter(view), memory, view, whole(view))
        assert asked.pop() == (scatter.transpose, True)
        assert not asked


@pytest.mark.parametrize(
    ("rows", "size", "pitch", "streams"),
    [
        (cpu_run.NONTEMPORAL // 32 // 4, 4, cpu_run.NONTEMPORAL // 32 // 4, True),
        (
            cpu_run.NONTEMPORAL // 32 // 4 - 1,
            4,
            cpu_run.NONTEMPORAL // 32 // 4,
            False,
        ),  # what a cache may hold
        (
            cpu_run.NONTEMPORAL // 32 // 4,
            4,
            cpu_run.NONTEMPORAL // 32 // 4 + 4,
            False,
        ),  # columns that begin within lines
        (cpu_run.NONTEMPORAL // 32 // 2, 2, cpu_run.NONTEMPORAL // 32 // 2, False),  # squares of half lines
    ],
)
def test_large_memory_is_written_past_the_caches_where_columns_are_whole_lines(
    monkeypatch: pytest.MonkeyPatch, rows: int, size: int, pitch: int, streams: bool
) -> None:
    asked = note_loops(monkeypatch)
    memory, view = columns_apart(32, rows, pitch, size, 16)
    assert_put(BACKEND.scatter(view), memory, view, whole(view))
    assert asked == [(scatter.transpose, streams)]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads x86 assembly only")
@pytest.mark.parametrize("size", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_squares_bypass_the_caches_and_end_with_a_fence(size: int) -> None:
    plain, streaming = (
        cpu.scatter(size, scatter.transpose, stream).compile().library.get_asm_str()
        for stream in (False, True)
    )
    pattern, fence = r"\bv?movnt\w+", r"\bmfence\b|\block\b"
    assert not re.search(pattern, plain)
    assert not re.search(fence, plain)
    assert len(re.findall(pattern, streaming)) >= scatter.SIDE * scatter.SIDE * size // LINE
    assert re.search(fence, streaming)


@pytest.mark.parametrize("wrong", ["value", "place", "beside"])
def test_the_check_of_places_can_fail(wrong: str) -> None:
    memory, view = poisoned(((40, 50), (1, 0), (1, 1)), 4)

    def put(where: tuple[slice, ...], values: np.ndarray) -> None:
        if wrong == "place":
            values = np.roll(values, 1)
        put_by_numpy(view)(where, values)
        if wrong == "value":
            view[39, 49] ^= 1
        if wrong == "beside":
            memory[-1] ^= 1

    with pytest.raises(AssertionError):
        assert_put(put, memory, view, whole(view))


def test_blocks_and_groups_have_remainders_in_these_tests() -> None:
    assert 33 % scatter.SIDE
    assert 70 % scatter.BATCH
    assert scatter.STRETCH < 70
