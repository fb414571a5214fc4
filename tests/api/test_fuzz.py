"""Any call of ``fill``, right or wrong, against a slow model: the right bits, or an error and no byte more.

Five hundred cases of each kind here; `python -m pytest -m slow tests/api/test_fuzz.py` runs twenty thousand.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple
from unittest import mock

import ml_dtypes
import model
import numpy as np
import pytest
from cases import FIXED, INITIALIZERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanfill as ff
from fanfill.cpu import run as cpu_run
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES

POISON = 0xA5
GUARD = 96  # bytes, before and behind
DTYPES = tuple(STORAGES)
LAWS = (
    *INITIALIZERS.values(),
    ff.variance_scaling(0.5, "fan_geo_avg", "uniform", in_axis=1, out_axis=0),
)
FANLESS = tuple(FIXED.values())
NAMED = {ff.initializer(name): name for name in ("he_normal", "xavier_uniform", "normal", "truncated_normal")}
FEW = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=20_000)


class Case(NamedTuple):
    """A call: its arguments, and where its buffer lies in memory."""

    law: ff.Initializer
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]  # of the axes in memory
    steps: tuple[int, ...]  # along each axis, in items
    shift: int  # bytes
    seed: int
    name: str | int
    global_shape: tuple[int, ...] | None
    offset: Any
    backend: str
    threads: int | None
    cut: bool = False  # into pieces of a few values, which threads share as they do a large buffer's
    offered: str = "array"  # or what else has a buffer
    plain: bool = True  # the law as it is, not by name; seed a Python integer; no progress


seeds = st.one_of(st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
names = st.one_of(st.text(max_size=8), seeds)


@st.composite
def laws(draw: st.DrawFn, fans: bool) -> ff.Initializer:
    """A law out of the list, or one with parameters of its own, some of which are refused."""
    kind = draw(st.sampled_from(("listed", "uniform", "normal", "truncated", "scaling")))
    a, b = draw(st.floats(-4, 4)), draw(st.sampled_from((0.0, 2.0**-81, 1e-3, 0.7, 3.0, 1e4)))
    if kind == "uniform":
        return ff.uniform(a, a + b)
    if kind == "normal":
        return ff.normal(a, b)
    if kind == "truncated":
        return ff.truncated_normal(0.1, b, a, draw(st.sampled_from((a + 0.5, a + 2.0, math.inf))))
    if kind == "scaling" and fans:
        mode = draw(st.sampled_from(("fan_in", "fan_out", "fan_avg", "fan_geo_avg")))
        form = draw(st.sampled_from(("uniform", "normal", "truncated_normal")))
        axes = draw(st.sampled_from(({}, {"in_axis": 0, "out_axis": 1}, {"in_axis": ()})))
        return ff.variance_scaling(b + 0.5, mode, form, **axes)
    return draw(st.sampled_from(LAWS if fans else FANLESS))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.integers(0, 4))
    shape = tuple(draw(st.sampled_from((0, 1, 1, 2, 3, 4, 5, 7, 16, 17))) for _ in range(rank))
    while math.prod(shape) > 150:
        shape = (
            (*shape[:-1], max(shape[-1] // 2, 1)) if shape[-1] > 1 else (max(shape[0] // 2, 1), *shape[1:-1])
        )
    rank = len(shape)
    global_shape, offset = None, None
    kind = draw(st.sampled_from(("whole", "box", "flat")))
    if kind == "box":
        offset = tuple(draw(st.sampled_from((0, 1, 2, 3, 1000, 2**15 + 1))) for _ in shape)
        room = tuple(draw(st.sampled_from((0, 1, 5, 2**12))) for _ in shape)
        global_shape = tuple(map(sum, zip(shape, offset, room, strict=True)))
    elif kind == "flat" and rank == 1:
        offset = draw(st.one_of(st.integers(0, 9), st.sampled_from((2**32 - 3, 2**34 - 5, 2**35 - 7))))
        global_shape = (2**18, 2**18)
    axes = len(shape if global_shape is None else global_shape)
    dtype = draw(st.sampled_from(DTYPES))
    return Case(
        draw(laws(axes >= 2 and 0 not in (global_shape or shape))),
        dtype,
        shape,
        tuple(draw(st.permutations(range(rank)))),
        tuple(draw(st.sampled_from((1, 1, 1, 2, 3, -1, -2))) for _ in shape),
        draw(st.sampled_from((0, 0, 1, 2, 4, 8))),
        draw(seeds),
        draw(names),
        global_shape,
        offset,
        draw(st.sampled_from(("numba", "numpy"))),
        draw(st.sampled_from((None, 1, 2, 3))),
        draw(st.booleans()),
        draw(
            st.sampled_from(
                ("array", "array", "memoryview", "interface") if dtype in DTYPES[:3] else ("array",)
            )
        ),
        draw(st.booleans()),
    )


def type_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))


def laid_out(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(all bytes of the memory, the buffer in it): guard zones around and between."""
    size = STORAGES[case.dtype].itemsize
    extents = [case.shape[axis] * abs(case.steps[axis]) for axis in case.order]
    memory = np.full(max(math.prod(extents), 1) * size + 2 * GUARD + 8, POISON, np.uint8)
    first = GUARD + case.shift
    block = memory[first : first + math.prod(extents) * size].view(f"u{size}").reshape(extents)
    turned = block.transpose(np.argsort(case.order)) if case.order else block
    view = turned[(*(slice(None, None, step) for step in case.steps), ...)]
    assert view.shape == case.shape
    return memory, view.view(type_of(case.dtype))


