"""Pieces of a tensor, as a kernel leaves them in memory and as the NumPy backend has them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from cases import KEY, OF_FORM

from cuda_on_cpu.machine import Module
from fanfill import initializers as init
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.recipes import Recipe
from fanfill_kernels import cuda
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.cuda import geometry
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import forms_of

# Parameters at the ends of what the contract accepts, of a least scalar s and a least cut c.
EXTREMES = {
    "uniform": [lambda s, c: init.uniform(-s, s)],
    "uniform_clamped": [lambda s, c: init.uniform(-s, s, endpoint=False)],
    "uniform_range": [lambda s, c: init.uniform(s, 3 * s), lambda s, c: init.uniform(-2 * s, 4 * s)],
    "normal": [lambda s, c: init.normal(-s, s)],
    "normal_centred": [lambda s, c: init.normal(0.0, s)],
    "truncated_central": [
        lambda s, c: init.truncated_normal(0.0, s, -c, 1.0),
        lambda s, c: init.truncated_normal(0.0, s, c, 2.0),
        lambda s, c: init.truncated_normal(s, s, -2.0, 1.0),
    ],
    "truncated": [
        lambda s, c: init.truncated_normal(0.0, s, 3.0, math.inf),
        lambda s, c: init.truncated_normal(0.0, s, -4.5, -2.5),
        lambda s, c: init.truncated_normal(0.0, s, -9.0, 12.0),
        lambda s, c: init.truncated_normal(0.0, s, c, math.inf),
        lambda s, c: init.truncated_normal(s, s, -math.inf, -c),
    ],
}
CONSTANTS = {"8": 0xB7, "16": 0x1234, "32": 0xC0490FDB, "64": 0x400921FB54442D18}
OF_WIDTH = {"8": "float8_e5m2", "16": "float16", "32": "float32", "64": "float64"}
CASES = {
    **{
        cuda.entry("", form, dtype): (form, dtype)
        for dtype in STORAGES
        for form in forms_of(dtype)
        if form in OF_FORM
    },
    **{cuda.entry("", "normal_centred", dtype): ("normal_centred", dtype) for dtype in STORAGES},
    cuda.entry("", "words", "uint32"): ("words", "uint32"),
    **{cuda.entry("", "constant", width): ("constant", dtype) for width, dtype in OF_WIDTH.items()},
}
GUARD = 0xA5
MARGIN = 256  # bytes before and behind what a kernel may touch


class Region(NamedTuple):
    """Elements of a tensor and where they go: (length, step of the index, step in memory) for each axis, in
    elements. The first one lies `shift` elements beyond a place where the Philox blocks begin on multiples
    of 16 bytes.
    """

    start: int
    axes: tuple[tuple[int, int, int], ...]
    shift: int = 0


def line(start: int, count: int, shift: int = 0) -> Region:
    """Consecutive elements, one behind the other."""
    return Region(start, ((count, 1, 1),), shift)


def regions(kind: str, form: str, dtype: str) -> list[Region]:
    """Where kernels of this kind could go wrong: heads, tails, wraps of the counter, every order of axes."""
    size = FORMATS[dtype].itemsize
    group = 16 // size
    # Where the lower half of the block number wraps, for four values a block, and for two.
    far = (2**32, 2**33, 2**34, 2**62)
    if kind == "run":
        counts = (1, group - 1, group, group + 1, 3 * group + 2)
        many = 2 * geometry.THREADS * group * 2 + group // 2 + 1
        return [
            *(line(start, count) for start in (0, 1, group - 1, 2 * group + 1) for count in counts),
            *(line(start, many) for start in (0, 3)),
            *(line(f - 5 * group - 1, 12 * group + 3) for f in far),
        ]
    boxes = [
        Region(3, ((40, 64, 30), (25, 1, 1))),
        Region(1, ((13, 1001, 29), (23, 1, 1))),
        Region(2, ((23, 1, 40), (37, 1001, 1))),
        Region(0, ((9, 100, -30), (11, 1, -2)), 300),
        Region(7, ((600, 7, 3),)),
        Region(1, ((3, 10000, 500), (5, 100, -60), (7, 1, 8)), 300),
        Region(2**34 - 9, ((20, 1, 3),)),
        Region(2**32 - 100, ((5, 2**33 + 1, 40), (9, 1, 2))),
        Region(11, ((3, 2**61, 4), (2, 2**60 + 3, 2)), 1),
    ]
    if form == "constant":
        return boxes  # constants on a line are a run wherever they lie
    return [
        *boxes,
        *(line(start, count, 1) for start in range(5) for count in (1, 2, 3, 7, 61)),
        *(line(f - 30, 63, 3) for f in far),
        line(5, 2 * geometry.THREADS * 4 + 9, 1),
        Region(2**34 + 6, (), 1),
    ]


def lanes(dtype: str) -> np.dtype[Any]:
    return np.dtype(f"u{FORMATS[dtype].itemsize}")


@cache
def numpy_kernels(form: str, dtype: str) -> Any:
    return blocks.kernels(form, dtype)


def expected(made: Recipe, region: Region) -> np.ndarray:
    """The NumPy backend's values, as bits."""
    shape = tuple(n for n, _, _ in region.axes) or (1,)
    pitch = tuple(p for _, p, _ in region.axes) or (1,)
    if made.form == "constant":
        return np.full(shape, made.params[0], lanes(made.dtype))
    out = np.empty(math.prod(shape), np.uint32 if made.form == "words" else STORAGES[made.dtype].lanes)
    numpy_kernels(made.form, made.dtype).box(out, region.start, shape, pitch, KEY, made.params)
    return out.view(lanes(made.dtype)).reshape(shape)


