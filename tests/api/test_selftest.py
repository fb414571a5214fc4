"""``fanfill selftest``: right where the bits are, exit code 1 where they are not, and what is tested."""

from __future__ import annotations

import importlib
import itertools
import json
import re

import numpy as np
import pytest

from fanfill import selftest
from fanfill.backends import HostKernels
from fanfill.cli import main
from fanfill.dtypes import STORAGES
from fanfill.selftest import adapters, golden

registry = importlib.import_module("fanfill.backends")
ALL = len(list(golden.cases())) * len(selftest.LAYOUTS)


@pytest.fixture
def few(monkeypatch):
    """Three cases instead of all."""
    cases = [
        golden.Case("words", "uint32", "odd"),
        golden.Case("he_normal", "float32", "small"),
        golden.Case("uniform", "bfloat16", "far box"),
    ]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))


@pytest.fixture
def wrong_numpy(monkeypatch):
    """A NumPy backend that gets the lowest bit of each last value of a normal wrong."""
    real = registry.get

    def get(name):
        backend = real(name)
        return backend._replace(kernels=kernels) if name == "numpy" else backend

    def kernels(form, dtype):
        run, box, _ = real("numpy").kernels(form, dtype)

        def wrong(out, *arguments):
            run(out, *arguments)
            out.view(f"u{out.itemsize}")[-1] ^= 1

        changed = wrong if form == "normal" else run
        return HostKernels(changed, box, changed)

    monkeypatch.setattr(registry, "get", get)


