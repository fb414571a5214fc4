"""The model recipe: what each tensor of a model draws, as a value.

It is plain data, a mapping from names to shapes, dtypes and laws. It is written as JSON, read from JSON or
TOML without evaluating anything, and needs no torch.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanfill.arguments import shape_of
from fanfill.distributions import recipe as kernel_recipe
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.expressions import initializer_from, with_torch_axes
from fanfill.fill import watched
from fanfill.initializers import Initializer
from fanfill.messages import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanfill.literals import FormatName

__all__ = ["DTYPES", "Joined", "ModelRecipe", "Number", "Part", "Source", "TensorRecipe"]

Number = int | float

WHOLE_TYPES = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
DTYPES = (*STORAGES, *WHOLE_TYPES)

_LISTED = 64  # values: up to so many are written as numbers, more as base64
_TENSOR_KEYS = {"shape", "dtype", "initializer", "value", "values", "base64", "parts", "of", "joined", "tied"}


class Part(NamedTuple):
    """A box of a tensor and what it draws; a number is what no initializer has: infinite, nan, or an
    integer.
    """

    law: Initializer | Number
    start: tuple[int, ...]
    shape: tuple[int, ...]


class Source(NamedTuple):
    """The parameter that a stored tensor is a box of: axis d of the tensor is axis ``axes[d]`` of the
    parameter.
    """

    name: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    axes: tuple[int, ...]


class Joined(NamedTuple):
    """Tensors that lie behind each other along an axis, in one stored tensor."""

    axis: int
    tensors: tuple[TensorRecipe, ...]


@dataclass(frozen=True, eq=False)
class TensorRecipe:
    """What one tensor draws.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        One of `DTYPES`.
    parts : tuple of Part
        Boxes that cover the tensor; where two meet, the later one counts.
    values : numpy.ndarray or None
        In place of parts: the values themselves, of this shape and dtype, for a small computed tensor.
    source : Source or None
        Whose element a value is, if not this tensor's own.
    joined : Joined or None
        In place of parts: the tensors that make up this one.
    unknown : str
        Why there is no law yet; empty if there is one.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...] = ()
    values: NDArray[Any] | None = None
    source: Source | None = None
    joined: Joined | None = None
    unknown: str = ""

    @classmethod
    def drawn(cls, shape: tuple[int, ...], dtype: str, law: Initializer | Number) -> TensorRecipe:
        """A tensor that draws one law."""
        return cls(shape, dtype, (Part(law, (0,) * len(shape), shape),))

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * dtype_of(self.dtype).itemsize

    def astype(self, dtype: str) -> TensorRecipe:
        """The same with another floating-point dtype; integers stay."""
        if self.dtype not in STORAGES:
            return self
        values = None if self.values is None else self.values.astype(dtype_of(dtype))
        joined = self.joined and Joined(self.joined.axis, tuple(t.astype(dtype) for t in self.joined.tensors))
        return replace(self, dtype=dtype, values=values, joined=joined)

    def with_law(self, law: Initializer) -> TensorRecipe:
        """The same tensor, all of it drawn by one law, under the name that it had."""
        part = Part(law, (0,) * len(self.shape), self.shape)
        return TensorRecipe(self.shape, self.dtype, (part,), source=self.source)

    def itself(self, name: str) -> Source:
        """The tensor of that name as a box of itself."""
        return Source(name, self.shape, (0,) * len(self.shape), tuple(range(len(self.shape))))

    def whole_law(self) -> Initializer | Number | None:
        """The law of a tensor that has one for all of it; None for any other."""
        if len(self.parts) != 1 or self.parts[0].shape != self.shape:
            return None
        return self.parts[0].law


