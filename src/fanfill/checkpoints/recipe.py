"""The model recipe: what each tensor of a model draws, as a value.

It is plain data, a mapping from names to shapes, dtypes and laws. It is written as JSON, read from JSON or
TOML without evaluating anything, and needs no torch.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanfill.checkpoints.entries import entry_of, tensor_of
from fanfill.checkpoints.tensors import TensorRecipe
from fanfill.distributions import recipe as kernel_recipe
from fanfill.dtypes import STORAGES
from fanfill.expressions import with_torch_axes
from fanfill.fill import watched
from fanfill.initializers import Initializer
from fanfill.messages import shown

if TYPE_CHECKING:
    from fanfill.literals import FormatName

__all__ = ["ModelRecipe", "names_of"]


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
            f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(entry_of(tensor), ensure_ascii=False)}"
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
                tensors[name] = tensor_of(entry)
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


def names_of(recipe: ModelRecipe) -> Iterator[tuple[str, str]]:
    """Every name with the tensor that it names, second names last."""
    for name in recipe.tensors:
        yield name, name
    yield from recipe.ties.items()
