"""fill, draw and words: the surface, what it refuses, and that only the documented things change a value."""

from __future__ import annotations

import array
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fanfill as ff

fill_module = importlib.import_module("fanfill.fill")  # the package's attribute of that name is the function
host = importlib.import_module("fanfill.host")
threads = importlib.import_module("fanfill.threads")

BACKENDS = [status.name for status in ff.backends() if status.usable and status.name != "cuda"]
SHAPE = (60, 70)


def bits(values):
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def assert_same_bits(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(bits(one), bits(other))


def reference(shape=SHAPE, initializer="he_normal", dtype=np.float32, seed=3, name="w"):
    return ff.fill(np.empty(shape, dtype), initializer, seed=seed, name=name, backend="numpy", threads=1)


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


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
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
            fill_module._plans.clear()
            cold = ff.fill(np.empty(SHAPE, dtype), law, seed=3, name="w")
            warm = ff.fill(np.empty(SHAPE, dtype), law, seed=3, name="w")
            other = ff.fill(np.empty(SHAPE, dtype), law, seed=2**64 - 1, name=2**64 - 1)
            assert len(fill_module._plans) == 1
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
    monkeypatch.setattr(fill_module, "_plans", {})
    for n in range(1, 12):
        ff.fill(np.empty(n), ff.normal(), seed=0)
        assert 1 <= len(fill_module._plans) <= 3


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
            r"progress: expected a callable of \(values done, values in all\); got 3",
        ),
        ({"global_shape": (4,)}, ValueError, r"global_shape: expected 2 axes"),
        ({"offset": (0, 0)}, ValueError, r"offset: expected global_shape beside it"),
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
    assert fill_module.substream("décodeur") == number
    assert fill_module.substream(2**64 - 1) == 2**64 - 1
    assert_same_bits(reference(name="décodeur"), reference(name=number))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(0,), (10,), (700, 700)])
@pytest.mark.parametrize("law", [ff.normal(), ff.constant(1.0)])
def test_progress_rises_to_the_total_on_the_calling_thread(count, shape, law):
    seen, here = [], threading.get_ident()

    def progress(done, total):
        assert threading.get_ident() == here
        seen.append((done, total))

    w = ff.fill(np.empty(shape), law, seed=0, threads=count, progress=progress, backend="numpy")
    assert seen == sorted(seen)
    assert seen[-1] == (w.size, w.size)
    assert seen.count(seen[-1]) == 1
    assert w.size < host.SMALL or count > 1 or len(seen) > 2


def test_an_error_in_progress_stops_the_fill():
    def progress(done, total):
        raise ZeroDivisionError

    w = np.zeros(4_000_000)
    with pytest.raises(ZeroDivisionError):
        ff.fill(w, ff.normal(), seed=0, threads=3, progress=progress, backend="numpy")
    assert (w == 0).sum() > w.size // 2


def test_small_fills_stay_on_the_calling_thread(monkeypatch):
    monkeypatch.setattr(threads._Pool, "enlist", None)
    ff.fill(np.empty(host.SMALL, np.float32), ff.normal(), seed=0, threads=8)
    with pytest.raises(TypeError):
        ff.fill(np.empty(host.SMALL * 2, np.float32), ff.normal(), seed=0, threads=8)


