"""Initializers whose values follow from an element's place in a matrix: identity, dirac, sparse, orthogonal.

They are no distributions of single values. So a record gets the whole tensor's shape with the parameters,
and its recipe names a form that `fanfill.cpu.structures` makes of kernels, NumPy and BLAS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fanfill import recipes
from fanfill.dtypes import bits, round_nearest
from fanfill.recipes import Recipe, assert_not_tiny, assert_within

if TYPE_CHECKING:
    from fanfill_kernels.formats import Format

__all__ = [
    "HOST_ALONE",
    "STRUCTURED",
    "STRUCTURES",
    "Diagonals",
    "Orthonormal",
    "Sparse",
    "Structure",
    "assert_on_host",
    "places",
]

Shape = tuple[int, ...]


class Diagonals(NamedTuple):
    """The parameters of the form ``diagonals``: one value at some places, zero at all others.

    With the axes ``out`` and ``into`` of ``shape`` and groups of ``group`` outputs: output d of each group
    has the value at input d, and at ``centre`` along the other axes.
    """

    bits: int
    shape: Shape
    out: int
    into: int
    group: int
    centre: Shape

    def progression(self) -> tuple[int, int, int, int, int]:
        """Indices ``first + g * pitch + d * step``: first, step, d's count, pitch, g's count."""
        pitches = [math.prod(self.shape[k + 1 :]) for k in range(len(self.shape))]
        first = sum(place * pitch for place, pitch in zip(self.centre, pitches, strict=True))
        outputs, inputs = self.shape[self.out], self.shape[self.into]
        along = pitches[self.out]
        empty = 0 in self.shape
        return (
            first,
            along + pitches[self.into],
            0 if empty else min(self.group, inputs),
            self.group * along,
            0 if empty else outputs // self.group,
        )


def places(found: Diagonals, start: int, size: int) -> list[tuple[int, int, int, int]]:
    """Which of the indices from ``start`` on hold the value: (place, count, groups, pitch) of progressions.

    Place k of group g is ``place + g * pitch + k * step`` behind the start, k below count, g below groups.
    Groups that the range cuts alike are one entry, so there are few.
    """
    first, step, count, pitch, groups = found.progression()
    entries: list[tuple[int, int, int, int]] = []
    if not count or not groups:
        return entries
    low = max(0, (start - first - (count - 1) * step) // pitch)
    for group in range(low, groups):
        origin = first + group * pitch - start
        if origin >= size:
            break
        before, end = max(0, -(origin // step)), min(count, -((origin - size) // step))
        if before >= end:
            continue
        place = origin + before * step
        last = entries[-1] if entries else None
        if last is not None and last[1] == end - before and place == last[0] + last[2] * pitch:
            entries[-1] = (last[0], last[1], last[2] + 1, pitch)
        else:
            entries.append((place, end - before, 1, pitch))
    return entries


class Sparse(NamedTuple):
    """The parameters of the form ``sparse``: a normal's, and how many rows of each column are zero."""

    rows: int
    columns: int
    zeros: int
    normal: tuple[Any, ...]


class Orthonormal(NamedTuple):
    """The parameters of the form ``orthonormal``: zero but in a box, whose lengths are ``lengths``.

    The box is a matrix: ``out`` is one of its axes, all others together are the second. ``out`` comes first
    if it is the first of the box.
    """

    gain: float
    shape: Shape
    start: Shape
    lengths: Shape
    out: int


STRUCTURED: Final = frozenset(("diagonals", "sparse", "orthonormal"))  # the forms of whole matrices


# These need more than a kernel: the words of whole columns, or a QR decomposition.
HOST_ALONE: Final = frozenset(("sparse", "orthogonal", "delta_orthogonal"))


def assert_on_host(recipe: Recipe, law: object) -> None:
    """Refuse a device's memory for a form that is no kernel's."""
    if recipe.form in ("sparse", "orthonormal"):
        raise ValueError(
            f"expected host memory for {law!r}, which is computed there; got a buffer on a CUDA device; draw "
            "it on the CPU and copy it, as fanfill.torch does with a tensor"
        )


