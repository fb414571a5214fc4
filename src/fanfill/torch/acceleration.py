"""accelerated: runs code that initialises with torch's functions on fanfill.

Two hooks are enough to catch torch's functions under every name, whoever imported them and when:

* A TorchFunctionMode, which torch keeps for each thread, sees torch's factories, ``Tensor.uniform_`` and
  ``Tensor.normal_``. All random functions of ``torch.nn.init`` end in the latter two; old code calls them
  directly.
* A mode would see only the redraws inside ``trunc_normal_``. So it is caught at the one function that all its
  aliases call. That function is replaced when the first block begins and restored when the last one ends; a
  thread outside any block gets torch's.

What reaches neither is drawn by torch's generators, which `fanfill.torch.governing` seeds.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fanfill import initializers
from fanfill.backends import get as backend_named
from fanfill.distributions import recipe
from fanfill.initializers import Initializer
from fanfill.torch import laws
from fanfill.torch.calls import (
    ERFINV,
    FACTORIES,
    FACTORY,
    IN_PLACE,
    LAWS,
    makes_a_shard,
    of_erfinv,
    of_trunc_normal,
    of_uniform,
    stand_in,
)
from fanfill.torch.drawing import draw_placed, draw_planned, locate, plan_for
from fanfill.torch.governing import Governed, govern, release
from fanfill.torch.naming import Known, Names, checked_trees
from fanfill.torch.seeding import Stream, from_generator, seed_of
from fanfill.torch.sharding import Placed, is_dtensor, placed
from fanfill.torch.tensors import STORAGE_NAMES, fill_memory, is_leaf
from fanfill.torch.tracing import Trace

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["accelerated"]


class accelerated(contextlib.ContextDecorator):
    """Inside this block, fanfill draws what torch would draw to initialise tensors.

    This covers ``torch.nn.init``'s random functions, and so all layers of torch.nn; ``Tensor.uniform_`` and
    ``Tensor.normal_``; truncated normals by ``uniform_`` and ``erfinv_``; and everything built on these, such
    as the models of Hugging Face transformers and timm. With a seed also ``torch.rand``, ``randn``,
    ``rand_like``, ``randn_like`` and ``torch.normal``, and complex tensors. Everything else is torch's:
    permutations, dropout, tensors and parameters that fanfill refuses (see `fanfill.torch.functions`), and
    all draws inside a transform of torch.func, a trace or compiled code.

    Parameters
    ----------
    seed : int, optional
        In [0, 2^64). Call number k of the block, counted from 0, is drawn with this seed and the name k, and
        number k of the factories and complex tensors with the name "torch k". So the values depend only on
        the order of the calls. torch's own generators, of the CPU and of CUDA devices, follow the seed too
        inside the block, and are as they were after it. If None, each call's seed and name come from torch's
        default CPU generator, which ``torch.manual_seed`` seeds. A call with its own ``generator`` takes them
        from there.
    names : torch.nn.Module or mapping, optional
        A module, or a mapping from prefixes to modules: their parameters and buffers, and boxes of them, are
        drawn with their names, those of `init_module`, in place of a call's number. Every other tensor is
        drawn by the order of the calls. Needs a seed.

    Raises
    ------
    TypeError, ValueError
        If the seed is not an integer in [0, 2^64); if ``names`` is something else, has two parameters of one
        name, or comes without a seed.

    Notes
    -----
    A block affects only the thread that enters it, save that torch's generators are the same for all threads.
    Blocks nest: inside the inner one, its seed counts. Entering an object again inside its own block
    continues its count; entering it anew starts at 0.

    Examples
    --------
    >>> with accelerated(seed=0):
    ...     model = torch.nn.Linear(3, 5)
    """

    def __init__(
        self, seed: int | None = None, *, names: nn.Module | Mapping[str, nn.Module] | None = None
    ) -> None:
        self.seed = None if seed is None else seed_of(seed)
        if names is not None and seed is None:
            raise TypeError("names: expected a seed with names; got none; pass seed= too, or neither")
        self._trees = None if names is None else checked_trees(names)
        self._own = threading.local()  # one object may be entered on several threads

    def __enter__(self) -> accelerated:
        entered: list[_Mode] = self._own.__dict__.setdefault("entered", [])
        mode = _Mode(entered[-1].calls if entered else _Calls(self.seed, self._trees))
        _hook()
        try:
            mode.__enter__()
        except BaseException:
            _unhook()
            raise
        entered.append(mode)
        _blocks().append(mode)
        if mode.calls.generators is not None:
            govern(mode.calls.generators)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode = self._own.entered.pop()
        try:
            if mode.calls.generators is not None:
                release(mode.calls.generators)
            _blocks().remove(mode)
            mode.__exit__(kind, error, trace)
        finally:
            _unhook()


class _Calls:
    """Gives each call of a block its stream."""

    def __init__(self, seed: int | None, trees: Mapping[str, nn.Module] | None) -> None:
        self.seed, self.count, self.others = seed, 0, 0
        self.names = None if trees is None else Names(trees)
        self.generators = None if seed is None else Governed(seed)

    def next(self, generator: torch.Generator | None) -> Stream:
        if self.seed is None or generator is not None:
            return from_generator(generator)
        count = self.count
        self.count = count + 1
        return self.seed, count

    def next_other(self) -> Stream:
        """Of a factory or a complex tensor. Among the others, these would move their numbers."""
        assert self.seed is not None
        self.others += 1
        return self.seed, f"torch {self.others - 1}"


class _Drawn(NamedTuple):
    """A draw that was made, and what it takes to draw another law in its place."""

    tensor: torch.Tensor
    law: Initializer
    stream: Stream
    known: Known | None
    version: int | None


class _Mode(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls
        self.uniform: _Drawn | None = None  # the last call, if it was uniform_

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _is_compiled():  # torch.compile reads this method to see what a call becomes: torch's own draw
            return func(*args, **kwargs)
        law_of = LAWS.get(func)
        if law_of is None:
            if self.uniform is not None and getattr(func, "__name__", "") not in _BETWEEN:
                self.uniform = None
            law_of = stand_in(func)
            if law_of is None:
                return func(*args, **kwargs)
        elif law_of is FACTORY or law_of is ERFINV:
            made = (self._made if law_of is FACTORY else self._of_uniform)(func, args, kwargs)
            return func(*args, **kwargs) if made is None else made
        self.uniform = None
        drawn = _drawn(self.calls, law_of, args, kwargs)
        if drawn is None:
            return func(*args, **kwargs)
        if law_of is of_uniform:
            tensor, law, stream, known = drawn
            self.uniform = _Drawn(tensor, law, stream, known, _version(tensor))
        return args[0] if args else kwargs["tensor"]

    def _made(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a factory of torch makes; None if torch must refuse the call, or a generator governs it."""
        self.uniform = None
        calls = self.calls
        if calls.seed is None or kwargs.get("generator") is not None or _blocks()[-1] is not self:
            return None
        if _is_traced() or makes_a_shard():
            return None
        given = {name: value for name, value in kwargs.items() if name != "generator"}
        try:
            made, law, finish = FACTORIES[func](*args, **given)
            ready = _ready(*_real(made, law), None)
        except _REFUSED:
            return None
        if ready is None:
            return None
        _fill(ready, calls.next_other(), None)
        return made if finish is None else finish()

    def _of_uniform(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The truncated normal that erfinv of the values drawn last stands for; None if it is none."""
        last, self.uniform = self.uniform, None
        if last is None or kwargs or len(args) != 1 or _is_traced():
            return None
        tensor, known = args[0], last.known
        if not _is_still(tensor, last) or (tensor.requires_grad and torch.is_grad_enabled()):
            return None
        try:
            law = of_erfinv(last.law)
            if law is None:
                return None
            if func not in IN_PLACE:
                tensor = torch.empty_like(tensor)
                if known is not None and known.part is not None:
                    return None
            # Whether it can be filled is not asked again: a view made under no_grad cannot answer now.
            ready = _checked(tensor, law, placed(tensor), known)
        except _REFUSED:
            return None
        _fill(ready, last.stream, known)
        return tensor


# What torch raises for its own arguments, and fanfill for what torch draws and fanfill does not.
_REFUSED = (ArithmeticError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)

# Calls between uniform_ and erfinv_ that change no values: attributes, and torch.no_grad().
_BETWEEN = ("__get__", "_set_grad_enabled")

_Ready = tuple[torch.Tensor, Initializer, Placed]


def _drawn(calls: _Calls, law_of: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Draw what a call asks for, and return a `_Drawn`'s beginning; None if torch must refuse or handle it.

    The way by a plan is the quickest one, for a whole tensor on a device whose like was filled before.
    """
    if _is_traced():
        return None
    known, ready, pairs = None, None, False
    try:
        tensor, generator, law = law_of(*args, **kwargs)
        if law is None or not (generator is None or isinstance(generator, torch.Generator)):
            return None
        if calls.names is not None and generator is None:
            known = calls.names.find(tensor)
        plan = plan_for(tensor, law) if known is None else None
        if plan is None:
            pairs = tensor.dtype.is_complex
            if pairs:
                if calls.seed is None or generator is not None:
                    return None
                known = None if known is None or known.part is not None else known
            real, part = _real(tensor, law) if pairs else (tensor, law)
            ready = _ready(real, part, known)
            if ready is None:
                return None
    except _REFUSED:
        return None
    if known is not None and calls.seed is not None:
        stream: Stream = (calls.seed, known.name)
    else:
        stream = calls.next_other() if pairs else calls.next(generator)
    if plan is not None:
        draw_planned(tensor, plan, *stream)
    elif ready is not None:
        _fill(ready, stream, known)
    return tensor, law, stream, known


def _real(tensor: torch.Tensor, law: Initializer) -> tuple[torch.Tensor, Initializer]:
    """A complex tensor as pairs, each part with its share of the variance; any other as it is."""
    if not tensor.dtype.is_complex:
        return tensor, law
    if not is_leaf(tensor) or is_dtensor(tensor) or tensor.is_neg():
        raise NotImplementedError("torch's")
    if law.distribution == "normal":
        mean, std = law.params
        law = initializers.normal(mean, std / math.sqrt(2.0))
    elif law.scaling is not None:
        law = Initializer(*law.law(tuple(tensor.shape)))
    return torch.view_as_real(tensor.detach()), law


def _ready(tensor: torch.Tensor, law: Initializer, known: Known | None) -> _Ready | None:
    """What a fill needs, all checks made; None if torch must handle the call."""
    where = locate(tensor)
    if where is None or (where.local.is_cuda and backend_named("cuda").unusable() is not None):
        return None
    return _checked(tensor, law, where, known)


def _checked(tensor: torch.Tensor, law: Initializer, where: Placed, known: Known | None) -> _Ready:
    """Raise what the fill would raise of the law."""
    shape = where.global_shape
    if known is not None and known.global_shape is not None:
        if law.scaling is not None:  # by the fans of what the call was given
            law = Initializer(*law.law(tuple(tensor.shape)))
        shape = known.global_shape
    recipe(law, shape, STORAGE_NAMES[tensor.dtype])
    return tensor, law, where


def _fill(ready: _Ready, stream: Stream, known: Known | None) -> None:
    tensor, law, where = ready
    if known is not None and known.part is not None:
        fill_memory(known.part, law, *stream, known.global_shape, known.offset)
    else:
        draw_placed(tensor, where, law, *stream)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _is_still(tensor: object, last: _Drawn) -> bool:
    """Whether a tensor has the values that were drawn last."""
    drawn = last.tensor
    if not isinstance(tensor, torch.Tensor) or _version(drawn) != last.version:
        return False
    if tensor is drawn:
        return True
    if is_dtensor(tensor) or is_dtensor(drawn) or tensor.dtype != drawn.dtype:
        return False
    return bool(tensor.is_set_to(drawn))  # as two tensors that `.data` gives


def _is_traced() -> bool:
    """Whether torch has to see the draw itself: in a transform of torch.func, which gives each example its
    own; in a trace, which would lose it; in a trace of `fanfill.torch.recipe`, which would store values.
    """
    if _interpreter() is not None or _is_tracing():
        return True
    if not _dispatch_modes():
        return False
    if any(_infra_mode(key) is not None for key in _TRACES):
        return True
    return any(isinstance(mode, Trace) for mode in _get_current_dispatch_mode_stack())


_is_compiled = torch.compiler.is_dynamo_compiling
_interpreter = torch._C._functorch.peek_interpreter_stack
_is_tracing = torch._C._is_tracing
_dispatch_modes = torch._C._len_torch_dispatch_stack
_infra_mode = torch._C._get_dispatch_mode
_TRACES = (torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FUNCTIONAL)


_TRUNC = "_no_grad_trunc_normal_"
_lock = threading.RLock()
_open_blocks = 0
_torch_trunc_normal: Callable[..., Any] | None = None
_thread = threading.local()


def _blocks() -> list[_Mode]:
    """This thread's blocks, the innermost last."""
    blocks: list[_Mode] = _thread.__dict__.setdefault("blocks", [])
    return blocks


def _trunc_normal(tensor: Any, mean: Any, std: Any, a: Any, b: Any, generator: Any = None) -> Any:
    """Replaces torch's function while a block is open on any thread."""
    if not _is_compiled() and (blocks := _blocks()):
        with torch._C.DisableTorchFunction():
            blocks[-1].uniform = None
            if _drawn(blocks[-1].calls, of_trunc_normal, (tensor, mean, std, a, b, generator), {}):
                return tensor
    original = _torch_trunc_normal or laws.torch_trunc_normal
    return original(tensor, mean, std, a, b, generator)


def _hook() -> None:
    global _open_blocks, _torch_trunc_normal
    with _lock:
        # A signal handler may open and end a block between any two of these lines.
        _open_blocks += 1
        found = getattr(init, _TRUNC, None)
        if found is not None and found is not _trunc_normal:
            _torch_trunc_normal = found
            setattr(init, _TRUNC, _trunc_normal)


def _unhook() -> None:
    global _open_blocks
    with _lock:
        _open_blocks -= 1
        if _open_blocks == 0 and getattr(init, _TRUNC, None) is _trunc_normal:
            setattr(init, _TRUNC, _torch_trunc_normal)
