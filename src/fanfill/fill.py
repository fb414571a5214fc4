"""fill, draw and words: check what the caller gave, locate the buffer, choose a backend, run.

A fill of a small array is mostly overhead, and models have thousands of small parameters. So everything that
does not depend on the seed or the name is kept from the last fill of the same initializer, shape and dtype,
and the next such fill goes straight to the kernel.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fanfill import imports, regions
from fanfill.arguments import LARGEST_TENSOR, integer, shape_of
from fanfill.backends import default_host, device_of, resolve
from fanfill.cpu import buffers
from fanfill.cpu import run as cpu_run
from fanfill.cpu import threads as pool
from fanfill.cuda import buffers as device_buffers
from fanfill.cuda import run as cuda_run
from fanfill.distributions import recipe
from fanfill.dtypes import dtype_of
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill.named import initializer_of
from fanfill.recipes import Recipe
from fanfill.streams import SEEDS, WORD, halves, key_of
from fanfill.structures import assert_on_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from fanfill.backends import Backend
    from fanfill.literals import BackendName, DeviceName, DtypeName
    from fanfill_kernels.formats import Format
    from fanfill_kernels.philox import Key

Buffer = TypeVar("Buffer")

_UNWATCHED: AbstractContextManager[None] = nullcontext()


class Plan(NamedTuple):
    """What a small fill needs: kernel, parameters, the dtype to view the buffer as."""

    run: Callable[[NDArray[Any], int, Key, tuple[Any, ...]], None]
    params: tuple[Any, ...]
    lanes: np.dtype[Any]


# By initializer (or the name of one), shape, and dtype (or the name of a storage type).
plans: dict[tuple[object, tuple[int, ...], object], Plan] = {}
_MOST_PLANS = 4096

# By type: what fills a buffer on a device by its plan, as soon as there is one; see `fanfill.cuda.plans`.
on_devices: dict[type, Callable[[Any, Initializer, int, int, int], bool]] = {}


def fill(
    buffer: Buffer,
    initializer: Initializer | str,
    *,
    seed: int,
    name: str | int = 0,
    global_shape: int | Iterable[int] | None = None,
    offset: int | Iterable[int] | None = None,
    backend: BackendName | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | bool | None = None,
) -> Buffer:
    """Fill a buffer in place with draws of an initializer.

    A value depends on the seed, the name, the element's C-order index in the global tensor, the initializer
    and the dtype, and on nothing else: not on the memory layout, the part of the tensor that the buffer
    holds, the backend or the number of threads. **Two tensors filled with the same seed and the same name
    hold the same values**, so give each parameter of a model its own name.

    Parameters
    ----------
    buffer
        The memory to fill: a writable `numpy.ndarray` of float32, float64, float16, or ml_dtypes' bfloat16,
        float8_e4m3fn, float8_e5m2, float8_e4m3fnuz or float8_e5m2fnuz, of any rank, order and strides; or an
        object with the writable buffer protocol, ``__array_interface__`` or CPU DLPack; or a torch CPU
        tensor. On a GPU: a `cupy.ndarray`, a torch tensor, or an object with a writable
        ``__cuda_array_interface__``. All of these may have any of these dtypes. (A memory map on a full disk
        ends the process by SIGBUS, as when NumPy writes it.) A GPU's buffer is filled where it lies, on its
        own device, by work put on a stream: CuPy's current one; torch's, for a torch tensor; the object's
        own, if it names one. The call returns without waiting for it. A torch tensor is filled outside of
        autograd, as under ``torch.no_grad()``: a leaf that requires grad may be filled, and the version
        counter moves, so that a graph that has saved the old values refuses to go backward with the new ones.
    initializer
        An `Initializer`, such as ``he_normal()``, or the name of one.
    seed
        An integer in [0, 2^64).
    name
        The substream: a string, or an integer in [0, 2^64).
    global_shape
        The whole tensor's shape, if the buffer is a part of it. Fans come from it.
    offset
        Where the part begins. A tuple, or another iterable: the buffer is a box with its first element there
        (None: at the origin). An int: the buffer is 1-D and holds the flat C-order range from there.
    backend
        "numba" or "numpy" for host memory, "cuda" for a GPU's. None: "cuda" there; here the first of the two
        that is usable, or what the environment variable FANFILL_BACKEND (read once per process) says.
    threads
        How many threads may work; None: what `get_threads` says. Buffers of at most 131,072 values use the
        calling thread alone. It is a bound, not an order: on a GPU, whose work one thread hands over, it is
        checked and has no effect, so that the same call serves both.
    progress
        True for a bar on stderr, with rate and time left (rich's, if it is installed; where stderr is no
        terminal, a line every half minute). Or a callable that gets (values done, values in all), on the
        calling thread, at last with both equal. On a GPU that is once, when all work has been handed over.

    Returns
    -------
    buffer
        The very object that was given.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, before anything is written.
    BackendUnavailableError
        If the named backend cannot be used here, or the buffer lies on a device that none can fill: no
        backend fills a device's memory through the host.

    Examples
    --------
    >>> import numpy as np, fanfill as ff
    >>> w = ff.fill(np.empty((4, 3), np.float32), ff.he_normal(), seed=0, name="decoder.0.wq")
    >>> part = np.empty((2, 3), np.float32)
    >>> rows = ff.fill(part, ff.he_normal(), seed=0, name="decoder.0.wq", global_shape=(4, 3), offset=(2, 0))
    >>> bool((rows == w[2:]).all())
    True
    """
    array: Any = buffer
    by_plan = on_devices.get(type(array))
    if (
        by_plan is not None
        and type(initializer) is Initializer
        and (type(name) is int or type(name) is str)
        and type(seed) is int
        and 0 <= seed < SEEDS
        and backend is None
        and global_shape is None
        and offset is None
        and threads is None
        and progress is None
        and by_plan(array, initializer, seed, *halves(name))
    ):
        return buffer
    plain = (
        type(array) is np.ndarray
        and backend is None
        and global_shape is None
        and offset is None
        and threads is None
        and progress is None
        and array.flags.carray  # C-contiguous, aligned, writable
    )
    if (
        plain
        and (type(initializer) is Initializer or type(initializer) is str)
        and (type(name) is int or type(name) is str)
        and type(seed) is int
        and 0 <= seed < SEEDS
    ):
        plan = plans.get((initializer, array.shape, array.dtype))
        if plan is not None:
            if array.ndim != 1:
                array = array.reshape(-1)
            if array.dtype is not plan.lanes:
                array = array.view(plan.lanes)
            low, high = halves(name)
            plan.run(array, 0, (seed & WORD, seed >> 32, low, high), plan.params)
            return buffer

    key = key_of(seed, name)
    law = initializer_of(initializer)
    watch = watched(progress)
    count = None if threads is None else pool.resolve(threads)
    memory = as_memory(buffer, law, backend)
    with watch as follow:
        plan = fill_storage(
            memory,
            law,
            key,
            global_shape=global_shape,
            offset=offset,
            backend=backend,
            threads=count,
            progress=follow,
            written=functools.partial(buffers.mark_written, buffer) if memory.is_torch else None,
        )
    if plain and plan is not None:
        remember(plans, (initializer, array.shape, array.dtype), plan)
    return buffer


def watched(
    progress: object, phase: str = "filling", unit: str = "values"
) -> AbstractContextManager[Callable[[int, int], object] | None]:
    """What follows a job for the length of a block; TypeError for what is no ``progress``."""
    if progress is None:
        return _UNWATCHED
    found: AbstractContextManager[Any] = imports.module("fanfill.progress").following(progress, phase, unit)
    return found


def as_memory(buffer: object, law: Initializer, backend: str | None) -> buffers.Lanes | device_buffers.Target:
    """View a buffer that a backend and an initializer can fill, or raise as `fill`."""
    memory: buffers.Lanes | device_buffers.Target
    if buffers.device_of(buffer) == "cuda":
        resolve("cuda", backend)
        memory = device_buffers.as_storage(buffer)
    else:
        resolve("cpu", backend)
        memory = buffers.as_lanes(buffer)
    if memory.is_torch and law.default_axes:
        shape = memory.shape if isinstance(memory, device_buffers.Target) else memory.view.shape
        if law.distribution == "orthogonal" and len(shape) == 2:
            return memory  # the same matrix, whichever axis is that of the outputs
        what = "axes" if law.structured else "fans"
        axes = "out_axis=0" if law.distribution == "orthogonal" else "in_axis=1, out_axis=0"
        raise ValueError(
            f"expected explicit axes on a torch tensor, whose layout is (out, in, *k); got {shown(law)}, "
            f"whose {what} are those of (*k, in, out); pass {axes}, or use fanfill.torch, which does"
        )
    return memory


def fill_storage(
    memory: buffers.Lanes | device_buffers.Target,
    law: Initializer,
    key: Key,
    *,
    global_shape: int | Iterable[int] | None = None,
    offset: int | Iterable[int] | None = None,
    backend: BackendName | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    written: Callable[[], object] | None = None,
) -> Plan | None:
    """Fill memory as a storage type: where `fill` and all adapters meet.

    Parameters
    ----------
    memory
        What `buffers.as_lanes` or `device_buffers.as_storage` makes of a buffer, or an adapter of its
        library's arrays: writable, no two elements in the same memory.
    law, global_shape, offset, backend, threads, progress
        As in `fill`; ``threads`` at least 1.
    key
        Seed and substream: see `key_of`.
    written
        Called once everything has been checked, before the first value is written: to tell a library that its
        array changes.

    Returns
    -------
    The plan of a fill that can be repeated without any check: of small, contiguous host memory.

    Raises
    ------
    ValueError, TypeError, BackendUnavailableError
        As `fill`, before anything is written.
    """
    if isinstance(memory, device_buffers.Target):
        device_engine = resolve("cuda", backend)
        region = regions.region(memory.shape, global_shape, offset)
        made = recipe(law, region.shape, memory.dtype)
        assert_on_host(made, law)
        if written is not None:
            written()
        single = cuda_run.fill_target(memory, region, made, key, device_engine, progress)
        if single is not None and global_shape is None and offset is None and backend is None:
            device_plans = imports.module("fanfill.cuda.plans")
            device_plans.remember(law, memory, single)
            on_devices.update(device_plans.kinds())
        return None
    view, storage = memory.view, memory.storage
    small = 0 < view.size <= cpu_run.SMALL
    if (
        small
        and global_shape is None
        and offset is None
        and backend is None
        and progress is None
        and not law.structured
        and view.flags.carray
    ):
        named = law, view.shape, storage.name
        plan = plans.get(named)
        if plan is None:
            plan = planned(law, view.shape, storage)
            remember(plans, named, plan)
        if written is not None:
            written()
        plan.run(view.reshape(-1), 0, key, plan.params)
        return plan
    engine = resolve("cpu", backend)
    region = regions.region(view.shape, global_shape, offset)
    made = recipe(law, region.shape, storage.name)
    count = threads or (pool.resolve(None) if view.size > cpu_run.SMALL else 1)
    if written is not None:
        written()
    cpu_run.fill_lanes(view, region, made, key, engine, count, progress)
    return None


def draw(
    shape: int | Iterable[int],
    initializer: Initializer | str,
    *,
    seed: int,
    name: str | int = 0,
    dtype: DtypeName | type | np.dtype[Any] = "float32",
    device: DeviceName = "cpu",
    backend: BackendName | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | bool | None = None,
) -> Any:
    """Allocate a tensor and fill it; the same values as `fill` on a C-contiguous array.

    Parameters
    ----------
    shape
        A tuple of integers, or one integer for a 1-D tensor.
    dtype
        A dtype of `fill`, or its name; those of ml_dtypes go by name as soon as it is installed.
    device
        "cpu", "cuda" (CuPy's current device), "cuda:1", or "auto": a GPU where one is usable (`backends` says
        why not), else the CPU; with a backend named, the device that it fills.
    initializer, seed, name, backend, threads, progress
        As in `fill`.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `fill`; also for a device of unknown name, or one that cannot be used here, and for a dtype of
        which CuPy makes no arrays.

    Returns
    -------
    numpy.ndarray
        On the CPU; on a GPU it is a `cupy.ndarray`.
    """
    kind, number = device_of(device, backend)
    sizes, numpy_dtype = shape_of(shape, "shape"), dtype_of(dtype)
    array: Any
    if kind == "cuda":
        array = resolve("cuda", backend).empty(number, sizes, numpy_dtype)
    else:
        resolve("cpu", backend)
        array = np.empty(sizes, numpy_dtype)
    return fill(array, initializer, seed=seed, name=name, backend=backend, threads=threads, progress=progress)


def words(
    buffer: Buffer, *, seed: int, name: str | int = 0, start: int = 0, backend: BackendName | None = None
) -> Buffer:
    """Fill a buffer of uint32, in C order, with the generator's raw words: Philox4x32-10 of (seed, name).

    Parameters
    ----------
    buffer
        A writable uint32 array or an object with such a buffer, of any shape and strides, in host memory or
        on a GPU.
    seed, name, backend
        As in `fill`.
    start
        Index of the first word, in [0, 2^63).

    Returns
    -------
    buffer
        The very object that was given.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `fill`; also if the words would pass word 2^63.
    """
    key = key_of(seed, name)
    first = integer(start, "start", 0, LARGEST_TENSOR, "[0, 2**63)")
    recipe = Recipe("words", "uint32", ())
    if buffers.device_of(buffer) == "cuda":
        engine = resolve("cuda", backend)
        target = device_buffers.as_target(buffer)
        _assert_words(target.dtype, target.shape, first)
        device_buffers.assert_fillable(target)
        if target.is_torch:
            buffers.mark_written(buffer)
        cuda_run.fill_target(target, regions.region(target.shape)._replace(start=first), recipe, key, engine)
        return buffer
    host_engine = resolve("cpu", backend)
    is_torch = buffers.torch_of(buffer) is not None
    array = buffers.torch_array(buffer, buffers.WORDS) if is_torch else buffers.host_array(buffer)
    _assert_words("uint32" if array.dtype == np.uint32 else str(array.dtype), array.shape, first)
    buffers.assert_fillable(array)
    region = regions.region(array.shape)._replace(start=first)
    threads = pool.resolve(None)
    if is_torch:
        buffers.mark_written(buffer)
    cpu_run.fill_lanes(array, region, recipe, key, host_engine, threads)
    return buffer


def _assert_words(dtype: str, shape: tuple[int, ...], first: int) -> None:
    if dtype != "uint32":
        raise TypeError(
            f"expected a buffer of native uint32, which words are; got dtype {dtype}; fill() makes "
            "floating-point values"
        )
    if first + prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"start: expected words below word 2**63; got {prod(shape)} of them from {first} on")


def planned(
    law: Initializer, shape: tuple[int, ...], storage: Format, backend: Backend | None = None
) -> Plan:
    """Make the plan for a whole, small tensor; by the default backend, unless one is given."""
    made = recipe(law, shape, storage.name)
    engine = backend or default_host()
    constant = made.form == "constant"
    run = cpu_run.store if constant else engine.kernels(made.form, made.dtype).run
    return Plan(run, made.params, storage.lanes)


def remember(kept: dict[Any, Any], named: object, plan: object) -> None:
    """Keep a plan for the next call like this one, in one of the dictionaries that plans lie in."""
    if len(kept) >= _MOST_PLANS:  # more shapes than a model has: start over rather than keep an order
        kept.clear()
    kept[named] = plan
