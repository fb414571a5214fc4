"""Parameters that DeepSpeed's ZeRO-3 has partitioned: each rank has a flat range, the parameter is empty.

DeepSpeed leaves ``ds_shape``, ``ds_tensor`` and others on such a parameter. Rank r of its process group holds
the elements from ``r * ds_tensor.ds_numel`` on; the last ranks' ranges end in padding. A parameter that is
gathered at the moment has both.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fanfill.torch.sharding import Flat

__all__ = ["is_zero3", "partition"]


def is_zero3(parameter: torch.Tensor) -> bool:
    """Whether ZeRO-3 manages a parameter."""
    return "ds_shape" in parameter.__dict__  # a fifth of hasattr's time, where it is not


def partition(parameter: Any) -> tuple[Flat | None, bool]:
    """This rank's range, if the parameter has been partitioned, and whether the whole is there as well.

    Raises
    ------
    ValueError
        If this rank's values are somewhere else, or are kept in another form too.
    """
    status = getattr(parameter.ds_status, "name", str(parameter.ds_status))
    local = parameter.ds_tensor
    if status not in ("AVAILABLE", "NOT_AVAILABLE"):
        raise _refused(parameter, f"that is {status}", "wait for the gathering")
    gathered = status == "AVAILABLE"
    if local is None:
        if gathered:
            return None, True
        raise _refused(parameter, "without a partition", "fill the model before DeepSpeed partitions it")
    if getattr(local, "final_location", None) is not None or _name(local) == "NOT_AVAILABLE":
        raise _refused(parameter, "whose partition is offloaded to NVMe", "offload after the filling")
    if hasattr(local, "ds_quant_scale"):
        raise _refused(parameter, "whose partition is quantised", "fill the model before it is")
    if getattr(parameter, "ds_secondary_tensor", None) is not None:
        raise _refused(parameter, "with a secondary partition (hpZ)", "fill the model before it is made")
    rank = torch.distributed.get_rank(parameter.ds_process_group)
    if rank < 0:
        raise _refused(parameter, "of a group of other ranks", "fill it on these")
    shape, size = tuple(parameter.ds_shape), int(getattr(local, "ds_numel", local.numel()))
    start = size * rank
    held = max(0, min(size, math.prod(shape) - start))
    return Flat(local.detach().reshape(-1)[:held], shape, start if held else 0), gathered


def _name(local: Any) -> str:
    status = getattr(local, "status", None)
    return str(getattr(status, "name", status))


def _refused(parameter: Any, what: str, remedy: str) -> ValueError:
    shape = tuple(parameter.ds_shape)
    return ValueError(
        f"expected a ZeRO-3 parameter whose partition is in memory; got one of shape {shape} {what}; "
        f"{remedy}, or leave it out (None in rules=)"
    )
