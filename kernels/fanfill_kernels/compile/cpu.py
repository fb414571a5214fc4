"""Numba kernels: the loops of ``loops.py``, compiled for one form and one dtype at a time, at first use.

A compiled kernel is kept on disk (``cache.py``) under a name with a digest of everything that it is made from
(``keys.py``), and is loaded again without importing Numba (``objects.py``).
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fanfill_kernels.compile import boxes, loops, rows
from fanfill_kernels.compile import scatter as scattering
from fanfill_kernels.compile.rebinding import Body, Bound, rebind
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import Form, Kernels, form_of
from fanfill_kernels.narrow import store_of
from fanfill_kernels.process.undivided import inside, undivided
from fanfill_kernels.store import cache as disk
from fanfill_kernels.store import keys, objects
from fanfill_kernels.store.keys import Target
from fanfill_kernels.store.objects import Layout

_KEY = ("u8",) * 4
_libraries: list[Any] = []  # compiled code lives as long as its library
_proofs: set[str] = set()  # digests of compilers whose kernel of ``probe.py`` has run


def interpreted() -> bool:
    """Whether Numba is switched off (``NUMBA_DISABLE_JIT``), so that everything runs as Python."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def proven() -> bool:
    """Whether the compiler of this process has been tried out before: then Numba need not be imported."""
    proof = keys.of_compiler()
    if disk.load(f"proof-{proof}") is not None:
        _proofs.add(proof)
    return proof in _proofs


def remember(proof: str) -> None:
    """Note that the compiler with this digest was tried out, unless it has been replaced meanwhile."""
    if keys.of_compiler() == proof:
        _proofs.add(proof)
        disk.store(f"proof-{proof}", b"")


class Compiled:
    """A function that takes the arguments of ``layout`` and is compiled at its first call."""

    def __init__(
        self, name: str, layout: Layout, function: Any, bound: Bound, constants: dict[str, Any] | None = None
    ) -> None:
        self.name, self.layout = name, layout
        self._function, self._bound, self._constants = function, bound, constants or {}
        self._call: Callable[..., None] | None = None
        self._loaded: int | None = None  # the address of its code, if it is compiled

    def __call__(self, *arguments: Any) -> None:
        (self._call or self._made())(*arguments)

    def rows(
        self,
        templates: Sequence[tuple[Any, ...]],
        counts: Sequence[int],
        addresses: NDArray[np.uint64],
        substreams: NDArray[np.uint64],
    ) -> Callable[[int, int], None] | None:
        """Prepare calls of a kernel ``run``; what is returned makes those from one number to another at once.

        Each template (length, start, key, parameters) stands for as many calls as it counts. They differ in
        the address of their vector and in the key's substream. None if there is no compiled code.
        """
        if self._call is None:
            self._made()
        if self._loaded is None or inside():
            return None
        calls = rows.rows_of(self.layout, templates, counts)
        calls[:, 0] = addresses
        calls[:, 5], calls[:, 6] = substreams & 0xFFFFFFFF, substreams >> 32  # behind length, start and seed
        return rows.rows_caller(self._loaded, calls)

    def compile(self) -> Any:
        """Compile it anew; return its `numba_internals.Code`."""
        try:
            from fanfill_kernels.compile.compiler import compiled

            return compiled(self._function, self._bound, self._constants, self.name, self.layout)
        except MemoryError:
            raise
        except Exception as error:  # a Numba that broke since it compiled the kernels that are stored
            raise RuntimeError(
                f"expected the Numba that compiled other kernels here to compile {self.name}; got "
                f"{type(error).__name__}: {error}; reinstall numba and llvmlite, or set FANFILL_BACKEND=numpy"
            ) from error

    def key(self, goal: Target | None = None) -> str:
        """The key under which its code is kept, for this machine's processor or for ``goal``."""
        digest = keys.of_kernel(self._function, self._bound, self._constants, self.layout, goal)
        return f"{self.name}-{digest}"

    @property
    def loaded(self) -> int | None:
        """Where its code lies; None before the first call, and where there is none."""
        return self._loaded

    def keep(self) -> str:
        """Compile it for Numba's target processor and keep it without running it; return its key."""
        return undivided(self._compiled_and_kept)[0]

    def address(self) -> int:
        """The address of its code, for callers of their own: see `objects.caller` for what it takes."""
        return undivided(self._address)

    def _made(self) -> Callable[..., None]:
        if inside():  # for this call alone
            return self._interpreted()
        return undivided(self._made_once)

    def _made_once(self) -> Callable[..., None]:
        if self._call is None:
            code = not interpreted()
            address = self._address() if code else 0
            self._call = objects.caller(address, self.layout) if address else self._interpreted()
        return self._call

    def _interpreted(self) -> Callable[..., None]:
        bare = rebind(self._function, self._bound, **self._constants)
        return lambda *arguments: bare(arguments)

    def _address(self) -> int:
        """The address of its code: loaded from disk, or compiled and kept there."""
        if self._loaded is None:
            objects.assert_executable()
            stored = disk.load(self.key())
            if stored is not None:
                symbol, _, code = stored.partition(b"\0")
                self._loaded = objects.load(symbol.decode(), code)
            else:
                self._loaded = self._compiled_and_kept()[1]
        return self._loaded

    def _compiled_and_kept(self) -> tuple[str, int]:
        key = self.key()
        made = self.compile()
        _libraries.append(made.library)
        # If the key has changed, it names something that this process did not compile, or only in part.
        if made.object_code is not None and self.key() == key:
            disk.store(key, made.symbol.encode() + b"\0" + made.object_code)
            for proof in _proofs:  # the folder may have been cleared
                remember(proof)
        return key, int(made.address)


