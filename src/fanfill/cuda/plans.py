"""The fast path of a fill on a device: what does not depend on the seed or the name is kept.

A fill by `fanfill.cuda.run` took the host 104 us on an H200's machine, where torch's own ``normal_`` took
7.5. So the first fill of an initializer, shape, dtype and device makes a plan, and those that follow pack a
pointer and keys beside what the plan has, and launch, in 9.3 us where ``normal_`` takes 8.1.
Only what needs no further question goes this way: exactly a `torch.Tensor`, a `torch.nn.Parameter` or a
`cupy.ndarray`, whole, contiguous and on a multiple of 16 bytes, on a thread whose context is that of the
kernel. For all else there is no plan, and `fanfill.fill` goes the long way.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from fanfill.cpu.buffers import mark_written
from fanfill.cuda import backend
from fanfill.cuda.buffers import torch_stream
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.fill import remember as keep
from fanfill_kernels.cuda.geometry import KEYS, POINTER, RUN, STORE, key_words, resident, rounds_of

if TYPE_CHECKING:
    from fanfill.cuda.buffers import Target
    from fanfill.cuda.run import Single
    from fanfill.initializers import Initializer

__all__ = ["Plan", "fill_cupy", "fill_torch", "kinds", "launch", "plan_of_cupy", "plan_of_torch", "remember"]

_WORD, _HALF = 2**32 - 1, 32
# Where the parameters of a kernel for runs lie in a slot: the pointer, Run, Keys, those of the form.
_RUN = POINTER.size
_KEYS = _RUN + RUN.size
_MAKE = _KEYS + KEYS.size
_SLOT = 512


class Plan(NamedTuple):
    """What a fill needs beside its pointer and its key.

    Attributes
    ----------
    call, current, stream
        The driver's ``launch`` and ``context``; the library's current stream of a device, by its number.
    context, number
        Where the kernel was loaded.
    function, blocks, threads, span, make
        The kernel, its grid, its parameter ``Run`` and those of the form.
    pack
        Packs all parameters into a slot.
    size, itemsize
        Bytes of the buffer and of an element.
    layout
        torch's only one that has a pointer.
    """

    call: Callable[..., object]
    current: Callable[[], int]
    stream: Callable[[int], int]
    context: int
    number: int
    function: int
    blocks: int
    threads: int
    span: bytes
    make: bytes
    pack: Callable[..., None]
    size: int
    itemsize: int
    layout: object


class _Slot:
    """Memory for the parameters of a launch, and the array of pointers to them that the driver reads."""

    __slots__ = ("address", "pointers", "raw")

    def __init__(self) -> None:
        self.raw = (ctypes.c_uint64 * (_SLOT // 8))()
        base = ctypes.addressof(self.raw)
        self.pointers = (ctypes.c_void_p * 4)(*[base + place for place in (0, _RUN, _KEYS, _MAKE)])
        self.address = ctypes.addressof(self.pointers)


Plans = dict[tuple["Initializer", tuple[int, ...], object, int], Plan]

# By initializer, shape, the library's dtype and device. Apart, since default axes are refused for torch.
_of_torch: Plans = {}
_of_cupy: Plans = {}
# Those in no use: a signal handler that fills in the middle of a fill takes another, or makes one.
_slots: list[_Slot] = []


def plan_of_torch(tensor: Any, law: Initializer) -> Plan | None:
    """The plan for a torch tensor, if it can be filled without a further question.

    Not a view that is lazily negated, nor memory that was freed, nor an inference tensor.
    """
    try:
        plan = _of_torch.get((law, tensor.shape, tensor.dtype, tensor.get_device()))
        if (
            plan is not None
            and plan.current() == plan.context
            and tensor.layout is plan.layout
            and tensor.is_contiguous()
            and not tensor.data_ptr() % STORE
            and not tensor.is_neg()
            and not tensor.is_inference()
            and tensor.untyped_storage().nbytes() >= plan.size + plan.itemsize * tensor.storage_offset()
        ):
            return plan
    except RuntimeError:  # a nested tensor has no shape, others have no pointer
        pass
    return None


def plan_of_cupy(array: Any, law: Initializer) -> Plan | None:
    """The plan for a `cupy.ndarray`, if it can be filled without a further question."""
    memory = array.data
    plan = _of_cupy.get((law, array.shape, array.dtype, memory.device_id))
    if (
        plan is not None
        and plan.current() == plan.context
        and not memory.ptr % STORE
        and array.flags.c_contiguous
    ):
        return plan
    return None


def launch(plan: Plan, pointer: int, seed: int, low: int, high: int) -> None:
    """Start a plan's kernel, for a seed and the halves of a substream."""
    rounds = rounds_of(seed & _WORD, seed >> _HALF)
    try:
        slot = _slots.pop()
    except IndexError:
        slot = _Slot()
    plan.pack(slot.raw, 0, pointer, plan.span, rounds.packed, *key_words(rounds, low, high, 0), plan.make)
    stream = plan.stream(plan.number)
    plan.call(plan.function, plan.blocks, 1, 1, plan.threads, 1, 1, 0, stream, slot.address, 0)
    _slots.append(slot)


def fill_torch(tensor: Any, law: Initializer, seed: int, low: int, high: int) -> bool:
    """Fill a torch tensor by its plan; False if it has none."""
    plan = plan_of_torch(tensor, law)
    if plan is None:
        return False
    mark_written(tensor)
    launch(plan, tensor.data_ptr(), seed, low, high)
    return True


def fill_cupy(array: Any, law: Initializer, seed: int, low: int, high: int) -> bool:
    """Fill a `cupy.ndarray` by its plan; False if it has none."""
    plan = plan_of_cupy(array, law)
    if plan is None:
        return False
    launch(plan, array.data.ptr, seed, low, high)
    return True


def remember(law: Initializer, target: Target, single: Single) -> None:
    """Keep the plan of a fill of a whole buffer, which was a single launch."""
    if target.device is None or target.pointer % STORE:
        return
    torch = sys.modules["torch"] if target.is_torch else None
    gpu = backend.driver()
    _, span, _, make = single.launch.arguments
    size = STORAGES[target.dtype].itemsize
    for n in target.shape:
        size *= n
    plan = Plan(
        gpu.launch,
        gpu.context,
        gpu.stream if torch is None else torch_stream(torch),
        single.context,
        target.device,
        single.function,
        resident(single.launch.entry, single.launch.blocks, gpu.multiprocessors(target.device)),
        single.launch.threads,
        span,
        make,
        Struct(f"{POINTER.format}{RUN.size}s{KEYS.format[1:]}{len(make)}s").pack_into,
        size,
        target.itemsize,
        None if torch is None else torch.strided,
    )
    plans = _of_cupy if torch is None else _of_torch
    dtype = dtype_of(target.dtype) if torch is None else getattr(torch, target.dtype)
    keep(plans, (law, target.shape, dtype, target.device), plan)


def kinds() -> dict[type, Callable[[Any, Initializer, int, int, int], bool]]:
    """The types whose buffers may have a plan, with what fills them: of the libraries that are imported."""
    found: dict[type, Callable[[Any, Initializer, int, int, int], bool]] = {}
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None:
        found |= {torch.Tensor: fill_torch, torch.nn.Parameter: fill_torch}
    if cupy is not None:
        found[cupy.ndarray] = fill_cupy
    return found