@dataclass(frozen=True, eq=False)
class ModelRecipe:
    """What a model draws: its tensors by name, and the second names of tied ones.

    Two recipes are equal if their JSON is. Made by `fanfill.torch.recipe`, `loads` and `load`, or by hand.

    Attributes
    ----------
    tensors : mapping
        From names to `TensorRecipe`. The name is the substream, unless the tensor's ``source`` names another.
    ties : mapping
        From second names to the names in ``tensors``.
    """

    tensors: Mapping[str, TensorRecipe]
    ties: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelRecipe) and self.dumps() == other.dumps()

    def __hash__(self) -> int:
        return hash(self.dumps())

    @property
    def values(self) -> int:
        """How many values the tensors have together."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def digest(self) -> str:
        """A digest of the whole recipe, in 32 hexadecimal digits; written into each file's header."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()[:32]

    def astype(self, dtype: str) -> ModelRecipe:
        """The same with another floating-point dtype for all tensors that have one."""
        if dtype not in STORAGES:
            raise ValueError(f"dtype: expected one of {', '.join(STORAGES)}; got {shown(dtype)}")
        return replace(self, tensors={name: t.astype(dtype) for name, t in self.tensors.items()})

    def with_rules(self, rules: Iterable[tuple[str, Initializer]]) -> ModelRecipe:
        """The same with other laws for some tensors: the first pattern that fits a name counts.

        Parameters
        ----------
        rules
            Pairs of a name, with ``*``, ``?`` and ``[...]`` as in `fnmatch`, and an initializer. One with
            default axes gets torch's layout, (out, in, \\*k).

        Raises
        ------
        ValueError
            If a pattern fits no tensor of a floating-point dtype that no pattern before it fits.
        """
        book = [(pattern, with_torch_axes(law)) for pattern, law in rules]
        used: set[int] = set()
        tensors = dict(self.tensors)
        for name, tensor in self.tensors.items():
            for number, (pattern, law) in enumerate(book):
                if tensor.dtype in STORAGES and fnmatch.fnmatchcase(name, pattern):
                    tensors[name] = tensor.with_law(law)
                    used.add(number)
                    break
        for number, (pattern, _) in enumerate(book):
            if number not in used:
                raise ValueError(
                    "rules: expected each pattern to fit a tensor that no pattern before it fits; got "
                    f"{shown(pattern)}, which fits none; correct it, or leave it out"
                )
        return replace(self, tensors=tensors)

    def check(self) -> ModelRecipe:
        """Return the recipe, once every tensor is known to be drawable.

        Raises
        ------
        ValueError
            A tensor without a law, or with one that its shape and dtype refuse; the message names it.
        """
        unknown = [f"{name} ({t.unknown})" for name, t in self.tensors.items() if _unknown(t)]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise ValueError(
                f"expected a law for every tensor; got none for {', '.join(unknown[:5])}{more}; give one by "
                "--rule NAME=INITIALIZER, or rules={name: initializer}"
            )
        for name, tensor in self.tensors.items():
            _check(name, tensor)
        return self

    def dumps(self) -> str:
        """The recipe as JSON, a line for each tensor: the same text for the same recipe."""
        lines = [
            f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(_entry(tensor), ensure_ascii=False)}"
            for name, tensor in self.tensors.items()
        ]
        lines += [
            f"{json.dumps(name, ensure_ascii=False)}: {json.dumps({'tied': to}, ensure_ascii=False)}"
            for name, to in self.ties.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def loads(cls, text: str) -> ModelRecipe:
        """The recipe that a JSON text describes.

        Raises
        ------
        ValueError, TypeError
            If it does not describe one; the message names the tensor.
        """
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a model recipe as JSON; got text that is none: {error}") from None
        return cls.from_table(table)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelRecipe:
        """The recipe in a file: TOML if its name ends so, else JSON."""
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix != ".toml":
            return cls.loads(text)
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"expected a model recipe as TOML; got text that is none: {error}") from None
        return cls.from_table(table)

    @classmethod
    def from_table(cls, table: object) -> ModelRecipe:
        """The recipe that a mapping of names to entries describes, as JSON and TOML hold it."""
        if not isinstance(table, Mapping):
            raise ValueError(f"expected a model recipe, names with an entry each; got {shown(table)}")
        tensors: dict[str, TensorRecipe] = {}
        ties: dict[str, str] = {}
        for name, entry in table.items():
            if isinstance(entry, Mapping) and set(entry) == {"tied"}:
                ties[name] = entry["tied"]
                continue
            try:
                tensors[name] = _tensor(entry)
            except (TypeError, ValueError) as error:
                raise type(error)(f"tensor {shown(name)}: {error}") from error
        for name, to in ties.items():
            if to not in tensors:
                raise ValueError(
                    f"tensor {shown(name)}: expected it tied to a tensor of the recipe; got {shown(to)}"
                )
        return cls(tensors, ties)

    def fill(
        self,
        buffers: Mapping[str, Any],
        seed: int,
        *,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> None:
        """Fill buffers in place, each by the tensor of its name: arrays, or torch tensors on any device.

        Parameters
        ----------
        buffers : mapping
            From names of the recipe, second names included, to buffers that `fanfill.fill` fills. Each has
            the shape of its tensor; it may have another floating-point dtype.
        seed : int
            In [0, 2^64).
        progress : bool or callable, optional
            True for a bar on stderr, as in `fanfill.fill`; or what gets (values done, values in all), at last
            with both equal.

        Raises
        ------
        ValueError
            If a name is not in the recipe, a shape differs, or a tensor has no law. Nothing is written then.
        """
        from fanfill.checkpoints import drawing

        with watched(progress) as follow:
            drawing.fill_buffers(self, buffers, seed, follow)

    def write(
        self,
        path: str | os.PathLike[str],
        seed: int,
        *,
        format: FormatName = "safetensors",
        max_shard_size: int | str = "5GB",
        part: tuple[int, int] = (1, 1),
        threads: int | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> list[str]:
        """Write a checkpoint into a folder, without ever holding more than a few MiB of it.

        Parameters
        ----------
        path : path-like
            The folder, which is made if it is not there.
        seed : int
            In [0, 2^64).
        format : {"safetensors", "npy", "zarr", "dcp"}
        max_shard_size : int or str
            Of safetensors and zarr: the most bytes of a file's values, or text such as ``"5GB"``.
        part : (int, int)
            (K, N): write the K-th of N shares of the files, counted from 1. The last share that ends writes
            the index. All shares give the same bytes as one.
        threads : int, optional
            The most threads to use.
        progress : bool or callable, optional
            True for a bar on stderr, as in `fanfill.fill`; or what gets (bytes on the disk, bytes in all), on
            the calling thread.

        Returns
        -------
        list of str
            The names of the files that this call wrote; complete ones are left as they are.

        Raises
        ------
        ValueError
            As `check`; an argument that is none of the above.
        OSError
            A full disk, before the first value of a file; a file that another process is writing.
        """
        from fanfill.checkpoints import writing

        with watched(progress, "writing", "B") as follow:
            return writing.write(
                self,
                path,
                seed,
                format=format,
                max_shard_size=max_shard_size,
                part=part,
                threads=threads,
                progress=follow,
            )


def _unknown(tensor: TensorRecipe) -> bool:
    if not tensor.size:
        return False  # there is nothing to draw
    if tensor.joined is not None:
        return any(map(_unknown, tensor.joined.tensors))
    return bool(tensor.unknown) or (tensor.values is None and not tensor.parts)


def _check(name: str, tensor: TensorRecipe) -> None:
    if tensor.joined is not None:
        for each in tensor.joined.tensors:
            _check(name, each)
    for law, _, _ in tensor.parts:
        shape = tensor.shape if tensor.source is None else tensor.source.shape
        if isinstance(law, Initializer):
            try:
                if tensor.dtype not in STORAGES:
                    raise ValueError(
                        f"expected values or a number for a tensor of {tensor.dtype}, which no initializer "
                        f"draws; got {law!r}"
                    )
                kernel_recipe(law, shape, tensor.dtype)
            except ValueError as error:
                raise ValueError(f"tensor {shown(name)}: {error}") from error


# Entries of the JSON


def _entry(tensor: TensorRecipe) -> dict[str, Any]:
    entry: dict[str, Any] = {"shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.joined is not None:
        entry["joined"] = {"axis": tensor.joined.axis, "tensors": list(map(_entry, tensor.joined.tensors))}
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


def _tensor(entry: object) -> TensorRecipe:
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
    axis, tensors = entry["axis"], tuple(map(_tensor, entry["tensors"]))
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


def names_of(recipe: ModelRecipe) -> Iterator[tuple[str, str]]:
    """Every name with the tensor that it names, second names last."""
    for name in recipe.tensors:
        yield name, name
    yield from recipe.ties.items()
