"""Does this machine draw the bits that every machine draws? Every golden case, on every backend and layout.

Each fill goes into the middle of poisoned memory, contiguous or strided. Its bytes are hashed and compared
with the committed hash, and the memory around it must still be poison. On a GPU machine this is the complete
acceptance test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanfill.arguments import number_of
from fanfill.backends import backends, get, resolve
from fanfill.cuda import backend as cuda_backend
from fanfill.cuda.buffers import DeviceBuffer
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.errors import BackendUnavailableError
from fanfill.selftest import golden
from fanfill.selftest.golden import Case
from fanfill.structures import HOST_ALONE

__all__ = ["DTYPES", "LAYOUTS", "Check", "Subject", "cases", "facts", "run", "subjects", "untested"]

DTYPES = (*STORAGES, "uint32")
POISON = 0xA5
GUARD = 256  # poisoned bytes before and after


class Layout(NamedTuple):
    """Where the elements of a shape lie: the first element, and the steps of the axes, in elements."""

    first: int
    strides: tuple[int, ...]


def contiguous(shape: Sequence[int]) -> Layout:
    """C order, beginning at a multiple of every store's size."""
    return Layout(0, tuple(prod(shape[k + 1 :]) for k in range(len(shape))))


def shifted(shape: Sequence[int]) -> Layout:
    """C order, one element later: no vector store is aligned with a group of values."""
    return contiguous(shape)._replace(first=1)


def transposed(shape: Sequence[int]) -> Layout:
    """Fortran order: the first axis has the smallest stride."""
    return Layout(0, tuple(prod(shape[:k]) for k in range(len(shape))))


def stepped(shape: Sequence[int]) -> Layout:
    """Every second element of rows that are longer than necessary, backwards along the last axis."""
    wide = (*shape[:-1], 2 * shape[-1] + 3)
    strides = contiguous(wide).strides
    return Layout(2 * (shape[-1] - 1), (*strides[:-1], -2))


LAYOUTS = {
    "contiguous": contiguous,
    "shifted": shifted,
    "transposed": transposed,
    "stepped": stepped,
}


class Subject(NamedTuple):
    """What is tested: a backend, and the number of a CUDA device (None: host memory)."""

    backend: str
    number: int | None = None

    def __str__(self) -> str:
        return self.backend if self.number is None else f"{self.backend}:{self.number}"


class Check(NamedTuple):
    """One fill; ``problem`` is None if it is right."""

    subject: Subject
    case: Case
    layout: str
    problem: str | None


def subjects(device: str = "auto") -> list[Subject]:
    """What can be tested.

    Parameters
    ----------
    device
        "cpu": the usable backends for host memory; "cuda", "cuda:1": all CUDA devices, or that one;
        "auto": everything that is usable.

    Raises
    ------
    ValueError
        For a device of another name.
    BackendUnavailableError
        If CUDA was asked for and cannot be used.
    """
    named = re.fullmatch(r"cuda(?::([0-9]+))?", "cuda" if device == "auto" else device)
    if named is None and device != "cpu":
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N; got {device!r}")
    found = [
        Subject(status.name)
        for status in backends()
        if device in ("auto", "cpu") and status.usable and get(status.name).device == "cpu"
    ]
    if named is None or (device == "auto" and get("cuda").unusable() is not None):
        return found
    resolve("cuda", None)
    count = cuda_backend.driver().devices()
    numbers = range(count) if named[1] is None else [number_of(named[1], "device")]
    if numbers[-1] >= count:
        raise BackendUnavailableError(
            f"device: expected one of the {count} CUDA devices, cuda:0 and up; got {device}"
        )
    return [*found, *(Subject("cuda", number) for number in numbers)]


def untested() -> tuple[str, ...]:
    """The dtypes that cannot be tested here because ml_dtypes is missing."""
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return tuple(name for name in STORAGES if not hasattr(np, name))
    return ()


def cases(subject: Subject) -> Iterator[Case]:
    """The golden cases that a subject can draw."""
    left_out = untested()
    for case in golden.cases():
        if case.dtype not in left_out and not (subject.number is not None and _on_host_alone(case)):
            yield case


def run(subject: Subject) -> Iterator[Check]:
    """Check every golden case in every layout, for the dtypes that can be tested."""
    for case in cases(subject):
        for layout in LAYOUTS:
            yield Check(subject, case, layout, check(subject, case, layout))


def _on_host_alone(case: Case) -> bool:
    return case.initializer in golden.MATRICES and (
        golden.MATRICES[case.initializer][0].distribution in HOST_ALONE
    )


def check(subject: Subject, case: Case, layout: str) -> str | None:
    """Draw one case; return what is wrong with it, or None."""
    dtype = np.dtype(np.uint32) if case.dtype == "uint32" else dtype_of(case.dtype)
    first, steps = LAYOUTS[layout](case.shape)
    strides = tuple(step * dtype.itemsize for step in steps)
    last = sum(max(0, step * (n - 1)) for step, n in zip(strides, case.shape, strict=True))
    begin = GUARD + first * dtype.itemsize
    memory = (_host if subject.number is None else _device)(
        subject, case, dtype, begin, strides, begin + last + dtype.itemsize + GUARD
    )
    values = np.ndarray(case.shape, dtype, memory, begin, strides)
    digest = hashlib.sha256(values.tobytes()).hexdigest()
    values.view(f"u{dtype.itemsize}")[...] = int.from_bytes(bytes([POISON]) * dtype.itemsize, "little")
    if (memory != POISON).any():
        return "bytes outside the buffer were written"
    if digest != golden.expected()[str(case)]:
        return f"SHA-256 {digest[:16]}..., expected {golden.expected()[str(case)][:16]}..."
    return None


def _host(
    subject: Subject, case: Case, dtype: np.dtype[Any], begin: int, strides: tuple[int, ...], size: int
) -> NDArray[np.uint8]:
    """Draw in host memory, and return all of that memory."""
    # Begins at a multiple of 64 bytes, as large arrays do: the layout alone decides where elements lie.
    raw = np.full(size + 64, POISON, np.uint8)
    memory = raw[-raw.ctypes.data % 64 :][:size]
    buffer: NDArray[Any] = np.ndarray(case.shape, dtype, memory, begin, strides)
    golden.draw(case, buffer, backend=subject.backend)
    return memory


def _device(
    subject: Subject, case: Case, dtype: np.dtype[Any], begin: int, strides: tuple[int, ...], size: int
) -> NDArray[np.uint8]:
    """Draw in a device's memory, and return a copy of all of that memory."""
    assert subject.number is not None
    gpu = cuda_backend.driver()
    with gpu.use(subject.number):
        memory = gpu.allocate(size)
        gpu.memset(memory.ptr, POISON, size, gpu.stream(subject.number))
        golden.draw(
            case, DeviceBuffer(memory.ptr + begin, case.shape, strides, dtype), backend=subject.backend
        )
        return np.frombuffer(gpu.read(memory.ptr, size), np.uint8).copy()


def facts(subject: Subject) -> dict[str, Any]:
    """What a subject runs on, if the machine's own name does not say so."""
    return {} if subject.number is None else cuda_backend.driver().facts(subject.number)
