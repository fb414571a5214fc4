"""The values: those of fanfill.draw, whatever JAX does around the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.dtypes import STORAGES  # noqa: E402
from fanfill.jax import ffi, tracing  # noqa: E402

SHAPE = (24, 16)
HE = fj.he_normal()
LAW = ff.he_normal(truncated=True)
KEY = jax.random.key(5)
KEYS = jax.random.split(KEY, 3)
WANTED = ff.draw(SHAPE, LAW, seed=5)


def draw(key: Any) -> Any:
    return HE(key, SHAPE)


def seed(key: Any) -> int:
    high, low = (int(word) for word in np.asarray(jax.random.key_data(key)))
    return high << 32 | low


def each(keys: Any) -> np.ndarray:
    return np.stack([ff.draw(SHAPE, LAW, seed=seed(key)) for key in keys])


def assert_same(drawn: Any, wanted: np.ndarray = WANTED) -> None:
    drawn = np.asarray(drawn)
    assert (drawn.dtype, drawn.shape) == (wanted.dtype, wanted.shape)
    assert drawn.tobytes() == wanted.tobytes()


@pytest.fixture(params=["custom call", "callback"])
def way(request: pytest.FixtureRequest) -> Any:
    """How a compiled program draws: on CPUs, and everywhere else."""
    assert ffi.available
    if request.param == "custom call":
        yield request.param
        return
    tracing.traced.clear_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ffi, "available", False)
        yield request.param
    tracing.traced.clear_cache()


def test_a_key_is_its_seed() -> None:
    assert_same(draw(KEY))
    assert_same(draw(jax.random.PRNGKey(5)))
    assert_same(draw(np.array([0, 5], np.uint32)))
    assert_same(draw(np.array([7, 5], np.uint32)), ff.draw(SHAPE, LAW, seed=7 << 32 | 5))


def test_jit(way: str) -> None:
    assert_same(jax.jit(draw)(KEY))
    assert_same(jax.jit(draw)(jax.random.PRNGKey(5)))
    assert_same(jax.jit(lambda: draw(KEY))())


@pytest.mark.parametrize(
    "key", [KEY, jax.random.PRNGKey(5), np.array([0, 5], np.uint32)], ids=["typed", "raw", "NumPy"]
)
def test_a_key_that_a_program_knows_makes_no_constant_in_it(key: Any) -> None:
    assert fj.TARGET in jax.jit(lambda: draw(key)).lower().compile().as_text()
    if key.ndim:
        named = jax.jit(lambda: fj.draw_words(LAW, SHAPE, "float32", key))
        assert fj.TARGET in named.lower().compile().as_text()


def test_a_key_of_four_words_is_hashed(way: str) -> None:
    rbg = jax.random.key(5, impl="rbg")
    eager = draw(rbg)
    assert_same(jax.jit(draw)(rbg), np.asarray(eager))
    assert not np.array_equal(eager, WANTED)
    # From b2sum -l 64: a change of the rule would change all values.
    assert fj.keys.seed_of(np.array([1, 2, 3, 4], np.uint32)) == 0x9DFEFA18F3387AC8


def test_vmap(way: str) -> None:
    wanted = each(KEYS)
    assert_same(jax.vmap(draw)(KEYS), wanted)
    assert_same(jax.jit(jax.vmap(draw))(KEYS), wanted)
    assert_same(jax.jit(jax.vmap(draw, out_axes=1))(KEYS), wanted.swapaxes(0, 1).copy())
    assert_same(jax.vmap(draw)(KEY[None]), WANTED[None])


def test_vmap_of_vmap(way: str) -> None:
    keys = jax.random.split(KEY, (2, 3))
    drawn = jax.jit(jax.vmap(jax.vmap(draw)))(keys)
    assert_same(drawn, np.stack([each(row) for row in keys]))


def test_vmap_over_something_else(way: str) -> None:
    assert_same(jax.jit(jax.vmap(lambda x: draw(KEY) + 0 * x))(jnp.zeros(2))[1])


def test_scan_map_and_cond(way: str) -> None:
    assert_same(jax.lax.scan(lambda c, k: (c, draw(k)), 0, KEYS)[1], each(KEYS))
    assert_same(jax.lax.map(draw, KEYS), each(KEYS))
    assert_same(jax.jit(lambda k, b: jax.lax.cond(b, lambda: draw(k), lambda: jnp.zeros(SHAPE)))(KEY, True))


def test_grad_checkpoint_and_jvp(way: str) -> None:
    wanted = float((np.cos(2 * WANTED.astype(np.float64)) * WANTED).sum())

    def loss(scale: Any, key: Any) -> Any:
        return jnp.sin(draw(key) * scale).sum()

    for differentiated in (
        jax.grad(loss),
        jax.jit(jax.grad(jax.checkpoint(loss))),
        lambda a, k: jax.jvp(lambda a: loss(a, k), (a,), (1.0,))[1],
    ):
        assert float(differentiated(2.0, KEY)) == pytest.approx(wanted, rel=1e-5)


def test_shard_map_and_pmap(way: str) -> None:
    keys = jax.random.split(KEY, 8)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    for check in (True, False):
        mapped = jax.shard_map(
            lambda k: draw(k[0])[None], mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=check
        )
        assert_same(jax.jit(mapped)(keys), each(keys))
    assert_same(jax.pmap(draw)(keys), each(keys))


def test_eval_shape_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.jax.spec.fill_part", None)
    monkeypatch.setattr("fanfill.jax.memory.fill_part", None)
    wanted = jax.ShapeDtypeStruct((64, 32), jnp.bfloat16)
    assert jax.eval_shape(lambda k: HE(k, (64, 32), "bfloat16"), KEY) == wanted


def test_without_jit_and_under_jaxs_own_checks() -> None:
    with jax.disable_jit():
        assert_same(draw(KEY))
        assert_same(jax.jit(draw)(KEY))
    with jax.checking_leaks():
        assert_same(jax.jit(draw)(KEY))
    with jax.debug_key_reuse(True):
        assert_same(jax.jit(draw)(jax.random.key(5)))


@pytest.mark.usefixtures("compiling_nothing")
@pytest.mark.parametrize("dtype", STORAGES)
def test_every_dtype(dtype: str) -> None:
    wanted = ff.draw(SHAPE, LAW, seed=5, dtype=dtype)
    with x64(dtype == "float64"):
        for drawn in (HE(KEY, SHAPE, dtype), jax.jit(lambda k: HE(k, SHAPE, dtype))(KEY)):
            assert_same(drawn, wanted)


def x64(on: bool) -> Any:
    """JAX's context of 64 bits; before 0.9 it has another home."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64

    return enable_x64(on)


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4, 5)])
def test_every_rank(shape: tuple[int, ...], way: str) -> None:
    init = fj.normal(1.0)
    wanted = ff.draw(shape, ff.normal(), seed=5)
    assert_same(init(KEY, shape), wanted)
    assert_same(jax.jit(lambda k: init(k, shape))(KEY), wanted)


