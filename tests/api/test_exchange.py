"""Memory of other libraries is filled where it lies and within its ends, or refused in their words."""

from __future__ import annotations

import ctypes
import warnings
from typing import Any

import numpy as np
import pytest

import fanfill as ff
from fanfill.cpu import buffers, exchange

LAW = ff.normal()


def filled(shape: tuple[int, ...] = (3, 4), dtype: Any = np.float32) -> np.ndarray:
    return ff.fill(np.empty(shape, dtype), LAW, seed=1)


def assert_refused(buffer: Any, error: type[Exception], message: str, memory: Any) -> None:
    """The error comes, and no byte of the memory has changed."""
    before = bytes(memory)
    with pytest.raises(error, match=message):
        ff.fill(buffer, LAW, seed=1)
    assert bytes(memory) == before


# __array_interface__


class Interface:
    """Has an ``__array_interface__`` of float32 in a buffer of sixteen bytes, but for what is given."""

    def __init__(self, **given: Any) -> None:
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": (4,), **given}


class Carrier(bytearray):
    """Its own buffer, which the interface describes without naming it."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "<f4", "shape": (12,)}


def test_an_interface_to_a_buffer_is_filled_to_its_ends() -> None:
    expected = filled((12,))
    for offset, shape, strides, taken in (
        (0, (12,), None, np.s_[:]),
        (8, (5,), None, np.s_[2:7]),
        (44, (12,), (-4,), np.s_[::-1]),
        (4, (2, 3), (16, 4), None),
    ):
        memory = bytearray(48)
        buffer = Interface(data=memory, offset=offset, shape=shape, strides=strides)
        assert ff.fill(buffer, LAW, seed=1) is buffer
        seen = np.frombuffer(memory, np.float32)
        if taken is None:
            found = np.stack([seen[1:4], seen[5:8]])
            assert found.tobytes() == filled((2, 3)).tobytes()
        else:
            assert seen[taken].tobytes() == expected[: len(seen[taken])].tobytes()
    carrier = Carrier(48)
    ff.fill(carrier, LAW, seed=1)
    assert bytes(carrier) == expected.tobytes()
    assert (
        exchange.array_of_interface(
            0, {**Interface(data=bytearray()).__array_interface__, "shape": (0,)}
        ).size
        == 0
    )


@pytest.mark.parametrize(
    ("given", "reach"),
    [
        ({"shape": (5,)}, "bytes 0 to 20 of a buffer of 16"),
        ({"shape": (400_000,)}, "bytes 0 to 1600000 of a buffer of 16"),
        ({"offset": 4}, "bytes 4 to 20 of a buffer of 16"),
        ({"offset": -4, "shape": (3,)}, "bytes -4 to 8 of a buffer of 16"),
        ({"offset": 8, "strides": (-4,)}, "bytes -4 to 12 of a buffer of 16"),
        ({"shape": (3,), "strides": (8,)}, "bytes 0 to 20 of a buffer of 16"),
        ({"shape": (2, 3), "strides": (4, 8)}, "bytes 0 to 24 of a buffer of 16"),
        ({"offset": 2**63 - 8}, "bytes 9223372036854775800 to"),
    ],
)
def test_an_interface_that_reaches_beyond_its_buffer_is_refused(given: dict[str, Any], reach: str) -> None:
    around = bytearray(b"\xa5" * 64)
    middle = memoryview(around)[24:40]
    assert_refused(
        Interface(data=middle, **given),
        ValueError,
        rf"expected a buffer that holds all elements; got an __array_interface__ .*{reach}.*; correct its",
        around,
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"mask": np.ones(4, bool)},
            TypeError,
            "expected a plain array; got __array_interface__ with a mask",
        ),
        (
            {"typestr": None},
            TypeError,
            r"view through __array_interface__; got a .*Interface that has no .*; pass",
        ),
        ({"shape": (-1,)}, TypeError, "has no such view .negative dimensions"),
        ({"shape": 4}, TypeError, "has no such view .shape must be a tuple"),
        ({"strides": (4, 4)}, TypeError, "has no such view .mismatch in length"),
        ({"offset": "x"}, TypeError, "has no such view .*offset must be an integer"),
        ({"shape": (2**62,)}, TypeError, "has no such view .array is too big"),
        ({"data": 3}, TypeError, "has no such view .a bytes-like object is required"),
        ({"data": b"0123456789abcdef"}, ValueError, "expected a writable buffer; got a read-only one"),
        ({"data": np.zeros((4, 4))[:, ::2]}, TypeError, "has no such view .*contiguous"),
    ],
)
def test_an_interface_that_no_fill_can_follow_is_refused(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    memory = bytearray(16)
    assert_refused(Interface(**{"data": memory, **given}), error, message, memory)


def test_an_interface_that_is_no_dict_is_refused() -> None:
    class Wrong:
        __array_interface__ = 7

    with pytest.raises(TypeError, match="expected a dict as __array_interface__; got 7; pass the array"):
        ff.fill(Wrong(), LAW, seed=0)


def test_a_buffer_cannot_be_resized_while_it_is_viewed() -> None:
    memory = bytearray(16)
    lanes = buffers.as_lanes(Interface(data=memory))
    with pytest.raises(BufferError):
        memory.extend(bytes(10_000))
    del lanes
    memory.extend(bytes(4))


# The buffer protocol


def test_a_buffer_with_suboffsets_is_refused_with_the_way_out() -> None:
    testing = pytest.importorskip("_testbuffer")  # of CPython
    rows = testing.ndarray([0.0] * 12, shape=[3, 4], format="f", flags=testing.ND_PIL | testing.ND_WRITABLE)
    message = (
        r"expected memory that a shape .* suboffsets \(0, -1\), whose rows lie behind pointers; fill its rows"
    )
    assert_refused(rows, TypeError, message, memoryview(rows).tobytes())
    assert memoryview(rows).tobytes() == bytes(48)


def test_a_buffer_whose_items_numpy_cannot_name_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = (ctypes.c_longdouble * 3)()
        assert_refused(
            memory, TypeError, "can view through the buffer protocol; got a .*c_longdouble", memory
        )


# DLPack


class Producer:
    """Offers an array by DLPack of version 1, and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **how: Any) -> Any:
        self.asked.append(how)
        return self.array.__dlpack__(**how)


