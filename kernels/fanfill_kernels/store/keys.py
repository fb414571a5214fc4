"""The name of a stored kernel: a digest of everything that its machine code is made from, in this process.

The files on disk are no guide. In a zip, without sources or in a frozen program there is nothing to read, and
after an upgrade the files are not what runs. So:

* Compiled functions are identified by their code and by the values of the globals that they name.
* The modules that write machine code import Numba, and a process that loads stored kernels does not import
  them. For those, the code counts that the import system would run; once imported, each has noted its own.
* A kernel is kept only if its key is the same before and after the compilation.
* No path, time or line number is part of a key: a program may be unpacked anywhere.
"""

import hashlib
import os
import re
import sys
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding

import fanfill_kernels
from fanfill_kernels.compile import boxes, loops, scatter
from fanfill_kernels.compile.rebinding import Body, Bound, rebind
from fanfill_kernels.store.objects import Layout, caller, format_of

# The modules that write machine code and import Numba.
_COMPILER = tuple(
    f"{fanfill_kernels.__name__}.compile.{name}"
    for name in ("compiler", "numba_internals", "trace", "vectors")
)
# All of Numba's environment variables may change the code, except these; the processor is digested itself.
_IRRELEVANT = {
    "NUMBA_CACHE_DIR",
    "NUMBA_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_DISABLE_JIT",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
}
_noted: dict[str, str] = {}  # the code that the modules of _COMPILER run, once imported


class Target(NamedTuple):
    """A processor as LLVM knows it: its name, and its features as "+avx2,-avx512f"."""

    name: str
    features: str


def target() -> Target:
    """The processor that Numba compiles for in this process: the environment's, or this machine's."""
    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name is not None and name.lower() == "generic" else _host().features
    return Target(_host().name if name is None else name, features)


@cache
def _host() -> Target:
    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot find out this processor's features
        features = ""
    return Target(binding.get_host_cpu_name(), features)


def of_compiler(goal: Target | None = None) -> str:
    """Digest of the compiler: this package's part, Numba, LLVM, their settings and the processor."""
    settings = sorted(
        f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_") and k not in _IRRELEVANT
    )
    local = Path(".numba_config.yaml")
    return _digest(
        (
            fanfill_kernels.__version__,
            fanfill_kernels.STREAM_VERSION,
            sys.implementation.cache_tag,
            np.__version__,
            llvmlite.__version__,
            numba_version(),
            tuple(goal or target()),
            settings,
            local.read_bytes() if local.is_file() else b"",
            [_noted.get(module) or _awaited(module) for module in _COMPILER],
        )
    )


def of_kernel(
    function: Any, bound: Bound, constants: dict[str, Any], layout: Layout, goal: Target | None = None
) -> str:
    """Digest of a kernel: the compiler, the code to compile, and how it is called."""
    # The compiler reads these constants directly, whether a kernel names them or not.
    numbers = {
        (module.__name__, name): value
        for module in (boxes, loops, scatter)
        for name, value in vars(module).items()
        if name.isupper()
    }
    made_of = (function, bound, constants, rebind, numbers)
    calls = (layout, format_of(layout), _plain(caller.__code__))
    return _digest((of_compiler(goal), _written(made_of, {}), calls))


def of_writer(function: Any, *arguments: str) -> str:
    """Digest of code that a function writes by itself, without Numba: the compiler, and what it writes."""
    return _digest((of_compiler(), _written((function, arguments), {})))


