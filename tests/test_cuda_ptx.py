"""The CUDA kernels as PTX, emulated: what NVRTC makes of them for every architecture, run on the CPU, equals
the NumPy backend bit for bit.

Equal kernels are run once: NVRTC writes the same text for several architectures.
"""

from __future__ import annotations

import math
import os
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from cuda_on_cpu.build import compile_together
from cuda_on_cpu.compiled import TARGETS, begin, ptx
from cuda_on_cpu.machine import Module, PtxError, Trap

from fanfill import initializers as init
from fanfill.dtypes import STORAGES
from fanfill.recipes import Recipe, recipe
from fanfill_kernels import blocks, cuda
from fanfill_kernels.cuda import geometry

KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
LAWS = {
    "uniform": init.uniform(-0.3, 0.3),
    "uniform_range": init.uniform(-0.7, 1.6),
    "normal": init.normal(0.1, 0.6),
    "truncated_central": init.truncated_normal(0.1, 0.6, -1.9, 1.3),
    "truncated": init.truncated_normal(0.1, 0.6, -2.7, math.inf),
}
# Parameters at the ends of what the contract accepts, of a least scalar s and a least cut c.
EXTREMES = {
    "uniform": [lambda s, c: init.uniform(-s, s)],
    "uniform_range": [lambda s, c: init.uniform(s, 3 * s), lambda s, c: init.uniform(-2 * s, 4 * s)],
    "normal": [lambda s, c: init.normal(0.0, s), lambda s, c: init.normal(-s, s)],
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
    **{cuda.entry("", form, dtype): (form, dtype) for form in LAWS for dtype in STORAGES},
    cuda.entry("", "words", "uint32"): ("words", "uint32"),
    **{cuda.entry("", "constant", width): ("constant", dtype) for width, dtype in OF_WIDTH.items()},
}
NAMES = [kind + case for kind in cuda.KINDS for case in CASES]
CORES = len(os.sched_getaffinity(0))
GUARD = 0xA5
MARGIN = 256  # bytes before and behind what a kernel may touch

each_name = pytest.mark.parametrize("name", NAMES)


class Variant(NamedTuple):
    """A kernel as some compiler made it for some architecture, unlike those before; to be run without and
    with forced flushing of subnormals.
    """

    where: str
    plain: Module
    flushed: Module


@cache
def variants() -> dict[str, list[Variant]]:
    """All distinct kernels by name, compiled."""
    begin(ptx=True)
    kernels: dict[str, list[Variant]] = {name: [] for name in NAMES}
    sources: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for major, architecture in TARGETS:
        modules = [Module(ptx(major, architecture), flush=flush) for flush in (False, True)]
        assert set(modules[0].entries) == set(NAMES)
        for name in NAMES:
            symbol, text = modules[0].source(name)
            if (name, symbol) not in seen:
                seen.add((name, symbol))
                sources[symbol] = text
                kernels[name].append(Variant(f"NVRTC {major}, sm_{architecture}", *modules))
    compile_together(sources, workers=CORES, optimize=False)
    return kernels


class Region(NamedTuple):
    """Elements of a tensor and where they go: (length, step of the index, step in memory) for each axis, in
    elements. The first one lies `shift` elements beyond a place where the Philox blocks begin on multiples
    of 16 bytes.
    """

    start: int
    axes: tuple[tuple[int, int, int], ...]
    shift: int = 0


def line(start: int, count: int, shift: int = 0) -> Region:
    return Region(start, ((count, 1, 1),), shift)


