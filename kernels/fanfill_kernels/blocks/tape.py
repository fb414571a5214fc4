"""Lane functions as lists of NumPy calls: recorded once, replayed over blocks in memory that is reused.

Called on arrays, a lane function allocates a new array at each of about 180 operations, on pages that the
system hands out and takes back every time: 30 to 50 ns for a normal. So it is called once, on ``Lane``
objects, which record the NumPy calls (through ``__array_ufunc__`` and ``__array_function__``). Each result
then gets a place in a small arena, a dead operand's place if possible, and a fill only replays
``function(*arguments)``: 9 to 12 ns.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

ALIGNED = 64  # the least number of blocks; also bytes: every place then begins with a cache line


class Place:
    """Memory of one value: ``width`` bytes for each Philox block, or a scalar if that is 0."""

    __slots__ = ("offset", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.offset = -1  # in bytes for each block; -1 until the arena is laid out


class Lane(NDArrayOperatorsMixin):
    """A value on a tape: an array (every ``step``-th item of a place, from ``first`` on) or a scalar."""

    __slots__ = ("dtype", "first", "place", "step", "tape")

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

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        return self.tape.record(ufunc, inputs, ufunc.resolve_dtypes((*(x.dtype for x in inputs), None))[-1])

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function is not np.where or options:
            return NotImplemented
        return self.tape.select(*arguments)


class Step(NamedTuple):
    """One call: a ufunc of the inputs, or a conversion if that is None, into ``out``."""

    ufunc: np.ufunc | None
    inputs: tuple[Any, ...]  # Lanes, and constants as zero-dimensional arrays
    out: Lane

    @property
    def reads(self) -> set[Place]:
        """The places of the inputs."""
        return {x.place for x in self.inputs if isinstance(x, Lane)}


class Tape:
    """Records the calls of lanes, in order; those that depend only on scalars go to a separate list."""

    def __init__(self) -> None:
        self.scalars: list[Step] = []
        self.steps: list[Step] = []
        self.masks: dict[tuple[Place, int], Lane] = {}

    def lane(self, dtype: DTypeLike, count: int) -> Lane:
        """Return a new value with ``count`` items for each Philox block."""
        return Lane(self, Place(np.dtype(dtype).itemsize * count), dtype)

    def record(self, ufunc: np.ufunc | None, inputs: Iterable[Any], dtype: DTypeLike) -> Lane:
        # NumPy takes 0.25 us to read a zero-dimensional array, 0.35 us to read one of its scalars.
        operands = tuple(x if isinstance(x, Lane) else np.asarray(x) for x in inputs)
        out = self.lane(dtype, max(x.count for x in operands if isinstance(x, Lane)))
        (self.steps if out.count else self.scalars).append(Step(ufunc, operands, out))
        return out

    def select(self, condition: Lane, a: Any, b: Any) -> Lane:
        """``np.where`` as b ^ (a ^ b) * condition, on bits.

        For 16 Ki float32: 13 us with np.where, 10 with a copy of b and np.putmask, 7 in this way, and 4 if
        the mask exists already: two selects often share one.
        """
        integer = np.dtype(f"i{a.dtype.itemsize}")
        name = (condition.place, integer.itemsize)
        if name not in self.masks:
            self.masks[name] = condition.astype(integer)
        other = b.view(integer)
        chosen: Lane = other ^ (a.view(integer) ^ other) * self.masks[name]
        return chosen.view(a.dtype)

    def send(self, value: Lane, target: Lane) -> None:
        """Store ``value`` in ``target``: directly by the step that makes it, if nothing else needs it."""
        made = [k for k, step in enumerate(self.steps) if step.out.place is value.place]
        read = any(value.place in step.reads for step in self.steps)
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
    integers, params
        The scalars that each replay is given.
    out
        The result. Nothing reads it, and the steps that write it come last.
    """

    def __init__(
        self, tape: Tape, index: Lane, integers: tuple[Lane, ...], params: tuple[Lane, ...], out: Lane
    ) -> None:
        self.index, self.given, self.out, self.scalars = index, integers + params, out, tape.scalars
        needed, useful = {out.place}, []
        for step in reversed(tape.steps):
            if step.out.place in needed:
                needed.update(step.reads)
                useful.append(step)
        useful.reverse()
        self.steps = _hoisted([step for step in useful if step.out.place is not out.place])
        self.last = [step for step in useful if step.out.place is out.place]
        self.calls = len(useful)
        self.width = self._lay_out()

    def _lay_out(self) -> int:
        """Give every array its offset in the arena; return the arena's width."""
        steps = self.steps + self.last
        ends = {place: k for k, step in enumerate(steps) for place in step.reads}
        live = {self.index.place}
        self.index.place.offset = width = 0
        for k, step in enumerate(steps):
            place = step.out.place
            dying = [x for x in step.inputs if isinstance(x, Lane) and ends[x.place] == k]
            if place.offset < 0:
                # In place if items match one to one: otherwise NumPy would copy overlapping memory.
                heir = next((x for x in dying if step.ufunc and _alike(x, step.out)), None)
                place.offset = _gap(live, place.width) if heir is None else heir.place.offset
            live -= {x.place for x in dying}
            live.add(place)
            width = max(width, place.offset + place.width)
        return max(width, self.index.place.width)


