"""Every element gets the value of its own global index, whatever the box, the strides and the cut."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanfill import regions, tiling
from fanfill.cpu import run as cpu_run
from tests.conftest import INDEX, MakeIndexBackend

KEY = (0, 0, 0, 0)


def expected_indices(shape, global_shape=None, offset=None):
    """The C-order index of each element of a box, by NumPy's own ravelling of coordinates."""
    whole = shape if global_shape is None else global_shape
    corner = (0,) * len(shape) if offset is None else offset
    pitches = [math.prod(whole[k + 1 :]) for k in range(len(whole))]
    out = np.zeros(shape, np.uint64)
    for axis, (n, first, pitch) in enumerate(zip(shape, corner, pitches, strict=True)):
        steps = [(first + i) * pitch for i in range(n)]
        out += np.array(steps, np.uint64).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return out


def assert_indices(view, backend, global_shape=None, offset=None, threads=1):
    region = regions.region(view.shape, global_shape, offset)
    cpu_run.fill_lanes(view, region, INDEX, KEY, backend, threads)
    np.testing.assert_array_equal(view.astype(np.uint64), expected_indices(view.shape, global_shape, offset))


@st.composite
def views(draw):
    """A strided view of an array, axes in any order, with steps of either sign, and a tensor around it."""
    rank = draw(st.integers(0, 4))
    base_shape = [draw(st.integers(1, 9)) for _ in range(rank)]
    order = draw(st.permutations(range(rank)))
    cuts = []
    for n in base_shape:
        first = draw(st.integers(0, n - 1))
        last = draw(st.integers(first, n - 1))
        step = draw(st.sampled_from([1, 1, 1, 2, 3]))
        back = draw(st.booleans())
        cuts.append(
            slice(last, first - 1 if first else None, -step) if back else slice(first, last + 1, step)
        )
    base = np.full(base_shape, -1.0)
    view = base.transpose(order)[tuple(cuts[k] for k in order)] if rank else base
    before = [draw(st.integers(0, 3)) for _ in range(rank)]
    whole = tuple(n + b + draw(st.integers(0, 3)) for n, b in zip(view.shape, before, strict=True))
    return base, view, whole, tuple(before)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=views(), chunk=st.sampled_from([1, 7, 64, 4096]), tile=st.sampled_from([1, 6, 64, 4096]))
def test_any_view_of_any_box_gets_its_global_indices_and_nothing_beside_it(index_backend, case, chunk, tile):
    base, view, whole, before = case
    backend, _ = index_backend(chunk, tile)
    assert_indices(view, backend, whole, before)
    view[...] = -1.0
    assert (base == -1.0).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_number_of_threads_writes_the_same(index_backend: MakeIndexBackend, threads, transposed):
    backend, _ = index_backend(20_000, 5_000)
    view = np.full((301, 407), -1.0)
    assert_indices(view.T if transposed else view, backend, threads=threads)


def test_the_check_of_indices_can_fail(index_backend: MakeIndexBackend):
    backend, _ = index_backend(error=1)
    with pytest.raises(AssertionError):
        assert_indices(np.empty((3, 4)), backend)


def test_a_box_far_beyond_2_to_the_33_gets_its_indices(index_backend: MakeIndexBackend):
    backend, _ = index_backend()
    whole = (2**20, 2**21, 3)
    assert_indices(np.empty((2, 5, 2), np.uint64).copy(), backend, whole, (2**20 - 2, 2**21 - 5, 1))
    assert_indices(np.empty((2, 5, 2), np.uint64, order="F"), backend, whole, (2**19, 7, 0))
    last = np.empty((4,), np.uint64)
    cpu_run.fill_lanes(last, regions.region((4,), (2**32, 2**31), 2**63 - 4), INDEX, KEY, backend, 1)
    assert last.tolist() == [2**63 - 4, 2**63 - 3, 2**63 - 2, 2**63 - 1]


def test_a_flat_range_counts_elements_in_c_order(index_backend: MakeIndexBackend):
    backend, _ = index_backend()
    part = np.empty(10)
    cpu_run.fill_lanes(part, regions.region((10,), (6, 7), np.int64(30)), INDEX, KEY, backend, 1)
    assert part.tolist() == list(range(30, 40))


def test_unaligned_fields_of_packed_records_are_filled_through_a_scratch(index_backend: MakeIndexBackend):
    backend, _ = index_backend()
    records = np.zeros((50, 4), np.dtype([("tag", "u1"), ("value", "f8"), ("rest", "u2")]))
    assert not records["value"].flags.aligned
    assert_indices(records["value"], backend)
    assert not records["tag"].any()
    assert not records["rest"].any()


def test_one_unaligned_row_is_never_given_to_a_kernel(index_backend: MakeIndexBackend):
    backend, _ = index_backend()  # which asserts alignment
    memory = np.zeros(8 * 100 + 1, np.uint8)
    assert_indices(memory[1:].view(np.float64), backend)


def plan_of(view, global_shape=None, offset=None, chunk=1 << 16, tile=1 << 16):
    region = regions.region(view.shape, global_shape, offset)
    axes = tiling.merge(view.shape, region.pitches, view.strides)
    return tiling.tiling(region.start, axes, view.itemsize, bool(view.flags.aligned), chunk, tile)


def test_a_contiguous_tensor_of_any_rank_is_one_axis():
    plan = plan_of(np.empty((16, 32, 64, 128), np.float32))
    assert plan.axes == (tiling.Axis(16 * 32 * 64 * 128, 1, 4),)
    assert plan.in_place
    assert plan.tiles == 64


