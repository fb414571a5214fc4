"""Which objects are buffers, that they are viewed and never copied, and what is refused."""

from __future__ import annotations

import array
import ctypes
import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanfill.cpu import buffers
from fanfill.cuda import buffers as device_buffers


def assert_views(buffer, owner=None):
    """The lanes lie on the very memory of the buffer, with its shape."""
    lanes = buffers.as_lanes(buffer)
    seen = np.asarray(buffer if owner is None else owner)
    assert lanes.view.shape == seen.shape
    assert type(lanes.view) is np.ndarray
    assert lanes.view.dtype == lanes.storage.lanes
    assert lanes.view.size == 0 or lanes.view.ctypes.data == seen.ctypes.data
    lanes.view[...] = np.zeros((), lanes.view.dtype)
    assert not seen.astype(np.float64).any()
    return lanes


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (3, 4, 5)])
def test_arrays_of_every_rank_are_viewed_as_lanes(dtype, shape):
    lanes = assert_views(np.ones(shape, dtype))
    assert lanes.storage.name == np.dtype(dtype).name
    assert not lanes.is_torch


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_types_of_ml_dtypes_are_viewed_as_unsigned_integers(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    lanes = assert_views(np.ones((4, 6), getattr(ml_dtypes, name)).T)
    assert lanes.storage.name == name
    assert lanes.view.dtype == (np.uint16 if name == "bfloat16" else np.uint8)


def test_negative_and_transposed_strides_stay_as_they_are():
    view = np.ones((4, 6, 8), np.float16)[::-1, 1::2, ::-3].T
    assert assert_views(view).view.strides == view.strides


def test_subclasses_are_seen_as_plain_arrays(tmp_path):
    assert_views(np.ones((2, 3)).view(np.matrix))
    assert_views(np.memmap(tmp_path / "w", np.float32, "w+", shape=(5, 5)))
    assert_views(np.rec.array(np.ones(3, [("x", "f4"), ("y", "f8")])).y)


def test_fields_of_packed_records_are_unaligned_and_fine():
    records = np.ones(9, np.dtype([("tag", "u1"), ("value", "f8")]))
    assert not assert_views(records["value"]).view.flags.aligned
    assert (records["tag"] == 1).all()


def test_writable_buffer_protocol_objects_are_viewed():
    assert_views(array.array("f", [1, 2, 3]))
    assert_views(array.array("d", [1, 2, 3]))
    assert_views(memoryview(np.ones((3, 4), np.float16))[1:])
    assert_views((ctypes.c_double * 3 * 2)())


class Interface:
    """Offers __array_interface__, and an __array__ that would copy."""

    def __init__(self, data):
        self.data = data
        self.__array_interface__ = data.__array_interface__

    def __array__(self, *args, **kwargs):
        raise AssertionError("asked for a copy")


def test_array_interfaces_are_viewed_and_kept_alive():
    owner = np.ones((3, 4), np.float32)
    assert_views(Interface(owner), owner)
    view = buffers.as_lanes(Interface(np.ones(100_000, np.float32))).view
    assert (view == 1).all()


class OnlyDlpack:
    def __init__(self, data, device=1):
        self.data, self.device = data, device

    def __dlpack__(self, **kwargs):
        return self.data.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.device, 0


def test_dlpack_on_the_cpu_is_viewed_where_numpy_can_write_it():
    owner = np.ones((3, 4), np.float64)
    try:
        writable = np.from_dlpack(OnlyDlpack(owner)).flags.writeable
    except TypeError:
        pytest.skip("this NumPy exchanges no versioned DLPack")
    if not writable:
        pytest.skip("this NumPy takes all of DLPack as read-only")
    assert_views(OnlyDlpack(owner), owner)


def read_only(values):
    values.flags.writeable = False
    return values


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: read_only(np.ones(3)),
            ValueError,
            "expected a writable buffer; got a read-only one; pass a writable copy",
        ),
        (lambda: np.broadcast_to(np.ones(1), 3), ValueError, "expected a writable buffer"),
        (lambda: memoryview(np.ones(3)).toreadonly(), ValueError, "expected a writable buffer"),
        (lambda: np.ones(3, ">f4" if sys.byteorder == "little" else "<f4"), ValueError, "byte order"),
        (lambda: np.ones(3, np.int32), TypeError, "int32"),
        (lambda: np.ones(3, np.complex64), TypeError, "complex64"),
        (lambda: np.ones(3, object), TypeError, "object"),
        (lambda: np.ones(3, [("a", "f4")]), TypeError, "expected one of the dtypes"),
        (lambda: np.ones(3, bool), TypeError, "bool"),
        (lambda: bytearray(8), TypeError, "uint8"),
        (
            lambda: np.ma.masked_array(np.ones(3), [0, 1, 0]),
            TypeError,
            r"got a numpy.ma.MaskedArray, .* pass its .data",
        ),
        (lambda: np.float32(1), TypeError, r"expected a writable array: .*; got numpy.float32"),
        (
            lambda: [1.0, 2.0],
            TypeError,
            r"expected a writable array: .*; got list; pass the array that holds its data",
        ),
        (lambda: None, TypeError, "got NoneType"),
        (lambda: "weights", TypeError, "got str"),
        (lambda: OnlyDlpack(np.ones(3), 10), TypeError, "got one on DLPack device type 10"),
    ],
)
def test_what_cannot_be_filled_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        buffers.as_lanes(make())