def exit_code(*words):
    """Of a command that ends by an exit of its own."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


@pytest.mark.parametrize("shape", [(7,), (5, 11), (4, 3, 5)])
def test_the_layouts_hold_every_element_once_and_are_what_they_are_called(shape):
    size = int(np.prod(shape))
    places = {}
    for name, layout in selftest.LAYOUTS.items():
        first, strides = layout(shape)
        place = first + sum(
            np.arange(n).reshape([-1 if k == axis else 1 for k in range(len(shape))]) * strides[axis]
            for axis, n in enumerate(shape)
        )
        assert place.min() >= 0
        assert len(np.unique(place)) == size
        places[name] = place
    assert (places["contiguous"].ravel() == np.arange(size)).all()
    assert (places["shifted"].ravel() == np.arange(size) + 1).all()
    assert (places["transposed"].ravel(order="F") == np.arange(size)).all()
    assert (np.diff(places["stepped"], axis=-1) == -2).all()


def in_one_layout(subject):
    """Each case in one layout: every dtype and place meets each of them, with some of the initializers."""
    layouts, places = list(selftest.LAYOUTS), len(golden.PLACES)
    for number, case in enumerate(selftest.cases(subject)):
        turn = number + number // places + number // (places * len(STORAGES))
        layout = layouts[turn % len(layouts)]
        yield selftest.Check(subject, case, layout, selftest.check(subject, case, layout))


@pytest.mark.parametrize(
    ("run", "count"),
    [(in_one_layout, ALL // len(selftest.LAYOUTS)), pytest.param(selftest.run, ALL, marks=pytest.mark.slow)],
)
def test_every_host_backend_passes_in_every_layout(run, count):
    for subject in selftest.subjects("cpu"):
        checks = list(run(subject))
        assert len(checks) == count
        assert [check for check in checks if check.problem] == []
        met = {(check.case.dtype, check.case.place, check.layout) for check in checks}
        assert met >= set(itertools.product(STORAGES, golden.PLACES, selftest.LAYOUTS))


def test_the_command_passes_and_says_so(few, capsys):
    assert main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^24 fills in 4 layouts, stream version 2, .* s: all as committed$", out, re.MULTILINE)
    assert re.search(r"^he_normal +4 right *$", out, re.MULTILINE)
    assert out.count("\nwords ") == 2
    assert "WRONG" not in out


def test_a_wrong_bit_ends_in_exit_code_1_and_is_named(few, wrong_numpy, capsys):
    assert exit_code("selftest", "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert re.search(r"^he_normal +4 of 4 WRONG", out, re.MULTILINE)
    assert re.search(
        r"^numpy: he_normal / float32 / small, shifted: SHA-256 \w+\.\.\., expected \w+", out, re.MULTILINE
    )
    assert re.search(r": 4 differ$", out, re.MULTILINE)


def test_json_holds_the_same(few, wrong_numpy, capsys):
    assert exit_code("selftest", "--device", "cpu", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["checks"], found["failed"], found["tested"]) == (24, 4, {"numba": {}, "numpy": {}})
    assert (
        found["failures"][0].items()
        >= {
            "subject": "numpy",
            "initializer": "he_normal",
            "dtype": "float32",
            "place": "small",
            "layout": "contiguous",
        }.items()
    )
    assert found["stream_version"] == 2
    assert found["seconds"] > 0


def test_many_differences_are_not_all_told(wrong_numpy, monkeypatch, capsys):
    cases = [case for case in golden.cases() if case.dtype == "float32" and "normal" in case.initializer]
    monkeypatch.setattr(golden, "cases", lambda: iter(cases))
    assert exit_code("selftest", "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert re.search(r"^\.\.\. and \d+ more$", out, re.MULTILINE)
    assert len(out.splitlines()) < 120


def test_what_is_written_beside_the_buffer_is_seen(monkeypatch):
    real = selftest._host

    def careless(*arguments):
        memory = real(*arguments)
        memory[1] = 0
        return memory

    monkeypatch.setattr(selftest, "_host", careless)
    case = golden.Case("he_normal", "float32", "small")
    problem = selftest.check(selftest.Subject("numpy"), case, "contiguous")
    assert problem == "bytes outside the buffer were written"


@pytest.mark.usefixtures("no_gpu")
def test_unknown_devices_and_a_missing_gpu_are_refused(capsys):
    for device, message in (
        ("gpu", "device: expected auto, cpu, cuda or cuda:N; got 'gpu'"),
        ("cuda", "backend 'cuda' is not usable: no device; get one"),
        ("cuda:1", "backend 'cuda' is not usable: no device; get one"),
    ):
        assert main(["selftest", "--device", device]) == 2
        assert message in capsys.readouterr().err
    assert [str(subject) for subject in selftest.subjects()] == ["numba", "numpy"]


def test_without_ml_dtypes_the_rest_is_tested_and_it_is_said(few, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert selftest.untested() == tuple(name for name in STORAGES if name.startswith(("bf", "float8")))
    assert main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"not tested: {', '.join(selftest.untested())}: ml_dtypes is missing; pip install" in out
    assert "16 fills" in out


def test_the_columns_are_all_dtypes():
    assert list(selftest.DTYPES) == [*STORAGES, "uint32"]
    assert {case.dtype for case in golden.cases()} == set(selftest.DTYPES)


def test_philox_and_dask_draw_what_is_committed(few, capsys):
    pytest.importorskip("dask.array", reason="dask is not installed")
    assert main(["selftest", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapters"] == {
        "Philox": {"checks": len(golden.WORDS), "failures": [], "untested": None},
        "dask": {"checks": len(golden.INITIALIZERS), "failures": [], "untested": None},
    }
    assert main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^fanfill\.Philox: 4 right$", out, re.MULTILINE)
    assert re.search(rf"^fanfill\.dask: {len(golden.INITIALIZERS)} right$", out, re.MULTILINE)


@pytest.mark.parametrize("wrong", ["integers", "random_raw"])
def test_a_word_that_philox_hands_out_wrongly_ends_in_exit_code_1(few, monkeypatch, capsys, wrong):
    import fanfill as ff

    class Careless(ff.Philox):
        def random_raw(self, size):
            return super().random_raw(size) ^ np.uint64(wrong == "random_raw")

    if wrong == "integers":
        monkeypatch.setattr(ff, "Philox", lambda seed, name, start: Careless(seed, name, start ^ 1))
    else:
        monkeypatch.setattr(ff, "Philox", Careless)
    monkeypatch.setitem(adapters.ADAPTERS, "dask", lambda: iter(()))
    assert exit_code("selftest", "--device", "cpu") == 1
    out = capsys.readouterr().out
    assert re.search(r"^fanfill\.Philox: 4 of 4 WRONG$", out, re.MULTILINE)
    assert re.search(
        r"^fanfill\.Philox: words / uint32 / odd: SHA-256 \w+\.\.\., expected", out, re.MULTILINE
    )
    assert re.search(r": 4 differ$", out, re.MULTILINE)


def test_an_adapter_that_cannot_be_tested_says_why(few, monkeypatch, capsys):
    import sys

    for name in ("fanfill.dask", "dask.array"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    monkeypatch.setattr(adapters.imports, "module", importlib.import_module)
    assert main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^fanfill\.dask: not tested: fanfill.dask needs dask.array, .*; pip install", out, re.MULTILINE
    )


@pytest.mark.usefixtures("few")
def test_on_a_gpu_no_adapter_of_host_memory_is_tested(monkeypatch):
    monkeypatch.setattr(selftest, "subjects", lambda device: [])
    monkeypatch.setattr(adapters, "run", None)
    assert main(["selftest", "--device", "cuda"]) == 0
