"""`fanfill.dask.draw`: `draw` in chunks that change no bit; lazy, small, and named by what it holds."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module
from time import perf_counter

import numpy as np
import optional
import pytest
from equality import assert_same_bits

import fanfill as ff
from fanfill import arguments

optional.needs("dask")
dask, da, fd = map(optional.Lazy, ("dask", "dask.array", "fanfill.dask"))

SHAPE = (130, 77)
LAWS = {
    "he_normal": ff.he_normal(),
    "constant": ff.constant(-0.0),
    "identity": ff.identity(),
    "sparse": ff.sparse(0.3),
    "orthogonal": ff.orthogonal(),
}
CHUNKS = {
    "auto": "auto",
    "one": -1,
    "even": (65, 11),
    "uneven": ((1, 100, 29), (70, 7)),
    "single rows": (1, -1),
    "mixed": (50, "auto"),
}


def values(array):
    return array.compute(scheduler="threads", num_workers=2)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("law", LAWS)
def test_chunks_determine_no_value(law, chunks):
    lazy = fd.draw(SHAPE, LAWS[law], seed=3, name="w", chunks=CHUNKS[chunks])
    assert_same_bits(values(lazy), ff.draw(SHAPE, LAWS[law], seed=3, name="w"))


def test_dask_s_own_random_gives_other_values_for_other_chunks():
    """The negative control of the test above, and the reason for this module."""
    one, other = (values(da.random.default_rng(3).normal(size=SHAPE, chunks=chunks)) for chunks in (-1, 50))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("shape", [(), (0,), (7,), 7, (0, 3), (5, 0, 3), (20, 30, 9), (2, 1, 3, 1, 4)])
def test_every_rank_is_drawn(shape):
    for chunks in ("auto", 4):
        lazy = fd.draw(shape, "normal", seed=1, chunks=chunks) if shape else fd.draw(shape, "normal", seed=1)
        assert lazy.shape == arguments.shape_of(shape, "shape")
        assert_same_bits(values(lazy), ff.draw(shape, "normal", seed=1))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
def test_every_dtype_is_drawn(dtype):
    lazy = fd.draw(SHAPE, "he_normal", seed=3, name=5, dtype=dtype, chunks=(33, 77))
    drawn = ff.draw(SHAPE, "he_normal", seed=3, name=5, dtype=dtype)
    assert lazy.dtype == lazy._meta.dtype == drawn.dtype
    assert_same_bits(values(lazy), drawn)


def test_what_is_done_with_it_changes_no_value():
    lazy = fd.draw(SHAPE, ff.he_normal(), seed=3, name="w", chunks=(40, 30))
    drawn = ff.draw(SHAPE, ff.he_normal(), seed=3, name="w")
    for change in (
        lambda x: x.rechunk((7, 77)) if hasattr(x, "rechunk") else x,
        lambda x: x[17:90:3, ::-1],
        lambda x: x[-1],
        lambda x: x.T,
        lambda x: x.reshape(-1),
        lambda x: x * np.float32(2) + np.float32(1),
    ):
        assert_same_bits(np.ascontiguousarray(values(change(lazy))), np.ascontiguousarray(change(drawn)))


def test_a_chunk_that_is_not_asked_for_is_not_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "fanfill.dask.fill", lambda out, *_, offset, threads, **__: drawn.append((offset, threads)) or out
    )
    lazy = fd.draw((1000, 1000), ff.he_normal(), seed=0, chunks=(100, 250))
    assert drawn == []
    values(lazy[310:320, 20:30])
    assert drawn == [((300, 0), 1)]


def test_it_fuses_with_what_follows():
    total = (fd.draw((3300, 4000), ff.normal(), seed=0, chunks=(300, 400)) * 2 + 1).sum(axis=0)
    (better,) = dask.optimize(total)
    assert len(dict(better.dask)) < len(dict(total.dask)) / 2
    assert len(better.dask.layers) == 1


NAMES = """
import fanfill as ff, fanfill.dask as fd
print(fd.draw((50, 40), ff.he_normal(), seed=3, name="w", chunks=(20, 20)).name)
print(fd.draw((50, 40), ff.constant(-0.0), seed=3).name)
"""


def test_equal_arguments_have_one_name_in_every_process():
    here = [
        fd.draw((50, 40), ff.he_normal(), seed=3, name="w", chunks=(20, 20)).name,
        fd.draw((50, 40), ff.constant(-0.0), seed=3).name,
    ]
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        assert fd.draw([50, np.int64(40)], "he_normal", seed=np.uint8(3), name="w", chunks=20).name == here[0]
    done = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == here
    assert here[0].startswith("fanfill-")


def test_each_argument_is_part_of_the_name(monkeypatch):
    given = {
        "shape": (50, 40),
        "initializer": "he_normal",
        "seed": 3,
        "name": "w",
        "dtype": "f4",
        "chunks": 20,
    }
    others = [
        {},
        {"shape": (50, 41)},
        {"initializer": "he_uniform"},
        {"initializer": ff.constant(0.0)},
        {"initializer": ff.constant(-0.0)},
        {"seed": 4},
        {"name": "v"},
        {"name": 0},
        {"dtype": "f2"},
        {"chunks": 30},
        {"meta": Marked((0,))},
    ]
    names = [fd.draw(**(given | other)).name for other in others]
    monkeypatch.setattr("fanfill.dask.STREAM_VERSION", 99)
    names.append(fd.draw(**given).name)
    assert len(set(names)) == len(others) + 1


def test_a_hundred_thousand_chunks_cost_no_graph():
    lazy = fd.draw((31_600, 31_600), ff.he_normal(), seed=0, chunks=(100, 100))
    assert lazy.npartitions > 99_000
    assert len(pickle.dumps(lazy.dask)) < 100_000

    def ours():
        fd.draw((10_000, 10_000), ff.he_normal(), seed=0, chunks=(100, 100))

    def by_block_info():
        da.map_blocks(
            lambda block_info=None: None,
            chunks=da.core.normalize_chunks((100, 100), (10_000, 10_000), dtype="f4"),
            dtype="f4",
            meta=np.empty((0, 0), "f4"),
        )

    def seconds(make):
        began = perf_counter()
        make()
        return perf_counter() - began

    ours()
    assert min(seconds(ours) for _ in range(5)) < min(seconds(by_block_info) for _ in range(2)) / 10


class Marked(np.ndarray):
    """An array type that is not NumPy's own."""

    def __new__(cls, shape):
        return np.empty(shape).view(cls)


