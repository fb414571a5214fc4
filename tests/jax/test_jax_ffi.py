"""The custom call: its errors, its registration, and how processes that use it end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from importlib import reload
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import assert_ends, assert_right, python, run, start

jax = pytest.importorskip("jax", reason="jax is not installed")
gate = pytest.importorskip("fanfill.jax.gate", reason="llvmlite is not installed")

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.jax import available, callframe, ffi, spec, tracing  # noqa: E402

KEY = jax.random.key(5)


def program() -> Any:
    """A program that is compiled for this test alone."""
    tracing.traced.clear_cache()
    return jax.jit(lambda key: fj.normal(1.0)(key, (3, 5)))


@pytest.mark.parametrize("error", [ValueError("no such thing"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_handler_is_the_callers(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    call = program()
    with monkeypatch.context() as patch:
        patch.setattr(ffi, "fill_parts", fails)
        text = f"{type(error).__name__}(: no such thing)?"
        with pytest.raises(jax.errors.JaxRuntimeError, match=text):
            jax.block_until_ready(call(KEY))
    assert np.array_equal(call(KEY), ff.draw((3, 5), ff.normal(), seed=5))


def test_an_error_that_leaves_the_handler_is_the_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a second error, within the handling of the first, can leave it."""

    def fails(*_: Any) -> None:
        raise ValueError

    call = program()
    lost: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(ffi, "fill_parts", fails)
        patch.setattr(callframe, "error_of", fails)
        patch.setattr(sys, "unraisablehook", lost.append)
        with pytest.raises(jax.errors.JaxRuntimeError, match="an exception left the handler"):
            jax.block_until_ready(call(KEY))
    assert len(lost) == 1
    assert np.array_equal(call(KEY), ff.draw((3, 5), ff.normal(), seed=5))


def test_a_second_registration_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.ffi, "register_ffi_target", None)
    assert ffi.register()
    assert reload(ffi).available


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_without_native_code_the_host_draws(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(gate, "make_gate", fails)
    monkeypatch.delattr(jax.ffi, f"_{fj.TARGET}_cpu")
    assert not ffi.register()
    assert not hasattr(jax.ffi, f"_{fj.TARGET}_cpu")


def test_a_gate_waits_for_those_inside_and_lets_nobody_in() -> None:
    entered, leave, calls = threading.Event(), threading.Event(), []

    def inner(_: Any, done: Any) -> None:
        calls.append(1)
        entered.set()
        leave.wait(60)
        done[0] = 1

    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
    made = gate.make_gate(kind(inner))
    through = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(made.address)
    results: list[Any] = []
    inside = threading.Thread(target=lambda: results.append(through(None)))
    inside.start()
    assert entered.wait(60)
    assert made.inside.value == 1
    closing = threading.Thread(target=made.close)
    closing.start()
    while not made.closed.value:
        time.sleep(0.001)
    assert closing.is_alive()
    leave.set()
    closing.join(60)
    inside.join(60)
    assert (results, made.inside.value) == ([None], 0)

    # Whoever comes now gets an error, which XLA's function makes: here one that keeps the text.
    texts: list[bytes] = []

    def create(args: Any) -> int:
        texts.append(args.contents.message)
        assert args.contents.code == callframe.INTERNAL
        return 77

    made_by = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(callframe.ErrorArgs))(create)
    api = callframe.Api(error_create=ctypes.cast(made_by, ctypes.c_void_p))
    frame = callframe.Frame(api=ctypes.addressof(api))
    assert through(ctypes.addressof(frame)) == 77
    assert len(calls) == 1
    assert texts[0].startswith(b"fanfill: Python is at its end")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
    made = gate.make_gate(kind(lambda *_: None))
    made.inside.value = 1
    try:
        child = os.fork()
        if not child:  # pragma: no cover
            made.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        made.forget()
    made.close()


def test_the_stages_before_execution_have_nothing_to_do() -> None:
    frame = callframe.Frame(stage=0)
    assert not callframe.answer_metadata(frame)
    assert not callframe.is_execution(frame)


