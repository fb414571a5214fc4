"""Fills the memory of CUDA devices: finds CuPy and the driver, compiles, loads and launches.

Requirements this module answers:

* CuPy is imported here and nowhere else, when a device is first asked for. Everything that is used of it is
  in one record, `fanfill.cuda.driver.Driver`.
* NVRTC compiles the kernels without CuPy's help. CuPy's own way appends ``-ftz=true`` to every compilation,
  needs CUDA's headers, and its names change between its versions, so nothing could be cached.
* Once a kernel has been launched on a device, launching it again allocates nothing, loads nothing and waits
  for nothing, so that it can be captured into a CUDA graph.
* If something is missing, the error says what and how to get it. A fill never goes through the host.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanfill.backends import DeviceBackend
from fanfill.cuda import nvrtc
from fanfill.cuda.driver import INSTALL, Driver, find, one_line
from fanfill.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from fanfill.cuda.buffers import Target

_ALIGNMENT = 16  # of a parameter in memory

# By device: handles of its kernels, by entry point, and the modules that they are of, by family. By
# architecture and family: what was compiled.
_functions: dict[int, dict[str, int]] = {}
_modules: dict[tuple[int, str], Any] = {}
_images: dict[tuple[int, str], bytes] = {}
_lock = threading.RLock()  # a signal handler may launch while its own thread loads


def driver() -> Driver:
    """Return the driver; BackendUnavailableError, with the remedy, where there is none."""
    found = _found()
    if isinstance(found, str):
        raise BackendUnavailableError(f"backend 'cuda' is not usable: {found}")
    return found


def _unusable() -> str | None:
    found = _found()
    if isinstance(found, str):
        return found
    try:
        nvrtc.compiler(found.version() // 1000)
    except BackendUnavailableError as error:
        return one_line(error)
    return None


class Queue:
    """A stream of the device that is current: `fanfill.backends.Queue`."""

    def __init__(self, gpu: Driver, number: int, stream: int) -> None:
        self.number, self.stream, self.context = number, stream, gpu.context()
        self._gpu, self._functions = gpu, _functions.setdefault(number, {})

    def parameters(self) -> int:
        """How many bytes of parameters a kernel may have here."""
        return _parameters_of(self._gpu, self._gpu.architecture(self.number))

    def multiprocessors(self) -> int:
        """How many the device has."""
        return self._gpu.multiprocessors(self.number)

    def prepare(self, names: Iterable[str]) -> None:
        """Compile what these kernels lack, a thread for each family; NVRTC needs no lock of Python's.

        A family takes 0.13 to 0.26 s of one core.
        """
        from fanfill_kernels.cuda.choice import family

        lacking = {family(name) for name in names if name not in self._functions}
        lacking = {which for which in lacking if (self.number, which) not in _modules}
        architecture = self._gpu.architecture(self.number) if lacking else 0
        work = [which for which in sorted(lacking) if (architecture, which) not in _images]
        if len(work) > 1:
            make = functools.partial(_image, self._gpu, architecture)
            with ThreadPoolExecutor(len(work)) as pool:
                for which, image in zip(work, pool.map(make, work), strict=True):
                    _images.setdefault((architecture, which), image)

    def has(self, name: str) -> bool:
        """Whether a kernel is loaded."""
        return name in self._functions

    def function(self, name: str) -> int:
        """The handle of a kernel, which is loaded if it is not there yet."""
        function = self._functions.get(name)
        if function is None:
            # Two threads may both ask; either answer serves.
            module = _module(self._gpu, self.number, name)
            function = self._functions[name] = int(module.get_function(name).ptr)
        return function

    def launch(self, name: str, blocks: int, threads: int, arguments: Sequence[bytes]) -> int:
        """Start a kernel, of a strided one as many thread blocks as the device needs; return its handle."""
        from fanfill_kernels.cuda.geometry import resident

        function = self.function(name)
        blocks = resident(name, blocks, self.multiprocessors())
        start(self._gpu, function, blocks, threads, self.stream, arguments)
        return function


def start(
    gpu: Driver, function: int, blocks: int, threads: int, stream: int, arguments: Sequence[bytes]
) -> None:
    """Start a kernel by its handle, on the device that is current."""
    padded = [argument + bytes(-len(argument) % _ALIGNMENT) for argument in arguments]
    memory = ctypes.create_string_buffer(b"".join(padded))
    places = itertools.accumulate(map(len, padded[:-1]), initial=ctypes.addressof(memory))
    pointers = (ctypes.c_void_p * len(padded))(*places)
    gpu.launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(pointers), 0)


@contextmanager
def _launcher(target: Target) -> Iterator[Queue]:
    gpu = driver()
    number = gpu.locate(target.pointer) if target.device is None else target.device
    if number is None:
        raise ValueError(
            f"expected memory that a CUDA device can write; got address {target.pointer:#x}, which no device "
            "knows; allocate the buffer with CuPy, torch or another CUDA library"
        )
    with gpu.use(number):
        yield Queue(gpu, number, gpu.stream(number) if target.stream is None else target.stream)


def _module(gpu: Driver, number: int, name: str) -> Any:
    """Load a kernel and its family on a device, the current one; one thread does it, others wait."""
    from fanfill_kernels.cuda.choice import family

    which = family(name)
    with _lock:
        module = _modules.get((number, which))
        if module is None:
            architecture = gpu.architecture(number)
            image = _images.get((architecture, which))
            if image is None:
                image = _images[architecture, which] = _image(gpu, architecture, which)
            try:
                module = _modules[number, which] = gpu.load(image)
            except RuntimeError as error:
                if getattr(error, "status", None) == 2:  # out of memory: nothing is wrong with the backend
                    raise
                raise BackendUnavailableError(
                    f"expected the driver to load kernels for sm_{architecture} on device {number}; got "
                    f"{one_line(error)}; update the driver, or take an NVRTC no newer than it: {INSTALL}"
                ) from error
        return module


def _image(gpu: Driver, architecture: int, which: str) -> bytes:
    """A family of kernels for an architecture: a cubin, from the cache on disk or from NVRTC."""
    if which.startswith("grouped_"):
        which = which.replace("_", f"_{_parameters_of(gpu, architecture)}_", 1)
    return kept(compiler_for(gpu.version() // 1000, architecture), architecture, which)[1]


def _parameters_of(gpu: Driver, architecture: int) -> int:
    """How many bytes of parameters a kernel may have for an architecture here."""
    from fanfill_kernels.cuda.groups import parameters

    major, minor = divmod(gpu.version() // 10, 100)
    return parameters(min((major, minor), compiler_for(major, architecture).version), architecture)


def compiler_for(newest: int, architecture: int) -> nvrtc.Compiler:
    """The newest NVRTC for drivers of CUDA ``newest``: one that knows the architecture, if there is one."""
    compilers = [c for c in nvrtc.compilers() if c.version[0] <= newest and architecture in c.architectures]
    return compilers[0] if compilers else nvrtc.compiler(newest)


def kept(compiler: nvrtc.Compiler, architecture: int, which: str) -> tuple[str, bytes, bool]:
    """A family of kernels for an architecture: its key in the cache, its image, and whether it was compiled.

    An NVRTC older than the device makes PTX for the newest architecture that it knows, and the driver
    compiles that.
    """
    from fanfill_kernels.cuda.choice import source_of
    from fanfill_kernels.store import cache

    known = newest_known(compiler, architecture)
    source, ptx = source_of(which), architecture != known
    digest = hashlib.sha256("\0".join((source, *nvrtc.OPTIONS)).encode()).hexdigest()
    version = f"{compiler.version[0]}.{compiler.version[1]}"
    key = f"{'ptx' if ptx else 'cubin'}-{known}-{version}-{which}-{digest}"
    image = cache.load(key)
    if image is not None:
        return key, image, False
    image = compiler.compile(source, "fill.cu", known, ptx)
    cache.store(key, image)
    return key, image, True


def load_source(gpu: Driver, text: str, name: str) -> Any:
    """Compile a source that is none of fanfill's kernels, and load it on the current device.

    As PTX, which serves devices newer than the compiler too; a driver that is a minor version older than the
    compiler refuses that, and gets machine code.
    """
    newest, architecture = gpu.version() // 1000, gpu.architecture(gpu.current())
    image = _compiled(text, name, newest, architecture, ptx=True)
    try:
        return gpu.load(image)
    except RuntimeError:
        return gpu.load(_compiled(text, name, newest, architecture, ptx=False))


@functools.cache
def _compiled(text: str, name: str, newest: int, architecture: int, *, ptx: bool) -> bytes:
    compiler = compiler_for(newest, architecture)
    known = newest_known(compiler, architecture) if ptx else architecture
    return compiler.compile(text, name, known, ptx)


def newest_known(compiler: nvrtc.Compiler, architecture: int) -> int:
    """The newest architecture, up to the one that is asked for, that an NVRTC compiles for."""
    known: list[int] = [arch for arch in compiler.architectures if arch <= architecture]
    if not known:
        raise BackendUnavailableError(
            f"expected a device that NVRTC {compiler.version[0]}.{compiler.version[1]} compiles for, "
            f"sm_{min(compiler.architectures)} or later; got sm_{architecture}; take an older NVRTC: "
            f"{INSTALL}"
        )
    return max(known)


def _empty(number: int | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    gpu = driver()
    if number is not None and number >= gpu.devices():
        raise BackendUnavailableError(
            f"device: expected one of the {gpu.devices()} CUDA devices, cuda:0 and up; got cuda:{number}; "
            "nvidia-smi lists them, CUDA_VISIBLE_DEVICES may hide some"
        )
    with gpu.use(gpu.current() if number is None else number):
        try:
            gpu.empty((0,), dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"dtype: expected one of which CuPy makes arrays; got {dtype.name} ({one_line(error)}); fill "
                "a torch tensor of that dtype, or pass device='cpu'"
            ) from error
        return gpu.empty(shape, dtype)


@functools.cache
def _found() -> Driver | str:
    """The driver through CuPy, or why there is none: asked once a process."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({one_line(error)}); {INSTALL}"
    except Exception as error:  # a CuPy that breaks on import, for whatever reason
        return f"importing CuPy failed ({type(error).__name__}: {one_line(error)}); reinstall it: {INSTALL}"
    return find(cupy)


BACKEND = DeviceBackend("cuda", "cuda", _unusable, _launcher, _empty)