class Structure(NamedTuple):
    """What is known about such an initializer; its parameters are floats, integers among them.

    Attributes
    ----------
    parameters : tuple of str
        Their names.
    section : str
        The section of ``docs/stream.md`` that defines its values.
    recipe : callable
        ``(storage, shape, *parameters)`` to what is drawn, or a ValueError.
    mean, std : callable
        ``(shape, *parameters)`` to the mean of a tensor's values and their standard deviation, in
        expectation.
    bounds : callable
        ``(storage, shape, *parameters)`` to a closed interval of the values.
    text : callable
        From the parameters to the arguments of the function of that name.
    axes : tuple of str
        Those parameters that name axes, with the defaults -2 for the inputs and -1 for the outputs.
    forms : callable
        From a dtype to the kernels that may be needed.
    golden : mapping
        Parameters and a shape of its golden fills.
    """

    parameters: tuple[str, ...]
    section: str
    recipe: Callable[..., Recipe]
    mean: Callable[..., float]
    std: Callable[..., float]
    bounds: Callable[..., tuple[float, float]]
    text: Callable[..., str]
    axes: tuple[str, ...]
    forms: Callable[[str], set[tuple[str, str]]]
    golden: Mapping[str, tuple[tuple[float, ...], Shape]]

    def default_axes(self, params: tuple[float, ...]) -> bool:
        """Whether it has axes, and they are those of Keras and JAX."""
        given = dict(zip(self.parameters, params, strict=True))
        return bool(self.axes) and all(given[name] == _AXES[name][0] for name in self.axes)

    def of_torch(self, params: tuple[float, ...]) -> tuple[float, ...]:
        """The same parameters with the axes of torch, (out, in, \\*k)."""
        return tuple(
            _AXES[name][1] if name in self.axes else value
            for name, value in zip(self.parameters, params, strict=True)
        )


_AXES = {"in_axis": (-2.0, 1.0), "out_axis": (-1.0, 0.0)}  # here by default, and in torch


def _axis(what: str, axis: float, shape: Shape) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"expected {what} among the axes of {shape}; got {int(axis)}; count from 0, or from -1 at the end"
        )
    return int(axis) % len(shape)


def _two_axes(in_axis: float, out_axis: float, shape: Shape) -> tuple[int, int]:
    into, out = _axis("in_axis", in_axis, shape), _axis("out_axis", out_axis, shape)
    if into == out:
        raise ValueError(
            f"expected different axes for inputs and outputs; got in_axis={int(in_axis)}, "
            f"out_axis={int(out_axis)}, which are axis {out} of {shape}; name another"
        )
    return into, out


def _rank(name: str, shape: Shape, least: int, most: int | None = None) -> None:
    if len(shape) < least or (most is not None and len(shape) > most):
        wanted = f"{least}" if most == least else f"at least {least}"
        remedy = (
            "reshape the tensor, or fill a part of it" if len(shape) > least else "use another initializer"
        )
        raise ValueError(f"expected a shape of {wanted} axes for {name}; got {shape}; {remedy}")


def _share(shape: Shape, places: int) -> float:
    return places / (math.prod(shape) or 1)


def _places(found: Diagonals) -> int:
    _, _, count, _, groups = found.progression()
    return count * groups


def _mean_of_places(value: float, share: float) -> float:
    return value * share


def _std_of_places(value: float, share: float) -> float:
    return abs(value) * math.sqrt(share * (1.0 - share))


def _identity(shape: Shape, gain: float, storage: Format | None = None) -> Diagonals:
    _rank("identity", shape, 2, 2)
    return Diagonals(_bits(gain, storage), shape, 0, 1, max(shape[0], 1), (0, 0))


