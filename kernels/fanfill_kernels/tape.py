"""Lane functions as lists of NumPy calls: recorded once, replayed over blocks in memory that is kept.

Called on arrays, a lane function allocates a new array at each of some 150 operations: fresh pages, faulted
in and handed back, took half of the time. Here it is called once on ``Lane`` objects instead, which record
what NumPy is asked to do (``__array_ufunc__``, ``__array_function__``). Each result then gets a place in one
small arena, a dead operand's where it can, and a fill only replays ``function(*arguments)``: nothing is
allocated, and the arena stays in the core's L2 cache.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

ALIGNED = 64  # blocks at least, and bytes: every place then begins with a cache line


class Place:
    """Memory of one value: ``width`` bytes for each Philox block, or a scalar where that is 0."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.offset = -1  # in bytes for each block; -1 until the arena is laid out


class Lane(NDArrayOperatorsMixin):
    """A value on a tape: stands for an array, every ``step``-th item of a place from ``first`` on, or for a
    scalar.
    """

    def __init__(self, tape: "Tape", place: Place, dtype: DTypeLike, first: int = 0, step: int = 1) -> None:
        self.tape, self.place, self.first, self.step = tape, place, first, step
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def count(self) -> int:
        """Items for each Philox block; 0 for a scalar."""
        return self.place.width // (self.dtype.itemsize * self.step)

    def view(self, dtype: DTypeLike) -> "Lane":
        return Lane(self.tape, self.place, dtype, self.first, self.step)

    def astype(self, dtype: DTypeLike) -> "Lane":
        return self.tape.record(None, (self,), dtype)

    def __getitem__(self, items: slice) -> "Lane":
        return Lane(self.tape, self.place, self.dtype, items.start, items.step)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> "Lane":
        if method != "__call__" or options:
            return NotImplemented
        result = ufunc.resolve_dtypes((*(x.dtype for x in inputs), *[None] * ufunc.nout))[-1]
        return self.tape.record(ufunc, inputs, result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> "Lane":
        if function is not np.where or options:
            return NotImplemented
        return self.tape.select(*arguments)


class Step(NamedTuple):
    """One call: a ufunc of the inputs, or where that is None a conversion, into ``out``."""

    ufunc: np.ufunc | None
    inputs: tuple[Any, ...]  # Lanes, and constants as arrays of no dimension
    out: Lane


class Tape:
    """Where lanes record, in order; what depends on scalars alone goes to a list of its own."""

    def __init__(self) -> None:
        self.scalars: list[Step] = []
        self.steps: list[Step] = []
        self.masks: dict[tuple[Place, int], Lane] = {}

    def lane(self, dtype: DTypeLike, count: int) -> Lane:
        """Return a new value of so many items for each Philox block."""
        return Lane(self, Place(np.dtype(dtype).itemsize * count), dtype)

    def record(self, ufunc: np.ufunc | None, inputs: Iterable[Any], dtype: DTypeLike) -> Lane:
        # NumPy takes 0.25 us to look at an array of no dimension, 0.35 us at one of its scalars.
        operands = tuple(x if isinstance(x, Lane) else np.asarray(x) for x in inputs)
        out = self.lane(dtype, max(x.count for x in operands if isinstance(x, Lane)))
        (self.steps if out.count else self.scalars).append(Step(ufunc, operands, out))
        return out

    def select(self, condition: Lane, a: Any, b: Any) -> Lane:
        """``np.where`` as b ^ (a ^ b) * condition, on bits.

        For 16 Ki float32: 13 us by np.where, 10 by copying b and np.putmask, 7 so, and 4 once the mask is
        there, which two selects often share.
        """
        integer = np.dtype(f"i{a.dtype.itemsize}")
        name = (condition.place, integer.itemsize)
        if name not in self.masks:
            self.masks[name] = condition.astype(integer)
        other = b.view(integer)
        chosen: Lane = other ^ (a.view(integer) ^ other) * self.masks[name]
        return chosen.view(a.dtype)

    def send(self, value: Lane, target: Lane) -> None:
        """Store ``value`` in ``target``: by the very step that makes it, where nothing else needs it."""
        made = [k for k, step in enumerate(self.steps) if step.out.place is value.place]
        read = any(isinstance(x, Lane) and x.place is value.place for step in self.steps for x in step.inputs)
        if len(made) != 1 or read or value.dtype.itemsize != target.dtype.itemsize:
            self.steps.append(Step(None, (value,), target))
        else:
            ufunc, inputs, out = self.steps[made[0]]
            self.steps[made[0]] = Step(ufunc, inputs, target.view(out.dtype))


class Program:
    """A finished tape.

    Parameters
    ----------
    tape
        The recorded calls.
    index
        The array that each replay is given, in a place that it may overwrite.
    given
        The scalars that it is given.
    out
        What it makes. Nothing reads it, and the steps that write it come last.
    """

    def __init__(self, tape: Tape, index: Lane, given: tuple[Lane, ...], out: Lane) -> None:
        self.index, self.given, self.out, self.scalars = index, given, out, tape.scalars
        needed, useful = {out.place}, []
        for step in reversed(tape.steps):
            if step.out.place in needed:
                needed.update(x.place for x in step.inputs if isinstance(x, Lane))
                useful.append(step)
        useful.reverse()
        self.steps = [step for step in useful if step.out.place is not out.place]
        self.last = [step for step in useful if step.out.place is out.place]
        self.width = self._lay_out()

    def _lay_out(self) -> int:
        """Give every array its offset in the arena; return the arena's width."""
        steps = self.steps + self.last
        ends = {x.place: k for k, step in enumerate(steps) for x in step.inputs if isinstance(x, Lane)}
        live = {self.out.place, self.index.place}
        self.out.place.offset, self.index.place.offset = 0, self.out.place.width
        for k, step in enumerate(steps):
            place = step.out.place
            dying = [x for x in step.inputs if isinstance(x, Lane) and x.count and ends[x.place] == k]
            if place.offset < 0:
                # In place where items match one to one: otherwise NumPy would copy what overlaps.
                heir = next((x for x in dying if step.ufunc and _alike(x, step.out)), None)
                place.offset = _gap(live, place.width) if heir is None else heir.place.offset
            live -= {x.place for x in dying}
            live.add(place)
        return max(x.place.offset + x.place.width for step in steps for x in (step.out, self.index))


def _alike(a: Lane, b: Lane) -> bool:
    return (a.step, a.dtype.itemsize, a.place.width) == (1, b.dtype.itemsize, b.place.width) and b.step == 1


def _gap(live: Iterable[Place], width: int) -> int:
    """The lowest offset where ``width`` fits: what was left last is taken first, and is still in cache."""
    offset = 0
    for place in sorted(live, key=lambda place: place.offset):
        if offset + width <= place.offset:
            break
        offset = max(offset, place.offset + place.width)
    return offset


class Replay:
    """A program bound to the memory of ``blocks`` Philox blocks (a multiple of ``ALIGNED``)."""

    def __init__(self, program: Program, arena: Any, blocks: int) -> None:
        made: dict[Place, Any] = {}

        def array(x: Any) -> Any:
            if not isinstance(x, Lane):
                return x
            if x.place not in made:
                start, size = x.place.offset * blocks, x.place.width * blocks
                made[x.place] = arena[start : start + size] if size else np.zeros((), x.dtype)
            memory = made[x.place].view(x.dtype)
            return memory[x.first :: x.step] if x.count else memory

        def call(step: Step) -> tuple[Callable[..., object], tuple[Any, ...]]:
            inputs = tuple(array(x) for x in step.inputs)
            if step.ufunc is None:
                return array(step.out).__setitem__, (..., *inputs)  # 0.2 us less than np.copyto
            return step.ufunc, (*inputs, array(step.out))

        self._given = [array(x) for x in program.given]
        self._scalars = [call(step) for step in program.scalars]
        self._steps = [call(step) for step in program.steps]
        self._last = [
            (step.ufunc, tuple(array(x) for x in step.inputs), slice(out.first, None, out.step), out.dtype)
            for step, out in ((step, step.out) for step in program.last)
        ]
        self._values: tuple[Any, ...] | None = None
        self.index = array(program.index)
        self.out = array(program.out)

    def run(self, values: tuple[Any, ...], out: Any) -> None:
        """Fill ``out``, an array like ``self.out`` or that one, from ``self.index`` and scalars' values."""
        if values != self._values:
            self._values = None
            for scalar, value in zip(self._given, values, strict=True):
                scalar[()] = value
            for function, arguments in self._scalars:
                function(*arguments)
            self._values = values
        for function, arguments in self._steps:
            function(*arguments)
        for ufunc, inputs, items, dtype in self._last:
            if ufunc is None:
                out[items] = inputs[0]
            else:
                ufunc(*inputs, out.view(dtype)[items])
