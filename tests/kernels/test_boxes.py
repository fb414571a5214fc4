"""Boxes hold the elements of the run that they name, wherever the loops over boxes cut their work."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill_kernels.compile import boxes, cpu
from fanfill_kernels.forms import forms_of

KEY = (1, 2, 3, 2**32 - 1)
GUARD = 32
LAWS = {
    "uniform": init.uniform(-0.3, 0.3),
    "normal": init.normal(0.1, 0.6),
    "truncated_central": init.truncated_normal(0.1, 0.6, -1.9, 1.3),
}
CASES = [
    (form, dtype) for dtype in ("float32", "float64", "bfloat16") for form in LAWS if form in forms_of(dtype)
]
LONGEST = 4 * (boxes.TILE - 1)  # values of a run that one tile takes at once; float64: half as many
SHAPES = [
    # (shape, pitch): runs that share blocks, that end with a block, that span none
    ((700, 3), (5, 1)),
    ((700, 3), (4, 1)),
    ((1500, 2), (3, 1)),
    ((300, 15), (16, 1)),
    ((30, 7, 5), (900, 23, 1)),
    ((90, 1, 31), (33, 7, 1)),
    # runs that a tile cuts
    ((5, LONGEST), (LONGEST + 1, 1)),
    ((3, LONGEST + 1), (LONGEST + 6, 1)),
    ((3, 2 * LONGEST + 5), (3 * LONGEST, 1)),
    ((40, LONGEST // 2 - 3), (LONGEST // 2, 1)),
    ((3 * LONGEST,), (1,)),
    # columns: whole tiles and a rest, axes shorter than a tile, an axis of one place at the end
    ((2 * boxes.TILE + 3,), (7,)),
    ((3, 2 * boxes.TILE + 3), (9000, 4)),
    ((600, 3), (50, 2)),
    ((600, 1), (5, 1)),
    ((600, 1), (5, 3)),
    ((1,), (1,)),
    ((1, 1), (9, 9)),
    # overlapping, and against the order of memory
    ((20, 9), (3, 1)),
    ((9, 20), (1, 9)),
]


def assert_box(form: str, dtype: str, start: int, shape: tuple[int, ...], pitch: tuple[int, ...]) -> None:
    """The box holds the run's elements, and its guard zones keep their bytes."""
    made = recipe(LAWS[form], (1,), dtype)
    assert made.form == form
    lanes = STORAGES[dtype].lanes
    kernels = cpu.kernels(form, dtype)
    index = sum(c * p for c, p in zip(np.indices(shape), pitch, strict=True)).reshape(-1)
    run = np.empty(int(index.max()) + 1, lanes)
    kernels.run(run, start, KEY, made.params)
    count = math.prod(shape)
    memory = np.full((count + 2 * GUARD) * lanes.itemsize, 0xA5, np.uint8).view(lanes)
    sizes, steps = np.array(shape, np.int64), np.array(pitch, np.int64)
    kernels.box(memory[GUARD : GUARD + count], start, sizes, steps, KEY, made.params)
    assert memory[GUARD : GUARD + count].tobytes() == run[index].tobytes()
    for guard in (memory[:GUARD], memory[-GUARD:]):
        assert (guard.view(np.uint8) == 0xA5).all(), "a kernel wrote outside its buffer"


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_a_box_holds_its_elements_from_any_place_in_a_block(form: str, dtype: str) -> None:
    for shape, pitch in SHAPES:
        for start in (0, 1, 2, 3, 2**34 - 5, 2**33 - 1001):
            assert_box(form, dtype, start, shape, pitch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_boxes_at_the_end_of_the_largest_tensor_hold_their_elements(dtype: str) -> None:
    assert_box("normal", dtype, 2**63 - 100, (20, 5), (5, 1))
    assert_box("normal", dtype, 2**63 - 96, (20,), (5,))


@pytest.mark.parametrize("length", range(1, 40))
def test_runs_of_every_short_length_hold_their_elements(length: int) -> None:
    for gap in (1, 2, 3, 4, 57):
        assert_box("normal", "float32", 3, (200, length), (length + gap, 1))


def test_an_empty_box_writes_nothing() -> None:
    kernels = cpu.kernels("normal", "float32")
    made = recipe(LAWS["normal"], (1,), "float32")
    for shape in ((0,), (0, 5), (5, 0)):
        kernels.box(
            np.empty(0, np.float32), 0, np.array(shape), np.ones(len(shape), np.int64), KEY, made.params
        )


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0)])
def test_the_check_of_boxes_can_fail(monkeypatch: pytest.MonkeyPatch, wrong: tuple[int, int]) -> None:
    real = cpu.kernels("normal", "float32")
    move, stretch = wrong

    def box(out, start, shape, pitch, key, params):  # type: ignore[no-untyped-def]
        real.box(out, start + move, shape, pitch + stretch, key, params)

    monkeypatch.setattr(cpu, "kernels", lambda form, dtype: real._replace(box=box))
    with pytest.raises(AssertionError):
        assert_box("normal", "float32", 0, (20, 5), (7, 1))
