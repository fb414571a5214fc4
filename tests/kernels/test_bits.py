"""The same bits from every backend, on any number of threads, for any part of a tensor, in any layout."""

import itertools

import numpy as np
import pytest
from cases import INITIALIZERS, OF_FORM, assert_covers
from equality import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import fanfill as ff
from fanfill.cpu import run as cpu_run
from tests.golden import DTYPES

LAWS = (*OF_FORM.values(), INITIALIZERS["constant"])
NORMAL = INITIALIZERS["normal"]
BACKENDS = ("numba", "numpy")
# Above what the calling thread keeps to itself, so that helpers really work; not a multiple of anything.
LARGE = (3, 5 * cpu_run.SMALL // 3 + 7)


def drawn(law: ff.Initializer, shape: tuple[int, ...], dtype: str, **options: object) -> np.ndarray:
    return ff.fill(np.empty(shape, DTYPES[dtype]), law, seed=7, name="w", **options)  # type: ignore[arg-type]


def test_every_distribution_is_drawn_here() -> None:
    assert_covers(LAWS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_numba_and_numpy_draw_the_same_bits_on_any_number_of_threads(law: ff.Initializer, dtype: str) -> None:
    one = drawn(law, LARGE, dtype, backend="numpy", threads=1)
    for backend, threads in (("numpy", 3), ("numba", 1), ("numba", 2), ("numba", 3), ("numba", 7)):
        assert_same_bits(drawn(law, LARGE, dtype, backend=backend, threads=threads), one)


def test_the_comparison_sees_one_changed_bit() -> None:
    a = drawn(NORMAL, (1000,), "float32")
    b = a.copy()
    b.view(np.uint32)[617] ^= 1
    with pytest.raises(AssertionError):
        assert_same_bits(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_seed_or_name_draws_other_values(backend: str) -> None:
    base = drawn(NORMAL, (4000,), "float32", backend=backend)
    for seed, name in ((8, "w"), (7, "v"), (7 + 2**32, "w"), (7, 1), (7, 2**32)):
        other = ff.fill(np.empty(4000, np.float32), NORMAL, seed=seed, name=name, backend=backend)
        assert np.mean(other == base) < 0.001


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A global shape, and a box in it: shape and offset."""
    whole = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    offset = tuple(draw(st.integers(0, n - 1)) for n in whole)
    shape = tuple(draw(st.integers(0, n - first)) for n, first in zip(whole, offset, strict=True))
    return whole, shape, offset


@settings(max_examples=60, deadline=None)
@given(
    box=boxes(),
    law=st.sampled_from(LAWS),
    dtype=st.sampled_from(tuple(DTYPES)),
    backend=st.sampled_from(BACKENDS),
)
def test_a_box_holds_the_bits_of_the_whole(
    box: tuple[tuple[int, ...], ...], law: ff.Initializer, dtype: str, backend: str
) -> None:
    whole, shape, offset = box
    full = drawn(law, whole, dtype, backend="numpy")
    part = drawn(law, shape, dtype, backend=backend, global_shape=whole, offset=offset)
    assert_same_bits(part, full[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))].copy())


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5000), max_size=6),
    law=st.sampled_from(LAWS),
    dtype=st.sampled_from(tuple(DTYPES)),
    backend=st.sampled_from(BACKENDS),
)
def test_flat_ranges_join_to_the_whole(
    cuts: list[int], law: ff.Initializer, dtype: str, backend: str
) -> None:
    whole = (50, 100)
    full = drawn(law, whole, dtype, backend="numpy").reshape(-1)
    edges = [0, *sorted(cuts), 5000]
    pieces = [
        drawn(law, (b - a,), dtype, backend=backend, global_shape=whole, offset=a)
        for a, b in itertools.pairwise(edges)
    ]
    assert_same_bits(np.concatenate(pieces), full)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, the order of its axes in memory, and a step along each (negative: backwards)."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    order = tuple(draw(st.permutations(range(len(shape)))))
    steps = tuple(draw(st.sampled_from((1, 1, 2, 3, -1, -2))) for _ in shape)
    return shape, order, steps


def view_of(layout: tuple[tuple[int, ...], ...], dtype: object) -> tuple[np.ndarray, np.ndarray]:
    """A poisoned base array and the view of it that has the layout."""
    shape, order, steps = layout
    base = np.full([shape[k] * abs(steps[k]) for k in order], 0.0, dtype)
    base.view(f"u{base.itemsize}")[...] = 0x5A
    view = base.transpose(np.argsort(order))
    return base, view[tuple(slice(None, None, step) for step in steps)]


@settings(max_examples=60, deadline=None)
@given(
    layout=layouts(),
    law=st.sampled_from(LAWS),
    dtype=st.sampled_from(tuple(DTYPES)),
    backend=st.sampled_from(BACKENDS),
)
def test_memory_layout_changes_no_bit_and_nothing_between_is_written(
    layout: tuple[tuple[int, ...], ...], law: ff.Initializer, dtype: str, backend: str
) -> None:
    base, view = view_of(layout, DTYPES[dtype])
    _, poison = view_of(layout, DTYPES[dtype])
    expected = drawn(law, view.shape, dtype, backend="numpy")
    ff.fill(view, law, seed=7, name="w", backend=backend)
    assert_same_bits(view.copy(order="C"), expected)
    view[...] = poison
    assert (base.view(np.uint8) == view_of(layout, DTYPES[dtype])[0].view(np.uint8)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_large_transposed_and_strided_tensors_hold_the_bits_of_contiguous_ones(
    backend: str, threads: int
) -> None:
    law = ff.he_normal()
    expected = drawn(law, (701, 1003), "float32", backend="numpy")
    transposed = np.empty((1003, 701), np.float32).T
    columns = np.empty((701, 2006), np.float32)[:, ::2]
    channels_last = np.empty((7, 9, 11, 130), np.float32).transpose(0, 3, 1, 2)
    for view in (transposed, columns):
        ff.fill(view, law, seed=7, name="w", backend=backend, threads=threads)
        assert_same_bits(view.copy(order="C"), expected)
    ff.fill(channels_last, law, seed=7, name="w", backend=backend, threads=threads)
    assert_same_bits(channels_last.copy(order="C"), drawn(law, (7, 130, 9, 11), "float32", backend="numpy"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_far_beyond_2_to_the_32_elements_continue_the_words(backend: str) -> None:
    # Element e of a float32 uniform is its word: an index cut to 32 bits, or a carry lost between a block's
    # halves, shows at once.
    whole = (2**21, 2**21)
    for row in (2**11 - 1, 2**12, 2**13, 2**20 + 3):
        part = np.empty((2, 37), np.float32)
        ff.fill(
            part,
            ff.uniform(-1.0, 1.0),
            seed=7,
            name="w",
            global_shape=whole,
            offset=(row, 2**21 - 37),
            backend=backend,
        )
        for k in range(2):
            word = np.empty(37, np.uint32)
            ff.words(word, seed=7, name="w", start=(row + k) * 2**21 + 2**21 - 37)
            assert (part[k] == (word | 1).view(np.int32).astype(np.float32) * np.float32(2.0**-31)).all()
