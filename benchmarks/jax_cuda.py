"""The acceptance of fanfill.jax on a machine with a GPU: bits, command buffers, `materialize`, and times.

    python benchmarks/jax_cuda.py [--platform cuda] [--size 268435456]

Prints a line for each check, and ends with 1 if one of them failed. ci/gpu.sh runs it. On ``--platform cpu``
the same bits are compared, and nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fanfill as ff
import fanfill.jax as fj
from fanfill.jax import ffi, launching

SHAPE = (1024, 96)
LAW, INIT = ff.he_normal(truncated=True), fj.he_normal()
Check = tuple[str, Callable[[], bool]]


def same(drawn: Any, wanted: np.ndarray) -> bool:
    return bool(np.asarray(drawn).tobytes() == wanted.tobytes())


def draw(key: Any) -> Any:
    return INIT(key, SHAPE)


def wanted(key: Any, dtype: Any = np.float32) -> np.ndarray:
    """What NumPy's host memory gets for a key."""
    return ff.draw(SHAPE, LAW, seed=fj.keys.seed_of(jax.random.key_data(key)), dtype=dtype, device="cpu")


def checks(device: Any) -> Iterator[Check]:
    """Each way to draw, against `ff.draw` on the host."""
    key = jax.random.key(5)
    keys = jax.random.split(key, 3)
    each = np.stack([wanted(one) for one in keys])
    yield "eager", lambda: same(draw(key), wanted(key))
    yield "jit", lambda: same(jax.jit(draw)(key), wanted(key))
    yield "vmap", lambda: same(jax.jit(jax.vmap(draw))(keys), each)
    yield "scan", lambda: same(jax.lax.scan(lambda c, k: (c, draw(k)), 0, keys)[1], each)
    rbg = jax.random.key(5, impl="rbg")
    yield "a key of four words", lambda: same(jax.jit(draw)(rbg), wanted(rbg))
    for dtype in ("bfloat16", "float16", "float8_e5m2"):
        yield (
            f"jit, {dtype}",
            lambda dtype=dtype: same(jax.jit(lambda k: INIT(k, SHAPE, dtype))(key), wanted(key, dtype)),
        )
    for partition in (PartitionSpec("d"), PartitionSpec(None, "d")):
        mesh = jax.make_mesh((jax.device_count(device.platform),), ("d",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, partition)
        yield (
            f"jit on {mesh.size} devices, {partition}",
            lambda sharding=sharding: same(jax.jit(draw, out_shardings=sharding)(key), wanted(key)),
        )
        yield (
            f"shard_map on {mesh.size} devices, {partition}",
            lambda sharding=sharding: same(
                jax.jit(lambda k: INIT(k, SHAPE, None, sharding))(key), wanted(key)
            ),
        )
    for dtype in ("float32", "bfloat16", "float8_e5m2"):
        leaf = jax.ShapeDtypeStruct(SHAPE, dtype, sharding=sharding)
        yield (
            f"materialize, {dtype}",
            lambda leaf=leaf: same(
                fj.materialize({"w": leaf}, 5, {"w": LAW})["w"],
                ff.draw(SHAPE, LAW, seed=5, name="w", dtype=leaf.dtype, device="cpu"),
            ),
        )


def captured(runs: int = 20) -> bool:
    """A program's runs with one key after another, whose launches XLA captures; says how often it called."""
    calls: list[int] = []
    launch = launching.launch_parts

    def counted(*given: Any) -> None:
        calls.append(1)
        launch(*given)

    launching.launch_parts = counted
    try:
        program = jax.jit(lambda k: [draw(one) + 1.0 for one in jax.random.split(k, 4)])
        for seed in range(runs):
            key = jax.random.key(seed)
            for found, one in zip(program(key), jax.random.split(key, 4), strict=True):
                if not same(found, wanted(one) + np.float32(1)):
                    return False
    finally:
        launching.launch_parts = launch
    print(f"  {len(calls)} calls of the handler for {4 * runs} draws: fewer, if XLA replays a command buffer")
    return True


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """The median of some runs, to the end of the work."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def times(size: int) -> Iterator[str]:
    """Figures beside jax.random's, of the same run."""
    key = jax.random.key(5)
    for name, ours, theirs in (
        ("normal", fj.normal(1.0), jax.random.normal),
        ("uniform", fj.uniform(1.0), jax.random.uniform),
        ("truncated", fj.truncated_normal(1.0), lambda k, s: jax.random.truncated_normal(k, -2, 2, s)),
    ):
        x, y = (
            seconds(functools.partial(jax.jit(lambda k, f=f: f(k, (size,))), key), 9) for f in (ours, theirs)
        )
        rates = f"{size / x / 1e9:.0f} G/s, jax.random {size / y / 1e9:.0f}, {y / x:.2f} times"
        yield f"{name}, {size} values: {rates}"
    x, y = (
        seconds(functools.partial(jax.jit(lambda k, f=f: f(k, (32, 32))), key), 200)
        for f in (fj.normal(), jax.random.normal)
    )
    yield f"32 x 32: {x * 1e6:.0f} us, jax.random {y * 1e6:.0f}"
    tree = {str(k): jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16) for k in range(32)}
    x = seconds(lambda: fj.materialize(tree, 0, {"*": LAW}), 5)
    yield f"materialize, 32 leaves of 4096 x 1024: {32 * 4096 * 1024 / x / 1e9:.1f} G/s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", default="cuda")
    parser.add_argument("--size", type=int, default=1 << 28)
    options = parser.parse_args(arguments)
    device = jax.devices(options.platform)[0]
    print(f"jax {jax.__version__}, {jax.device_count(options.platform)} x {device.device_kind}")
    found = list(checks(device))
    if options.platform == "cuda":
        found.append(("the custom call is in programs", lambda: ffi.available_on_cuda))
        found.append(("command buffers", captured))
    failed = 0
    for name, check in found:
        right = check()
        failed += not right
        print(f"{'right' if right else 'WRONG'}  {name}", flush=True)
    if options.platform == "cuda":
        for line in times(options.size):
            print(line, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    # CuPy allocates what `materialize` draws into, and XLA would have taken most of the memory; and so that a
    # graph is captured of programs as small as these.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_graph_min_graph_size=1".strip()
    sys.exit(main())
