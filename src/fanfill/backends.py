"""The backends: which ones can draw, which one does, and why.

A backend is a record of a few functions, `Backend` for host memory and `DeviceBackend` for that of a device.
Those for host memory are tried in the order of `_HOST`. A backend that the caller or the environment names is
used or raises; it never falls back to another. A buffer on a device is never filled through the host.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast, overload

import numpy as np

from fanfill import imports
from fanfill.arguments import number_of
from fanfill.cpu import buffers
from fanfill.cpu.buffers import Device
from fanfill.errors import BackendUnavailableError
from fanfill.messages import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from fanfill.cuda.buffers import Target
    from fanfill_kernels.philox import Key

    # What copies values to a part of one target: put(where, values).
    Put = Callable[[tuple[slice, ...], NDArray[Any]], None]

_HOST = {"numba": "fanfill.cpu.numba", "numpy": "fanfill.cpu.numpy"}
_DEVICE = {"cuda": "fanfill.cuda.backend"}
MODULES = _HOST | _DEVICE
_warned: dict[str, object] = {}


class HostKernels(NamedTuple):
    """The kernels of one form and dtype, on lanes: arrays of machine words.

    Attributes
    ----------
    run
        ``run(out, start, key, params)`` fills the 1-D contiguous ``out`` with elements start, start + 1, ...
        (0 <= start < 2^63).
    box
        ``box(out, start, shape, pitches, key, params)`` fills the 1-D contiguous ``out``, in C order over
        ``shape``; the element at coordinates c is ``start + sum(c_k * pitches_k)``.
    nontemporal
        ``run`` for a part of a buffer so large that its values are better written past the caches.
    """

    run: Callable[[NDArray[Any], int, Key, tuple[Any, ...]], None]
    box: Callable[
        [NDArray[Any], int, tuple[int, ...], tuple[int, ...], tuple[int, int, int, int], tuple[Any, ...]],
        None,
    ]
    nontemporal: Callable[[NDArray[Any], int, Key, tuple[Any, ...]], None]


def addresses_by_numpy(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    """Where arrays begin."""
    return np.array([array.ctypes.data for array in arrays], np.uint64)


class Backend(NamedTuple):
    """One way to fill host memory.

    Attributes
    ----------
    name, device
        Its name, and whose memory it fills: "cpu".
    unusable
        Returns None if the backend can be used, otherwise one line that says why not and what to do.
    kernels
        ``kernels(form, dtype)`` for the forms words, uniform, uniform_range, normal, truncated_central and
        truncated.
    scatter
        ``scatter(target)`` returns ``put(where, values)`` for a view of any strides, aligned or not: it
        copies the contiguous 1-D ``values`` into ``target[where]``, in C order.
    chunk, tile
        ``chunk(itemsize, threads)``: values of one task that is contiguous in memory, at most a few ms of
        work, since Ctrl-C waits for it. ``tile(itemsize, threads)``: values of one task that goes through a
        scratch, of which each thread has one.
    addresses
        Where each of many writable, C-contiguous arrays begins.
    note
        One line that a user should know although it can be used, or None.
    """

    name: str
    device: Device
    unusable: Callable[[], str | None]
    kernels: Callable[[str, str], HostKernels]
    scatter: Callable[[NDArray[Any]], Put]
    chunk: Callable[[int, int], int]
    tile: Callable[[int, int], int]
    note: Callable[[], str | None] = lambda: None
    addresses: Callable[[Sequence[NDArray[Any]]], NDArray[np.uint64]] = addresses_by_numpy


class Queue(Protocol):
    """A stream of a device, where kernels can be started.

    Attributes
    ----------
    number, stream, context
        The device, and handles of the stream and of the context, which is current.
    """

    number: int
    stream: int
    context: int

    def parameters(self) -> int:
        """How many bytes of parameters a kernel may have."""

    def multiprocessors(self) -> int:
        """How many the device has."""

    def prepare(self, names: Iterable[str], /) -> None:
        """Compile what these kernels lack, side by side; they are loaded when they are started."""

    def function(self, name: str, /) -> int:
        """The handle of a kernel, which is compiled and loaded if it is not there yet."""

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[bytes], /) -> int:
        """Start a kernel, by its name and the bytes of its parameters; return its handle."""


class DeviceBackend(NamedTuple):
    """One way to fill a device's memory.

    Attributes
    ----------
    name, device, unusable
        As of `Backend`; the device is "cuda".
    launcher
        ``with launcher(target) as queue`` makes the target's device current and yields what starts kernels
        there, on the target's stream.
    empty
        ``empty(number, shape, dtype)`` returns an uninitialised array on device ``number`` (None: the current
        one).
    note
        As of `Backend`.
    """

    name: str
    device: Device
    unusable: Callable[[], str | None]
    launcher: Callable[[Target], AbstractContextManager[Queue]]
    empty: Callable[[int | None, tuple[int, ...], np.dtype[Any]], Any]
    note: Callable[[], str | None] = lambda: None


def put_by_numpy(target: NDArray[Any]) -> Put:
    """A ``scatter`` that copies by NumPy."""

    def put(where: tuple[slice, ...], values: NDArray[Any]) -> None:
        part = target[where]
        part[...] = values.reshape(part.shape)

    return put


class BackendStatus(NamedTuple):
    """A backend's name, whether it can be used here, if not, why and the remedy, and what else to know."""

    name: str
    usable: bool
    reason: str | None
    note: str | None = None


class Selection(NamedTuple):
    """The backend that a buffer would be filled with, and why that one."""

    name: str
    why: str


