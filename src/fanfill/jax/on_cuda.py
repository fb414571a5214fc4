"""CUDA devices as JAX has them, and arrays there: memory that fanfill fills and JAX takes over."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from math import prod
from typing import Any

import jax
import numpy as np

from fanfill.backends import get

__all__ = ["filled", "has_plugin", "is_cuda", "unusable"]


@functools.cache
def has_plugin() -> bool:
    """Whether JAX's plugin for CUDA is installed; nothing of it is imported."""
    plugins = find_spec("jax_plugins")
    places: Iterable[str] = () if plugins is None else plugins.submodule_search_locations or ()
    return any(found.name.startswith("xla_cuda") for found in pkgutil.iter_modules(places))


def unusable() -> str | None:
    """Why fanfill's kernels cannot run on this machine's devices, or None if they can."""
    return get("cuda").unusable()


def is_cuda(device: Any) -> bool:
    """Whether a device of JAX's is one of CUDA's: "gpu" is also what it calls those of ROCm."""
    return device.platform == "gpu" and "rocm" not in device.client.platform_version


def filled(
    device: Any, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Callable[[Any], object]
) -> jax.Array:
    """An array on a CUDA device, whose memory `fill` has filled there.

    It is CuPy's, handed over without a copy, but for dtypes of which CuPy makes no arrays: of these JAX makes
    a copy on the device.
    """
    if not prod(shape):
        return jax.device_put(np.empty(shape, dtype), device)
    memory, buffer = _memory(device.local_hardware_id, shape, dtype)
    fill(buffer)
    made = jax.dlpack.from_dlpack(memory)
    return made if made.dtype == dtype else jax.lax.bitcast_convert_type(made, dtype)


def _memory(number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """An uninitialised array of CuPy's on a device, and what `fanfill.fill` sees its memory as."""
    from fanfill.cuda.buffers import DeviceBuffer

    try:
        array = get("cuda").empty(number, shape, dtype)
    except TypeError:
        array = get("cuda").empty(number, shape, np.dtype(f"u{dtype.itemsize}"))
        return array, DeviceBuffer(array.data.ptr, array.shape, array.strides, dtype)
    return array, array
