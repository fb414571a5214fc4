"""The CUDA backend on emulated devices: every kernel, on every view, has the values of the host."""

from __future__ import annotations

import re

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import LAWS, Foreign, on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401
from equality import assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanfill as ff
from fanfill import selftest
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import run as device_runs
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.selftest import golden
from fanfill_kernels.cuda.geometry import taken


@pytest.mark.parametrize("number", [0, 1])
def test_every_golden_case_in_every_layout(gpu, monkeypatch, number):
    # Kernels of one store differ in their rounding alone, which any place shows: all places for each store.
    stores = {"float32", "float64", "bfloat16", "float8_e5m2", "uint32"}
    places = golden.PLACES.keys() | golden.WORDS.keys()
    few = {"small", "far flat", "last"}
    # test_cuda_ptx.py runs all kernels: the second device shows that it gets its own.
    dtypes = STORAGES.keys() | {"uint32"} if number == 0 else {"float32", "bfloat16", "uint32"}
    cases = [
        case
        for case in golden.cases()
        if case.dtype in dtypes and case.place in (places if number == 0 and case.dtype in stores else few)
    ]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    checks = list(selftest.run(selftest.Subject("cuda", number)))
    assert len(checks) == 4 * len(cases) > (2000 if number == 0 else 250)
    assert [check for check in checks if check.problem] == []


@pytest.mark.parametrize(
    ("place", "problem"), [(0, "SHA-256 .*, expected"), (-selftest.GUARD, "bytes outside the buffer")]
)
def test_a_wrong_bit_and_a_byte_beside_the_buffer_are_seen(gpu, monkeypatch, place, problem):
    def launch(*arguments):
        gpu.launch(*arguments)
        gpu.latest.bytes(gpu.latest.pointer, gpu.latest.size)[selftest.GUARD + place] ^= 1

    monkeypatch.setattr(cuda_backend, "_found", lambda: gpu.driver._replace(launch=launch))
    case = golden.Case("normal", "float32", "small")
    assert re.match(problem, selftest.check(selftest.Subject("cuda", 0), case, "contiguous"))


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("form", LAWS)
def test_each_form_and_dtype_has_its_kernels(gpu, form, dtype):
    name = str(8 * STORAGES[dtype].itemsize) if form == "constant" else dtype
    memory = cupy.empty(100, f"u{STORAGES[dtype].itemsize}")
    for view, kind in ((memory, "run"), (memory[1::2], "box")):
        ff.fill(Foreign(view, dtype_of(dtype)), LAWS[form], seed=1)
        made = recipe(LAWS[form], view.shape, dtype)
        of_kernel, _ = taken(made.form, made.params)
        assert [launch.kernel for launch in gpu.launches] == [f"{kind}_{of_kernel}_{name}"]
        expected = on_host(view.shape, LAWS[form], dtype, seed=1)
        assert gpu.host(view).tobytes() == expected.tobytes()
        gpu.launches.clear()


