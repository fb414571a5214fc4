"""On a real CUDA device: ``pytest -m cuda``. Skipped, and counted as skipped, where there is none.

The bits themselves are the selftest's matter (``fanfill selftest --device cuda``), of which every case runs
here too; the rest is what emulation cannot show: streams, graphs, other libraries' arrays.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fanfill as ff
from fanfill import selftest
from fanfill.backends import get
from fanfill.dtypes import STORAGES
from fanfill.selftest import grouped

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        get("cuda").unusable() is not None, reason=f"no CUDA device: {get('cuda').unusable()}"
    ),
]
SHAPE = (1000, 1003)


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


def on_host(law="he_normal", shape=SHAPE, dtype=np.float32, seed=1, **part):
    return ff.fill(np.empty(shape, dtype), law, seed=seed, name="w", backend="numpy", **part)


def test_every_golden_case_in_every_layout_on_every_device():
    for subject in selftest.subjects("cuda"):
        assert [check for check in selftest.run(subject) if check.problem] == []
        assert [check for check in grouped.run(subject) if check.problem] == []


def test_a_large_fill_equals_the_host(cupy):
    drawn = ff.draw((4096, 4097), "he_normal", seed=1, name="w", device="cuda")
    assert drawn.get().tobytes() == on_host(shape=(4096, 4097)).tobytes()


def test_a_buffer_of_more_than_2_to_the_32_bytes(cupy):
    free, _ = cupy.cuda.runtime.memGetInfo()
    count = 2**32 + 12_345
    if free < count + 2**30:
        pytest.skip("too little device memory")
    drawn = (
        ff.fill(cupy.empty(count, np.float16), ff.normal(), seed=1, name="w")
        if free > 2 * count + 2**30
        else None
    )
    if drawn is None:
        pytest.skip("too little device memory")
    tail = on_host(ff.normal(), (5000,), np.float16, global_shape=(count,), offset=count - 5000)
    assert drawn[-5000:].get().tobytes() == tail.tobytes()


def test_work_goes_to_the_current_stream_and_is_ordered_there(cupy):
    buffer = cupy.empty(SHAPE, np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(20):
            buffer.fill(0)
            ff.fill(buffer, "he_normal", seed=1, name="w")
        copy = buffer.copy()
        stream.synchronize()
    assert copy.get().tobytes() == on_host().tobytes()


def test_a_captured_fill_can_be_replayed(cupy):
    buffer = cupy.empty(SHAPE, np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        ff.fill(buffer, "he_normal", seed=1, name="w")
        stream.begin_capture()
        ff.fill(buffer, "he_normal", seed=1, name="w")
        graph = stream.end_capture()
        buffer.fill(0)
        graph.launch(stream)
        stream.synchronize()
    assert buffer.get().tobytes() == on_host().tobytes()


def test_threads_with_streams_of_their_own(cupy):
    results = [None] * 4

    def work(number):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            results[number] = ff.draw(SHAPE, "he_normal", seed=number, name="w", device="cuda")
            stream.synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, drawn in enumerate(results):
        assert drawn.get().tobytes() == on_host(seed=number).tobytes()


def test_every_device(cupy):
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        drawn = ff.draw(SHAPE, "he_normal", seed=1, name="w", device=f"cuda:{number}")
        assert drawn.device.id == number
        ff.fill(drawn[::2], "he_normal", seed=2, name="w", global_shape=SHAPE)
        assert drawn[1::2].get().tobytes() == on_host()[1::2].tobytes()


@pytest.mark.parametrize("name", STORAGES)
def test_torch_tensors(name):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    tensor = torch.empty(SHAPE, dtype=getattr(torch, name), device="cuda")
    law = ff.normal(0.0, 0.02)
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        ff.fill(tensor.t(), law, seed=1, name="w")
        torch.cuda.current_stream().synchronize()
    from fanfill.dtypes import dtype_of

    expected = on_host(law, SHAPE[::-1], dtype_of(name))
    assert tensor.t().contiguous().view(torch.uint8).cpu().numpy().tobytes() == expected.tobytes()


def test_out_of_memory_is_cupy_s_own(cupy):
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        ff.draw(2**50, ff.normal(), seed=0, device="cuda")


def test_memory_that_no_device_knows_is_refused():
    class Host:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": (3,),
            "typestr": "<f4",
            "data": (np.empty(3, np.float32).ctypes.data, False),
            "version": 3,
        }

    with pytest.raises(ValueError, match="which no device knows"):
        ff.fill(Host(), ff.normal(), seed=0)