def test_many_python_threads_fill_at_once():
    base, wrong = reference((400, 500)), []

    def caller():
        for _ in range(5):
            w = ff.fill(np.empty((400, 500), np.float32), "he_normal", seed=3, name="w", threads=3)
            if not (bits(w) == bits(base)).all():
                wrong.append(1)

    callers = [threading.Thread(target=caller) for _ in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in callers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strided", [False, True])
def test_memory_beyond_the_buffer_is_small(backend, strided):
    w = np.empty((3000, 2000), np.float32)
    view = w.T if strided else w
    ff.fill(view, ff.normal(), seed=0, backend=backend, threads=1)
    tracemalloc.start()
    ff.fill(view, ff.normal(), seed=0, backend=backend, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= {"numba": 1 << 20, "numpy": 4 << 20}[backend]


INTERRUPTED = """
import numpy as np, sys, time, threading
import fanfill as ff
w = np.zeros(100_000_000, np.float32)
ff.fill(w[:1_000_000], ff.normal(), seed=0, backend={backend!r}, threads={count})
print("ready", flush=True)
try:
    while True:
        ff.fill(w, ff.normal(), seed=0, backend={backend!r}, threads={count})
except KeyboardInterrupt:
    ended = time.time()
    w[:] = 0
    time.sleep(0.2)
    print(ended, int(np.count_nonzero(w)), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals as POSIX does")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_stops_a_long_fill_within_0_3_seconds(backend, count):
    code = INTERRUPTED.format(backend=backend, count=count)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        sent = time.time()
        process.send_signal(signal.SIGINT)
        ended, written = process.stdout.readline().split()
    assert float(ended) - sent < 0.3
    assert written == "0"


def test_draw_allocates_in_c_order_and_fills():
    for shape in ((5, 6), 7, (), (0, 3), np.int64(4)):
        w = ff.draw(shape, ff.normal(), seed=3, name="w")
        assert w.dtype == np.float32
        assert w.flags.c_contiguous
        assert_same_bits(w, reference(w.shape, ff.normal()))
    assert (
        ff.draw((3, 4), "he_normal", seed=0, dtype=np.float64, device="cpu", backend="numpy").dtype
        == np.float64
    )
    assert ff.draw((3, 4), "he_normal", seed=0, dtype="f2", threads=2).dtype == np.float16


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"device": "cuda"}, ff.BackendUnavailableError, "backend 'cuda' is not usable"),
        ({"device": "cuda:1"}, ff.BackendUnavailableError, "backend 'cuda' is not usable"),
        ({"backend": "cuda"}, ff.BackendUnavailableError, "backend 'cuda' is not usable"),
        ({"device": "cpu", "backend": "cuda"}, ValueError, "buffer in host memory; got 'cuda'"),
        ({"device": "cuda", "backend": "numpy"}, ValueError, "buffer on a CUDA device; got 'numpy'"),
        ({"device": "gpu"}, ValueError, r"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; got 'gpu'"),
        ({"device": "cuda:x"}, ValueError, r"device: expected"),
        ({"device": 0}, ValueError, r"device: expected"),
        ({"dtype": "int32"}, TypeError, "int32"),
        ({"dtype": "float33"}, TypeError, r"dtype: expected one of float32, .*; got 'float33'"),
        ({"shape": (3, -1)}, ValueError, r"shape: expected an integer in \[0, 2\*\*63\]; got -1"),
        ({"shape": (3, 1.5)}, TypeError, r"shape: expected an integer in .*; got 1.5"),
        ({"shape": "33"}, TypeError, r"shape: expected an integer or a tuple of them; got '33'"),
    ],
)
def test_draw_refuses_bad_arguments(keywords, error, message):
    given = {"shape": (3, 4), "seed": 0, **keywords}
    with pytest.raises(error, match=message):
        ff.draw(given.pop("shape"), ff.normal(), **given)


def test_draw_says_what_is_missing_for_a_type_of_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match=r"dtype: 'bfloat16' needs ml_dtypes, .*; pip install ml_dtypes"):
        ff.draw((3, 4), ff.normal(), seed=0, dtype="bfloat16")


def test_words_are_those_of_philox_and_depend_on_index_alone():
    # Random123's known answers for key 0 and counter 0.
    first = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    whole = ff.words(np.empty(200_000, np.uint32), seed=0)
    assert whole[:4].tolist() == first
    part = np.empty((7, 9), np.uint32)
    assert ff.words(part.T, seed=0, start=99_001).base is part
    np.testing.assert_array_equal(part.T.reshape(-1), whole[99_001 : 99_001 + 63])
    assert (ff.words(np.empty(100, np.uint32), seed=0, name="w") != whole[:100]).mean() > 0.9
    assert (ff.words(np.empty(100, np.uint32), seed=1) != whole[:100]).mean() > 0.9
    assert ff.words(np.empty(4, np.uint32), seed=0, start=2**63 - 4).size == 4


@pytest.mark.parametrize(
    ("buffer", "start", "error", "message"),
    [
        (np.empty(3, np.int32), 0, TypeError, "expected a buffer of native uint32, .*; got dtype int32"),
        (np.empty(3, ">u4"), 0, TypeError, "expected a buffer of native uint32"),
        (np.broadcast_to(np.uint32(1), 3), 0, ValueError, "expected a writable buffer"),
        (np.empty(3, np.uint32), -1, ValueError, r"start: expected an integer in \[0, 2\*\*63\); got -1"),
        (
            np.empty(3, np.uint32),
            2**63 - 2,
            ValueError,
            r"start: expected words below word 2\*\*63; got 3 of them",
        ),
        ([1], 0, TypeError, "expected a writable array"),
    ],
)
def test_words_refuses_bad_arguments(buffer, start, error, message):
    with pytest.raises(error, match=message):
        ff.words(buffer, seed=0, start=start)


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