@pytest.mark.parametrize(
    "law",
    [
        ff.normal(0.1, 1 / 3),
        ff.constant(-0.0),
        ff.truncated_normal(0.0, 1.0, -1.0, float("inf")),
        ff.uniform(0, 0.1, endpoint=False),
        ff.variance_scaling(1 / 3, "fan_avg", "uniform", in_axis=(0, 1), out_axis=(), batch_axis=2),
    ],
)
@pytest.mark.parametrize("name", [0, 2**64 - 1, "décoder.0"])
def test_a_spec_survives_as_text(law: ff.Initializer, name: str | int) -> None:
    wanted = spec.Spec(law, (3, 4, 5), name)
    assert spec.decode(spec.encode(wanted)) == wanted


def test_the_text_of_a_spec_is_a_format() -> None:
    """Programs in caches and exports hold it: whoever changes it gives the target another number."""
    law = ff.he_normal(truncated=True, in_axis=0, out_axis=(1, 2))
    assert (fj.TARGET, spec.encode(spec.Spec(law, (2, 3, 4), "w"))) == (
        "fanfill_fill_1",
        '{"distribution": "truncated_normal", "params": [], "scaling": ["0x1.0000000000000p+1", "fan_in", 0, '
        '[1, 2], []], "shape": [2, 3, 4], "name": "w"}',
    )


def test_no_jax_or_an_old_one_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(jax, "__version__", "0.7.2")
        with pytest.raises(
            ImportError, match=r"expected jax 0.8 or newer; got 0.7.2; pip install 'fanfill\[jax\]'"
        ):
            available.assert_available()
        patch.setitem(sys.modules, "jax", None)
        with pytest.raises(
            ImportError, match=r"expected jax 0.8 or newer; got none that .* \(.*\); pip install"
        ):
            available.assert_available()
    available.assert_available()


BEGIN = """
import importlib, sys, warnings
from pathlib import Path
import numpy as np
import jax
import fanfill as ff
import fanfill.jax as fj
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

folder = Path(sys.argv[1])
assert jax.device_count() == 8
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
law, key = ff.he_normal(truncated=True), jax.random.key(5)
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, P("d"))

def whole(key): return fj.he_normal()(key, (64, 32))
def shards(key): return fj.he_normal()(key, (64, 32), None, sharding)
def right(drawn): assert np.asarray(drawn).tobytes() == ff.draw((64, 32), law, seed=5).tobytes()
jax.random.key_data(key)
"""

# The next program that uses this folder finds what this one compiled.
FIRST = f"""{BEGIN}
right(jax.jit(whole)(key))
right(jax.jit(shards)(key))

# Imported twice and reloaded, the CPU backend is still there.
for name in [name for name in sys.modules if name.startswith("fanfill")]:
    del sys.modules[name]
import fanfill.jax
assert fanfill.jax is not fj
importlib.reload(fanfill.jax.ffi)
right(jax.jit(lambda key: fanfill.jax.he_normal()(key, (64, 32)))(key))
print("right", flush=True)
"""

# It ends with all devices at work.
SECOND = f"""{BEGIN}
for draw in (whole, shards):
    hits.clear()
    right(jax.jit(draw)(key))
    assert "/jax/compilation_cache/cache_hits" in hits, hits
    assert "/jax/compilation_cache/cache_misses" not in hits, hits
large = jax.jit(lambda key: fj.he_normal()(key, (1 << 13, 1 << 12)), out_shardings=sharding)
large.lower(key).compile()
print("right", flush=True)
for _ in range(4):
    large(key)
"""