def regions(kind: str, form: str, dtype: str) -> list[Region]:
    size = geometry.SIZES[dtype]
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
    return np.dtype(f"u{geometry.SIZES[dtype]}")


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
    name: str, module: Module, made: Recipe, region: Region, surplus: int = 0, **how: Any
) -> np.ndarray:
    """What the kernel of this name leaves in memory, as bits.

    A trap ends it at an access outside of the region's first and last byte, and all bytes that are no
    element must be as they were. `surplus`: thread blocks more than needed.
    """
    size = geometry.SIZES[made.dtype]
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
        arguments = [argument.tobytes() for argument in launch.arguments]
        inside = [(address + low, high - low)]
        module.launch(
            kernel_of(module, name),
            (launch.blocks + surplus,),
            (launch.threads,),
            arguments,
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
    if form == "words":
        return Recipe(form, dtype, ())
    if form == "constant":
        return Recipe(form, dtype, (CONSTANTS[str(8 * geometry.SIZES[dtype])],))
    return recipe(LAWS[form], (1,), dtype)


def extreme_recipes(form: str, dtype: str) -> list[Recipe]:
    s, c = (2.0**-900, 2.0**-122) if dtype == "float64" else (2.0**-80, 2.0**-46)
    made = []
    for law in EXTREMES[form]:
        try:
            made.append(recipe(law(s, c), (1,), dtype))
        except ValueError:
            # An interval next to zero may hold no value of a narrow type.
            if geometry.SIZES[dtype] >= 4:
                raise
    assert made
    assert all(m.form == form for m in made)
    return made


@each_name
def test_ptx_equals_the_numpy_backend_wherever_a_piece_lies(name: str) -> None:
    kind, case = name.split("_", 1)
    made = plain_recipe(*CASES["_" + case])
    for region in regions(kind, made.form, made.dtype):
        values = expected(made, region)
        for variant in variants()[name]:
            for module in (variant.plain, variant.flushed):
                found = drawn(name, module, made, region)
                np.testing.assert_array_equal(found, values, f"{variant.where}, {region}")


@pytest.mark.parametrize("name", [n for n in NAMES if CASES["_" + n.split("_", 1)[1]][0] in LAWS])
def test_flushing_subnormals_changes_nothing_at_the_ends_of_what_is_accepted(name: str) -> None:
    kind, case = name.split("_", 1)
    form, dtype = CASES["_" + case]
    region = line(5, 1500) if kind == "run" else Region(5, ((60, 1001, 52), (25, 1, 2)))
    for made in extreme_recipes(form, dtype):
        values = expected(made, region)
        for variant in variants()[name]:
            for module in (variant.plain, variant.flushed):
                found = drawn(name, module, made, region)
                np.testing.assert_array_equal(found, values, f"{variant.where}, {made}")


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("uniform", (2.0**-110, 1.0)),
        ("uniform_range", (2.0**-110, 0.0, -1.0, 1.0)),
        ("normal", (2.0**-130, 0.0)),
    ],
)
def test_beyond_what_is_accepted_flushing_does_change_values(form: str, params: tuple[float, ...]) -> None:
    """The negative control of the test above: subnormals are flushed where there are some."""
    name = cuda.entry("run", form, "float32")
    made = Recipe(form, "float32", tuple(np.float32(p) for p in params))
    values = expected(made, line(0, 1000))
    for variant in variants()[name]:
        np.testing.assert_array_equal(drawn(name, variant.plain, made, line(0, 1000)), values)
        assert (drawn(name, variant.flushed, made, line(0, 1000)) != values).any()


@each_name
def test_surplus_blocks_and_host_threads_change_nothing(name: str) -> None:
    kind, case = name.split("_", 1)
    made = plain_recipe(*CASES["_" + case])
    region = line(3, 999) if kind == "run" else Region(3, ((40, 64, 30), (25, 1, 1)))
    values = expected(made, region)
    module = variants()[name][0].plain
    assert module.entries[name].most_threads == geometry.THREADS
    np.testing.assert_array_equal(drawn(name, module, made, region, surplus=3), values)
    np.testing.assert_array_equal(drawn(name, module, made, region, surplus=70, workers=2), values)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("box_normal")])
def test_boxes_split_into_launches_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plain_recipe(*CASES[name.removeprefix("box")])
    region = Region(3, ((70, 1001, 30), (25, 1, 1)))
    values = expected(made, region)
    monkeypatch.setattr(geometry, "GRID", 1)
    np.testing.assert_array_equal(drawn(name, variants()[name][0].plain, made, region), values)


