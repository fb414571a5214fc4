"""Numba kernels: the loops of ``loops.py`` compiled for one form and one dtype at a time, at first use.

A compiled kernel is kept on disk (``cache.py``) under a name that carries a digest of every source here, of
the compiler and of the processor, and comes back without Numba being imported (``objects.py``).
"""

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import machinery, util
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

from fanfill_kernels import boxes, loops, objects
from fanfill_kernels import cache as disk
from fanfill_kernels import scatter as scattering
from fanfill_kernels.forms import LANES, STORES, Form, Kernels, form_of
from fanfill_kernels.objects import Layout
from fanfill_kernels.rebinding import Body, Bound, rebind
from fanfill_kernels.undivided import undivided, whole

# What Numba lets the environment change, but for these, may change the code.
_IRRELEVANT = {"NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_DISABLE_JIT"}
_KEY = ("u8",) * 4
_libraries: list[Any] = []  # compiled code lives as long as its library


def interpreted() -> bool:
    """Whether Numba's switch to run everything as Python is on."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@cache
def digest() -> str:
    """Sixteen hex digits that change whenever compiled code may: sources, compiler, processor, settings."""
    found = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        found.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    spec = _numba()
    origin = spec.origin if spec is not None and spec.origin else ""
    written = os.stat(origin) if origin else None
    settings = sorted(
        f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_") and k not in _IRRELEVANT
    )
    local = Path(".numba_config.yaml")
    for fact in (
        sys.implementation.cache_tag,
        np.__version__,
        llvmlite.__version__,
        origin,
        (written.st_mtime_ns, written.st_size) if written else None,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
        settings,
        local.read_bytes() if local.is_file() else b"",
    ):
        found.update(repr(fact).encode() + b"\0")
    return found.hexdigest()[:16]


def _numba() -> machinery.ModuleSpec | None:
    """Where Numba would be imported from; looking does not import it."""
    try:
        return util.find_spec("numba")
    except ValueError:  # sys.modules["numba"] is None, or a module without a specification
        return None


def proven() -> bool:
    """Whether this very Numba has compiled a kernel here before: then there is no need to try it out."""
    return _numba() is not None and disk.load(f"proof-{digest()}") is not None


class Compiled:
    """A function of the arguments that ``layout`` describes, compiled when it is first called."""

    def __init__(
        self, name: str, layout: Layout, function: Any, bound: Bound, constants: dict[str, Any] | None = None
    ) -> None:
        self.name, self.layout = name, layout
        self._function, self._bound, self._constants = function, bound, constants or {}
        self._call: Callable[..., None] | None = None

    def __call__(self, *arguments: Any) -> None:
        (self._call or self._made())(*arguments)

    def compile(self) -> Any:
        """Compile it anew: its `compiler.Code`."""
        try:
            from fanfill_kernels.compiler import compiled
        except Exception as error:  # a Numba that broke since it compiled the kernels that are stored
            raise RuntimeError(
                f"expected the Numba that compiled other kernels here to import; got {type(error).__name__}: "
                f"{error}; reinstall numba and llvmlite, or set FANFILL_BACKEND=numpy"
            ) from error

        return compiled(self._function, self._bound, self._constants, self.name, self.layout)

    def _made(self) -> Callable[..., None]:
        with whole:  # one compilation at a time
            if self._call is None:
                if interpreted():
                    bare = rebind(self._function, self._bound, **self._constants)
                    self._call = lambda *arguments: bare(arguments)
                else:
                    self._call = objects.caller(self._address(), self.layout)
        return self._call

    def _address(self) -> int:
        """Where its code is: brought from disk, or compiled and kept there."""
        key = f"{self.name}-{digest()}"
        stored = disk.load(key)
        if stored is not None:
            symbol, _, code = stored.partition(b"\0")
            return objects.load(symbol.decode(), code)
        return undivided(lambda: self._compiled_and_kept(key))

    def _compiled_and_kept(self, key: str) -> int:
        made = self.compile()
        _libraries.append(made.library)
        if made.object_code is not None:
            disk.store(key, made.symbol.encode() + b"\0" + made.object_code)
            disk.store(f"proof-{digest()}", b"")
        return int(made.address)


class Stream:
    """The kernel ``stream``: one of two, since what streams must begin its blocks with cache lines."""

    def __init__(self, streaming: Compiled, run: Compiled, steps: int) -> None:
        self.streaming, self.run, self.steps = streaming, run, steps

    def __call__(self, out: Any, start: int, *arguments: Any) -> None:
        fits = loops.can_stream(out, start, self.steps)
        (self.streaming if fits else self.run)(out, start, *arguments)


def _bind(form: Form, dtype: str) -> tuple[Bound, dict[str, Any]]:
    """What stands for the placeholders of the loops for one form and dtype, and their constants."""
    long = dtype == "float64"
    basic: Bound = {
        loops.store: STORES[dtype],
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


_BODIES = (loops.make_group, boxes.make_listed_group, boxes.make_elements, boxes.list_element)


@cache
def kernels(form: str, dtype: str) -> Kernels:
    """The kernels that fill contiguous arrays of the dtype's lanes with values of the form."""
    made = form_of(form, dtype)
    bound, constants = _bind(made, dtype)
    bound |= {boxes.advance: boxes.advance}
    number = "f8" if dtype == "float64" else "f4"
    out = f"[{LANES[dtype]}]"
    last = (_KEY, ("u8",) * made.integers + (number,) * made.floats)
    name = f"{form}_{dtype}"
    runs, elements = boxes.fill_runs, boxes.fill_elements
    whole = (out, "i8", *last)
    run = Compiled(f"run_{name}", whole, loops.fill, bound, constants)
    streaming = Compiled(f"stream_{name}", whole, loops.fill, bound, constants | {"STREAM": True})
    return Kernels(
        run,
        boxes.box_by(
            Compiled(f"runs_{name}", (out, "i8", "i8", "[i8]", "[i8]", *last), runs, bound, constants),
            Compiled(f"elements_{name}", (out, "i8", "[i8]", "[i8]", *last), elements, bound, constants),
        ),
        # LLVM narrows to 8 bits as it stores, and such a store does not stream.
        run if out == "[u1]" else Stream(streaming, run, constants["STEPS"]),
    )


@cache
def scatter(itemsize: int, function: Any, stream: bool = False) -> Any:
    """One of the loops of ``scatter.py``, for values of that many bytes."""
    items = f"[u{itemsize}]"
    kinds = {"memory": items, "values": items, "bases": "[i8]", "offsets": "[i8]"}
    layout = tuple(kinds.get(name, "i8") for name in scattering.ARGUMENTS[function.__name__])
    bound = {helper: helper for helper in (scattering.move_row, scattering.move_rows)}
    name = f"{function.__name__}_{'past_' * stream}{8 * itemsize}"
    return Compiled(name, layout, function, bound, {"STREAM": stream})