def test_a_box_with_short_rows_is_cut_into_few_large_tiles_drawn_in_place():
    view = np.lib.stride_tricks.as_strided(np.empty(1, np.float32), (1000, 1000, 2, 3), (24000, 24, 12, 4))
    plan = plan_of(view, (1000, 1000, 4, 5), (0, 0, 1, 1))
    assert plan.in_place
    assert plan.tiles <= 100


def test_a_column_of_short_rows_is_cut_into_few_large_tiles_for_the_scratch():
    plan = plan_of(np.empty((1_000_000, 8), np.float32)[:, :3])
    assert not plan.in_place
    assert plan.tiles <= 60


@pytest.mark.parametrize("rank", [5, 10, 20])
def test_many_axes_of_two_need_no_more_tiles_than_their_size_asks_for(rank):
    view = np.empty((2,) * rank, np.float32).transpose(np.random.default_rng(0).permutation(rank))
    plan = plan_of(view, tile=4096)
    assert plan.tiles <= max(1, 2 * view.size // 4096)


def test_long_rows_are_drawn_where_they_lie():
    plan = plan_of(np.empty((8, 40_000), np.float32)[:, :30_000])
    assert plan.in_place
    assert plan.extents == (1, 30_000)


def test_tiles_of_a_transposed_matrix_are_long_both_in_memory_and_in_index():
    plan = plan_of(np.empty((4096, 8192), np.float32).T)
    store, last = plan.extents
    assert not plan.in_place
    assert store * 4 >= 512
    assert last >= 64
    assert store * last <= 1 << 16


@settings(max_examples=300, deadline=None)
@given(case=views(), chunk=st.integers(1, 50), tile=st.integers(1, 50))
def test_no_tile_passes_its_budget(case, chunk, tile):
    _, view, whole, before = case
    plan = plan_of(view, whole, before, chunk, tile)
    assert math.prod(plan.extents) <= (chunk if plan.in_place else tile)
    sizes = [math.prod(tiling.piece(plan, k).shape) for k in range(plan.tiles)]
    assert sum(sizes) == view.size
    assert min(sizes) > 0


def test_one_tile_is_found_without_walking_the_others():
    whole = tiling.Axis(2**62, 1, 4)
    plan = tiling.tiling(5, (whole,), 4, True, 1 << 16, 1 << 16)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        piece = tiling.piece(plan, plan.tiles - 1)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1
    assert piece.start == 5 + 2**62 - (1 << 16)


@pytest.mark.parametrize(
    ("shape", "global_shape", "offset", "error", "message"),
    [
        (
            (2, 3),
            None,
            (0, 0),
            ValueError,
            r"offset: expected global_shape with it; got offset=\(0, 0\) alone",
        ),
        (
            (2, 3),
            (6,),
            None,
            ValueError,
            r"global_shape: expected 2 axes, like the buffer of shape \(2, 3\); got \(6,\)",
        ),
        ((6,), (2, 3), None, ValueError, r"a flat range of a tensor is a 1-D buffer with an int as offset"),
        (
            (2, 3),
            (4, 4),
            (1,),
            ValueError,
            r"offset: expected 2 integers, one for each axis of \(4, 4\); got \(1,\)",
        ),
        ((2, 3), (4, 4), (0, 2), ValueError, r"which reaches 5 of 4 on axis 1"),
        ((2, 3), (4, 4), (-1, 0), ValueError, r"offset: expected an integer in \[0, 2\*\*63\); got -1"),
        ((2, 3), (4, 4), (0.0, 0), TypeError, r"offset: expected an integer in .*; got 0.0 \(float\)"),
        ((2, 3), (4, 4), (True, 0), TypeError, r"offset: expected an integer in .*; got True \(bool\)"),
        (
            (2, 3),
            (4, 4),
            3,
            ValueError,
            r"offset: expected a tuple of 2 integers; got 3; an int places a 1-D buffer",
        ),
        ((2, 3), (4, 4), 1.5, TypeError, r"offset: expected an int or a tuple of them; got 1.5"),
        ((2, 3), (4, 4), True, TypeError, r"offset: expected an int or a tuple of them; got True"),
        ((5,), (2, 3), 2, ValueError, r"expected a range inside the 6 elements .*; got elements 2 to 7"),
        ((5,), (2, 3), -1, ValueError, r"expected a range inside the 6 elements .*; got elements -1 to 4"),
        ((2, 3), (4, -4), None, ValueError, r"global_shape: expected an integer in \[0, 2\*\*63\]; got -4"),
        ((2, 3), (4, 4.0), None, TypeError, r"global_shape: expected an integer in .*; got 4.0 \(float\)"),
        ((2, 3), "44", None, TypeError, r"global_shape: expected an integer or a tuple of them; got '44'"),
        ((2, 3), (2**32, 2**32), None, ValueError, r"global_shape: expected at most 2\*\*63 elements"),
    ],
)
def test_a_place_that_does_not_hold_the_buffer_is_refused(shape, global_shape, offset, error, message):
    with pytest.raises(error, match=message):
        regions.region(shape, global_shape, offset)


def test_integers_may_be_numpys_and_ranks_of_one_may_be_bare():
    region = regions.region((3,), np.int32(9), [np.uint64(4)])
    assert region == regions.Region((9,), 4, (1,))
    assert all(type(n) is int for n in (*region.shape, region.start))


def test_empty_boxes_fit_at_the_very_end():
    assert regions.region((0, 4), (4, 4), (4, 0)).start == 16