class Copier(Producer):
    """Copies unless it is told not to, as the standard lets it."""

    def __dlpack__(self, **how: Any) -> Any:
        self.asked.append(how)
        shared = how.get("copy") is False
        return (self.array if shared else self.array.copy()).__dlpack__(max_version=how["max_version"])


class Deaf(Producer):
    """Copies whatever it is told."""

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.copy().__dlpack__(max_version=how["max_version"])


class Unable(Producer):
    """Would have to copy, and says so."""

    def __dlpack__(self, **how: Any) -> Any:
        raise BufferError("the values lie in two places")


class Unversioned(Producer):
    """From before DLPack 1.0."""

    def __dlpack__(self, stream: object = None) -> Any:
        return self.array.__dlpack__()


class Careless(Producer):
    """Takes what it is told, and answers as before DLPack 1.0."""

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()


def only_unversioned(exporter: Any) -> np.ndarray:
    """``np.from_dlpack`` as NumPy 2.0 has it: it asks for nothing, and takes all as read-only."""
    capsule = exporter.__dlpack__()
    carrier = type(
        "Carrier", (), {"__dlpack__": lambda *_, **__: capsule, "__dlpack_device__": lambda _: (1, 0)}
    )
    found = real_from_dlpack(carrier())
    found.flags.writeable = False
    return found


real_from_dlpack: Any = np.from_dlpack
needs_versions = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy 2.0 takes all of DLPack as read-only"
)


@needs_versions
@pytest.mark.parametrize("kind", [Producer, Copier])
def test_dlpack_is_asked_for_no_copy_and_its_own_memory_is_filled(kind: type[Producer]) -> None:
    memory = np.zeros((3, 4), np.float32)
    producer = kind(memory)
    assert ff.fill(producer, LAW, seed=1) is producer
    assert memory.tobytes() == filled().tobytes()
    assert all(how["copy"] is False for how in producer.asked)


@needs_versions
def test_a_strided_dlpack_buffer_is_filled_by_its_strides() -> None:
    memory = np.zeros((4, 3), np.float32)
    ff.fill(Producer(memory.T), LAW, seed=1)
    assert memory.T.tobytes() == filled().tobytes()


@needs_versions
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Deaf, TypeError, "shares its memory; got a .*Deaf, whose __dlpack__ copies it .*; pass the array"),
        (
            Unable,
            TypeError,
            r"view through DLPack; got a .*Unable .*\(the values lie in two places\); pass an",
        ),
        (
            Unversioned,
            ValueError,
            "expected a writable buffer; got a .*Unversioned, whose DLPack has no version",
        ),
        (Careless, ValueError, r"has no version .*; if its memory may be written, pass torch\.from_dlpack"),
    ],
)
def test_dlpack_that_would_not_be_filled_is_refused(
    kind: type[Producer], error: type[Exception], message: str
) -> None:
    memory = np.zeros((3, 4), np.float32)
    assert_refused(kind(memory), error, message, memory.data)


@needs_versions
def test_dlpack_that_says_read_only_is_read_only() -> None:
    memory = np.zeros((3, 4), np.float32)
    memory.flags.writeable = False
    assert_refused(Producer(memory), ValueError, "got a read-only one; pass a writable copy", memory.data)


def test_numpy_2_0_is_said_to_be_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "from_dlpack", only_unversioned)
    memory = np.zeros((3, 4), np.float32)
    message = r"got DLPack, which NumPy .* takes as read-only and NumPy 2\.1 does not; .*torch\.from_dlpack"
    assert_refused(Producer(memory), ValueError, message, memory.data)


def test_the_remedy_for_unversioned_dlpack_fills_its_memory() -> None:
    torch = pytest.importorskip("torch")
    memory = np.zeros((3, 4), np.float32)
    ff.fill(torch.from_dlpack(Unversioned(memory)), LAW, seed=1)
    assert memory.tobytes() == filled().tobytes()


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [((), (), (0, 4)), ((0, 3), (12, 4), (0, 0)), ((3,), (-8,), (-16, 4)), ((2, 3), (-12, 4), (-12, 12))],
)
def test_the_span_of_a_view(
    shape: tuple[int, ...], strides: tuple[int, ...], expected: tuple[int, int]
) -> None:
    assert exchange.span(shape, strides, 4) == expected
