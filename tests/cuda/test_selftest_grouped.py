"""``fanfill selftest`` draws its golden cases through grouped launches too, and sees a wrong table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import pytest
from cuda_on_cpu.cupy_on_host import Machine
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401

from fanfill import selftest
from fanfill.__main__ import main
from fanfill.cuda import backend as cuda_backend
from fanfill.selftest import golden, grouped
from fanfill_kernels.cuda import groups

SUBJECT = selftest.Subject("cuda", 1)
SMALL = ("small", "box", "far flat")
LAWS = (("he_normal", "float32"), ("uniform", "bfloat16"), ("constant", "float8_e5m2"))
# What is added to one of an item's fields: where it lies, its length, its first Philox block and the elements
# before the first in a group, and a word of its keys.
FIELDS = {"pointer": 16, "count": 1, "block": 1, "head": 1, "third_c0": 1}


def cases_of(*laws: tuple[str, str]) -> list[golden.Case]:
    return [case for case in golden.cases() if case[:2] in laws]


def small_cases() -> list[golden.Case]:
    """Those of he_normal in float32 that take the emulation no time."""
    return [case for case in cases_of(LAWS[0]) if case.place in SMALL]


@pytest.fixture
def few(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """An emulated machine, and of the golden cases those of LAWS and some words."""
    cases = [*list(golden.cases())[:1], *cases_of(*LAWS)]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    gpu.by_family = True
    return gpu


def test_every_case_but_words_and_matrices_goes_into_grouped_launches(gpu: Machine) -> None:
    places = len(golden.PLACES)
    assert len(list(grouped.cases(SUBJECT))) == len(golden.INITIALIZERS) * (len(selftest.DTYPES) - 1) * places


def test_the_pieces_of_a_place_are_its_elements_in_their_order() -> None:
    for place in golden.PLACES.values():
        whole = place.global_shape or place.shape
        found: list[int] = []
        for shape, of, offset in grouped.cut(place):
            assert of == whole
            first = offset if isinstance(offset, int) else grouped._index(offset, whole)
            assert set(shape[:-1]) <= {1}
            found += range(first, first + shape[-1])
        if isinstance(place.offset, int):
            assert found == list(range(place.offset, place.offset + place.shape[0]))
        else:
            origin = place.offset or (0,) * len(place.shape)
            assert found[0] == grouped._index(origin, whole)
            assert len(set(found)) == len(found) == prod(place.shape)
            assert found == sorted(found)
            last = tuple(a + n - 1 for a, n in zip(origin, place.shape, strict=True))
            assert found[-1] == grouped._index(last, whole)


def test_an_initializer_and_dtype_are_one_launch_and_right(few: Machine, monkeypatch: Any) -> None:
    prepared, prepare = [], cuda_backend.Queue.prepare
    monkeypatch.setattr(
        cuda_backend.Queue, "prepare", lambda self, names: (prepared.append(set(names)), prepare(self, names))
    )
    checks = list(grouped.run(SUBJECT))
    assert [check.case for check in checks] == cases_of(*LAWS)
    assert [check for check in checks if check.problem] == []
    assert {check.layout for check in checks} == {"grouped"}
    kernels = [(launch.kernel, launch.device) for launch in few.launches]
    assert kernels == [
        ("grouped_normal_centred_float32", 1),
        ("grouped_uniform_range_bfloat16", 1),
        ("grouped_constant_8", 1),
    ]
    assert prepared[0] == {kernel for kernel, _ in kernels}  # before the first fill
    pieces, _ = grouped.placed(cases_of(LAWS[0]), 4)
    assert len(pieces) > 200
    assert {piece.begin % 16 for piece in pieces} == {0, 4, 8, 12}


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Make a field of an item of every group table wrong by so much."""
    real = groups.tables

    def alter(field: str, number: int) -> None:
        def tables(dtype: str, form: str, seed: Any, items: Any, most: int, processors: int) -> Any:
            layout, capacity = groups._item(len(items[0].make)), groups.capacity(len(items[0].make), most)
            kind, offset = layout.fields[field][:2]  # type: ignore[index]
            place = 88 + 4 * capacity + number * layout.itemsize + offset
            for table in real(dtype, form, seed, items, most, processors):
                wrong = bytearray(table.parameter)
                value = int.from_bytes(wrong[place : place + kind.itemsize], "little") + FIELDS[field]
                wrong[place : place + kind.itemsize] = value.to_bytes(kind.itemsize, "little")
                yield table._replace(parameter=bytes(wrong))

        monkeypatch.setattr(groups, "tables", tables)

    return alter


@pytest.mark.parametrize("field", FIELDS)
def test_a_wrong_entry_of_a_table_is_seen(few: Machine, altered: Any, monkeypatch: Any, field: str) -> None:
    """Of the 8th item, which is the first row of the place "box"."""
    cases = small_cases()
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    altered(field, 7)
    found = {check.case.place: check.problem for check in grouped.run(SUBJECT) if check.problem}
    if field in ("pointer", "count", "head"):
        assert set(found) == set(SMALL)
        assert set(found.values()) == {"bytes outside the buffers were written"}
    else:
        assert list(found) == ["box"]
        assert re.match(r"SHA-256 \w+\.\.\., expected \w+\.\.\.", found["box"])


def test_the_command_draws_them_and_ends_with_1_if_a_table_is_wrong(
    few: Machine, altered: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = small_cases()
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    monkeypatch.setattr(selftest, "subjects", lambda device: [SUBJECT])
    monkeypatch.setattr(selftest, "run", lambda subject: iter(()))  # the layouts, which other tests draw
    assert main(["selftest", "--device", "cuda:1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^3 fills in 4 layouts and in grouped launches, .*: all as committed$", shown, re.M)
    altered("block", 7)
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--device", "cuda:1", "--json"])
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["checks"], found["failed"]) == (3, 1)
    assert found["failures"][0]["layout"] == "grouped"


def test_a_byte_beside_a_piece_is_seen(few: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*arguments: Any) -> None:
        few.launch(*arguments)
        few.latest.bytes(few.latest.pointer, few.latest.size)[-1] ^= 1

    monkeypatch.setattr(cuda_backend, "_found", lambda: few.driver._replace(launch=launch))
    (check,) = grouped.checks(SUBJECT, cases_of(LAWS[2])[:1])
    assert check.problem == "bytes outside the buffers were written"