def backends() -> tuple[BackendStatus, ...]:
    """Return the backends that exist, in the order in which they are tried, and which are usable.

    Asking imports what the backends need (Numba, say).
    """
    found = []
    for backend in map(get, MODULES):
        reason = backend.unusable()
        note = backend.note() if reason is None else None
        found.append(BackendStatus(backend.name, reason is None, reason, note))
    return tuple(found)


def select_backend(buffer: object) -> Selection:
    """Return the backend that ``fill(buffer, ...)`` would use if the call names none, and why.

    Raises
    ------
    TypeError
        If ``buffer`` is nothing that can be filled.
    BackendUnavailableError
        If no backend for the buffer's device is usable.
    """
    device = buffers.device_of(buffer)
    if device == "cuda":
        return Selection(_usable("cuda").name, "the buffer lies on a CUDA device")
    backend, why = _host_choice()
    return Selection(backend.name, why)


@overload
def get(name: Literal["numba", "numpy"]) -> Backend: ...
@overload
def get(name: Literal["cuda"]) -> DeviceBackend: ...
@overload
def get(name: str) -> Backend | DeviceBackend: ...
def get(name: str) -> Backend | DeviceBackend:
    """Return a backend by name, usable or not; ValueError if there is none of that name."""
    given: object = name
    where = MODULES.get(given) if isinstance(given, str) else None
    if where is None:
        raise ValueError(
            f"expected a backend among {', '.join(MODULES)}; got {shown(name)}; leave it out to let "
            "fanfill choose"
        )
    backend: Backend | DeviceBackend = imports.module(where).BACKEND
    return backend


@overload
def resolve(device: Literal["cpu"], name: str | None) -> Backend: ...
@overload
def resolve(device: Literal["cuda"], name: str | None) -> DeviceBackend: ...
def resolve(device: Device, name: str | None) -> Backend | DeviceBackend:
    """Return the usable backend for one fill on ``device``: the named one, else the one that is chosen there.

    Raises
    ------
    ValueError
        If there is no backend of that name, or it is one for another device.
    BackendUnavailableError
        If it, or every candidate, is unusable.
    """
    if name is not None:
        backend = get(name)
        if backend.device != device:
            place = {"cpu": "in host memory", "cuda": "on a CUDA device"}
            raise ValueError(
                f"expected a backend for a buffer {place[device]}; got {shown(name)}, which fills buffers "
                f"{place[backend.device]}; leave backend out, or move the buffer; draw makes it on the "
                "device that it is given"
            )
        return _watched(_usable(name))
    if device == "cuda":
        return _watched(_usable("cuda"))
    return default_host()


def default_host() -> Backend:
    """Return the backend for host buffers; warn, once per process, if NumPy stands in for Numba."""
    backend, why = _host_choice()
    if backend.name == "numpy" and not why.startswith("FANFILL_BACKEND"):
        _warn_once("numpy", lambda: f"fanfill fills with NumPy, several times slower than with Numba: {why}")
    return cast("Backend", _watched(backend))


def _watched(backend: Backend | DeviceBackend) -> Backend | DeviceBackend:
    """Return a backend; warn, once per process, if it compiles and its folder for that cannot be used."""
    if "cache" not in _warned and backend.name != "numpy":
        _warn_once("cache", _not_kept)
    return backend


def _not_kept() -> str | None:
    from fanfill_kernels.store import cache

    why = cache.passed_over()
    return why and (
        "fanfill compiles its kernels in each process anew, which takes seconds: its folder for them, "
        f"{cache.folder()}, is not used: {why}"
    )


def _warn_once(topic: str, message: Callable[[], str | None]) -> None:
    """Warn of one thing, if there is a message, at the first call in this process."""
    mark = object()
    if _warned.setdefault(topic, mark) is mark:  # one thread's mark stays, whichever comes first
        text = message()
        if text:
            warnings.warn(text, RuntimeWarning, stacklevel=_caller())


@functools.cache
def _host_choice() -> tuple[Backend, str]:
    """Choose among the host backends, once per process."""
    forced = os.environ.get("FANFILL_BACKEND", "").strip()
    if forced:
        if forced not in _HOST:
            raise ValueError(
                f"FANFILL_BACKEND: expected one of the backends for host memory, {' or '.join(_HOST)}; got "
                f"{forced!r}; correct or unset it"
            )
        return cast("Backend", _usable(forced)), f"FANFILL_BACKEND={forced}"
    passed: list[str] = []
    for name in _HOST:
        backend = cast("Backend", get(name))
        reason = backend.unusable()
        if reason is None:
            return backend, "; ".join(passed) or "the first choice for host memory"
        passed.append(f"{name} is not usable: {reason}")
    raise BackendUnavailableError(f"expected a usable backend for host memory; {'; '.join(passed)}")


def _usable(name: str) -> Backend | DeviceBackend:
    backend = get(name)
    reason = backend.unusable()
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} is not usable: {reason}")
    return backend


def _caller() -> int:
    """Return the stacklevel that points a warning of `default_host` at the user's line."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level


def device_of(device: object, backend: str | None) -> tuple[Device, int | None]:
    """The kind of device that ``draw`` is to allocate on, and the number if one is named."""
    if device == "auto":
        if backend is not None:
            return get(backend).device, None
        return "cuda" if get("cuda").unusable() is None else "cpu", None
    if device == "cpu":
        return "cpu", None
    match = re.fullmatch(r"cuda(?::([0-9]+))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N'; got {shown(device)}")
    return "cuda", None if match[1] is None else number_of(match[1], "device")