def elements(case: Case) -> np.ndarray:
    """The global index of each of the buffer's elements."""
    whole = case.global_shape or case.shape
    if isinstance(case.offset, int):
        return case.offset + np.arange(case.shape[0], dtype=np.uint64)
    index = np.zeros(case.shape, np.uint64)
    for axis, n in enumerate(case.shape):
        first = 0 if case.offset is None else case.offset[axis]
        places = (first + np.arange(n, dtype=np.uint64)) * np.uint64(math.prod(whole[axis + 1 :]))
        index += places.reshape([-1 if k == axis else 1 for k in range(len(case.shape))])
    return index


class Interface:
    """Has an array's memory and is none."""

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__


OFFERS: dict[str, Any] = {"array": lambda array: array, "memoryview": memoryview, "interface": Interface}


def called(case: Case, buffer: Any, **changed: Any) -> None:
    arguments: dict[str, Any] = {
        "seed": case.seed if case.plain else np.uint64(case.seed),
        "name": case.name,
        "global_shape": case.global_shape,
        "offset": case.offset,
        "backend": case.backend,
        "threads": case.threads,
    }
    reports: list[tuple[int, int]] = []
    law = case.law
    if not case.plain:
        arguments["progress"] = lambda done, total: reports.append((done, total))
        law = NAMED.get(law, law)
    law = changed.pop("initializer", law)
    with (
        mock.patch.multiple(cpu_run, SMALL=0)
        if case.cut
        else mock.patch.multiple(cpu_run, SMALL=cpu_run.SMALL)
    ):
        assert ff.fill(buffer, law, **(arguments | changed)) is buffer
    total = math.prod(case.shape)
    assert reports == sorted(reports)
    assert case.plain or reports[-1] == (total, total)


def assert_filled(case: Case, **changed: Any) -> None:
    memory, buffer = laid_out(case)
    expected_memory, expected = laid_out(case)
    whole = case.global_shape or case.shape
    offered = OFFERS[case.offered](buffer)
    try:
        recipe(case.law, whole, case.dtype)
    except ValueError as refusal:
        with pytest.raises(ValueError, match=re.escape(str(refusal))):
            called(case, offered, **changed)
    else:
        made = model.tensor(case.law, whole, case.dtype, case.seed, case.name, elements(case))
        expected.view(made.dtype)[...] = made
        called(case, offered, **changed)
    np.testing.assert_array_equal(memory, expected_memory)


