"""The machine code that hands out words: kept like a kernel, named by what it is made from."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
import pytest
from processes import BEGIN, END, assert_right, run

from fanfill_kernels.compile import ahead, callbacks, cpu
from fanfill_kernels.process.undivided import undivided
from fanfill_kernels.store import cache

PROGRAM = """
found = ff.Philox(3, "a").random_raw(2000)
assert found.tolist() == ff.words(np.empty(4000, np.uint32), seed=3, name="a").view("<u8").tolist()
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A folder of kernels of this test's own."""
    monkeypatch.setenv("FANFILL_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_the_kernels_arguments_are_those_that_the_state_holds():
    kernel = cpu.loops_of("words", "uint32").run
    assert kernel.layout == ("[u4]", "i8", ("u8",) * 4, ())
    slots = (callbacks.RECORD, callbacks.SIZE, callbacks.START, callbacks.KEY)
    assert slots == tuple(range(callbacks.RECORD, callbacks.RECORD + 4))
    assert callbacks.KEY + 4 <= callbacks.RESULT
    assert callbacks.RESULT + 2 <= callbacks.HEAD
    assert kernel.address() == kernel.address() == callbacks.code().kernel


def test_a_state_and_its_block_begin_with_cache_lines():
    for _ in range(20):
        assert callbacks.new_state().ctypes.data % 64 == 0
    assert callbacks.HEAD * 8 % 64 == 0


def test_a_process_that_finds_them_stored_imports_no_numba(own_cache):
    settings = {"FANFILL_CACHE_DIR": str(own_cache)}
    assert_right(run(BEGIN + PROGRAM + "assert 'numba' in sys.modules" + END, environment=settings))
    assert len(list(own_cache.glob("callbacks-*.bin"))) == 1
    assert_right(run(BEGIN + PROGRAM + "assert 'numba' not in sys.modules" + END, environment=settings))


def test_what_is_stored_is_loaded_and_not_compiled(own_cache, monkeypatch):
    functions = callbacks.FUNCTIONS
    assert all(functions.load())
    assert cache.load(functions.key()) == callbacks._compiled()
    monkeypatch.setattr(callbacks, "_compiled", None)
    assert all(functions.load())


@pytest.mark.parametrize("change", [("BLOCK", 512), ("_PREFIX", "other_"), ("KERNEL", 15)])
def test_the_key_changes_with_what_they_are_made_from(monkeypatch, change):
    before = callbacks.FUNCTIONS.key()
    monkeypatch.setattr(callbacks, *change)
    assert callbacks.FUNCTIONS.key() != before
    monkeypatch.undo()
    assert callbacks.FUNCTIONS.key() == before


def test_the_key_names_the_architecture(monkeypatch):
    before = callbacks.FUNCTIONS.key()
    monkeypatch.setattr(callbacks.binding, "get_process_triple", lambda: "riscv64-unknown-linux-gnu")
    assert callbacks.FUNCTIONS.key() != before


def test_what_changed_while_it_was_compiled_is_not_kept(own_cache, monkeypatch):
    real = callbacks._compiled

    def compiled():
        code = real()
        monkeypatch.setattr(callbacks, "BLOCK", 512)
        return code

    monkeypatch.setattr(callbacks, "_compiled", compiled)
    assert all(callbacks.FUNCTIONS.load())
    assert not list(own_cache.glob("callbacks-*"))


def test_they_are_compiled_ahead_with_words_alone(own_cache):
    assert callbacks.FUNCTIONS in ahead.kernels_of([("words", "uint32")])
    assert callbacks.FUNCTIONS not in ahead.kernels_of([("normal", "float32")])
    (kept,) = ahead.keep([callbacks.FUNCTIONS])
    assert (kept.key, kept.compiled) == (callbacks.FUNCTIONS.key(), True)
    (kept,) = ahead.keep([callbacks.FUNCTIONS])
    assert not kept.compiled


def test_the_code_calls_nothing_but_the_kernel():
    module = llvm.parse_assembly(callbacks.written(llvm.get_process_triple()))
    assert not [function.name for function in module.functions if function.is_declaration]


def test_within_a_compilation_none_is_begun():
    with pytest.raises(RuntimeError, match="expected the first generator of a process outside of a compil"):
        undivided(callbacks.code.__wrapped__)


def test_a_position_is_a_number_of_64_bits():
    state = callbacks.new_state()
    for position in (0, 1, 1023, 1024, 1025, 2**63, 2**64 - 1):
        callbacks.place(state, (1, 2, 3, 2**32 - 1), position)
        assert callbacks.position_of(state) == position
        assert callbacks.key_of(state) == (1, 2, 3, 2**32 - 1)
    assert state.dtype == np.uint64
