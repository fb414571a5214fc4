"""Which backend fills, that it can be asked and says why, and that a named one never falls back."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fanfill as ff
from fanfill.errors import BackendUnavailableError

registry = importlib.import_module("fanfill.backends")  # the package's attribute of that name is the function


class Cuda:
    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


@pytest.fixture
def fresh(monkeypatch):
    """A registry that has chosen nothing yet and given no warning; the environment names no backend."""
    monkeypatch.delenv("FANFILL_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_warned", {})
    fill = importlib.import_module("fanfill.fill")
    monkeypatch.setattr(fill, "plans", {})
    registry._host_choice.cache_clear()
    yield monkeypatch
    registry._host_choice.cache_clear()


@pytest.fixture
def without_numba(fresh):
    """A registry whose Numba says that it cannot be used."""
    real = registry.get

    def get(name):
        backend = real(name)
        return backend._replace(unusable=lambda: "Numba cannot be imported") if name == "numba" else backend

    fresh.setattr(registry, "get", get)


def test_backends_lists_all_with_reasons():
    found = ff.backends()
    assert [status.name for status in found] == ["numba", "numpy", "cuda"]
    assert all(status.usable == (status.reason is None) for status in found)
    assert found[1].usable
    assert "\n" not in (found[2].reason or "")


def test_numba_is_the_first_choice_for_host_memory(fresh):
    pytest.importorskip("numba")
    assert ff.select_backend(np.empty(3)) == ("numba", "the first choice for host memory")


def test_the_environment_can_name_the_backend_for_host_memory(fresh):
    fresh.setenv("FANFILL_BACKEND", "numpy")
    assert ff.select_backend(np.empty(3)) == ("numpy", "FANFILL_BACKEND=numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.resolve("cpu", None).name == "numpy"


@pytest.mark.parametrize("name", ["cuda", "auto", "tpu"])
def test_the_environment_cannot_name_anything_else(fresh, name):
    fresh.setenv("FANFILL_BACKEND", name)
    with pytest.raises(
        ValueError, match=f"FANFILL_BACKEND: expected one of .*, numba or numpy; got '{name}'"
    ):
        ff.select_backend(np.empty(3))


def test_numpy_stands_in_with_one_warning_that_says_why(without_numba):
    assert ff.select_backend(np.empty(3)) == ("numpy", "numba is not usable: Numba cannot be imported")
    with pytest.warns(RuntimeWarning, match="fills with NumPy.*Numba cannot be imported") as caught:
        ff.fill(np.empty(3), ff.normal(), seed=0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ff.fill(np.empty(4), ff.normal(), seed=0)


def test_a_backend_named_by_the_caller_or_the_environment_never_falls_back(without_numba, monkeypatch):
    with pytest.raises(
        BackendUnavailableError, match="backend 'numba' is not usable: Numba cannot be imported"
    ):
        ff.fill(np.empty(3), ff.normal(), seed=0, backend="numba")
    monkeypatch.setenv("FANFILL_BACKEND", "numba")
    with pytest.raises(
        BackendUnavailableError, match="backend 'numba' is not usable: Numba cannot be imported"
    ):
        ff.fill(np.empty(3), ff.normal(), seed=0)


def test_with_nothing_usable_the_error_lists_all_reasons(fresh):
    real = registry.get
    fresh.setattr(registry, "get", lambda name: real(name)._replace(unusable=lambda: f"no {name}"))
    with pytest.raises(
        BackendUnavailableError, match="numba is not usable: no numba; numpy is not usable: no numpy"
    ):
        ff.select_backend(np.empty(3))


@pytest.mark.parametrize("name", ["NUMBA", "", "torch", 3])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=rf"expected a backend among numba, numpy, cuda; got {name!r}; leave it out"
    ):
        ff.fill(np.empty(3), ff.normal(), seed=0, backend=name)


def test_device_buffers_need_a_device_backend_and_never_go_through_the_host(monkeypatch):
    cuda = registry.get("cuda")._replace(unusable=lambda: "no device; get one")
    monkeypatch.setattr(importlib.import_module("fanfill.cuda.backend"), "BACKEND", cuda)
    for call in (
        lambda: ff.select_backend(Cuda()),
        lambda: ff.fill(Cuda(), ff.normal(), seed=0),
        lambda: ff.fill(Cuda(), ff.normal(), seed=0, backend="cuda"),
        lambda: ff.words(Cuda(), seed=0),
    ):
        with pytest.raises(
            BackendUnavailableError, match=r"backend 'cuda' is not usable: no device; get one"
        ):
            call()
    with pytest.raises(
        ValueError, match="buffer on a CUDA device; got 'numba', which fills buffers in host memory"
    ):
        ff.fill(Cuda(), ff.normal(), seed=0, backend="numba")
    with pytest.raises(
        ValueError, match="buffer in host memory; got 'cuda', which fills buffers on a CUDA device"
    ):
        ff.fill(np.empty(3), ff.normal(), seed=0, backend="cuda")


def test_what_is_no_buffer_has_no_backend():
    with pytest.raises(TypeError, match="expected a writable array"):
        ff.select_backend([1.0])


def test_a_numba_that_cannot_be_imported_is_told_from_one_that_can():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np, fanfill as ff, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for n in (3, 70_000): ff.fill(np.empty(n), ff.normal(), seed=0)\n"
        "print(len(caught), caught[0].category.__name__, ff.select_backend(np.empty(1)).name, "
        "ff.backends()[0].usable)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["1", "RuntimeWarning", "numpy", "False"], result.stderr
