"""fill: the surface, what it refuses, and that only the documented things change a value."""

from __future__ import annotations

import array
import hashlib
import importlib
import os

import numpy as np
import pytest
from equality import assert_same_bits, bits
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fills import BACKENDS, SHAPE, reference

import fanfill as ff
from fanfill import streams

fill_module = importlib.import_module("fanfill.fill")  # the package's attribute of that name is the function


def test_fill_returns_the_very_buffer():
    for buffer in (
        np.empty(5),
        np.empty((3, 4), np.float32).T,
        array.array("f", [0.0] * 5),
        np.empty(0),
        np.empty(()),
    ):
        for _ in range(2):
            assert ff.fill(buffer, ff.normal(), seed=0) is buffer


def test_seed_and_name_and_initializer_each_change_the_values():
    base = reference()
    for other in (
        reference(seed=4),
        reference(name="v"),
        reference(name=0),
        reference(initializer="glorot_uniform"),
    ):
        assert (bits(base) != bits(other)).mean() > 0.99
    assert_same_bits(base, reference())


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("count", [None, 1, 2, 3, 7])
@pytest.mark.parametrize(
    "initializer", ["he_normal", "glorot_uniform", ff.truncated_normal(), ff.uniform(0.0, 1.0)]
)
def test_neither_backend_nor_threads_nor_layout_changes_a_bit(backend, count, initializer):
    shape = (301, 409)
    base = reference(shape, initializer)
    for make in (
        lambda: np.empty(shape, np.float32),
        lambda: np.empty(shape, np.float32, order="F"),
        lambda: np.empty((602, 818), np.float32)[::-2, 1::2],
    ):
        assert_same_bits(ff.fill(make(), initializer, seed=3, name="w", backend=backend, threads=count), base)


