"""torch.nn's default initialisation as a table: what ``reset_parameters`` draws, layer by layer.

A rule gets a module, the name of a parameter in or below it, and the parameter. It returns the draws that
fill the parameter, or None if it does not cover it. An outer module's rule takes precedence over those of the
modules inside, since its reset runs after theirs: MultiheadAttention zeroes the bias of its Linear,
Transformer redraws every matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from fanfill import initializers
from fanfill.initializers import Initializer
from fanfill.torch.laws import TORCH_AXES

__all__ = ["Draw", "default_draws"]

_ZERO, _ONE = initializers.constant(0.0), initializers.constant(1.0)

# kaiming_uniform_(a=sqrt(5)): the old uniform +-1/sqrt(fan_in).
_FAN_IN = initializers.variance_scaling(1 / 3, "fan_in", "uniform", **TORCH_AXES)
_XAVIER_UNIFORM = initializers.xavier_uniform(**TORCH_AXES)
_XAVIER_NORMAL = initializers.xavier_normal(in_axis=1, out_axis=0)


class Draw(NamedTuple):
    """An initializer for a whole parameter, or for a box of it in global coordinates."""

    law: Initializer
    box: tuple[slice, ...] | None = None


Rule = Callable[[Any, str, torch.Tensor], list[Draw] | None]


def default_draws(module: nn.Module, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    """What torch.nn's own reset would draw for a parameter in or below a module; None if no rule covers it.

    A subclass of a layer counts as the layer unless it defines its own ``reset_parameters``.
    """
    for kind in type(module).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            same = all(
                getattr(type(module), reset, None) is getattr(kind, reset, None)
                for reset in ("reset_parameters", "_reset_parameters")
            )
            return rule(module, name, parameter) if same else None
    return None


def _within(fan: int) -> list[Draw]:
    """U(+-1/sqrt(fan)); zeros for a fan of zero."""
    bound = 1.0 / math.sqrt(fan) if fan else 0.0
    return [Draw(initializers.uniform(-bound, bound) if fan else _ZERO)]


def _scaled(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    """Linear and convolutions: weight and bias within +-1/sqrt(fan_in), for a weight of (out, in, *k)."""
    if name == "weight":
        return [Draw(_FAN_IN)]
    weight = module._parameters.get("weight")
    if name == "bias" and weight is not None:
        return _within(math.prod(weight.shape[1:]))
    return None


def _bilinear(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return _within(module.in1_features) if name in ("weight", "bias") else None


def _embedding(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    """N(0, 1), with a padding row of zeros."""
    if name != "weight":
        return None
    row = module.padding_idx
    draws = [Draw(initializers.normal())]
    if row is not None:
        draws.append(Draw(_ZERO, (slice(row, row + 1), slice(0, parameter.shape[1]))))
    return draws


def _norm(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    law = {"weight": _ONE, "bias": _ZERO}.get(name)
    return None if law is None else [Draw(law)]


def _recurrent(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return None if "." in name else _within(module.hidden_size)


def _attention(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    law = {
        **dict.fromkeys(
            ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), _XAVIER_UNIFORM
        ),
        **dict.fromkeys(("bias_k", "bias_v"), _XAVIER_NORMAL),
        **dict.fromkeys(("in_proj_bias", "out_proj.bias"), _ZERO),
    }.get(name)
    # torch resets the output projection's bias only if the input projections have one.
    if law is None or (name == "out_proj.bias" and module.in_proj_bias is None):
        return None
    return [Draw(law)]


def _transformer(module: Any, name: str, parameter: torch.Tensor) -> list[Draw] | None:
    return [Draw(_XAVIER_UNIFORM)] if parameter.dim() > 1 else None


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