def test_an_array_that_is_written_twice_is_refused():
    base = np.arange(10.0)
    windows = np.lib.stride_tricks.sliding_window_view(base, 3, writeable=True)
    repeated = np.lib.stride_tricks.as_strided(base, (3, 4), (0, 8))
    for view in (windows, repeated, windows[::-1].T):
        with pytest.raises(
            ValueError, match="expected a buffer whose elements do not share memory; got shape"
        ):
            buffers.as_lanes(view)
    assert (base == np.arange(10.0)).all()


def collides(shape, strides, itemsize):
    """Whether two elements share a byte, by marking every byte."""
    seen = set()
    for place in itertools.product(*(range(n) for n in shape)):
        first = sum(i * stride for i, stride in zip(place, strides, strict=True))
        cells = range(first, first + itemsize)
        if any(cell in seen for cell in cells):
            return True
        seen.update(cells)
    return False


@settings(max_examples=500, deadline=None)
@given(
    axes=st.lists(st.tuples(st.integers(0, 5), st.integers(-40, 40)), max_size=4),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_overlap_is_decided_exactly(axes, itemsize):
    shape, strides = tuple(n for n, _ in axes), tuple(stride for _, stride in axes)
    assert buffers.overlaps(shape, strides, itemsize) == collides(shape, strides, itemsize)


def test_the_byte_marking_finds_and_clears():
    assert collides((2, 2), (4, 4), 4)
    assert not collides((3, 2), (8, 12), 4)


@pytest.mark.parametrize(
    ("shape", "strides", "answer"),
    [
        ((10**9, 1), (4, 0), False),
        ((10**9, 3), (4, 4), True),
        ((10**6, 10**6), (8, 12), True),
        ((10**6, 2), (8, 4), False),
        ((10**6, 10**5, 3), (4, 4 * 10**6, 4), True),
    ],
)
def test_huge_views_are_decided_at_once(shape, strides, answer):
    assert buffers.overlaps(shape, strides, 4) is answer


def test_strides_too_hard_to_settle_count_as_overlapping():
    primes = [10007 * 8 + k for k in (1, 3, 7, 9, 13, 19, 31, 37, 43, 49)]
    assert buffers.overlaps([9] * 10, primes, 1) is True


class Cuda:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012

    def __array__(self, *args, **kwargs):
        raise AssertionError("asked to come to the host")


def test_device_buffers_are_told_from_host_buffers_and_never_brought_over():
    assert buffers.device_of(Cuda()) == "cuda"
    assert buffers.device_of(OnlyDlpack(np.ones(3), 2)) == "cuda"
    assert buffers.device_of(OnlyDlpack(np.ones(3), 3)) == "cpu"
    assert buffers.device_of(np.ones(3)) == buffers.device_of(array.array("f")) == "cpu"
    with pytest.raises(TypeError, match=r"expected a buffer in host memory; got a .*Cuda on a CUDA device"):
        buffers.as_lanes(Cuda())


def test_a_device_buffer_that_offers_dlpack_only_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"got .*OnlyDlpack; pass cupy\.from_dlpack\(buffer\)"):
        device_buffers.as_target(OnlyDlpack(np.ones(3), 2))


