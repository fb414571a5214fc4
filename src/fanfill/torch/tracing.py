"""Traces how a torch model initialises itself, on the meta device: what each storage holds, as laws of boxes.

A dispatch mode sees every operation below torch.nn.init, below a tensor's methods and below its views. Each
is carried out on symbolic values at once; no table of layers or models is needed, and nothing large is
allocated.

* Small tensors are real, on the CPU. What is no law, such as log(arange), then has values, and they are
stored.
* trunc_normal_, orthogonal_ and a few more return at once on meta tensors. They are replaced while a trace is
  open, in torch.nn.init and in the copies that transformers 5 makes at import.
* transformers 5 leaves initialisation out under ``torch.device("meta")``. So there is no such block: calls of
  factories that name no device get one.
* What cannot be expressed is *unknown* and names the operation that made it. Nothing is guessed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import init
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fanfill import matrices
from fanfill.initializers import Initializer

__all__ = ["Box", "Held", "Law", "Trace", "tracing"]

# Factories and what they fill a tensor with.
_CONSTANTS = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}
_EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
_COPIES = {"clone", "_to_copy", "contiguous", "lift_fresh", "lift", "lift_fresh_copy", "alias_copy"}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "abs": abs,
    "reciprocal": lambda x: 1 / x,
}
# These return at once on meta tensors, beside trunc_normal_, whose aliases all meet in one function.
_MATRICES: dict[str, Callable[..., Initializer]] = {
    "orthogonal_": lambda gain=1, generator=None: matrices.orthogonal(float(gain), out_axis=0),
    "dirac_": lambda groups=1: matrices.dirac(groups, in_axis=1, out_axis=0),
    "sparse_": lambda sparsity, std=0.01, generator=None: matrices.sparse(float(sparsity), float(std)),
    "eye_": matrices.identity,
}
_TRUNC = "_no_grad_trunc_normal_"
_IDLE = {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default}


class Law(NamedTuple):
    """What a box holds.

    ``normal (mean, std)``, ``uniform (low, high)``, ``truncated (mean, std, low, high)`` with absolute
    bounds, ``constant (value,)``, ``matrix (initializer, shape, strides)`` of all of one tensor as it was
    seen then, ``unset ()`` of memory that nothing was written to, and ``unknown (why,)``.
    """

    kind: str
    args: tuple[Any, ...] = ()

    @property
    def known(self) -> bool:
        return self.kind not in ("unset", "unknown")

    def scaled(self, by: float) -> Law | None:
        """The law of a value times a number, if it is one."""
        if self.kind == "constant":
            return Law("constant", (self.args[0] * by,))
        if self.kind == "normal":
            return Law("normal", (self.args[0] * by, abs(self.args[1] * by)))
        if self.kind == "uniform":
            return Law("uniform", tuple(sorted(x * by for x in self.args)))
        if self.kind == "truncated":
            mean, std, low, high = (x * by for x in self.args)
            return Law("truncated", (mean, abs(std), min(low, high), max(low, high)))
        if self.kind == "matrix" and self.args[0].distribution == "orthogonal" and by > 0:
            gain, axis = self.args[0].params
            return Law("matrix", (matrices.orthogonal(gain * by, out_axis=int(axis)), *self.args[1:]))
        return None

    def of(self, box: Box) -> Law:
        """The same, or unknown if it is a matrix that this box does not hold whole."""
        if self.kind != "matrix" or self.args[1:] == (box.shape, box.strides):
            return self
        return Law("unknown", (f"{self.args[0].distribution} of another view of it",))

    def shifted(self, by: float) -> Law | None:
        """The law of a value plus a number, if it is one."""
        if self.kind in ("constant", "uniform"):
            return Law(self.kind, tuple(x + by for x in self.args))
        if self.kind == "normal":
            return Law("normal", (self.args[0] + by, self.args[1]))
        if self.kind == "truncated":
            mean, std, low, high = self.args
            return Law("truncated", (mean + by, std, low + by, high + by))
        return None


class Box(NamedTuple):
    """Elements of a storage, as a strided tensor sees them."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Box:
        return cls(tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))

    def meets(self, other: Box) -> bool:
        """Whether two boxes may share an element: their ranges overlap."""
        return self.offset <= other.last() and other.offset <= self.last()

    def last(self) -> int:
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


class Piece(NamedTuple):
    """A box and what it holds."""

    box: Box
    law: Law


@dataclass
class Held:
    """What a storage holds: pieces in the order of their writing. The reference keeps its address from being
    used again, but not its memory.
    """

    size: int
    pieces: list[Piece]
    reference: StorageWeakRef

    def write(self, tensor: torch.Tensor, law: Law) -> None:
        piece = Piece(Box.of(tensor), law)
        if tensor.numel() == self.size:
            self.pieces = [Piece(Box(0, (self.size,), (1,)), law)]
        elif tensor.numel():
            self.pieces = [*(each for each in self.pieces if each.box != piece.box), piece]

    def read(self, box: Box) -> Law:
        """The one law of a box; unknown if parts of it were written later than the whole."""
        if len(self.pieces) == 1:
            only: Law = self.pieces[0].law
            return only.of(box)
        for piece in reversed(self.pieces):
            law: Law = piece.law
            if piece.box == box:
                return law.of(box)
            if piece.box.meets(box):
                break
        return Law("unknown", ("a read of memory whose parts hold different laws",))