@st.composite
def fills(draw):
    """A shape, slices of each axis, an order of the axes, and a place in a larger tensor."""
    rank = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    index = tuple(slice(None, None, draw(st.sampled_from([1, 1, 2, 3, -1, -2]))) for _ in range(rank))
    order = draw(st.permutations(range(rank)))
    margins = [(draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(rank)]
    return (
        shape,
        index,
        order,
        margins,
        draw(st.sampled_from(sorted(LAWS))),
        draw(st.sampled_from(list(STORAGES))),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=fills(), start=st.integers(0, 8))
def test_any_view_of_any_part_has_the_values_of_the_host(gpu, case, start):
    shape, index, order, margins, form, dtype = case
    size = int(np.prod(shape, dtype=int))
    memory = cupy.empty(size + start, f"u{STORAGES[dtype].itemsize}")
    gpu.bytes(memory.data.ptr, memory.nbytes)[:] = 0x5A
    view = memory[start:].reshape(shape)[index].transpose(order)
    whole = tuple(n + low + high for n, (low, high) in zip(view.shape, margins, strict=True))
    part = {"global_shape": whole, "offset": tuple(low for low, _ in margins)}
    ff.fill(Foreign(view, dtype_of(dtype)), LAWS[form], seed=9, name="x", **part)
    expected = on_host(view.shape, LAWS[form], dtype, seed=9, name="x", **part)
    assert gpu.host(view).tobytes() == expected.tobytes()
    untouched = gpu.host(memory)
    untouched[start:].reshape(shape)[index] = 0
    assert set(untouched.view(np.uint8).tolist()) <= {0, 0x5A}
    kept = np.full(memory.shape, 0x5A, np.uint8)
    kept[start:].reshape(shape)[index] = 0
    assert (
        (untouched.view(np.uint8).reshape(-1, memory.itemsize) == 0x5A).all(axis=1) == (kept == 0x5A)
    ).all()


def test_a_flat_range_and_elements_beyond_2_to_the_34(gpu):
    part = {"global_shape": (2**20, 2**18), "offset": 2**34 - 1000}
    for dtype in ("float32", "float64", "bfloat16"):
        buffer = cupy.empty(2001, dtype_of(dtype))
        ff.fill(buffer, "he_normal", seed=2**64 - 1, name=2**64 - 1, **part)
        expected = on_host(2001, "he_normal", dtype, seed=2**64 - 1, name=2**64 - 1, **part)
        assert_same_bits(gpu.host(buffer), expected)


def test_long_rows_are_runs_of_their_own_and_the_values_stay(gpu, monkeypatch):
    part = {"global_shape": (3, 9, 500), "offset": (1, 2, 30)}
    expected = on_host((2, 4, 300), "he_normal", seed=1, **part)
    for least, kernels in (
        (1 << 23, {"box_normal_centred_float32"}),
        (300, {"run_normal_centred_float32", "box_normal_centred_float32"}),
    ):
        monkeypatch.setattr(device_runs, "_ROW", least)
        buffer = cupy.empty((2, 4, 300), np.float32)
        gpu.launches.clear()
        ff.fill(buffer, "he_normal", seed=1, **part)
        assert {launch.kernel for launch in gpu.launches} <= kernels
        assert len(gpu.launches) == (1 if least > 300 else 8)
        assert_same_bits(gpu.host(buffer), expected)


def test_a_multiprocessor_gets_16_thread_blocks_of_a_kernel_that_goes_from_chunk_to_chunk(gpu):
    """The emulated device has one. Uniforms of 32 bits have a thread block for each chunk of 2,048 values."""
    buffer = cupy.empty(40 * 2048, np.float32)
    for law, blocks in ((ff.normal(), 16), (ff.truncated_normal(), 16), (ff.uniform(-1, 1), 40)):
        gpu.launches.clear()
        ff.fill(buffer, law, seed=1)
        assert [launch.blocks for launch in gpu.launches] == [blocks]
        assert_same_bits(gpu.host(buffer), on_host(buffer.shape, law, seed=1))


def test_a_constant_of_any_dense_layout_is_one_run(gpu):
    for view in (
        cupy.empty((7, 5, 3), np.float32)[::-1].transpose(2, 0, 1),
        cupy.empty((3, 4), np.float16)[:, ::-1],
    ):
        gpu.launches.clear()
        ff.fill(view, ff.constant(0.5), seed=0)
        assert (gpu.host(view) == 0.5).all()
        assert [launch.kernel[:4] for launch in gpu.launches] == ["run_"]


def test_empty_and_zero_rank_buffers(gpu):
    for shape in ((0,), (3, 0, 2)):
        buffer = cupy.empty(shape, np.float32)
        assert ff.fill(buffer, ff.normal(), seed=0) is buffer
    assert gpu.launches == []
    scalar = cupy.empty((), np.float64)
    ff.fill(scalar, ff.normal(), seed=7)
    assert_same_bits(gpu.host(scalar), on_host((), ff.normal(), "float64", seed=7))


def test_words_on_a_device(gpu):
    memory = cupy.empty(101, np.uint32)
    for view in (memory, memory[1:], memory[::-2]):
        assert ff.words(view, seed=5, name="n", start=2**34 - 7) is view
        assert_same_bits(
            gpu.host(view), ff.words(np.empty(view.shape, np.uint32), seed=5, name="n", start=2**34 - 7)
        )
    ff.words(memory, seed=5, backend="cuda")
    with pytest.raises(
        TypeError, match="expected a buffer of native uint32, which words are; got dtype float32"
    ):
        ff.words(cupy.empty(3, np.float32), seed=0)
    with pytest.raises(ValueError, match=r"expected words below word 2\*\*63; got 101 of them"):
        ff.words(memory, seed=0, start=2**63 - 100)
    with pytest.raises(ValueError, match="buffer on a CUDA device; got 'numpy'"):
        ff.words(memory, seed=0, backend="numpy")
