"""NumPy's recorded kernels: little memory, kept between fills, unharmed by exceptions, fills inside fills and
the caller's floating-point settings.
"""

from __future__ import annotations

import itertools
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import KEY, OF_FORM

import fanfill as ff
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.blocks.tape import ALIGNED, Program, Replay, Tape

SIZE = 300_001

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
each_law = pytest.mark.parametrize("law", OF_FORM)


def filled(law: str, dtype: str, count: int = SIZE, start: int = 3) -> np.ndarray:
    made = recipe(OF_FORM[law], (1,), dtype)
    out = np.empty(count, STORAGES[dtype].lanes)
    blocks.kernels(made.form, dtype).run(out, start, KEY, made.params)
    return out


def on_a_new_thread(work: Callable[[], Any]) -> Any:
    """What ``work`` returns on a thread that has no workspace yet."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@each_dtype
@each_law
def test_the_bytes_do_not_depend_on_floating_point_settings_or_warning_filters(law: str, dtype: str) -> None:
    expected = filled(law, dtype, 5000)
    before = np.seterr(all="raise")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = filled(law, dtype, 5000)
            assert np.geterr()["over"] == "raise"
            with pytest.raises(FloatingPointError):
                np.float32(3e38) * np.ones(1, np.float32) * np.float32(10)
    finally:
        np.seterr(**before)
    assert found.tobytes() == expected.tobytes()


def traced_peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_dtype
@each_law
def test_a_thread_takes_at_most_four_mebibytes_beyond_its_buffer(law: str, dtype: str) -> None:
    made = recipe(OF_FORM[law], (1,), dtype)
    out = np.empty(2 * blocks.BLOCK + 12_345, STORAGES[dtype].lanes)
    shape, pitch = (out.size // 7, 7), (1, out.size // 7)

    def work() -> None:
        kernels = blocks.kernels(made.form, dtype)
        kernels.run(out, 3, KEY, made.params)
        kernels.run(out[: out.size // 2], 0, KEY, made.params)
        kernels.box(out[: shape[0] * 7], 5, shape, pitch, KEY, made.params)

    peak = on_a_new_thread(lambda: traced_peak(work))
    assert blocks.ARENA <= peak <= 4 << 20


def test_the_memory_is_made_once_and_serves_later_fills() -> None:
    made = recipe(OF_FORM["normal"], (1,), "float32")
    kernels, out = blocks.kernels(made.form, made.dtype), np.empty(SIZE, np.float32)

    def fill() -> Any:
        kernels.run(out, 3, KEY, made.params)
        return blocks.spare.workspace

    def work() -> tuple[Any, Any, int]:
        return fill(), fill(), traced_peak(fill)

    first, second, peak = on_a_new_thread(work)
    assert first is second
    assert peak < 1 << 16


def test_no_more_programs_stay_bound_than_the_bound_says_and_the_newest_do() -> None:
    def work() -> list[list[Any]]:
        kept = []
        for law in OF_FORM:
            for count in (100, 10_000, 100_000):
                filled(law, "float32", count)
                kept.append(list(blocks.spare.workspace.replays))
        return kept

    kept = on_a_new_thread(work)
    calls = [sum(program.calls for program, _ in replays) for replays in kept]
    most = max(program.calls for replays in kept for program, _ in replays)
    assert blocks.CALLS - most < max(calls) <= blocks.CALLS
    for before, after in itertools.pairwise(kept):
        stayed = [replay for replay in after if replay in before]
        assert stayed == before[len(before) - len(stayed) :]


@pytest.mark.parametrize("calls", [0, 1, 30, 100, 200])
def test_a_fill_after_an_interrupted_one_gives_the_same_bytes_in_the_same_memory(
    monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    made = recipe(OF_FORM["normal"], (1,), "float32")
    kernels, out = blocks.kernels(made.form, made.dtype), np.empty(4096, np.float32)
    kernels.run(out, 0, KEY, made.params)
    expected = out.copy()
    workspace = blocks.spare.workspace
    (replay,) = [r for (_, size), r in workspace.replays.items() if size == 1024][-1:]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    other = recipe(ff.normal(5.0, 2.0), (1,), "float32").params
    scalars = len(replay._scalars)
    steps, place = (replay._scalars, calls) if calls < scalars else (replay._steps, calls - scalars)
    broken = [*steps[:place], (interrupt, ()), *steps[place + 1 :]]
    with monkeypatch.context() as patch:
        patch.setattr(replay, "_scalars" if steps is replay._scalars else "_steps", broken)
        with pytest.raises(KeyboardInterrupt):
            kernels.run(out, 1 << 40, KEY, other)
    assert blocks.spare.workspace is workspace
    kernels.run(out, 0, KEY, made.params)
    assert out.tobytes() == expected.tobytes()


def test_a_fill_inside_a_fill_uses_memory_of_its_own() -> None:
    expected = filled("normal", "float32")
    with blocks.a_workspace() as outer:
        outer.arena[...] = 0xA5
        assert blocks.spare.workspace is None
        assert filled("normal", "float32").tobytes() == expected.tobytes()
        assert blocks.spare.workspace is not outer
        assert (outer.arena == 0xA5).all()
    assert blocks.spare.workspace is outer


def test_parameters_that_compare_equal_but_differ_in_bits_are_told_apart() -> None:
    kernels, index = recorded_product()
    for value in (0.0, -0.0, 0.0):
        out = np.empty(ALIGNED, np.float32)
        kernels.index[...] = index
        kernels.run((), (np.float32(value),), out)
        assert (np.signbit(out) == np.signbit(np.float32(value))).all()


def recorded_product() -> tuple[Replay, np.ndarray]:
    """index * param, bound, and an index of ones."""
    tape = Tape()
    index, param, out = tape.lane(np.float32, 1), tape.lane(np.float32, 0), tape.lane(np.float32, 1)
    tape.send(index * param, out)
    program = Program(tape, index, (), (param,), out)
    return Replay(program, np.empty(program.width * ALIGNED, np.uint8), ALIGNED), np.ones(ALIGNED, np.float32)


@pytest.mark.parametrize("dtype", ["int32", "uint64", "float32", "float64"])
def test_a_recorded_select_takes_the_bits_that_where_takes(dtype: str) -> None:
    bits = np.random.default_rng(1).integers(0, 256, (2, 8 * ALIGNED), np.uint8)
    a, b = (row.view(dtype)[:ALIGNED] for row in bits)
    if a.dtype.kind == "f":
        a[:4] = np.nan, -np.nan, -0.0, np.inf
    constant = np.dtype(dtype).type(3)
    for pick in (lambda x, c: np.where(x < c, x, c), lambda x, c: np.where(x < c, c, x * c)):
        tape = Tape()
        index, out = tape.lane(dtype, 1), tape.lane(dtype, 1)
        tape.send(pick(index, constant), out)
        program = Program(tape, index, (), (), out)
        replay = Replay(program, np.empty(program.width * ALIGNED, np.uint8), ALIGNED)
        for values in (a, b):
            with np.errstate(all="ignore"):
                replay.index[...] = values
                replay.run((), (), replay.out)
                assert replay.out.tobytes() == pick(values, constant).tobytes()


def test_what_a_tape_cannot_record_is_refused() -> None:
    lane = Tape().lane(np.float32, 1)
    with pytest.raises(TypeError, match="sum"):
        np.sum(lane)
    with pytest.raises(TypeError, match="reduce"):
        np.add.reduce(lane)
