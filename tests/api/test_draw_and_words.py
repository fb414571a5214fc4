"""draw and words: what they make, and what they refuse."""

from __future__ import annotations

import importlib
import inspect
import sys

import numpy as np
import pytest
from equality import assert_same_bits
from reference_fills import reference

import fanfill as ff
from fanfill.backends import get

NO_GPU = "backend 'cuda' is not usable: no device; get one"


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


def test_draw_allocates_on_the_cpu_unless_told_otherwise(monkeypatch):
    """Also where a GPU is usable: a program gets no arrays of another kind on another machine."""
    cuda = get("cuda")._replace(unusable=lambda: None, empty=lambda *_: pytest.fail("asked for a GPU"))
    monkeypatch.setattr(importlib.import_module("fanfill.cuda.backend"), "BACKEND", cuda)
    assert type(ff.draw(3, ff.normal(), seed=0)) is np.ndarray
    assert inspect.signature(ff.draw).parameters["device"].default == "cpu"
    with pytest.raises(pytest.fail.Exception, match="asked for a GPU"):
        ff.draw(3, ff.normal(), seed=0, device="auto")
    with pytest.raises(ValueError, match=r"host memory; got 'cuda', .*; draw makes it on the device"):
        ff.draw(3, ff.normal(), seed=0, backend="cuda")


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_no_gpu_is():
    assert type(ff.draw(3, ff.normal(), seed=0, device="auto")) is np.ndarray


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"device": "cuda"}, ff.BackendUnavailableError, NO_GPU),
        ({"device": "cuda:1"}, ff.BackendUnavailableError, NO_GPU),
        (
            {"device": "auto", "backend": "cuda"},
            ff.BackendUnavailableError,
            NO_GPU,
        ),
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
