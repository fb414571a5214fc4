"""Shards: each device draws its own part, of the whole tensor's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.jax import ffi, tracing  # noqa: E402

SHAPE = (64, 32)
HE = fj.he_normal()
LAW = ff.he_normal(truncated=True)
KEY = jax.random.key(5)
WANTED = ff.draw(SHAPE, LAW, seed=5)

PARTITIONS = [P(), P(None, "model"), P(("data", "model"), None), P("model", "data")]


def draw(key: Any, out_sharding: Any = None) -> Any:
    return HE(key, SHAPE, None, out_sharding)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=str)
def mesh(request: pytest.FixtureRequest) -> Any:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(request.param,) * 2)


def assert_drawn(drawn: Any, sharding: Any, wanted: np.ndarray = WANTED) -> None:
    assert np.asarray(drawn).tobytes() == wanted.tobytes()
    assert drawn.sharding.is_equivalent_to(sharding, wanted.ndim)


def test_there_are_eight_devices() -> None:
    assert jax.device_count() == 8


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
def test_a_compiled_program_and_a_call(mesh: Any, partition: P) -> None:
    sharding = NamedSharding(mesh, partition)
    assert_drawn(jax.jit(draw, out_shardings=sharding)(KEY), sharding)
    assert_drawn(draw(KEY, sharding), sharding)


@pytest.mark.parametrize("partition", [P("data", "model"), P(None, ("model", "data"))], ids=str)
def test_out_sharding_within_a_program(mesh: Any, partition: P) -> None:
    sharding = NamedSharding(mesh, partition)
    assert_drawn(jax.jit(lambda k: draw(k, sharding))(KEY), sharding)
    with jax.set_mesh(mesh):
        assert_drawn(jax.jit(lambda k: draw(k, partition))(KEY), sharding)
        assert_drawn(jax.jit(lambda k: draw(k, sharding))(KEY), sharding)
        assert_drawn(draw(KEY, partition), sharding)


def test_a_mesh_that_is_set_gets_replicas_as_from_jax(mesh: Any) -> None:
    with jax.set_mesh(mesh):
        theirs = jax.nn.initializers.zeros(KEY, SHAPE)
        assert_drawn(draw(KEY), theirs.sharding)
        # Within the trace of a grad JAX does not tell the mesh.
        partition = P("data", None) if AxisType.Explicit in mesh.axis_types else None
        gradient = jax.grad(lambda a: (draw(KEY, partition) * a).sum())(1.0)
        assert float(gradient) == pytest.approx(float(WANTED.sum()), rel=1e-4)


def test_a_constraint() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        constrained = jax.jit(lambda k: jax.lax.with_sharding_constraint(draw(k), P("data", "model")))
        assert_drawn(constrained(KEY), NamedSharding(mesh, P("data", "model")))


@pytest.mark.parametrize("partition", [P(None, "data", "model"), P("data", "model")], ids=str)
def test_vmap_with_shards(mesh: Any, partition: P) -> None:
    keys = jax.random.split(KEY, 4)
    wanted = np.stack([draw(key) for key in keys])
    sharding = NamedSharding(mesh, partition)
    assert_drawn(jax.jit(jax.vmap(draw), out_shardings=sharding)(keys), sharding, wanted)


def test_each_device_draws_its_part_and_tells_nobody() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P("data", "model"))
    text = jax.jit(draw, out_shardings=sharding).lower(KEY).compile().as_text()
    assert text.count(f'custom_call_target="{fj.TARGET}"') == 1
    assert "f32[16,16]" in text
    assert "f32[64,32]" not in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text


def test_the_custom_call_alone_would_draw_everything_on_each_device() -> None:
    """The control of the test above."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = fj.spec.encode(fj.spec.Spec(LAW, SHAPE, 0))

    def whole(words: Any) -> Any:
        return ffi.fill_by_ffi(words, jnp.zeros(2, jnp.uint32), SHAPE, np.dtype(np.float32), spec)

    program = jax.jit(whole, out_shardings=NamedSharding(mesh, P("data")))
    assert "f32[64,32]" in program.lower(np.zeros(2, np.uint32)).compile().as_text()


def test_shards_by_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffi, "available", False)
    tracing.traced.clear_cache()
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P("data", "model"))
    try:
        assert_drawn(jax.jit(draw, out_shardings=NamedSharding(mesh, P()))(KEY), NamedSharding(mesh, P()))
        assert_drawn(jax.jit(lambda k: draw(k, sharding))(KEY), sharding)
    finally:
        tracing.traced.clear_cache()


def test_a_partition_without_a_mesh_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mesh with the PartitionSpec.*jax.set_mesh\(mesh\)"):
        draw(KEY, P("data"))
    with pytest.raises(ValueError, match="expected a mesh with the PartitionSpec"):
        jax.jit(lambda k: draw(k, P("data")))(KEY)


def test_what_is_no_sharding_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"out_sharding: expected None, a PartitionSpec or a NamedSharding; got"
    ):
        draw(KEY, "data")
    single = SingleDeviceSharding(jax.devices()[0])
    assert_drawn(draw(KEY, single), single)
    with pytest.raises(TypeError, match=r"while tracing; got .*shard by jax.jit's out_shardings"):
        jax.jit(lambda k: draw(k, single))(KEY)


def test_shards_of_unequal_size_are_refused_as_by_jax() -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="evenly divide"):
        jax.jit(lambda k: fj.normal()(k, (12,), None, NamedSharding(mesh, P("d"))))(KEY)