@FEW
@given(cases())
def test_any_call_gives_the_models_bits_and_touches_nothing_else(case: Case) -> None:
    assert_filled(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(cases())
def test_many_calls_give_the_models_bits_and_touch_nothing_else(case: Case) -> None:
    assert_filled(case)


WRONG: dict[str, list[Any]] = {
    "seed": [-1, 2**64, 1.5, "1", None, True, np.float32(1)],
    "name": [-1, 2**64, 1.5, None, b"name", ("a",)],
    "threads": [0, -1, 1.5, "2", True],
    "backend": ["", "NUMBA", "torch", 3, "cuda"],
    "progress": [3, "bar"],
    "initializer": [None, 3, "he", "he_normal()", ff.he_normal, {"he_normal": {}}],
    "global_shape": [-1, (-1,), "4", 1.5, (2.5,), (2**63, 2**63), 2**70],
    "offset": ["0", 1.5, (1.5,), -1, (-1,), (2**64,), object()],
}


@st.composite
def wrong_calls(draw: st.DrawFn) -> tuple[Case, dict[str, Any], str]:
    what = draw(st.sampled_from((*WRONG, "buffer")))
    case = draw(cases())
    if what == "buffer":
        # An empty buffer may overlap as it likes.
        ways = ("read-only", "swapped", "integers", "list", "overlapping")[
            : 5 if math.prod(case.shape) else 4
        ]
        return case, {}, draw(st.sampled_from(ways))
    value = draw(st.sampled_from(WRONG[what]))
    if what in ("global_shape", "offset"):
        case = case._replace(global_shape=case.shape, offset=None)
    return case, {what: value}, ""


def spoiled(buffer: np.ndarray, how: str) -> Any:
    if how == "read-only":
        buffer = buffer.view()
        buffer.flags.writeable = False
        return buffer
    if how == "swapped":
        return buffer.view(f">u{buffer.itemsize}")
    if how == "integers":
        return buffer.view(f"i{buffer.itemsize}")
    if how == "overlapping":
        plain = buffer.view(f"u{buffer.itemsize}")
        twice = np.lib.stride_tricks.as_strided(plain, (2, *buffer.shape), (0, *buffer.strides))
        return twice.view(buffer.dtype)
    return buffer.tolist()


def assert_refused(case: Case, changed: dict[str, Any], how: str) -> None:
    memory, buffer = laid_out(case)
    with pytest.raises((TypeError, ValueError, ff.BackendUnavailableError), match=r"expected|not usable"):
        called(case, spoiled(buffer, how) if how else buffer, **changed)
    assert (memory == POISON).all(), "a refused call wrote something"


@FEW
@given(wrong_calls())
def test_any_wrong_call_is_an_error_that_writes_nothing(call: tuple[Case, dict[str, Any], str]) -> None:
    assert_refused(*call)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(wrong_calls())
def test_many_wrong_calls_are_errors_that_write_nothing(call: tuple[Case, dict[str, Any], str]) -> None:
    assert_refused(*call)


PLAIN = Case(ff.normal(0.0, 1.0), "float32", (5, 7), (0, 1), (1, 2), 0, 7, "w", None, None, "numba", None)
SHARED = PLAIN._replace(threads=3, cut=True, offered="memoryview", plain=False)


@pytest.mark.parametrize("case", [PLAIN, SHARED], ids=["plain", "shared"])
@pytest.mark.parametrize("other", [{"seed": 8}, {"name": "v"}, {"initializer": ff.normal(0.0, 1.0000001)}])
def test_the_comparison_with_the_model_can_fail(other: dict[str, Any], case: Case) -> None:
    assert_filled(case)
    with pytest.raises(AssertionError):
        assert_filled(case, **other)


def test_the_comparison_sees_a_byte_beside_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ff.fill

    def careless(buffer: Any, *arguments: Any, **named: Any) -> Any:
        beside = np.lib.stride_tricks.as_strided(buffer, (2, *buffer.shape), (4, *buffer.strides))
        beside[1, 0, 0] = 0.0
        return real(buffer, *arguments, **named)

    monkeypatch.setattr(ff, "fill", careless)
    with pytest.raises(AssertionError):
        assert_filled(PLAIN)


def test_the_refusal_needs_an_error() -> None:
    with pytest.raises(pytest.fail.Exception):
        assert_refused(PLAIN, {"seed": 8}, "")
