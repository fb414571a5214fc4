"""The CUDA kernels as PTX, emulated: what NVRTC makes of them for every architecture, run on the CPU, equals
the NumPy backend bit for bit.

Equal kernels are run once: NVRTC writes the same text for several architectures. By default one target runs
all of its kernels, and another those whose source is not the same there; ``-m slow`` runs those of every
target.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from cuda_on_cpu.build import link
from cuda_on_cpu.compiled import CONVERTING, IN_PART, QUICK, TARGETS, begin, ptx
from cuda_on_cpu.machine import Module, PtxError, Trap
from cuda_on_cpu.pieces import (
    CASES,
    EXTREMES,
    Region,
    drawn,
    expected,
    extreme_recipes,
    line,
    plain_recipe,
    regions,
)
from cuda_on_cpu.translate import Program

from fanfill.recipes import Recipe
from fanfill_kernels import cuda
from fanfill_kernels.cuda import geometry
from fanfill_kernels.formats import FORMATS

NAMES = [kind + case for kind in cuda.KINDS for case in CASES]

# For Blackwell NVRTC writes every kernel in another way. Unless all targets are asked for, only the text of
# those is audited, by test_cuda_compile.py.
EMULATED = tuple(target for target in QUICK if target[1] < 100)

each_name = pytest.mark.parametrize("name", NAMES)
each_targets = pytest.mark.parametrize(
    "targets", [EMULATED, pytest.param(TARGETS, marks=pytest.mark.slow)], ids=["some", "all"]
)


Targets = tuple[tuple[int, int], ...]


def is_run(name: str, architecture: int, targets: Targets) -> bool:
    """Whether a kernel for one of these targets is to be run, unless another's is the same."""
    form, dtype = CASES["_" + name.split("_", 1)[1]]
    converts = form in CONVERTING and FORMATS[dtype].itemsize < 4
    return targets == TARGETS or architecture == EMULATED[-1][1] or converts


def is_whole(target: tuple[int, int], targets: Targets) -> bool:
    """Whether all kernels are compiled for a target."""
    return targets == TARGETS or target not in IN_PART


class Variant(NamedTuple):
    """A kernel as some compiler made it for some architecture, unlike those before; to be run without and
    with forced flushing of subnormals.
    """

    where: str
    plain: Module
    flushed: Module


@cache
def variants(targets: Targets = EMULATED) -> dict[str, list[Variant]]:
    """All distinct kernels of these targets by name, compiled: by default those that `is_run` says."""
    for target in targets:
        begin(*target, is_whole(target, targets), ptx=True)
    kernels: dict[str, list[Variant]] = {name: [] for name in NAMES}
    programs: list[Program] = []
    seen: set[tuple[str, str]] = set()
    for major, architecture in targets:
        whole = is_whole((major, architecture), targets)
        text = ptx(major, architecture, whole)
        # Of a target's part not all is run; test_cuda_compile.py audits the text of the rest.
        modules = [Module(text, flush=flush, lazily=not whole) for flush in (False, True)]
        assert set(modules[0].entries) == set(NAMES) or not whole
        for name in NAMES:
            if not is_run(name, architecture, targets):
                continue
            program = modules[0].program(name)
            if (name, program.digest) not in seen:
                seen.add((name, program.digest))
                programs.append(program)
                kernels[name].append(Variant(f"NVRTC {major}, sm_{architecture}", *modules))
    link(programs)
    return kernels


@each_targets
@each_name
def test_ptx_equals_the_numpy_backend_wherever_a_piece_lies(name: str, targets: Targets) -> None:
    kind, case = name.split("_", 1)
    made = plain_recipe(*CASES["_" + case])
    everywhere = regions(kind, made.form, made.dtype)
    largest = max(everywhere, key=lambda region: math.prod(n for n, _, _ in region.axes))
    for region in everywhere:
        values = expected(made, region)
        for variant in variants(targets)[name]:
            # Where a value lies has nothing to do with whether subnormals are flushed.
            for module in (variant.plain, variant.flushed)[: 1 + (region is largest)]:
                found = drawn(name, module, made, region)
                np.testing.assert_array_equal(found, values, f"{variant.where}, {region}")