def _hoisted(steps: list[Step]) -> list[Step]:
    """Move steps that take every second word, or a mask, right behind the step that makes their input: the
    rest then needs an eighth less memory.
    """
    done: list[Step] = []
    for step in steps:
        if any(isinstance(x, Lane) and (x.step > 1 or x.dtype == bool) for x in step.inputs):
            ready = max((k for k, other in enumerate(done) if other.out.place in step.reads), default=-1)
            done.insert(ready + 1, step)
        else:
            done.append(step)
    return done


def _alike(a: Lane, b: Lane) -> bool:
    return (a.dtype.itemsize, a.place.width, a.step, b.step) == (b.dtype.itemsize, b.place.width, 1, 1)


def _gap(live: Iterable[Place], width: int) -> int:
    """The lowest offset where ``width`` fits; a multiple of 8 bytes if it is at least that wide. Otherwise a
    mask's 2 bytes would shift later places, and leave a gap too small for them.
    """
    grain, offset = min(width, 8), 0
    for place in sorted(live, key=lambda place: place.offset):
        if offset + width <= place.offset:
            break
        offset = max(offset, -(-(place.offset + place.width) // grain) * grain)
    return offset


class Replay:
    """A program bound to memory for ``blocks`` Philox blocks, a multiple of ``ALIGNED``."""

    def __init__(self, program: Program, arena: Any, blocks: int) -> None:
        scalars: dict[Place, Any] = {}
        arrays: dict[Any, Any] = {}

        def array(x: Any) -> Any:
            if not isinstance(x, Lane):
                return x
            if not x.count:
                return scalars.setdefault(x.place, np.zeros((), x.dtype)).view(x.dtype)
            start, size = x.place.offset * blocks, x.place.width * blocks
            name = (start, size, x.dtype, x.first, x.step)
            if name not in arrays:
                arrays[name] = arena[start : start + size].view(x.dtype)[x.first :: x.step]
            return arrays[name]

        def call(step: Step) -> tuple[Callable[..., object], tuple[Any, ...]]:
            inputs = tuple(array(x) for x in step.inputs)
            if step.ufunc is None:
                return array(step.out).__setitem__, (..., *inputs)  # 0.2 us less than np.copyto
            return step.ufunc, (*inputs, array(step.out))

        self.blocks = blocks
        self.index, self.out = array(program.index), array(program.out)
        self._given = [array(x) for x in program.given]
        self._scalars = [call(step) for step in program.scalars]
        self._steps = [call(step) for step in program.steps]
        self._last = [
            (step.ufunc, tuple(array(x) for x in step.inputs), slice(out.first, None, out.step), out.dtype)
            for step, out in ((step, step.out) for step in program.last)
        ]
        self._integers: tuple[int, ...] = ()
        self._params: tuple[Any, ...] | None = None

    def run(self, integers: tuple[int, ...], params: tuple[Any, ...], out: Any) -> None:
        """Fill ``out``, which is ``self.out`` or an array with the layout of its beginning, from
        ``self.index`` and the scalars.
        """
        # Parameters are compared by identity, since -0.0 == 0.0.
        if params is not self._params or integers != self._integers:
            self._params = None
            for scalar, value in zip(self._given, integers + params, strict=True):
                scalar[()] = value
            for function, arguments in self._scalars:
                function(*arguments)
            self._integers, self._params = integers, params
        for function, arguments in self._steps:
            function(*arguments)
        for ufunc, inputs, items, dtype in self._last:
            target = out.view(dtype)[items]
            operands = [x[: target.size] if x.ndim else x for x in inputs]
            if ufunc is None:
                target[...] = operands[0]
            else:
                ufunc(*operands, target)
