"""torch.nn's default initialisation as a table: what ``reset_parameters`` draws, layer by layer.

A rule gets a module, the name of a parameter in or below it, and the parameter. It returns the draws that
fill the parameter, or None if it does not cover it. An outer module's rule takes precedence over those of the
modules inside, since its reset runs after theirs: MultiheadAttention zeroes the bias of its Linear,
Transformer redraws every matrix.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fanfill import initializers, scaled
from fanfill.initializers import Initializer
from fanfill.torch.laws import TORCH_AXES

__all__ = ["Draw", "Rule", "norm_draws", "rule_of", "shape_of"]

_ZERO, _ONE = initializers.constant(0.0), initializers.constant(1.0)

# kaiming_uniform_(a=sqrt(5)): the old uniform +-1/sqrt(fan_in).
_FAN_IN = scaled.variance_scaling(1 / 3, "fan_in", "uniform", **TORCH_AXES)
_XAVIER_UNIFORM = scaled.xavier_uniform(**TORCH_AXES)
_XAVIER_NORMAL = scaled.xavier_normal(in_axis=1, out_axis=0)


class Draw(NamedTuple):
    """An initializer for a whole parameter, or for a box of it in global coordinates."""

    law: Initializer
    box: tuple[slice, ...] | None = None


Rule = Callable[[Any, str, torch.Tensor], list[Draw] | None]


_FAN_IN_DRAWS = [Draw(_FAN_IN)]
_NORM_DRAWS = {"weight": [Draw(_ONE)], "bias": [Draw(_ZERO)]}
_MATRIX_DRAWS, _VECTOR_DRAWS, _ZERO_DRAWS = [Draw(_XAVIER_UNIFORM)], [Draw(_XAVIER_NORMAL)], [Draw(_ZERO)]
_ATTENTION_DRAWS = {
    **dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), _MATRIX_DRAWS),
    **dict.fromkeys(("bias_k", "bias_v"), _VECTOR_DRAWS),
    **dict.fromkeys(("in_proj_bias", "out_proj.bias"), _ZERO_DRAWS),
}


def rule_of(kind: type) -> Rule | None:
    """The rule that covers a type of module: what torch.nn's own reset would draw.

    A subclass of a layer counts as the layer unless it defines its own ``reset_parameters``.
    """
    for base in kind.__mro__:
        rule = _RULES.get(base)
        if rule is not None:
            same = all(
                getattr(kind, reset, None) is getattr(base, reset, None)
                for reset in ("reset_parameters", "_reset_parameters")
            )
            return rule if same else None
    return None


def norm_draws(module: nn.Module, name: str) -> list[Draw] | None:
    """What a normalisation layer of another library begins with, if its constructor makes it constant."""
    kind: Any = type(module)
    if "norm" not in kind.__name__.lower():
        return None
    shapes = tuple((own, shape_of(p)) for own, p in module._parameters.items() if p is not None)
    law = _constants(kind, shapes).get(name)
    return None if law is None else [Draw(law)]


class _Poison(TorchDispatchMode):  # type: ignore[misc]
    """Memory that is not written is nan: zeros by chance would pass for a layer's own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if "empty" in func.name() and isinstance(made, torch.Tensor) and made.is_floating_point():
            made.fill_(math.nan)
        return made


@functools.lru_cache(maxsize=256)
def _constants(kind: Any, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Initializer]:
    """The constants in the parameters of a new module of that type.

    Some norms multiply by their weight and begin with ones, others by one plus it and begin with zeros. The
    type's name does not tell, so a small layer is made: all that its constructor asks for is the size.
    """
    sizes = {shape for _, shape in shapes}
    if len(sizes) != 1:
        return {}
    (size,) = sizes
    try:
        asked = [
            parameter
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        cpu = torch.device("cpu")
        with cpu, _Poison(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = kind(*[size[0] if len(size) == 1 else size for _ in asked])
        found = {}
        for name, shape in shapes:
            values = made._parameters[name]
            if values is not None and tuple(values.shape) == shape and values.numel():
                first = values.detach().reshape(-1)[0]
                if bool((values == first).all()):
                    found[name] = initializers.constant(float(first))
    except Exception:  # whatever a constructor raises for arguments that are a guess: no rule, then
        return {}
    return found


def shape_of(parameter: torch.Tensor) -> tuple[int, ...]:
    """The whole parameter's shape, also where ZeRO-3 has left nothing of it in place."""
    return tuple(parameter.__dict__.get("ds_shape") or parameter.shape)


def _computed(module: nn.Module) -> torch.Tensor | None:
    """What weight_norm and spectral_norm compute a weight from, which has its shape."""
    own = module._parameters
    for name in ("weight_v", "weight_orig"):
        if own.get(name) is not None:
            return own[name]
    chains = module._modules.get("parametrizations")
    chain = None if chains is None else chains._modules.get("weight")
    if chain is None:
        return None
    # Of several originals the last is weight_norm's direction.
    return next((p for p in reversed(chain._parameters.values()) if p is not None), None)


@functools.lru_cache(maxsize=1024)
def _within(fan: int) -> list[Draw]:
    """U(+-1/sqrt(fan)); zeros for a fan of zero."""
    bound = 1.0 / math.sqrt(fan) if fan else 0.0
    return [Draw(initializers.uniform(-bound, bound) if fan else _ZERO)]


def _scaled(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    """Linear and convolutions: weight and bias within +-1/sqrt(fan_in), for a weight of (out, in, *k)."""
    if name == "weight":
        return _FAN_IN_DRAWS
    if name != "bias":
        return None
    weight = module._parameters.get("weight")
    if weight is None:
        weight = _computed(module)
    return None if weight is None else _within(math.prod(shape_of(weight)[1:]))


def _bilinear(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return _within(module.in1_features) if name in ("weight", "bias") else None


def _embedding(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    """N(0, 1), with a padding row of zeros."""
    if name != "weight":
        return None
    row = module.padding_idx
    draws = [Draw(initializers.normal())]
    if row is not None:
        draws.append(Draw(_ZERO, (slice(row, row + 1), slice(0, shape_of(parameter)[1]))))
    return draws


def _norm(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return _NORM_DRAWS.get(name)


def _recurrent(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return None if "." in name else _within(module.hidden_size)


def _attention(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    # torch resets the output projection's bias only if the input projections have one.
    if name == "out_proj.bias" and module.in_proj_bias is None:
        return None
    return _ATTENTION_DRAWS.get(name)


def _transformer(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return _MATRIX_DRAWS if len(shape_of(parameter)) > 1 else None


def _prelu(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return [Draw(initializers.constant(float(module.init)))] if name == "weight" else None


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)
_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)

_RULES: dict[type, Rule] = {
    nn.Linear: _scaled,
    **dict.fromkeys(_CONVOLUTIONS, _scaled),
    nn.Bilinear: _bilinear,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(_RECURRENT, _recurrent),
    nn.MultiheadAttention: _attention,
    nn.Transformer: _transformer,
    nn.PReLU: _prelu,
}
