"""Many tensors in one launch on emulated devices: the bits of single fills, and which launches there are."""

from __future__ import annotations

import sys
import threading
from typing import Any

import cupy
import numpy as np
import pytest
from cuda_on_cpu.arrays import LAWS, on_host
from cuda_on_cpu.fixtures import cubins, emulated, gpu, no_cubins  # noqa: F401

import fanfill as ff
from fanfill import alike, job
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda import buffers, nvrtc
from fanfill.cuda.buffers import Target
from fanfill.dtypes import STORAGES
from fanfill_kernels.cuda import choice, groups
from fanfill_kernels.cuda.geometry import THREADS, Span

LAW = ff.normal(0.0, 0.02)
# Chunks of THREADS or twice as many groups: less than one, one, several for two thread blocks, and what
# begins inside a group, ends there, or lies around 2^32 Philox blocks: (length, first element).
GROUPS = 2 * THREADS
PLACES = (
    (1, 0),
    (7, 0),
    (16 * GROUPS, 0),
    (16 * GROUPS + 5, 3),
    (3, 1),
    (40, 13),
    (9 * GROUPS * 16 + 100, 16),
    (4100, 2**34 - 2050),
    (700, 2**40 + 5),
)
ELEMENTS = 2**42


def emptied(dtype: str, length: int, first: int) -> Any:
    """An array of a dtype on the current device, whose groups lie on 16 bytes when it begins at `first`."""
    size = STORAGES[dtype].itemsize
    lanes = cupy.empty(length + 16, f"u{size}")
    return lanes[first % (16 // size) :][:length].view(lane_view(dtype))


def lane_view(dtype: str) -> Any:
    return {"float32": np.float32, "float64": np.float64}.get(dtype, f"u{STORAGES[dtype].itemsize}")


def items_of(dtype: str, law: Any, places: Any = PLACES) -> list[Any]:
    made = []
    for number, (length, first) in enumerate(places):
        array = emptied(dtype, length, first)
        made.append((array, law, f"w{number}", (ELEMENTS,), first))
    return made


@pytest.fixture
def filled(gpu, monkeypatch):
    """Fill items of a dtype that CuPy may not have, as arrays of that dtype; check each."""
    real, dtypes = buffers._cupy_target, {}

    def target(array: Any) -> Target:
        found = real(array)
        return found._replace(dtype=dtypes.get(found.pointer, found.dtype))

    monkeypatch.setattr(buffers, "_cupy_target", target)
    monkeypatch.setattr(
        groups, "BLOCKS", 0.01
    )  # so that thread blocks make more than a chunk of such small items

    def run(dtype: str, items: list[Any], seed: int = 5) -> list[str]:
        for array, *_ in items:
            dtypes[array.data.ptr] = dtype
        gpu.launches.clear()
        ff.fill_many(items, seed=seed)
        for array, law, name, *place in items:
            where = dict(zip(("global_shape", "offset"), place, strict=False))
            expected = on_host(array.shape, law, dtype, seed=seed, name=name, **where)
            assert gpu.host(array).tobytes() == expected.tobytes(), (name, law, dtype)
        gpu.assert_guards()
        return [launch.kernel for launch in gpu.launches]

    return run


QUICK = ("float32", "float64", "bfloat16", "float8_e5m2")


@pytest.mark.parametrize(
    "dtype", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STORAGES]
)
@pytest.mark.parametrize("form", LAWS)
def test_each_form_and_dtype_has_a_grouped_kernel_with_the_bits_of_the_host(filled, form, dtype):
    law = LAWS[form]
    places = PLACES if form in ("normal", "constant") else PLACES[1:6]
    (kernel,) = filled(dtype, items_of(dtype, law, places))
    assert kernel.startswith("grouped_")
    assert kernel.endswith(f"_{8 * STORAGES[dtype].itemsize}" if form == "constant" else f"_{dtype}")


def test_what_a_group_cannot_take_goes_alone_and_empty_tensors_go_nowhere(gpu, filled):
    strided = cupy.empty((20, 30), np.float32)
    items = [
        (strided[::2, ::-1], LAW, "strided"),
        (cupy.empty(41, np.float32)[1:], LAW, "shifted"),
        (cupy.empty(50, np.float32), LAW, "a"),
        (cupy.empty((3, 0), np.float32), LAW, "empty"),
        (cupy.empty((5, 40), np.float32), LAW, "b"),
        (cupy.empty((), np.float32), LAW, "scalar"),
        (cupy.empty(9, np.float32), ff.uniform(-1, 1), "of another form"),
        (cupy.empty((40, 8), np.float32).T, ff.constant(0.0), "constant in any order"),
        (cupy.empty(33, np.float32), ff.constant(1.0), "bias"),
    ]
    kernels = filled("float32", items)
    assert sorted(kernels) == [
        "box_normal_centred_float32",
        "box_normal_centred_float32",
        "grouped_constant_32",
        "grouped_normal_centred_float32",
        "run_uniform_float32",
    ]


def test_devices_streams_and_dtypes_have_groups_of_their_own(gpu):
    made = []
    for number in (0, 1):
        with gpu.use(number):
            made += [cupy.empty(20 + k, dtype) for k in range(3) for dtype in (np.float32, np.float16)]
    with gpu.on_stream(0x700, 1):
        ff.fill_many([(array, LAW, k) for k, array in enumerate(made)], seed=2)
    assert sorted((one.device, one.stream, one.kernel) for one in gpu.launches) == [
        (0, 0, "grouped_normal_centred_float16"),
        (0, 0, "grouped_normal_centred_float32"),
        (1, 0x700, "grouped_normal_centred_float16"),
        (1, 0x700, "grouped_normal_centred_float32"),
    ]
    for k, array in enumerate(made):
        expected = on_host(array.shape, LAW, str(array.dtype), seed=2, name=k)
        assert gpu.host(array).tobytes() == expected.tobytes()


def test_a_warm_call_can_be_captured(gpu):
    items = [(cupy.empty(20 + k, np.float32), LAW, k) for k in range(3)]
    items.append((cupy.empty((8, 6), np.float32)[:, ::2], LAW, "strided"))
    with pytest.raises(AssertionError, match="during stream capture"), gpu.capture():
        ff.fill_many(items, seed=1)
    ff.fill_many(items, seed=1)
    with gpu.capture():
        ff.fill_many(items, seed=2)
    for array, law, name in items:
        assert gpu.host(array).tobytes() == on_host(array.shape, law, seed=2, name=name).tobytes()


def test_what_many_tensors_need_is_compiled_side_by_side(gpu, no_cubins, monkeypatch):
    """Each compilation waits for the two others."""
    together, compile = threading.Barrier(3), nvrtc.Compiler.compile

    def waiting(self: Any, source: str, name: str, arch: int, ptx: bool = False) -> bytes:
        if not ptx:  # which the emulation compiles, one by one
            together.wait(60)
        return compile(self, source, name, arch, ptx)

    monkeypatch.setattr(nvrtc.Compiler, "compile", waiting)
    laws = (LAW, LAW, ff.uniform(-1, 1), ff.constant(0.5), ff.constant(1.5))
    items = [(cupy.empty(9 + k, np.float32), law, k) for k, law in enumerate(laws)]
    ff.fill_many(items, seed=3)
    assert together.broken is False
    assert {one.kernel for one in gpu.launches} == {
        "grouped_normal_centred_float32",
        "run_uniform_float32",
        "grouped_constant_32",
    }
    for array, law, name in items:
        assert gpu.host(array).tobytes() == on_host(array.shape, law, seed=3, name=name).tobytes()


def test_arrays_of_one_kind_are_asked_what_may_differ(gpu, filled):
    """The others of their shape lie where no group takes them, in another order, or on another device."""
    flat = cupy.empty(41, np.float32)
    made = [cupy.empty((5, 8), np.float32) for _ in range(4)]
    made += [flat[1:].reshape(5, 8), cupy.empty((8, 5), np.float32).T]
    with gpu.use(1):
        made += [cupy.empty((5, 8), np.float32) for _ in range(2)]
    kernels = filled("float32", [(array, LAW, f"w{k}") for k, array in enumerate(made)])
    assert sorted(kernels) == ["box_normal_centred_float32"] * 2 + ["grouped_normal_centred_float32"] * 2
    assert sorted((one.device, one.kernel[:3]) for one in gpu.launches) == [
        (0, "box"),
        (0, "box"),
        (0, "gro"),
        (1, "gro"),
    ]
    # One kind with a member of its own goes alone, as any other.
    assert filled("float32", [(made[0], LAW, "w")]) == ["run_normal_centred_float32"]
    with pytest.raises(ValueError, match=r"got 0 \('a'\) and 2 \('c'\), which do"):
        ff.fill_many([(made[0], LAW, "a"), (made[1], LAW, "b"), (made[0], LAW, "c")], seed=0)


@pytest.fixture
def on_device(gpu, monkeypatch):
    """Make a torch tensor that says it is on a device, whose type is among those that have kinds."""
    torch = pytest.importorskip("torch")

    class OnDevice(torch.Tensor):
        number = 0
        device = property(lambda self: torch.device("cuda", self.number))
        is_cuda = True

    streams, kept = [0xB00], []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda number: streams[0], raising=False)
    known = {OnDevice: alike._of_torch}
    monkeypatch.setattr(job, "libraries", lambda: known)
    for number in (0, 1):
        gpu.streams[number] |= {0xB00, 0xB01}

    def make(count: int, stream: int = 0xB00, number: int = 0) -> Any:
        streams[0] = stream
        with gpu.use(number):
            memory = gpu.allocate(4 * count)
        tensor = torch.from_numpy(gpu.bytes(memory.ptr, 4 * count)).view(torch.float32).as_subclass(OnDevice)
        tensor.number = number
        kept.append(memory)
        return tensor

    return make