def drawn(
    name: str,
    module: Module,
    made: Recipe,
    region: Region,
    surplus: int = 0,
    most: int | None = None,
    **how: Any,
) -> np.ndarray:
    """What the kernel of this name leaves in memory, as bits.

    A trap ends it at an access outside of the region's first and last byte, and all bytes that are no
    element must be as they were. `surplus`: thread blocks more than needed; `most`: no more than this.
    """
    size = FORMATS[made.dtype].itemsize
    shape = tuple(n for n, _, _ in region.axes) or (1,)
    steps = tuple(s * size for _, _, s in region.axes) or (size,)
    low = sum(min(0, (n - 1) * step) for n, step in zip(shape, steps, strict=True))
    high = sum(max(0, (n - 1) * step) for n, step in zip(shape, steps, strict=True)) + size
    memory = np.full(high - low + 2 * MARGIN + 16, GUARD, np.uint8)
    first = MARGIN - low
    first += ((region.start + region.shift) * size - memory.ctypes.data - first) % 16
    address = memory.ctypes.data + first
    axes = [(n, p, s * size) for n, p, s in region.axes]
    for launch in geometry.launches(made.form, made.dtype, address, region.start, axes, KEY, made.params):
        assert launch.entry == name
        inside = [(address + low, high - low)]
        module.launch(
            kernel_of(module, name),
            (min(launch.blocks + surplus, most or geometry.GRID),),
            (launch.threads,),
            launch.arguments,
            memory=inside,
            **how,
        )
    view = np.ndarray(shape, lanes(made.dtype), memory, first, steps)
    values = view.copy()
    view.view()[...] = np.frombuffer(bytes([GUARD]) * size, lanes(made.dtype))[0]
    assert (memory == GUARD).all(), "a kernel wrote between or around its elements"
    return values


def kernel_of(module: Module, name: str) -> str:
    """A module made of one kernel's text has it as "kernel"."""
    return name if name in module.entries else "kernel"


def plain_recipe(form: str, dtype: str) -> Recipe:
    """Parameters of the everyday kind."""
    if form == "words":
        return Recipe(form, dtype, ())
    if form == "constant":
        return Recipe(form, dtype, (CONSTANTS[str(8 * FORMATS[dtype].itemsize)],))
    return recipe(init.normal(0.0, 0.02) if form == "normal_centred" else OF_FORM[form], (1,), dtype)


def extreme_recipes(form: str, dtype: str) -> list[Recipe]:
    """Parameters at the ends of what is accepted."""
    s, c = (2.0**-900, 2.0**-122) if dtype == "float64" else (2.0**-80, 2.0**-46)
    made = []
    for law in EXTREMES[form]:
        try:
            made.append(recipe(law(s, c), (1,), dtype))
        except ValueError:
            # An interval next to zero may hold no value of a narrow type.
            if FORMATS[dtype].itemsize >= 4:
                raise
    assert made
    assert all(geometry.taken(m.form, m.params)[0] == form for m in made)
    return made