def test_a_box_of_more_axes_than_a_launch_takes() -> None:
    axes = tuple((2, 3**k, 2**k) for k in reversed(range(geometry.AXES - 5, geometry.AXES + 3)))
    deep = (*axes, *((2, 3**k, 2**k) for k in reversed(range(10))))
    assert len(deep) > geometry.AXES
    region = Region(7, deep[-(geometry.AXES + 1) :])
    made = plain_recipe("words", "uint32")
    name = cuda.entry("box", "words", "uint32")
    found = drawn(name, variants()[name][0].plain, made, region)
    np.testing.assert_array_equal(found, expected(made, region))


LITERAL = re.compile(r"0[fd][0-9A-F]+")


def changed(text: str, literal: str) -> str:
    """Another mantissa: by its 7th bit in float32, by its 4th in float64."""
    digit = format(int(literal[5], 16) ^ 1, "X")
    return text.replace(literal, literal[:5] + digit + literal[6:])


@pytest.mark.parametrize(
    ("dtype", "rare"),
    [
        ("float32", set()),
        # The half that is added to a word of 64 bits is rounded away but for words below 2^53; a zero of
        # either sign that becomes 2^-1026 is lost in the next sum.
        ("float64", {"0d0000000000000000", "0d8000000000000000", "0d3FE0000000000000"}),
    ],
)
def test_a_change_of_any_constant_in_the_ptx_is_noticed(dtype: str, rare: set[str]) -> None:
    """The negative control of all of this; `rare` are the constants that some thousand values do not show."""
    name = cuda.entry("run", "normal", dtype)
    made = plain_recipe("normal", dtype)
    text = Module(ptx(13, 90)).kernels[name].text
    values = expected(made, line(0, 4000))
    literals = sorted(set(LITERAL.findall(text)))
    modules = {literal: Module(changed(text, literal)) for literal in literals}
    compile_together(dict(m.source("kernel") for m in modules.values()), workers=CORES, optimize=False)
    unnoticed = [
        literal for literal, m in modules.items() if (drawn(name, m, made, line(0, 4000)) == values).all()
    ]
    assert len(literals) > 20
    assert set(unnoticed) == rare & set(literals)


def test_a_changed_multiplier_and_a_store_out_of_place_are_noticed() -> None:
    name = cuda.entry("run", "words", "uint32")
    made = plain_recipe("words", "uint32")
    text = Module(ptx(13, 90)).kernels[name].text
    assert "-766435501" in text
    found = drawn(name, Module(text.replace("-766435501", "-766435499")), made, line(0, 64))
    assert (found != expected(made, line(0, 64))).any()
    store = re.search(r"st\.global\.v4\.u32 *\t?\[%rd\d+", text)
    assert store
    for offset, reason in ((4, "misaligned"), (-4096, "outside")):
        moved = Module(text.replace(store[0], f"{store[0]}+{offset}", 1))
        with pytest.raises(Trap, match=reason):
            drawn(name, moved, made, line(0, 4 * geometry.THREADS * 4))


def test_an_instruction_that_is_not_known_is_an_error() -> None:
    text = Module(ptx(13, 90)).kernels[cuda.entry("run", "normal", "float32")].text
    with pytest.raises(PtxError, match=r"line \d+: unknown instruction sqrt.approx.f32"):
        Module(text.replace("sqrt.rn.f32", "sqrt.approx.f32", 1)).compile()


def test_every_kernel_of_every_architecture_and_compiler_is_among_those_that_are_run(
    record_testsuite_property: Any,
) -> None:
    found = variants()
    run = {variant.plain.source(name)[0] for name in NAMES for variant in found[name]}
    for major, architecture in TARGETS:
        module = Module(ptx(major, architecture))
        assert {module.source(name)[0] for name in NAMES} <= run
    assert min(map(len, found.values())) >= 1
    record_testsuite_property("distinct kernels", sum(map(len, found.values())))