def test_torch_tensors_of_one_kind_are_one_launch_on_each_device(gpu, on_device):
    made = [on_device(40, number=k // 2) for k in range(4)]
    ff.fill_many([(tensor, LAW, f"w{k}") for k, tensor in enumerate(made)], seed=2)
    assert sorted((one.device, one.kernel) for one in gpu.launches) == [
        (0, "grouped_normal_centred_float32"),
        (1, "grouped_normal_centred_float32"),
    ]


def test_torch_tensors_of_one_kind_are_one_launch_on_the_current_stream(gpu, on_device, monkeypatch):
    plain = sys.modules["torch"].Tensor
    made = [on_device(40, 0xB00 if k < 4 else 0xB01) for k in range(6)]
    asked: list[Any] = []
    as_target = buffers._torch_target
    monkeypatch.setattr(buffers, "_torch_target", lambda *given: asked.append(given) or as_target(*given))
    ff.fill_many([(tensor, LAW, f"w{k}") for k, tensor in enumerate(made)], seed=2)
    assert len(asked) == 1  # the others are like it
    assert [(one.stream, one.kernel) for one in gpu.launches] == [(0xB01, "grouped_normal_centred_float32")]
    for k, tensor in enumerate(made):
        assert tensor._version > 0
        found = tensor.as_subclass(plain).numpy().tobytes()
        assert found == on_host(40, LAW, seed=2, name=f"w{k}").tobytes()
    shared = [(made[0], LAW, "a"), (made[1], LAW, "b"), (made[1], LAW, "c")]
    with pytest.raises(ValueError, match=r"got 1 \('b'\) and 2 \('c'\), which do"):
        ff.fill_many(shared, seed=0)
    freed = sys.modules["torch"].zeros(40)
    freed.untyped_storage().resize_(8)
    with pytest.raises(ValueError, match=r"^item 1 \('b'\): .*storage holds its elements"):
        ff.fill_many([shared[0], (freed.as_subclass(type(made[0])), LAW, "b")], seed=0)
    assert made[0].as_subclass(plain).numpy().tobytes() == on_host(40, LAW, seed=2, name="w0").tobytes()


@pytest.mark.parametrize("cuda", [12000, 12010])
def test_tables_are_smaller_before_cuda_12_1(emulated, monkeypatch, cuda):
    gpu = emulated(90)
    monkeypatch.setattr(cuda_backend, "_found", lambda: gpu.driver._replace(version=lambda: cuda))
    gpu.parameters = 4096 if cuda == 12000 else 32764
    items = [(cupy.empty(3, np.float32), LAW, k) for k in range(130)]
    ff.fill_many(items, seed=2)
    assert len(gpu.launches) == (3 if cuda == 12000 else 1)
    for array, _, name in items:
        assert gpu.host(array).tobytes() == on_host(3, LAW, seed=2, name=name).tobytes()


def test_how_many_items_a_table_holds():
    assert groups.parameters((12, 1), 70) == groups.parameters((13, 0), 90) == 32764
    assert groups.parameters((12, 0), 90) == groups.parameters((13, 0), 60) == 4096
    assert (groups.capacity(8, 32764), groups.capacity(8, 4096)) == (512, 64)  # std and mean
    for make in (1, 4, 8, 40, 96):
        for most in (4096, 32764):
            n = groups.capacity(make, most)
            size = 4 + 48 + -(-make // 8) * 8
            assert 88 + n * size <= most < 88 + 2 * n * size


def item_of(span: Span) -> groups.Items:
    return groups.Items(span, bytes(8), *(np.array([n], np.uint64) for n in (span.address, 3 | 4 << 32)))


def test_a_thread_block_makes_the_more_chunks_the_more_there_are():
    busy = 132 * groups.BLOCKS
    turns = [groups.turns_of(chunks, 132) for chunks in (1, busy, 2 * busy - 1, 5 * busy, 1000 * busy)]
    assert turns == [1, 1, 1, 5, groups.MOST_TURNS]
    for items, multiprocessors, blocks in ((1, 132, 100), (1, 1, 100), (6, 2, 6 * 25), (60, 2, 60 * 7)):
        table, *_ = groups.tables(
            "float32",
            "normal",
            (1, 2),
            [item_of(Span(0, 0, 204_800, 0, 0, 0, 51_200))] * items,
            32764,
            multiprocessors,
        )
        assert table.blocks == blocks


def test_a_launch_has_no_more_thread_blocks_than_a_grid(monkeypatch):
    huge = 2**32 * 4
    spans = [Span(2**40 * k, 0, huge, 0, 0, 0, huge // 4) for k in range(600)]
    items = [item_of(span) for span in spans]
    made = list(groups.tables("float32", "normal", (1, 2), items, 32764, 132))
    each = huge // 4 // (2 * THREADS) // groups.MOST_TURNS
    assert [table.blocks for table in made] == [512 * each, 88 * each]
    monkeypatch.setattr(groups, "GRID", 7 * each + each - 1)
    made = list(groups.tables("float32", "normal", (1, 2), items, 32764, 132))
    assert [table.blocks for table in made] == [7 * each] * 85 + [5 * each]


def test_a_table_of_another_order_of_words_is_noticed(filled, monkeypatch):
    """The test of bits can fail: here by two words of the keys."""
    real = groups._item

    def swapped(make: int) -> Any:
        made = real(make)
        names = list(made.names)
        a, b = names.index("third_c0"), names.index("third_c2")
        names[a], names[b] = names[b], names[a]
        made.names = tuple(names)
        return made

    monkeypatch.setattr(groups, "_item", swapped)
    with pytest.raises(AssertionError, match="w0"):
        filled("float32", items_of("float32", LAW, PLACES[1:4]))


def test_a_grouped_kernel_is_a_family_of_its_own():
    assert choice.family("grouped_normal_float32") == "grouped_normal_float32"
    text = choice.source_of("grouped_4096_normal_float32")
    assert text.startswith("#define GROUPED\n#define PARAMETERS 4096\n")
    image = nvrtc.compiler().compile(text, "fill.cu", 90, ptx=True).decode()
    assert image.count(".entry") == 1
    assert "grouped_normal_float32" in image
    with pytest.raises(ValueError, match="expected kernels of a form and dtype"):
        choice.source_of("grouped_4096_normal_float31")