def _dirac(
    shape: Shape, groups: float, in_axis: float, out_axis: float, *, storage: Format | None = None
) -> Diagonals:
    _rank("dirac", shape, 3)
    into, out = _two_axes(in_axis, out_axis, shape)
    if shape[out] % groups:
        raise ValueError(
            f"expected outputs that can be divided among {int(groups)} groups; got {shape[out]}, axis {out} "
            f"of {shape}; correct groups or the axes"
        )
    centre = tuple(0 if axis in (into, out) else n // 2 for axis, n in enumerate(shape))
    return Diagonals(_bits(1.0, storage), shape, out, into, max(shape[out] // int(groups), 1), centre)


def _bits(value: float, storage: Format | None) -> int:
    if storage is None:
        return 0
    assert_within("a gain", value, storage)
    return bits(round_nearest(value, storage), storage)


def _diagonals(s: Format, found: Diagonals) -> Recipe:
    return Recipe("diagonals", s.name, (found,))


def _zeros(shape: Shape, sparsity: float) -> int:
    """How many rows of each column are zero."""
    _rank("sparse", shape, 2, 2)
    return math.ceil(sparsity * shape[0])


def _sparse(s: Format, shape: Shape, sparsity: float, std: float) -> Recipe:
    zeros, plain = _zeros(shape, sparsity), recipes.normal(s, 0.0, std)
    if zeros == 0 or plain.form == "constant":
        return plain
    if zeros == shape[0]:
        return recipes.constant(s, 0.0)
    return Recipe("sparse", s.name, (Sparse(shape[0], shape[1], zeros, plain.params),))


def _sparse_std(shape: Shape, sparsity: float, std: float) -> float:
    return std * math.sqrt(1.0 - _zeros(shape, sparsity) / (shape[0] or 1))


def _orthogonal(shape: Shape, out_axis: float) -> tuple[Shape, int]:
    """The lengths of the box that is orthonormal, and the axis of its outputs."""
    _rank("orthogonal", shape, 2)
    return shape, _axis("out_axis", out_axis, shape)


def _delta(shape: Shape, in_axis: float, out_axis: float) -> tuple[Shape, int]:
    _rank("delta_orthogonal", shape, 3)
    into, out = _two_axes(in_axis, out_axis, shape)
    if shape[into] > shape[out]:
        raise ValueError(
            "expected at least as many outputs as inputs for delta_orthogonal, which keeps the length of "
            f"each signal; got {shape[into]} inputs and {shape[out]} outputs in {shape}; correct the axes, "
            "or use orthogonal"
        )
    return tuple(n if axis in (into, out) else min(n, 1) for axis, n in enumerate(shape)), out


def _orthonormal(s: Format, shape: Shape, gain: float, box: tuple[Shape, int]) -> Recipe:
    assert_within("a gain", gain, s)
    assert_not_tiny("a gain", gain, s)
    lengths, out = box
    if gain == 0.0:
        return recipes.constant(s, 0.0)
    start = tuple((n - 1) // 2 if m < n else 0 for n, m in zip(shape, lengths, strict=True))
    return Recipe("orthonormal", s.name, (Orthonormal(gain, shape, start, lengths, out),))


def _orthonormal_std(shape: Shape, gain: float, box: tuple[Shape, int]) -> float:
    """The sum of all squares is gain^2 for each row, or column, of the shorter side."""
    lengths, out = box
    short = min(lengths[out], math.prod(lengths) // (lengths[out] or 1))
    return gain * math.sqrt(_share(shape, short))


def _within_gain(s: Format, gain: float) -> tuple[float, float]:
    rounded = round_nearest(gain, s)
    return -rounded, rounded


def _text_of_axes(first: str, **axes: float) -> str:
    named = (f"{name}={int(axis)}" for name, axis in axes.items() if axis != _AXES[name][0])
    return ", ".join([first, *named])


def _double_normals(dtype: str) -> set[tuple[str, str]]:
    return {("normal", "float64")}


STRUCTURES: Final[dict[str, Structure]] = {
    "identity": Structure(
        parameters=("gain",),
        section="4.6",
        recipe=lambda s, shape, gain: _diagonals(s, _identity(shape, gain, s)),
        mean=lambda shape, gain: _mean_of_places(gain, _share(shape, _places(_identity(shape, gain)))),
        std=lambda shape, gain: _std_of_places(gain, _share(shape, _places(_identity(shape, gain)))),
        bounds=lambda s, shape, gain: (
            min(0.0, round_nearest(gain, s)),
            max(0.0, round_nearest(gain, s)),
        ),
        text=lambda gain: "" if gain == 1.0 else repr(gain),
        axes=(),
        forms=lambda dtype: {("constant", dtype)},
        golden={"identity": ((0.3,), (70, 90))},
    ),
    "dirac": Structure(
        parameters=("groups", "in_axis", "out_axis"),
        section="4.6",
        recipe=lambda s, shape, *given: _diagonals(s, _dirac(shape, *given, storage=s)),
        mean=lambda shape, *given: _mean_of_places(1.0, _share(shape, _places(_dirac(shape, *given)))),
        std=lambda shape, *given: _std_of_places(1.0, _share(shape, _places(_dirac(shape, *given)))),
        bounds=lambda s, shape, *given: (0.0, 1.0),
        text=lambda groups, in_axis, out_axis: _text_of_axes(
            repr(int(groups)), in_axis=in_axis, out_axis=out_axis
        ),
        axes=("in_axis", "out_axis"),
        forms=lambda dtype: {("constant", dtype)},
        golden={"dirac": ((2.0, 1.0, 0.0), (12, 5, 3, 4))},
    ),
    "sparse": Structure(
        parameters=("sparsity", "std"),
        section="4.7",
        recipe=_sparse,
        mean=lambda shape, sparsity, std: 0.0,
        std=_sparse_std,
        bounds=lambda s, shape, sparsity, std: (-math.inf, math.inf) if std else (0.0, 0.0),
        text=lambda sparsity, std: f"{sparsity!r}, {std!r}",
        axes=(),
        forms=lambda dtype: {("normal", dtype), ("words", "uint32")},
        golden={"sparse": ((0.3, 0.5), (70, 90))},
    ),
    "orthogonal": Structure(
        parameters=("gain", "out_axis"),
        section="4.8",
        recipe=lambda s, shape, gain, axis: _orthonormal(s, shape, gain, _orthogonal(shape, axis)),
        mean=lambda shape, gain, axis: 0.0,
        std=lambda shape, gain, axis: _orthonormal_std(shape, gain, _orthogonal(shape, axis)),
        bounds=lambda s, shape, gain, axis: _within_gain(s, gain),
        text=lambda gain, out_axis: _text_of_axes(repr(gain), out_axis=out_axis),
        axes=("out_axis",),
        forms=_double_normals,
        golden={"orthogonal tall": ((1.0, -1.0), (21, 4, 30)), "orthogonal wide": ((0.3, 0.0), (33, 90))},
    ),
    "delta_orthogonal": Structure(
        parameters=("gain", "in_axis", "out_axis"),
        section="4.8",
        recipe=lambda s, shape, gain, *axes: _orthonormal(s, shape, gain, _delta(shape, *axes)),
        mean=lambda shape, *given: 0.0,
        std=lambda shape, gain, *axes: _orthonormal_std(shape, gain, _delta(shape, *axes)),
        bounds=lambda s, shape, gain, *axes: _within_gain(s, gain),
        text=lambda gain, in_axis, out_axis: _text_of_axes(repr(gain), in_axis=in_axis, out_axis=out_axis),
        axes=("in_axis", "out_axis"),
        forms=_double_normals,
        golden={"delta_orthogonal": ((2.0, -2.0, -1.0), (3, 4, 6, 17))},
    ),
}
