"""A tensor's entry in a model recipe, as JSON and TOML hold it: data, read without evaluating anything."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fanfill.arguments import shape_of
from fanfill.checkpoints.tensors import DTYPES, Joined, Number, Part, Source, TensorRecipe
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.expressions import initializer_from
from fanfill.initializers import Initializer
from fanfill.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["entry_of", "tensor_of"]

_LISTED = 64  # values: up to so many are written as numbers, more as base64
_TENSOR_KEYS = {"shape", "dtype", "initializer", "value", "values", "base64", "parts", "of", "joined", "tied"}


def entry_of(tensor: TensorRecipe) -> dict[str, Any]:
    """What JSON gets for a tensor."""
    entry: dict[str, Any] = {"shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.joined is not None:
        entry["joined"] = {"axis": tensor.joined.axis, "tensors": list(map(entry_of, tensor.joined.tensors))}
    elif tensor.values is not None:
        listed = tensor.size <= _LISTED and bool(np.isfinite(tensor.values.astype(np.float64)).all())
        if listed:
            entry["values"] = tensor.values.reshape(-1).tolist()
        else:
            data = np.ascontiguousarray(tensor.values)
            order = data.dtype.newbyteorder("<") if data.dtype.isbuiltin else data.dtype
            entry["base64"] = base64.b64encode(data.astype(order).tobytes()).decode("ascii")
    elif tensor.whole_law() is not None:
        entry |= _law_entry(tensor.parts[0].law)
    elif tensor.parts:
        entry["parts"] = [
            {"start": list(part.start), "shape": list(part.shape), **_law_entry(part.law)}
            for part in tensor.parts
        ]
    if tensor.source is not None:
        entry["of"] = {
            "name": tensor.source.name,
            "shape": list(tensor.source.shape),
            "start": list(tensor.source.start),
            "axes": list(tensor.source.axes),
        }
    return entry


def _law_entry(law: Initializer | Number) -> dict[str, Any]:
    if isinstance(law, Initializer):
        return {"initializer": repr(law)}
    return {"value": law if math.isfinite(law) else str(law)}


def tensor_of(entry: object) -> TensorRecipe:
    """The tensor that an entry describes; TypeError or ValueError if it describes none."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected an entry with shape and dtype; got {shown(entry)}")
    if set(entry) - _TENSOR_KEYS:
        raise ValueError(
            f"expected some of the keys {', '.join(sorted(_TENSOR_KEYS))}; got "
            f"{', '.join(sorted(map(str, set(entry) - _TENSOR_KEYS)))}; correct or remove them"
        )
    if not {"shape", "dtype"} <= set(entry):
        raise ValueError(f"expected the keys shape and dtype; got {', '.join(entry) or 'none'}; add them")
    shape, dtype = shape_of(entry["shape"], "shape"), entry["dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}; got {shown(dtype)}")
    laws = [key for key in ("initializer", "value", "values", "base64", "parts", "joined") if key in entry]
    if len(laws) > 1:
        raise ValueError(f"expected one law; got the keys {', '.join(laws)}; leave all but one out")
    source = _source(entry["of"], shape) if "of" in entry else None
    if not laws:
        return TensorRecipe(shape, dtype, source=source, unknown="no law in the recipe")
    what = entry[laws[0]]
    if laws[0] in ("values", "base64"):
        return TensorRecipe(shape, dtype, values=_values(laws[0], what, shape, dtype), source=source)
    if laws[0] == "joined":
        return TensorRecipe(shape, dtype, joined=_joined(what, shape, dtype), source=source)
    if laws[0] == "parts":
        return TensorRecipe(shape, dtype, tuple(_part(each, shape) for each in what), source=source)
    return TensorRecipe(shape, dtype, (Part(_law(entry), (0,) * len(shape), shape),), source=source)


def _law(entry: Mapping[str, Any]) -> Initializer | Number:
    if "initializer" in entry:
        return initializer_from(entry["initializer"])
    value = entry.get("value")
    if value in ("inf", "-inf", "nan"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"value: expected a number, or 'inf', '-inf' or 'nan'; got {shown(value)}")
    return value