class Interfaced:
    """A device array of another library: its interface, and a dtype if one is given."""

    def __init__(self, dtype=None, **interface):
        self.__cuda_array_interface__ = {
            "shape": (3, 4),
            "typestr": "<f4",
            "data": (64, False),
            "version": 3,
            **interface,
        }
        if dtype is not None:
            self.dtype = dtype


def test_the_cuda_array_interface_is_read_as_it_is():
    found = device_buffers.as_target(Interfaced())
    assert found == (64, (3, 4), (16, 4), "float32", 4, None, None, False)
    found = device_buffers.as_target(Interfaced(strides=(-4, 8), typestr="<f2", stream=7))
    assert found == (64, (3, 4), (-4, 8), "float16", 2, None, 7, False)
    assert device_buffers.as_target(Interfaced(shape=(0, 4), data=(None, False))).pointer == 0


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_a_typestr_without_a_name_leaves_it_to_the_object_s_dtype(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name))
    size = dtype.itemsize
    for typestr in (dtype.str, f"<V{size}", f"|V{size}"):
        assert device_buffers.as_target(Interfaced(dtype, typestr=typestr)).dtype == name
    for other in (None, np.dtype(np.float64), "no dtype of NumPy's"):
        with pytest.raises(
            TypeError, match=f"expected one of the dtypes .*; got void{8 * size}; fill a buffer"
        ):
            device_buffers.assert_storage(device_buffers.as_target(Interfaced(other, typestr=f"|V{size}")))


def test_jax_arrays_are_immutable_and_stay_so():
    jax = pytest.importorskip("jax")
    with jax.default_device(jax.devices("cpu")[0]):  # which is not the first one where a GPU is
        ones = jax.numpy.ones(3, jax.numpy.float32)
    with pytest.raises(ValueError, match="expected a writable buffer"):
        buffers.as_lanes(ones)


def test_torch_tensors_on_the_cpu_are_viewed():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64, torch.float16):
        tensor = torch.ones((3, 4), dtype=dtype).T
        lanes = buffers.as_lanes(tensor)
        assert lanes.is_torch
        lanes.view[...] = 0
        assert not tensor.any()
        assert buffers.device_of(tensor) == "cpu"
    weight = torch.nn.Linear(3, 4).weight
    assert buffers.as_lanes(weight).view.ctypes.data == weight.data_ptr()
    assert buffers.as_lanes(torch.empty(0, 3)).view.shape == (0, 3)


def test_other_torch_tensors_are_refused_with_the_way_out():
    torch = pytest.importorskip("torch")
    for make, error, message in [
        (
            lambda: torch.ones(3, dtype=torch.int32),
            TypeError,
            "float8_e5m2fnuz; got torch.int32; fill a tensor of one of these and convert it",
        ),
        (lambda: torch.empty(3, dtype=torch.float8_e8m0fnu), TypeError, "got torch.float8_e8m0fnu; fill"),
        (lambda: torch.ones(3).expand(4, 3), ValueError, "do not share memory"),
        (lambda: torch.ones(3).to_sparse(), TypeError, "has no NumPy view .*use fanfill.torch"),
    ]:
        with pytest.raises(error, match=message):
            buffers.as_lanes(make())
    with pytest.raises(TypeError, match="got a torch tensor on device 'meta'"):
        buffers.device_of(torch.ones(3, device="meta"))