def test_an_exported_program_draws_the_same() -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers, with which JAX exports, is not installed")
    from jax import export

    checks = [export.DisabledSafetyCheck.custom_call(fj.TARGET)]
    exported = export.export(program(), disabled_checks=checks)(KEY)
    read = export.deserialize(exported.serialize())
    assert np.array_equal(read.call(KEY), ff.draw((3, 5), ff.normal(), seed=5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a first process has left its compiled programs."""
    folder = tmp_path_factory.mktemp("programs")
    assert_right(run_quietly(FIRST, folder))
    return folder


def run_quietly(program: str, folder: Path) -> Any:
    """A child's end; without XLA's log, which goes to stderr."""
    return run(program, str(folder), fresh=True, seconds=200, environment={"TF_CPP_MIN_LOG_LEVEL": "3"})


def test_a_second_process_finds_the_firsts_programs_and_ends_at_work(folder: Path) -> None:
    ended = run_quietly(SECOND, folder)
    assert (ended.code, ended.out) == (0, "right\n"), ended


AT_WORK = """
import sys
import jax
import fanfill.jax as fj
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
draw = jax.jit(lambda key: fj.normal()(key, (1 << 25,)), out_shardings=NamedSharding(mesh, P("d")))
jax.block_until_ready(draw(jax.random.key(0)))
print("at work", flush=True)
while True:
    drawn = draw(jax.random.key(1))
    if sys.argv[1] == "end":
        break
    jax.block_until_ready(drawn)
"""


@pytest.mark.slow
def test_twenty_processes_end_at_work() -> None:
    for _ in range(20):
        ended = run(AT_WORK, "end", fresh=True, seconds=60)
        assert (ended.code, ended.out) == (0, "at work\n"), ended


@pytest.mark.slow
def test_ctrl_c_ends_a_process_at_work() -> None:
    for _ in range(5):
        child = start(python("-c", AT_WORK, "go on"))
        assert child.stdout is not None
        assert child.stdout.readline() == "at work\n"
        child.send_signal(signal.SIGINT)
        ended = assert_ends(child)
        assert ended.code in (1, -signal.SIGINT), ended
        assert "KeyboardInterrupt" in ended.err


PEAK = """
import resource
import jax
import numpy as np
import fanfill.jax as fj
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
shape, count = (4096, 4096), 32  # 2 GiB
leaves = {
    str(k): jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, P("d") if k % 2 else P()))
    for k in range(count)
}
made = fj.materialize(leaves, 0, {"*": fj.he_normal()})
jax.block_until_ready(made)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - count * 64)
"""


@pytest.mark.slow
def test_a_tree_takes_its_own_memory_and_half_a_gibibyte() -> None:
    ended = run(PEAK, fresh=True, seconds=200)
    assert ended.code == 0, ended
    assert float(ended.out) < 512


RANK = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
rank = int(sys.argv[1])
jax.distributed.initialize(sys.argv[2], 2, rank)
import numpy as np
import fanfill as ff
import fanfill.jax as fj
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

assert (jax.device_count(), jax.local_device_count()) == (8, 4)
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, P("d"))
filled = []
fill_part = fj.memory.fill_part
fj.memory.fill_part = lambda out, *rest: filled.append(out.size) or fill_part(out, *rest)
fj.spec.fill_part = fj.memory.fill_part
law, key = ff.he_normal(truncated=True), jax.random.key(5)

def right(drawn, name=0):
    whole = ff.draw((64, 32), law, seed=5, name=name)
    assert len(drawn.addressable_shards) == 4
    for shard in drawn.addressable_shards:
        assert np.array_equal(shard.data, whole[shard.index])
    assert filled == [8 * 32] * 4, filled
    filled.clear()

right(jax.block_until_ready(jax.jit(lambda k: fj.he_normal()(k, (64, 32)), out_shardings=sharding)(key)))
right(jax.block_until_ready(jax.jit(lambda k: fj.he_normal()(k, (64, 32), None, sharding))(key)))
leaf = jax.ShapeDtypeStruct((64, 32), np.float32, sharding=sharding)
right(fj.materialize({"w": leaf}, 5, {"w": fj.he_normal()})["w"], "w")
print("right", flush=True)
"""


@pytest.mark.slow
def test_two_processes_draw_their_own_shards_only() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"XLA_FLAGS": None, "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [start(python("-c", RANK, str(rank), address), environment=environment) for rank in range(2)]
    for rank in ranks:
        ended = assert_ends(rank, 120)
        assert (ended.code, ended.out) == (0, "right\n"), ended