def _part(entry: Any, shape: tuple[int, ...]) -> Part:
    if not isinstance(entry, Mapping) or set(entry) not in (
        {"start", "shape", "initializer"},
        {"start", "shape", "value"},
    ):
        raise ValueError(f"parts: expected start, shape and a law in each; got {shown(entry)}")
    return Part(_law(entry), *_box(entry, shape, "parts"))


def _box(
    entry: Mapping[str, Any], within: tuple[int, ...], what: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    start, shape = shape_of(entry["start"], f"{what}: start"), shape_of(entry["shape"], f"{what}: shape")
    if not (len(start) == len(shape) == len(within)) or any(
        a + n > most for a, n, most in zip(start, shape, within, strict=True)
    ):
        raise ValueError(f"{what}: expected a box inside {within}; got one of shape {shape} at {start}")
    return start, shape


def _source(entry: Any, shape: tuple[int, ...]) -> Source:
    if not isinstance(entry, Mapping) or set(entry) != {"name", "shape", "start", "axes"}:
        raise ValueError(f"of: expected name, shape, start and axes; got {shown(entry)}")
    whole, axes = shape_of(entry["shape"], "of: shape"), shape_of(entry["axes"], "of: axes")
    name = entry["name"]
    if not isinstance(name, str):
        raise ValueError(f"of: expected text as name; got {shown(name)}")
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or any(axis >= len(whole) for axis in axes):
        raise ValueError(f"of: expected one of the {len(whole)} axes for each of {len(shape)}; got {axes}")
    box = [1] * len(whole)
    for axis, n in zip(axes, shape, strict=True):
        box[axis] = n
    start, _ = _box({"start": entry["start"], "shape": box}, whole, "of")
    return Source(name, whole, start, axes)


def _joined(entry: Any, shape: tuple[int, ...], dtype: str) -> Joined:
    if not isinstance(entry, Mapping) or set(entry) != {"axis", "tensors"}:
        raise ValueError(f"joined: expected axis and tensors; got {shown(entry)}")
    axis, tensors = entry["axis"], tuple(map(tensor_of, entry["tensors"]))
    if not isinstance(axis, int) or not 0 <= axis < len(shape):
        raise ValueError(f"joined: expected one of the {len(shape)} axes; got {shown(axis)}")
    whole = [*shape[:axis], sum(t.shape[axis] for t in tensors if len(t.shape) > axis), *shape[axis + 1 :]]
    same = all(
        (*t.shape[:axis], *t.shape[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :]) for t in tensors
    )
    if not same or tuple(whole) != shape or any(t.dtype != dtype for t in tensors):
        raise ValueError(
            f"joined: expected tensors of {dtype} that make up {shape} along axis {axis}; got "
            f"{[t.shape for t in tensors]}"
        )
    return Joined(axis, tensors)


def _values(key: str, given: Any, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    kind = dtype_of(dtype)
    if key == "values":
        if not isinstance(given, list) or not all(isinstance(v, bool | int | float) for v in given):
            raise ValueError(f"values: expected a list of numbers; got {shown(given)}")
        made = np.array(given, np.float64 if kind.name in STORAGES else kind).astype(kind)
    else:
        try:
            raw = base64.b64decode(given, validate=True)
        except (ValueError, TypeError) as error:
            raise ValueError(f"base64: expected text in base64; got {shown(given)}: {error}") from None
        if len(raw) != prod(shape) * kind.itemsize:
            raise ValueError(
                f"base64: expected {prod(shape) * kind.itemsize} bytes for {shape} of {dtype}; got {len(raw)}"
            )
        order = kind.newbyteorder("<") if kind.isbuiltin else kind
        made = np.frombuffer(raw, order).astype(kind)
    if made.size != prod(shape):
        raise ValueError(f"values: expected {prod(shape)} of them for {shape}; got {made.size}")
    made = made.reshape(shape)
    made.flags.writeable = False
    return made