def test_chunks_have_the_type_of_meta():
    lazy = fd.draw(SHAPE, "he_normal", seed=3, chunks=50, meta=Marked((3, 4)))
    assert type(lazy._meta) is Marked
    assert type(lazy.blocks[1, 1].compute()) is Marked
    assert_same_bits(np.asarray(values(lazy)), ff.draw(SHAPE, "he_normal", seed=3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shape": (7,)}, ValueError, r"expected a shape of two axes or more, .*; got \(7,\)"),
        ({"shape": (-1, 2)}, ValueError, r"shape: expected an integer in \[0, 2\*\*63\]; got -1"),
        ({"shape": (2**40, 2**40)}, ValueError, r"shape: expected at most 2\*\*63 elements"),
        ({"initializer": "he_norml"}, ValueError, "did you mean 'he_normal'"),
        ({"initializer": None}, TypeError, "initializer: expected an Initializer, such as he_normal"),
        (
            {"initializer": ff.constant(1e6), "dtype": "f2"},
            ValueError,
            "expected a constant within 65504.0, .*; got 1000000.0",
        ),
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*64\); got -1"),
        ({"seed": None}, TypeError, r"seed: expected an integer in \[0, 2\*\*64\); got None"),
        ({"name": 1.5}, TypeError, r"name: expected an integer in \[0, 2\*\*64\), or a str; got 1.5"),
        ({"dtype": "int32"}, TypeError, "expected one of the dtypes float32, .*; got int32"),
        ({"dtype": ">f4"}, ValueError, "expected values in this machine's byte order; got dtype '>f4'"),
        ({"chunks": (3, 3, 3)}, ValueError, "Chunks and shape must be of the same length"),
        ({"chunks": ((1, 2), (40,))}, ValueError, "Chunks do not add up to shape"),
        (
            {"meta": "cupy"},
            TypeError,
            "meta: expected an array of the type that chunks are to have, such as cupy.em",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_once(change, error, message):
    given = {"shape": (50, 40), "initializer": "he_normal", "seed": 3}
    with pytest.raises(error, match=message):
        fd.draw(**(given | change))


def test_without_dask_it_says_how_to_install_it(monkeypatch):
    for name in ("fanfill.dask", "dask.array"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(
        ImportError, match=r"fanfill.dask needs dask.array, .*; pip install 'fanfill\[dask\]'"
    ):
        import_module("fanfill.dask")