@settings(max_examples=60, deadline=None)
@given(
    corner=st.tuples(st.integers(0, 60), st.integers(0, 70)),
    size=st.tuples(st.integers(0, 60), st.integers(0, 70)),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    law=st.sampled_from(["he_normal", "glorot_uniform", ff.truncated_normal()]),
    backend=st.sampled_from(BACKENDS),
)
def test_any_box_holds_the_same_bits_as_the_whole(corner, size, dtype, law, backend):
    last = tuple(min(a + n, most) for a, n, most in zip(corner, size, SHAPE, strict=True))
    shape = tuple(b - a for a, b in zip(corner, last, strict=True))
    part = np.empty(shape, dtype)
    ff.fill(part, law, seed=3, name="w", global_shape=SHAPE, offset=corner, backend=backend)
    assert_same_bits(part, reference(dtype=dtype, initializer=law)[corner[0] : last[0], corner[1] : last[1]])


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 4200), n=st.integers(0, 4200))
def test_any_flat_range_holds_the_same_bits_as_the_whole(start, n):
    n = min(n, 4200 - start)
    part = ff.fill(np.empty(n, np.float32), "he_normal", seed=3, name="w", global_shape=SHAPE, offset=start)
    assert_same_bits(part, reference().reshape(-1)[start : start + n])


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_types_of_ml_dtypes_are_filled_and_drawn(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    drawn = ff.draw(SHAPE, "he_normal", seed=3, name="w", dtype=dtype)
    assert drawn.dtype == getattr(ml_dtypes, dtype)
    assert_same_bits(drawn, reference(dtype=drawn.dtype))
    assert 0.9 < drawn.astype(np.float64).std() / ff.he_normal().std(SHAPE) < 1.1


def test_a_box_beyond_2_to_the_33_is_that_of_its_flat_indices():
    whole = (2**20, 2**14)
    box = np.empty((2, 6), np.float32)
    ff.fill(box, "he_normal", seed=3, global_shape=whole, offset=(2**20 - 2, 2**14 - 6))
    for row in range(2):
        start = (2**20 - 2 + row) * 2**14 + 2**14 - 6
        assert start > 2**33
        flat = ff.fill(np.empty(6, np.float32), "he_normal", seed=3, global_shape=whole, offset=start)
        assert_same_bits(flat, box[row])


@pytest.mark.parametrize("shape", [(40, 50), (300, 500)])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -(2.0**-14)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_constants_are_stored_whatever_the_layout(shape, value, dtype):
    for view in (
        np.empty(shape, dtype),
        np.empty(shape[::-1], dtype).T,
        np.empty((shape[0], 600), dtype)[:, 7 : 7 + shape[1]],
    ):
        for _ in range(2):
            ff.fill(view, ff.constant(value), seed=0)
            assert_same_bits(view, np.full(shape, value, dtype))


def test_the_warm_path_gives_the_bits_of_the_cold_one():
    for law in ("he_normal", ff.truncated_normal(), ff.constant(3.0), ff.normal(1.0, 2.0)):
        for dtype in (np.float32, np.float16, np.float64):
            fill_module.plans.clear()
            cold = ff.fill(np.empty(SHAPE, dtype), law, seed=3, name="w")
            warm = ff.fill(np.empty(SHAPE, dtype), law, seed=3, name="w")
            other = ff.fill(np.empty(SHAPE, dtype), law, seed=2**64 - 1, name=2**64 - 1)
            assert len(fill_module.plans) == 2  # for fill itself, and for adapters
            assert_same_bits(cold, warm)
            assert_same_bits(warm, reference(initializer=law, dtype=dtype))
            assert_same_bits(other, reference(initializer=law, dtype=dtype, seed=2**64 - 1, name=2**64 - 1))


def test_the_warm_path_refuses_what_the_cold_one_refuses():
    w = ff.fill(np.empty(5), ff.normal(), seed=1, name=1)
    before = w.copy()
    frozen = w.view()
    frozen.flags.writeable = False
    for call, error in [
        (lambda: ff.fill(w, ff.normal(), seed=True), TypeError),
        (lambda: ff.fill(w, ff.normal(), seed=-1), ValueError),
        (lambda: ff.fill(w, ff.normal(), seed=2**64), ValueError),
        (lambda: ff.fill(w, ff.normal(), seed=1, name=True), TypeError),
        (lambda: ff.fill(w, ff.normal(), seed=1, name=-1), ValueError),
        (lambda: ff.fill(frozen, ff.normal(), seed=1), ValueError),
        (lambda: ff.fill(w, [], seed=1), TypeError),
    ]:
        with pytest.raises(error):
            call()
    assert_same_bits(w, before)


def test_the_plans_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(fill_module, "_MOST_PLANS", 3)
    monkeypatch.setattr(fill_module, "plans", {})
    for n in range(1, 12):
        ff.fill(np.empty(n), ff.normal(), seed=0)
        assert 1 <= len(fill_module.plans) <= 3


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*64\); got -1"),
        ({"seed": 2**64}, ValueError, r"seed: expected an integer in"),
        ({"seed": 1.0}, TypeError, r"seed: expected an integer in .*; got 1.0 \(float\)"),
        ({"seed": True}, TypeError, r"seed: .*; got True \(bool\)"),
        ({"seed": np.bool_(True)}, TypeError, r"seed: "),
        ({"seed": None}, TypeError, r"seed: "),
        ({"name": -1}, ValueError, r"name: expected an integer in \[0, 2\*\*64\), or a str; got -1"),
        ({"name": 2**64}, ValueError, r"name: expected an integer"),
        ({"name": b"w"}, TypeError, r"name: .*, or a str; got b'w' \(bytes\)"),
        ({"name": ["w"]}, TypeError, r"name: "),
        ({"initializer": 3}, TypeError, r"initializer: expected an Initializer, .*; got 3"),
        (
            {"initializer": ff.he_normal},
            TypeError,
            r"initializer: expected an Initializer, such as he_normal\(\)",
        ),
        ({"initializer": "he_nromal"}, ValueError, r"he_nromal"),
        ({"threads": 0}, ValueError, r"threads: expected an integer in \[1, 2\*\*31\); got 0"),
        ({"threads": 1.5}, TypeError, r"threads: "),
        (
            {"progress": 3},
            TypeError,
            r"progress: expected a callable of \(values done, values in all\), or True for a bar; got 3",
        ),
        ({"global_shape": (4,)}, ValueError, r"global_shape: expected 2 axes"),
        ({"offset": (0, 0)}, ValueError, r"offset: expected global_shape with it"),
        ({"global_shape": (60, 70), "offset": (1, 0)}, ValueError, r"reaches 61 of 60 on axis 0"),
        ({"backend": "metal"}, ValueError, r"expected a backend among"),
        ({"initializer": ff.constant(1e39)}, ValueError, r"float32"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(keywords, error, message):
    buffer = np.full(SHAPE, 7.0, np.float32)
    given = {"initializer": "he_normal", "seed": 0, **keywords}
    with pytest.raises(error, match=message):
        ff.fill(buffer, given.pop("initializer"), **given)
    assert (buffer == 7.0).all()


def test_fans_need_two_axes_and_come_from_the_global_shape():
    with pytest.raises(ValueError, match=r"."):
        ff.fill(np.empty(5), "he_normal", seed=0)
    part = ff.fill(np.empty(1000), ff.he_normal(), seed=0, global_shape=(10_000, 1000), offset=0)
    assert 0.9 < part.std() / ff.he_normal().std((10_000, 1000)) < 1.1


def test_numpy_integers_are_integers():
    w = ff.fill(np.empty(SHAPE, np.float32), "he_normal", seed=np.uint8(3), name="w", threads=np.int64(2))
    assert_same_bits(w, reference())
    assert_same_bits(reference(name=np.int64(5)), reference(name=5))


def test_names_are_substreams():
    digest = hashlib.blake2b("décodeur".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    assert streams.substream("décodeur") == number
    assert streams.substream(2**64 - 1) == 2**64 - 1
    assert_same_bits(reference(name="décodeur"), reference(name=number))


def test_a_torch_tensor_needs_explicit_axes_and_is_filled_in_place():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(70, 60)
    before = layer.weight.detach().clone()
    with pytest.raises(
        ValueError, match=r"layout is \(out, in, \*k\); .* pass in_axis=1, out_axis=0, or use fanfill.torch"
    ):
        ff.fill(layer.weight, ff.he_normal(), seed=3, name="w")
    assert torch.equal(layer.weight, before)
    law = ff.he_normal(in_axis=1, out_axis=0)
    assert ff.fill(layer.weight, law, seed=3, name="w") is layer.weight
    assert_same_bits(layer.weight.detach().numpy(), reference(initializer=law))
    ff.fill(layer.bias, ff.normal(std=0.01), seed=3, name="b")
    assert_same_bits(layer.bias.detach().numpy(), reference((60,), ff.normal(std=0.01), name="b"))


@pytest.mark.slow
def test_a_tensor_of_more_than_2_to_the_32_elements_is_filled_to_its_end():
    n = 2**32 + 2**12
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 10 * 2**30:
        pytest.skip("needs 10 GiB of free memory")
    w = ff.draw(n, ff.normal(), seed=3, name="w", dtype="float16")
    for start in (0, 2**31 - 500, 2**32 - 500, n - 1000):
        part = np.empty(1000, np.float16)
        ff.fill(part, ff.normal(), seed=3, name="w", global_shape=n, offset=start, backend="numpy")
        assert_same_bits(w[start : start + 1000], part)
    assert (bits(w[2**32 :]) != bits(w[: 2**12])).mean() > 0.9