@each_targets
@pytest.mark.parametrize("name", [n for n in NAMES if CASES["_" + n.split("_", 1)[1]][0] in EXTREMES])
def test_flushing_subnormals_changes_nothing_at_the_ends_of_what_is_accepted(
    name: str, targets: Targets
) -> None:
    kind, case = name.split("_", 1)
    form, dtype = CASES["_" + case]
    region = line(5, 1500) if kind == "run" else Region(5, ((60, 1001, 52), (25, 1, 2)))
    for made in extreme_recipes(form, dtype):
        values = expected(made, region)
        for variant in variants(targets)[name]:
            for module in (variant.plain, variant.flushed):
                found = drawn(name, module, made, region)
                np.testing.assert_array_equal(found, values, f"{variant.where}, {made}")


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("uniform", (2.0**-110,)),
        ("uniform_clamped", (2.0**-110, -1.0, 1.0)),
        ("normal", (2.0**-130, 0.0)),
    ],
)
def test_beyond_what_is_accepted_flushing_does_change_values(form: str, params: tuple[float, ...]) -> None:
    """The negative control of the test above: subnormals are flushed where there are some."""
    made = Recipe(form, "float32", tuple(np.float32(p) for p in params))
    name = cuda.entry("run", geometry.taken(form, made.params)[0], "float32")
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


STRIDED = [name for name in NAMES if name.startswith("run") and geometry.strided(*CASES[name[3:]])]


@pytest.mark.parametrize("name", STRIDED)
def test_a_strided_kernel_draws_all_chunks_whatever_the_grid(name: str) -> None:
    """Whole chunks and the rest, with and without a first group that is not whole, and no whole chunk."""
    form, dtype = CASES[name.removeprefix("run")]
    made = plain_recipe(form, dtype)
    group = 16 // FORMATS[dtype].itemsize
    chunk = 2 * geometry.THREADS * group
    module = variants()[name][0].plain
    for start, count in (
        (0, 3 * chunk),
        (1, 3 * chunk + 5),
        (group - 1, 2 * chunk + 1),
        (1, 1),
        (1, group),
        (0, 3),
    ):
        values = expected(made, line(start, count))
        for most in (1, 2, 3):
            found = drawn(name, module, made, line(start, count), most=most)
            np.testing.assert_array_equal(found, values, f"{most} thread blocks, {count} values from {start}")


def test_the_kernels_that_do_not_stride_need_a_thread_block_a_chunk() -> None:
    """The negative control, and the other half of what `geometry.strided` says."""
    for name in ("run_uniform_float32", "run_normal_float64", "run_words_uint32", "run_constant_8"):
        form, dtype = CASES[name.removeprefix("run")]
        assert not geometry.strided(form, dtype)
        made = plain_recipe(form, dtype)
        region = line(0, 3 * 2 * geometry.THREADS * 16 // FORMATS[dtype].itemsize)
        found = drawn(name, variants()[name][0].plain, made, region, most=1)
        assert (found != expected(made, region)).any()


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


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(
    ("dtype", "rare"),
    [
        ("float32", set()),
        # The half that is added to a word of 64 bits is rounded away but for words below 2^53; a zero of
        # either sign that becomes 2^-1026 is lost in the next sum.
        ("float64", {"0d0000000000000000", "0d8000000000000000", "0d3FE0000000000000"}),
    ],
)
def test_a_change_of_any_constant_in_the_ptx_is_noticed(dtype: str, rare: set[str], every: int) -> None:
    """The negative control of all of this; `rare` are the constants that some thousand values do not show."""
    name = cuda.entry("run", "normal", dtype)
    made = plain_recipe("normal", dtype)
    text = Module(ptx(13, 90)).kernels[name].text
    values = expected(made, line(0, 4000))
    literals = sorted(set(LITERAL.findall(text)))
    assert len(literals) > 20
    # A control needs no more than some of them, and those that are rare.
    literals = sorted({*literals[::every], *(rare & set(literals))})
    modules = {literal: Module(changed(text, literal)) for literal in literals}
    link(m.program("kernel") for m in modules.values())
    unnoticed = [
        literal for literal, m in modules.items() if (drawn(name, m, made, line(0, 4000)) == values).all()
    ]
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
        Module(text.replace("rsqrt.approx.ftz.f32", "sqrt.approx.f32", 1)).compile()


@each_targets
def test_every_kernel_of_every_architecture_and_compiler_is_among_those_that_are_run(
    targets: Targets, record_testsuite_property: Any
) -> None:
    found = variants(targets)
    run = {variant.plain.program(name).digest for name in NAMES for variant in found[name]}
    for major, architecture in targets:
        module = Module(ptx(major, architecture, is_whole((major, architecture), targets)))
        names = [name for name in NAMES if is_run(name, architecture, targets)]
        assert len(names) >= (len(NAMES) if targets == TARGETS else 30)
        assert {module.program(name).digest for name in names} <= run
    assert min(map(len, found.values())) >= 1
    record_testsuite_property("distinct kernels", sum(map(len, found.values())))