class Origin(NamedTuple):
    """What a copy was made from: a view, and the shape and strides of the copy."""

    view: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Joining:
    """Tensors that `cat` or `stack` put behind each other along an axis."""

    axis: int
    tensors: list[torch.Tensor]
    shape: tuple[int, ...]


@dataclass
class Record:
    """What a trace has found, by the storages' addresses."""

    held: dict[int, Held] = field(default_factory=dict)
    origins: dict[int, Origin] = field(default_factory=dict)
    joined: dict[int, Joining] = field(default_factory=dict)

    def write(self, tensor: torch.Tensor, law: Law, *, fresh: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        held = self.held.get(key)
        if held is None or fresh:
            size = storage.nbytes() // max(1, tensor.element_size())
            unset = Piece(Box(0, (size,), (1,)), Law("unset"))
            held = self.held[key] = Held(size, [unset], StorageWeakRef(storage))
            if tensor.numel() == size:
                held.pieces = []
        held.write(tensor, law)

    def read(self, tensor: torch.Tensor) -> Law:
        held = self.held.get(tensor.untyped_storage()._cdata)
        if held is None:
            return Law("unknown", ("values from outside the trace",))
        return held.read(Box.of(tensor))


class Trace(TorchDispatchMode):  # type: ignore[misc]
    """The mode that sees every operation, and its record."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # torch's meta functions of these run in Python and only check arguments: half the time of a plan
        # (Llama of 1.1 G parameters: 0.40 and 0.21 s). A wrong argument is refused by the initializer.
        idle = func in _IDLE and args[0].is_meta
        out = args[0] if idle else func(*args, **kwargs)
        self._see(func, args, kwargs, out)
        return out

    def _see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        name = func._schema.name.partition("::")[2]
        arguments = func._schema.arguments
        bound = {a.name: value for a, value in zip(arguments, args, strict=False)} | dict(kwargs)
        written = [
            bound[a.name]
            for a in arguments
            if a.alias_info is not None
            and a.alias_info.is_write
            and isinstance(bound.get(a.name), torch.Tensor)
        ]
        if written:
            law = self._written(name, bound, written[0])
            for tensor in written:
                self.record.write(tensor, law)
            return
        outs = out if isinstance(out, tuple | list) else (out,)
        ins = {x.untyped_storage()._cdata for x in _tensors([*args, *kwargs.values()])}
        for tensor in _tensors(outs):
            if tensor.untyped_storage()._cdata not in ins:  # else a view
                self.record.write(tensor, self._made(name, bound, tensor), fresh=True)

    def _written(self, name: str, bound: Mapping[str, Any], tensor: torch.Tensor) -> Law:
        """What an operation that writes in place leaves."""
        if name == "normal_":
            return Law("normal", (float(bound.get("mean", 0.0)), float(bound.get("std", 1.0))))
        if name == "uniform_":
            return Law("uniform", (float(bound.get("from", 0.0)), float(bound.get("to", 1.0))))
        if name == "zero_":
            return Law("constant", (0,))
        if name == "fill_":
            value = _number(bound["value"])
            return Law("unknown", ("fill_",)) if value is None else Law("constant", (value,))
        if name == "copy_":
            source = bound["src"]
            law = self.record.read(source)
            if source.shape == tensor.shape or law.kind == "constant":
                return law if law.kind != "unset" else Law("unknown", ("copy_ of unset memory",))
            return Law("unknown", ("copy_ with broadcasting",))
        law = self.record.read(tensor)
        return self._affine(name.rstrip("_"), law, bound) or Law("unknown", (name,))

    def _made(self, name: str, bound: Mapping[str, Any], out: torch.Tensor) -> Law:
        """What a tensor that an operation returns holds."""
        if name in _EMPTY:
            return Law("unset")
        if name in _CONSTANTS:
            return Law("constant", (_CONSTANTS[name],))
        if name in ("full", "full_like", "new_full") and _number(bound["fill_value"]) is not None:
            return Law("constant", (_number(bound["fill_value"]),))
        if name in ("randn", "randn_like"):
            return Law("normal", (0.0, 1.0))
        if name in ("rand", "rand_like"):
            return Law("uniform", (0.0, 1.0))
        key = out.untyped_storage()._cdata
        if name in ("cat", "stack"):
            axis = bound.get("dim", 0) % out.dim()
            given = list(bound["tensors"])
            tensors = [t.unsqueeze(axis) for t in given] if name == "stack" else given
            self.record.joined[key] = Joining(axis, tensors, tuple(out.shape))
            laws = {self.record.read(tensor) for tensor in given}
            return laws.pop() if len(laws) == 1 else Law("unknown", (f"{name} of different laws",))
        source = bound.get("self", bound.get("input"))
        if not isinstance(source, torch.Tensor):
            return Law("unknown", (name,))
        law = self.record.read(source)
        if name in _COPIES:
            self.record.origins[key] = Origin(source, tuple(out.shape), tuple(out.stride()))
            return law
        return self._affine(name, law, bound) or Law("unknown", (name,))

    def _affine(self, name: str, law: Law, bound: Mapping[str, Any]) -> Law | None:
        """The law of ``x * a``, ``x + b`` and the like, if it is one."""
        other = _number(bound.get("other"))
        if name == "mul" and other is not None:
            return law.scaled(other)
        if name in ("div", "true_divide") and other and bound.get("rounding_mode") is None:
            return law.scaled(1 / other)
        if name in ("add", "sub") and other is not None:
            alpha = _number(bound.get("alpha", 1))
            return None if alpha is None else law.shifted((1 if name == "add" else -1) * other * alpha)
        if name == "rsub" and other is not None and bound.get("alpha", 1) == 1:
            negative = law.scaled(-1.0)
            return negative and negative.shifted(other)
        if name == "neg":
            return law.scaled(-1.0)
        if law.kind == "constant" and name in _FUNCTIONS:
            try:
                return Law("constant", (_FUNCTIONS[name](float(law.args[0])),))
            except (ValueError, ZeroDivisionError, OverflowError):
                return None
        return None


@contextmanager
def tracing(small: int) -> Iterator[Record]:
    """Record every initialisation in a block; tensors of up to `small` elements are real.

    It replaces functions of torch.nn.init meanwhile, so no other thread should initialise a model. torch's
    random numbers are seeded inside, and are after the block what they were before.
    """
    trace = Trace()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)  # what is random and no law, such as log(uniform), is stored: the same each time
        _replace(stack, vars(init), _TRUNC, _recorded_trunc(trace, getattr(init, _TRUNC)))
        copies = sys.modules.get("transformers.initialization")
        for name in _MATRICES:
            new = _recorded(trace, name, vars(init)[name])
            _replace(stack, vars(init), name, new)
            if copies is not None and name in copies.TORCH_INIT_FUNCTIONS:
                _replace(stack, copies.TORCH_INIT_FUNCTIONS, name, new)
        stack.enter_context(trace)
        stack.enter_context(_Devices(small))
        yield trace.record


def _replace(stack: ExitStack, table: dict[str, Any], key: str, new: Any) -> None:
    stack.callback(table.__setitem__, key, table[key])
    table[key] = new


def _recorded_trunc(trace: Trace, real: Callable[..., Any]) -> Callable[..., Any]:
    def trunc_normal(
        tensor: Any, mean: Any = 0.0, std: Any = 1.0, a: Any = -2.0, b: Any = 2.0, generator: Any = None
    ) -> Any:
        if not tensor.is_meta:
            real(tensor, mean, std, a, b, generator)
        trace.record.write(tensor, Law("truncated", (float(mean), float(std), float(a), float(b))))
        return tensor

    return trunc_normal


def _recorded(trace: Trace, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not tensor.is_meta:
            real(tensor, *args, **kwargs)
        try:
            law = Law(
                "matrix", (_MATRICES[name](*args, **kwargs), tuple(tensor.shape), tuple(tensor.stride()))
            )
        except (TypeError, ValueError):  # what torch takes and fanfill does not, such as a negative gain
            law = Law("unknown", (name,))
        trace.record.write(tensor, law)
        return tensor

    return call


class _Devices(TorchFunctionMode):  # type: ignore[misc]
    """Factory calls that name no device: on meta if large, on the CPU if small or given values."""

    def __init__(self, small: int) -> None:
        super().__init__()
        self.small = small

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _device_constructors() or kwargs.get("device") is not None:
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        if func not in _GIVEN:
            with _disable_current_modes():
                size = func(*args, **{**kwargs, "device": "meta"}).numel()
            if size > self.small:
                kwargs["device"] = "meta"
        return func(*args, **kwargs)


# Their values are given or computed, and no law.
_GIVEN = (torch.tensor, torch.as_tensor, torch.scalar_tensor, torch.arange, torch.linspace, torch.logspace)


def _tensors(things: Sequence[Any]) -> Iterator[torch.Tensor]:
    for thing in things:
        if isinstance(thing, torch.Tensor):
            yield thing
        elif isinstance(thing, tuple | list):
            yield from _tensors(thing)


def _number(x: Any) -> int | float | None:
    if isinstance(x, bool | int | float):
        return x
    if isinstance(x, torch.Tensor) and x.dim() == 0 and not x.is_meta:
        with _disable_current_modes():
            value: int | float = x.item()
        return value
    return None
