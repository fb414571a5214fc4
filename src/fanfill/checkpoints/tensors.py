"""What one tensor of a model draws, as a value: a part of a model recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from fanfill.dtypes import STORAGES, dtype_of
from fanfill.initializers import Initializer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DTYPES", "WHOLE_TYPES", "Joined", "Number", "Part", "Source", "TensorRecipe"]

Number = int | float

WHOLE_TYPES = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
DTYPES = (*STORAGES, *WHOLE_TYPES)


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