@pytest.mark.usefixtures("compiling_nothing")
@pytest.mark.parametrize(
    ("init", "law"),
    [
        (fj.normal(), ff.normal(std=0.01)),
        (fj.normal(0.0), ff.constant(0.0)),
        (fj.uniform(), ff.uniform(0, 0.01, endpoint=False)),
        (fj.uniform(0.0), ff.constant(0.0)),
        (fj.truncated_normal(), ff.truncated_normal(0.0, 0.01)),
        (fj.truncated_normal(2.0, lower=-1.0, upper=jnp.inf), ff.truncated_normal(0.0, 2.0, -1.0, np.inf)),
        (
            fj.variance_scaling(0.5, "fan_geo_avg", "normal"),
            ff.variance_scaling(0.5, "fan_geo_avg", "normal"),
        ),
        (fj.glorot_normal(), ff.glorot_normal(truncated=True)),
        (fj.glorot_uniform(), ff.glorot_uniform()),
        (fj.lecun_normal(), ff.lecun_normal(truncated=True)),
        (fj.lecun_uniform(), ff.lecun_uniform()),
        (fj.he_normal(), ff.he_normal(truncated=True)),
        (fj.he_uniform(0, (1,)), ff.he_uniform(in_axis=0, out_axis=1)),
    ],
)
def test_every_initializer_in_a_program_and_outside(init: Any, law: ff.Initializer) -> None:
    wanted = ff.draw(SHAPE, law, seed=5)
    assert_same(init(KEY, SHAPE), wanted)
    assert_same(jax.jit(lambda k: init(k, SHAPE))(KEY), wanted)


@pytest.mark.usefixtures("compiling_nothing")
def test_words_and_a_name_of_ones_own() -> None:
    wanted = ff.draw(SHAPE, ff.normal(), seed=5, name="decoder.0.wq")
    function: Callable[[Any], Any] = lambda w: fj.draw_words(  # noqa: E731
        ff.normal(), SHAPE, "float32", w, name="decoder.0.wq"
    )
    words = np.array([0, 5], np.uint32)
    assert_same(function(words), wanted)
    assert_same(jax.jit(function)(words), wanted)


@pytest.mark.usefixtures("compiling_nothing")
def test_torch_numpy_and_jax_start_from_the_same_weights() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import fanfill.torch as ft

    wanted = ff.draw((24, 16), ff.normal(), seed=5, name="w")
    theirs = ft.normal_(torch.empty(24, 16), seed=5, name="w")
    tree = fj.materialize({"w": jax.ShapeDtypeStruct((24, 16), np.float32)}, 5, {"w": fj.normal(1.0)})
    assert_same(theirs.numpy(), wanted)
    assert_same(tree["w"], wanted)
    # A layer: torch's weight is (out, in), JAX's kernel (in, out). The fans of either are the same.
    weight = ft.lecun_normal_(torch.empty(24, 16), truncated=True, seed=5, name="w").numpy()
    law = ff.lecun_normal(truncated=True, in_axis=1, out_axis=0)
    kernel = fj.materialize({"w": jax.ShapeDtypeStruct((24, 16), np.float32)}, 5, {"w": law})["w"].T
    assert_same(kernel, weight.T.copy())