class Nontemporal:
    """The kernel ``nontemporal``. It stores past the caches if blocks begin with cache lines; else it is
    ``run``.
    """

    def __init__(self, nontemporal: Compiled, run: Compiled, steps: int) -> None:
        self.nontemporal, self.run, self.steps = nontemporal, run, steps

    def __call__(self, out: Any, start: int, *arguments: Any) -> None:
        fits = loops.can_bypass_caches(out, start, self.steps)
        (self.nontemporal if fits else self.run)(out, start, *arguments)


def _bind(form: Form, dtype: str) -> tuple[Bound, dict[str, Any]]:
    """What replaces the placeholders of the loops for one form and dtype, and their constants."""
    long = dtype == "float64"
    basic: Bound = {
        loops.store: store_of(dtype),
        loops.pair if form.paired else loops.value: form.function,
        loops.arguments: form.arguments,
    }
    short_words = loops.short_arguments if form.arguments else loops.short_words
    parts = {
        loops.words: loops.long_words if long else short_words,
        loops.values: loops.twins if form.paired else loops.singles,
        boxes.picked: boxes.whole if long else boxes.one_half,
        boxes.element: boxes.twin if form.paired else boxes.single,
    }
    stands = {placeholder: rebind(part, basic) for placeholder, part in parts.items()}
    stands[loops.write] = rebind(loops.write, stands, TURNS=form.turns)
    constants: dict[str, Any] = {"STEPS": 2 if long else 4}
    return {body: Body(rebind(body, stands, **constants)) for body in _BODIES}, constants


@cache
def _helpers(steps: int) -> Bound:
    """The functions that kernels for boxes call. None depends on a form, so each is compiled once for all.

    A kernel with all of its control flow in it takes twice as long to compile. `loops.fill` does have all of
    it, since most processes compile one such kernel, and a second function would add to their first fill.
    """
    helpers = (boxes.advance, boxes.list_runs, boxes.copy_runs)
    return {helper: rebind(helper, {}, STEPS=steps) for helper in helpers}


_BODIES = (loops.make_group, boxes.make_listed_group, boxes.make_elements, boxes.list_element)


class Loops(NamedTuple):
    """The compiled loops of one form and dtype: two for consecutive elements, two for boxes."""

    run: Compiled
    nontemporal: Compiled
    runs: Compiled
    elements: Compiled


@cache
def loops_of(form: str, dtype: str) -> Loops:
    """The loops that fill arrays of this dtype's lanes with values of this form."""
    made = form_of(form, dtype)
    bound, constants = _bind(made, dtype)
    bound |= _helpers(constants["STEPS"])
    number = "f8" if dtype == "float64" else "f4"
    out = f"[{FORMATS[dtype].lanes.str[1:]}]"
    last = (_KEY, ("u8",) * made.integers + (number,) * made.floats)
    name = f"{form}_{dtype}"
    runs, elements = boxes.fill_runs, boxes.fill_elements
    whole = (out, "i8", *last)
    return Loops(
        Compiled(f"run_{name}", whole, loops.fill, bound, constants),
        Compiled(f"nontemporal_{name}", whole, loops.fill, bound, constants | {"NONTEMPORAL": True}),
        Compiled(f"runs_{name}", (out, "i8", "i8", "[i8]", "[i8]", *last), runs, bound, constants),
        Compiled(f"elements_{name}", (out, "i8", "[i8]", "[i8]", *last), elements, bound, constants),
    )


@cache
def kernels(form: str, dtype: str) -> Kernels:
    """The kernels that fill contiguous arrays of this dtype's lanes with values of this form."""
    made = loops_of(form, dtype)
    return Kernels(
        made.run,
        boxes.box_by(made.runs, made.elements),
        Nontemporal(made.nontemporal, made.run, 2 if dtype == "float64" else 4)
        if may_bypass_caches(dtype)
        else made.run,
    )


def may_bypass_caches(dtype: str) -> bool:
    """Whether values of the dtype can be stored past the caches. 8-bit values cannot: LLVM narrows them as
    it stores, and such a store goes through the caches.
    """
    return FORMATS[dtype].itemsize != 1


@cache
def scatter(itemsize: int, function: Any, nontemporal: bool = False) -> Any:
    """One of the loops of ``scatter.py``, for values of ``itemsize`` bytes."""
    items = f"[u{itemsize}]"
    kinds = {"memory": items, "values": items, "bases": "[i8]", "offsets": "[i8]"}
    layout = tuple(kinds.get(name, "i8") for name in scattering.ARGUMENTS[function.__name__])
    bound = {helper: helper for helper in (scattering.move_row, scattering.move_rows)}
    name = f"{function.__name__}_{'nontemporal_' * nontemporal}{8 * itemsize}"
    return Compiled(name, layout, function, bound, {"NONTEMPORAL": nontemporal})
