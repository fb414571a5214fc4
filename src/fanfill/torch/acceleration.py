"""accelerated: runs code that initialises with torch's functions on fanfill.

Two hooks are enough to catch torch's functions under every name, whoever imported them and when:

* A TorchFunctionMode, which torch keeps for each thread, sees ``Tensor.uniform_`` and ``Tensor.normal_``. All
  random functions of ``torch.nn.init`` end in these two, and old code calls them directly.
* A mode would see only the redraws inside ``trunc_normal_``. So it is caught at the one function that all its
  aliases call. That function is replaced when the first block begins and restored when the last one ends; a
  thread outside any block gets torch's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from fanfill.backends import get as backend_named
from fanfill.distributions import recipe
from fanfill.torch import laws
from fanfill.torch.drawing import draw_placed, draw_planned, locate, plan_for
from fanfill.torch.seeding import Stream, from_generator, seed_of
from fanfill.torch.tensors import STORAGE_NAMES

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["accelerated"]


class accelerated(contextlib.ContextDecorator):
    """Inside this block, fanfill draws what torch would draw to initialise tensors.

    This covers ``torch.nn.init``'s random functions, and so all layers of torch.nn; ``Tensor.uniform_`` and
    ``Tensor.normal_``; and everything built on these, such as the models of Hugging Face transformers.
    Everything else runs as in torch: constants, the permutations of ``sparse_``, ``torch.randn``, and tensors
    and parameters that fanfill refuses (see `fanfill.torch.functions`).

    Parameters
    ----------
    seed : int, optional
        In [0, 2^64). Call number k of the block, counted from 0, is drawn with this seed and the name k. So
        the values depend only on the order of the calls. If None, each call's seed and name come from torch's
        default CPU generator, which ``torch.manual_seed`` seeds. A call with its own ``generator`` takes them
        from there.

    Raises
    ------
    TypeError, ValueError
        If the seed is not an integer in [0, 2^64).

    Notes
    -----
    A block affects only the thread that enters it. Blocks nest: inside the inner one, its seed counts.
    Entering an object again inside its own block continues its count; entering it anew starts at 0.

    Examples
    --------
    >>> with accelerated(seed=0):
    ...     model = torch.nn.Linear(3, 5)
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = None if seed is None else seed_of(seed)
        self._own = threading.local()  # one object may be entered on several threads

    def __enter__(self) -> accelerated:
        entered: list[_Mode] = self._own.__dict__.setdefault("entered", [])
        mode = _Mode(entered[-1].calls if entered else _Calls(self.seed))
        _hook()
        try:
            mode.__enter__()
        except BaseException:
            _unhook()
            raise
        entered.append(mode)
        _blocks().append(mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode = self._own.entered.pop()
        try:
            _blocks().remove(mode)
            mode.__exit__(kind, error, trace)
        finally:
            _unhook()


class _Calls:
    """Gives each call of a block its stream."""

    def __init__(self, seed: int | None) -> None:
        self.seed, self.count = seed, 0

    def next(self, generator: torch.Generator | None) -> Stream:
        if self.seed is None or generator is not None:
            return from_generator(generator)
        self.count += 1
        return self.seed, self.count - 1


class _Mode(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        law_of = _LAWS.get(func) or _stand_in(func)
        if law_of is not None and _drawn(self.calls, law_of, args, kwargs):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _drawn(calls: _Calls, law_of: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Draw what a call asks for, or return False if torch must refuse the call or handle it."""
    try:
        tensor, generator, law = law_of(*args, **kwargs)
        if law is None or not (generator is None or isinstance(generator, torch.Generator)):
            return False
        plan = plan_for(tensor, law)
        where = locate(tensor) if plan is None else None
        if plan is None:
            if where is None or (where.local.is_cuda and backend_named("cuda").unusable() is not None):
                return False
            recipe(law, where.global_shape, STORAGE_NAMES[tensor.dtype])
    except (ArithmeticError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    if plan is not None:
        draw_planned(tensor, plan, *calls.next(generator))
    elif where is not None:
        draw_placed(tensor, where, law, *calls.next(generator))
    return True


# Each function takes the arguments of its counterpart in torch and returns (tensor, generator, law).
def _of_uniform(self: Any, a: Any = 0.0, b: Any = 1.0, *, generator: Any = None, **named: Any) -> Any:
    low, high = named.pop("from", a), named.pop("to", b)
    return self, generator, None if named else laws.uniform(low, high, self.dtype)


def _of_normal(self: Any, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
    return self, generator, laws.normal(mean, std, self.dtype)


def _of_init_uniform(tensor: Any, a: Any = 0.0, b: Any = 1.0, generator: Any = None) -> Any:
    return tensor, generator, laws.uniform(a, b, tensor.dtype)


def _of_init_normal(tensor: Any, mean: Any = 0.0, std: Any = 1.0, generator: Any = None) -> Any:
    return tensor, generator, laws.normal(mean, std, tensor.dtype)


def _of_init_kaiming_uniform(
    tensor: Any, a: Any = 0, mode: Any = "fan_in", nonlinearity: Any = "leaky_relu", generator: Any = None
) -> Any:
    if 0 in tensor.shape:  # torch warns
        return tensor, generator, None
    law = laws.kaiming(a, mode, nonlinearity, "uniform", tuple(tensor.shape), tensor.dtype)
    return tensor, generator, law


# torch passes these three functions of torch.nn.init to a mode as they are; the others arrive as the methods
# that they call.
_LAWS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.uniform_: _of_uniform,
    torch.Tensor.normal_: _of_normal,
    init.uniform_: _of_init_uniform,
    init.normal_: _of_init_normal,
    init.kaiming_uniform_: _of_init_kaiming_uniform,
}


def _stand_in(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """What torch's function of that name draws, if another function has replaced it in torch.nn.init.

    torch's own functions look themselves up there to tell a mode who they are. transformers puts its
    functions there while it initialises, and calls torch's from them: so torch's call arrives here as the
    other function.
    """
    name: str = getattr(func, "__name__", "")
    if name in _NAMES and getattr(init, name, None) is func:
        return _NAMES[name]
    return None


_NAMES: dict[str, Callable[..., Any]] = {
    "uniform_": _of_init_uniform,
    "normal_": _of_init_normal,
    "kaiming_uniform_": _of_init_kaiming_uniform,
}

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
    blocks = _blocks()
    if blocks:
        with torch._C.DisableTorchFunction():
            if _drawn(blocks[-1].calls, _of_trunc_normal, (tensor, mean, std, a, b, generator), {}):
                return tensor
    original = _torch_trunc_normal or laws.torch_trunc_normal
    return original(tensor, mean, std, a, b, generator)


def _of_trunc_normal(tensor: Any, mean: Any, std: Any, a: Any, b: Any, generator: Any) -> Any:
    return tensor, generator, laws.trunc_normal(mean, std, a, b, tensor.dtype)


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
