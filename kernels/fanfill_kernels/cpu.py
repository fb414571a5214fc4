"""Numba kernels: the loops of ``loops.py`` compiled for one form and one dtype at a time, at first use.

Numba caches compiled code on disk under the name of the function and the date of its own file. An edit in
another file of this package would go unseen, and kernels stored by two processes at once under one name could
be taken for one another. So the name carries the form, the dtype and a digest of every source here, of Numba
and of the processor.
"""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

import llvmlite
import llvmlite.binding
import numba
from numba import config, njit
from numba.extending import register_jitable

from fanfill_kernels import arithmetic, arithmetic64, boxes, lanes, loops, narrow, philox
from fanfill_kernels import scatter as scattering
from fanfill_kernels.compiler import HELPER, bind, rebind
from fanfill_kernels.forms import STORES, Form, Kernels, form_of
from fanfill_kernels.vectors import OPERATIONS


@cache
def bound_functions() -> dict[Any, Any]:
    """The lane functions of this package, each with its compiled double."""
    return bind(lanes, philox, arithmetic, arithmetic64, narrow)


@cache
def digest() -> str:
    """Sixteen hex digits that change whenever compiled code may: sources, Numba, LLVM, processor."""
    found = hashlib.sha256()
    for source in sorted(resources.files("fanfill_kernels").iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".py"):
            found.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    cpu = config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        features = llvmlite.binding.get_host_cpu_features().flatten()
    for fact in (numba.__version__, llvmlite.__version__, cpu, features, str(config.OPT)):
        found.update(fact.encode() + b"\0")
    return found.hexdigest()[:16]


def compiled(function: Any, bound: dict[Any, Any], name: str, constants: dict[str, Any]) -> Any:
    """Compile ``function`` without the GIL; on disk where a folder for it can be written, else in memory."""
    bare = rebind(function, bound, f"{name}_{digest()}", **constants)
    try:
        return njit(nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True)(bare)
    except RuntimeError:  # Numba's "no locator available": neither beside the source nor in the user's cache
        return njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(bare)


@cache
def kernels(form: str, dtype: str) -> Kernels:
    """The kernels that fill contiguous arrays of the dtype's lanes with values of the form."""
    made = form_of(form, dtype)
    bound = dict(bound_functions())
    bound[loops.store] = bound[STORES[dtype]]
    bound[loops.pair if made.paired else loops.value] = bound[made.function]
    constants: dict[str, Any] = {"STEPS": 4, "TILE": made.tile}
    if dtype == "float64":
        constants["STEPS"] = 2
        bound[lanes.halves] = bound[lanes.whole]
    preparation = loops.no_preparation
    if made.arguments is not None:
        bound[loops.arguments] = bound[made.arguments]
        preparation = loops.replace_words
    steps: list[Any] = [loops.make_block, loops.make_twins if made.paired else loops.make_value]
    if made.arguments is not None:
        steps.append(loops.make_argument)
    for step in steps:
        bound[step] = register_jitable(forceinline=True, **HELPER)(rebind(step, bound))
    for function, target in (
        (loops.blocks_into, loops.blocks_into),
        (preparation, loops.prepare),
        (loops.twins if made.paired else loops.singles, loops.body),
    ):
        bound[target] = register_jitable(**HELPER)(rebind(function, bound, **constants))
    run = compiled(loops.run, bound, f"run_{form}_{dtype}", constants)
    words: dict[str, Any] = {"STEPS": 2, "WORDS": 1} if dtype == "float64" else {"STEPS": 4, "WORDS": 2}
    bound = _with_boxes(bound, made, words)
    return Kernels(
        run,
        boxes.box_by(
            compiled(boxes.fill_runs, bound, f"runs_{form}_{dtype}", words),
            compiled(boxes.fill_elements, bound, f"elements_{form}_{dtype}", words),
        ),
    )


@cache
def scatter(itemsize: int, function: Any) -> Any:
    """One of the loops of ``scatter.py``, for values of that many bytes."""
    bound = _with_vectors(bound_functions())
    _help(bound, (scattering.move_row,), {}, forceinline=True)
    return compiled(function, bound, f"{function.__name__}_{8 * itemsize}", {})


def _with_boxes(bound: dict[Any, Any], made: Form, words: dict[str, Any]) -> dict[Any, Any]:
    """What the loops over boxes use, beside what the loops over runs do."""
    bound = _with_vectors(bound)
    steps = (boxes.make_listed_block, boxes.list_element, boxes.list_block, boxes.pick_pair, boxes.pick_value)
    _help(bound, steps, words, forceinline=True)
    _help(bound, (boxes.words_into, boxes.advance), words)
    for function, target in (
        (boxes.no_preparation if made.arguments is None else boxes.replace_words, boxes.prepare),
        (boxes.twin_values if made.paired else boxes.single_values, boxes.values_into),
    ):
        bound[target] = register_jitable(**HELPER)(rebind(function, bound, **words))
    return bound


def _with_vectors(bound: dict[Any, Any]) -> dict[Any, Any]:
    return dict(bound) if config.DISABLE_JIT else bound | OPERATIONS


def _help(
    bound: dict[Any, Any], functions: tuple[Any, ...], constants: dict[str, Any], forceinline: bool = False
) -> None:
    """Bind functions, in order of use, each to its compiled double."""
    for function in functions:
        options = HELPER | {"forceinline": True} if forceinline else HELPER
        bound[function] = register_jitable(**options)(rebind(function, bound, **constants))