def _digest(facts: Any) -> str:
    """Sixteen hex digits that differ if the facts' ``repr`` differs."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


# Numba, without importing it


def numba_version() -> str | None:
    """The release of Numba that is or would be imported; None if there is none.

    ``importlib.metadata`` alone takes 20 ms to import, and a frozen program has no metadata. A release takes
    its ``__version__`` from JSON text in a small module (a checkout asks git). If that text cannot be found,
    Numba is imported, which takes 0.3 s at each start but gives the right answer.
    """
    loaded = sys.modules.get("numba")
    if loaded is None or not hasattr(loaded, "__version__"):  # perhaps another thread is importing it
        return _stated_version()
    return str(loaded.__version__)


@cache
def _stated_version() -> str | None:
    try:
        package = util.find_spec("numba")
    except ValueError:  # sys.modules["numba"] is None
        return None
    if package is None:
        return None
    name = "numba._version"
    found = (
        finder.find_spec(name, package.submodule_search_locations)
        for finder in sys.meta_path
        if hasattr(finder, "find_spec")
    )
    spec = next((spec for spec in found if spec is not None), None)
    try:
        texts = [x for x in spec.loader.get_code(name).co_consts if isinstance(x, str)]  # type: ignore[union-attr]
    except Exception:  # not as in the known releases, in whatever way
        texts = []
    stated = re.findall(r'"version": "([^"]+)"', "\n".join(texts))
    return stated[0] if len(stated) == 1 else str(import_module("numba").__version__)


# Code


def note_module() -> None:
    """Note the code of the calling module; modules that write machine code call this when imported."""
    frame = sys._getframe(1)
    _noted[frame.f_globals["__name__"]] = _digest(_plain(frame.f_code))


@cache
def _awaited(module: str) -> str:
    """Digest of the code that a module will run when it is imported."""
    spec = util.find_spec(module)
    loader: Any = spec.loader if spec is not None else None
    code = loader.get_code(module) if hasattr(loader, "get_code") else None
    if code is None:  # the loader cannot say beforehand
        import_module(module)
        return _noted[module]
    return _digest(_plain(code))


def _plain(x: Any) -> Any:
    """A code object or one of its constants, without file names and line numbers."""
    if isinstance(x, CodeType):
        return (
            x.co_name,
            x.co_code,
            x.co_exceptiontable,
            (x.co_argcount, x.co_posonlyargcount, x.co_kwonlyargcount, x.co_flags),
            (x.co_names, x.co_varnames, x.co_freevars, x.co_cellvars),
            [_plain(constant) for constant in x.co_consts],
        )
    if isinstance(x, frozenset):  # in no order that two processes share
        return sorted(map(repr, x))
    return [_plain(member) for member in x] if isinstance(x, tuple) else x


@cache
def _code(code: CodeType) -> tuple[str, tuple[str, ...]]:
    """A code object's digest, and the names that it and those inside it look up: globals, and attributes."""
    inner = [_code(constant)[1] for constant in code.co_consts if isinstance(constant, CodeType)]
    return _digest(_plain(code)), sum(inner, code.co_names)


def _ours(name: str) -> bool:
    return name.partition(".")[0] == fanfill_kernels.__name__


def _written(x: Any, seen: dict[int, int]) -> Any:
    """All that a value stands for, in an order that does not depend on the process.

    ``seen`` numbers the functions that have been written: each is once, and may call itself.
    """
    if x is None or type(x) in (bool, int, float, str, bytes):
        return x
    if isinstance(x, tuple | list):
        return [_written(member, seen) for member in x]
    if isinstance(x, dict):
        return [_written(pair, seen) for pair in x.items()]
    if isinstance(x, FunctionType):
        if id(x) in seen:
            return "function", seen[id(x)]
        seen[id(x)] = len(seen)
        digest, names = _code(x.__code__)
        cells = [cell.cell_contents for cell in x.__closure__ or ()]
        reached = {name: x.__globals__[name] for name in names if name in x.__globals__}
        return "function", digest, _written([x.__defaults__, x.__kwdefaults__, cells, reached], seen)
    if isinstance(x, Body):
        return "body", _written(x.function, seen)
    if isinstance(x, np.generic | np.ndarray):
        return "number", x.dtype.str, x.shape, x.tobytes()
    if isinstance(x, np.dtype):
        return "dtype", x.str
    if isinstance(x, np.ufunc | ModuleType) and not _ours(x.__name__):
        return "name", x.__name__
    if isinstance(x, type) and not _ours(x.__module__):
        return "name", x.__module__, x.__qualname__
    raise TypeError(f"expected a value of which a key can be made; got {x!r}")
