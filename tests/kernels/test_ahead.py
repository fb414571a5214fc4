"""Kernels that are compiled ahead of time, for this processor or another: found later, without Numba."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import assert_fails, child

from fanfill_kernels.compile import ahead, probe
from fanfill_kernels.process.undivided import undivided
from fanfill_kernels.store import cache, keys
from fanfill_kernels.store.keys import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux has them")

GENERIC = Target("generic", "")
# test_compile_ahead.py has all kernels of this machine; here it is one, and for another processor four.
FORM = ("uniform_range", "float32")
FILLED = """
right(law=ff.uniform(0.5, 2)); assert "numba" not in sys.modules
"""
NOT_TAKEN = f"""
from fanfill_kernels.compile import cpu
from fanfill_kernels.store import cache
assert not cpu.proven()
assert cache.load(cpu.loops_of(*{FORM!r}).run.key()) is None
"""


@pytest.mark.parametrize("goal", [None, GENERIC], ids=["this machine", "generic"])
def test_a_process_finds_what_was_compiled_ahead_of_time_and_imports_no_numba(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: Target | None
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path))
    kernels = ahead.kernels_of([FORM], [])
    if goal is None:
        undivided(probe.try_out)
    if goal is None:
        del kernels[1:]
    kept = ahead.keep(kernels) if goal is None else ahead.keep_for(goal, [FORM], [])
    found = [kernel.key for kernel in kept]
    assert found == [kernel.key(goal) for kernel in kernels]
    assert all(cache.load(key) for key in found)
    settings: dict[str, str | None] = {"FANFILL_CACHE_DIR": str(tmp_path), "FANFILL_BACKEND": None}
    there = settings | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    child(FILLED, **(settings if goal is None else there))
    if goal is None:
        child(NOT_TAKEN, **there)  # another processor's
        assert_fails(NOT_TAKEN, "AssertionError", **settings)


def test_a_process_for_another_processor_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ahead, "_PROGRAM", "raise SystemExit('broken for a test')")
    with pytest.raises(
        RuntimeError,
        match="expected the process that compiles for generic to succeed; got exit code 1, and broken for a",
    ):
        list(ahead.keep_for(GENERIC, [("uniform", "float32")], []))
    assert keys.target() != GENERIC
