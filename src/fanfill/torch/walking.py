"""One walk over a model: each parameter once, under its first name, with the rules that may cover it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fanfill.torch.defaults import Rule, rule_of

Ruled = tuple[Rule, nn.Module, int]

__all__ = ["Magnitude", "Parameter", "buffers", "parameters"]

# What torch's wrappers call the module that they wrap; not a part of a parameter's name.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_STEPS = frozenset((*_WRAPPED, "module"))  # names of children that may be wrapped


class Magnitude(NamedTuple):
    """What makes a parameter weight_norm's magnitude: the norm of its direction, all axes but one."""

    direction: nn.Parameter
    axis: int | None


class Parameter(NamedTuple):
    """A parameter as the rules see it.

    Attributes
    ----------
    name
        Its own, below the prefix, without wrappers.
    path
        The name that the layers' defaults know it by. It differs for what stands for a weight in weight_norm
        and spectral_norm.
    own
        The last part of the path.
    owner
        The module that it belongs to.
    ruled
        The defaults of the modules around it, outermost first: (rule, module, where in ``path`` the name
        below that module begins).
    magnitude
        If it is weight_norm's.
    """

    name: str
    path: str
    own: str
    tensor: nn.Parameter
    owner: nn.Module
    ruled: tuple[Ruled, ...]
    magnitude: Magnitude | None = None


def parameters(root: nn.Module, prefix: str) -> list[Parameter]:
    """Each parameter once, under the first of its names: ``prefix`` and what `named_parameters` calls it,
    without wrappers.

    What a module's type says is asked once a type.
    """
    modules: set[int] = set()
    tensors: set[int] = set()
    kinds: dict[type, tuple[Rule | None, bool]] = {}
    found: list[Parameter] = []
    fsdp = sys.modules.get("torch.distributed.fsdp")
    new = tuple.__new__  # Parameter's own constructor takes three times as long, a third of the walk

    def visit(module: nn.Module, path: str, ruled: tuple[Ruled, ...]) -> None:
        own, children = module._parameters, module._modules
        if not own and not children:
            return
        modules.add(id(module))
        kind = type(module)
        known = kinds.get(kind)
        if known is None:
            wraps = fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)
            known = kinds[kind] = rule_of(kind), wraps
        rule, wraps = known
        if wraps:
            _assert_not_flattened(module)
        if rule is not None:
            ruled = (*ruled, (rule, module, len(path)))
        if own:
            originals = _hooked(module) if module._forward_pre_hooks else None
            for name, tensor in own.items():
                if tensor is None or id(tensor) in tensors:
                    continue
                tensors.add(id(tensor))
                full = path + name
                if originals and name in originals:
                    stands_for, magnitude = originals[name]
                    parts = full, path + stands_for, stands_for, tensor, module, ruled, magnitude
                    found.append(new(Parameter, parts))
                else:
                    found.append(new(Parameter, (full, full, name, tensor, module, ruled, None)))
        for step, child in children.items():
            if child is None or id(child) in modules:
                continue
            if step == "parametrizations":
                for full, stands_for, tensor, magnitude in _parametrized(child, path):
                    if id(tensor) not in tensors:
                        tensors.add(id(tensor))
                        parts = full, path + stands_for, stands_for, tensor, module, ruled, magnitude
                        found.append(new(Parameter, parts))
            visit(child, _below(module, path, step) if step in _STEPS else f"{path}{step}.", ruled)

    visit(root, prefix, ())
    return found


def buffers(root: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Each buffer, by ``prefix`` and its name without wrappers."""
    found: dict[str, torch.Tensor] = {}

    def visit(module: nn.Module, path: str) -> None:
        found.update((path + name, each) for name, each in module._buffers.items() if each is not None)
        for step, child in module._modules.items():
            if child is not None:
                visit(child, _below(module, path, step))

    visit(root, prefix)
    return found


def _below(module: nn.Module, path: str, step: str) -> str:
    """The path of a module's child: its own, if the module only wraps it."""
    wrapped = step in _WRAPPED or (step == "module" and isinstance(module, _PARALLEL))
    return path if wrapped else f"{path}{step}."


def _parametrized(chains: nn.Module, path: str) -> Iterator[tuple[str, str, nn.Parameter, Magnitude | None]]:
    """What stands for a weight in weight_norm and spectral_norm: name, the weight's own name, parameter."""
    known = sys.modules.get("torch.nn.utils.parametrizations")
    for of, chain in chains._modules.items():
        if known is None or not isinstance(chain, nn.utils.parametrize.ParametrizationList):
            continue
        name = f"{path}parametrizations.{of}."
        if len(chain) == 1 and isinstance(chain[0], known._SpectralNorm):
            yield f"{name}original", of, chain.original, None
        elif len(chain) == 1 and isinstance(chain[0], known._WeightNorm):
            yield f"{name}original1", of, chain.original1, None
            magnitude = Magnitude(chain.original1, chain[0].dim)
            yield f"{name}original0", f"{of}_g", chain.original0, magnitude


def _hooked(module: nn.Module) -> dict[str, tuple[str, Magnitude | None]]:
    """The same of the older functions, which compute the weight in a hook, by the parameters' own names."""
    found: dict[str, tuple[str, Magnitude | None]] = {}
    for hook in module._forward_pre_hooks.values():
        kind, of = type(hook).__name__, getattr(hook, "name", None)
        if kind == "SpectralNorm" and f"{of}_orig" in module._parameters:
            found[f"{of}_orig"] = str(of), None
        direction = module._parameters.get(f"{of}_v")
        if kind == "WeightNorm" and direction is not None:
            found[f"{of}_v"] = str(of), None
            found[f"{of}_g"] = f"{of}_g", Magnitude(direction, getattr(hook, "dim", 0))
    return found


def _assert_not_flattened(owner: Any) -> None:
    """Refuse FSDP1, whose parameters are ranges of a flat one, unless each rank has the whole parameter."""
    handle = getattr(owner, "_handle", None)
    if handle is not None and (handle.uses_sharded_strategy or not owner._use_orig_params):
        raise TypeError(
            "expected parameters that have their own shapes; got a module that FullyShardedDataParallel has "
            "flattened; use fully_shard, or fill the model before wrapping it"
        )
