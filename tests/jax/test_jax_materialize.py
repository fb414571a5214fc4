"""materialize: a tree by its names, sharded or not; every refusal before anything is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.jax import memory  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiling_nothing")

LECUN = ff.lecun_normal(truncated=True)
RULES = {"*/kernel": fj.lecun_normal(), "*/bias": "zeros"}


def shape(*dims: int, dtype: Any = np.float32, sharding: Any = None) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def tree(**more: Any) -> dict[str, Any]:
    return {"a": {"kernel": shape(8, 4), "bias": shape(4, dtype=jnp.bfloat16)}, **more}


def same(drawn: Any, wanted: np.ndarray) -> bool:
    return np.asarray(drawn).tobytes() == wanted.tobytes() and drawn.dtype == wanted.dtype


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.jax.trees.draw_shards", None)


def test_each_leaf_has_the_values_of_its_name() -> None:
    made = fj.materialize(tree(), 3, RULES)
    assert same(made["a"]["kernel"], ff.draw((8, 4), LECUN, seed=3, name="a/kernel"))
    assert same(made["a"]["bias"], np.zeros(4, jnp.bfloat16))
    other = fj.materialize(tree(b=[shape(3)]), 3, {"b/0": ff.normal(), **RULES})
    assert same(other["a"]["kernel"], np.asarray(made["a"]["kernel"]))
    assert same(other["b"][0], ff.draw(3, ff.normal(), seed=3, name="b/0"))


def test_the_first_rule_wins_and_none_leaves_a_leaf() -> None:
    abstract = tree(b={"kernel": shape(2), "count": shape(dtype=np.int32)})
    made = fj.materialize(abstract, 3, {"b/kernel": "ones", "b/*": None, **RULES})
    assert same(made["b"]["kernel"], np.ones(2, np.float32))
    assert made["b"]["count"] is abstract["b"]["count"]


def test_a_box_is_no_part_of_a_name() -> None:
    keys = jax.tree_util
    boxed = (keys.DictKey("a"), keys.SequenceKey(3), keys.GetAttrKey("value"))
    assert fj.trees.name_of(boxed) == "a/3"
    assert fj.trees.name_of((keys.GetAttrKey("value"), keys.DictKey("value"))) == "value/value"


def test_a_name_is_that_of_this_modules_initializer() -> None:
    made = fj.materialize({"w": shape(8, 4)}, 3, {"w": "he_normal"})
    assert same(made["w"], ff.draw((8, 4), ff.he_normal(truncated=True), seed=3, name="w"))


def test_the_seed_may_be_a_key() -> None:
    wanted = ff.draw((8, 4), LECUN, seed=5, name="w")
    for seed in (5, np.uint64(5), jnp.int32(5), jax.random.key(5), jax.random.PRNGKey(5)):
        assert same(fj.materialize({"w": shape(8, 4)}, seed, {"w": LECUN})["w"], wanted)
    large = fj.materialize({"w": shape(4)}, 2**64 - 1, {"w": ff.normal()})
    assert same(large["w"], ff.draw(4, ff.normal(), seed=2**64 - 1, name="w"))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_tree_is_drawn_shard_by_shard(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    filled: list[tuple[int, ...]] = []
    fill_part = fj.memory.fill_part

    def watched(out: np.ndarray, *rest: Any) -> np.ndarray:
        filled.append(out.shape)
        return fill_part(out, *rest)

    monkeypatch.setattr(fj.memory, "fill_part", watched)
    leaf = shape(64, 32, sharding=NamedSharding(mesh, P(None, "model")))
    made = fj.materialize({"w": leaf}, 0, {"w": LECUN})["w"]
    assert filled == [(64, 16)] * 2
    assert same(made, ff.draw((64, 32), LECUN, seed=0, name="w"))
    assert made.sharding == leaf.sharding
    places = {shard.data.unsafe_buffer_pointer() for shard in made.addressable_shards}
    assert len(places) == 2  # of 8 devices: replicas share


def test_shapes_made_under_a_mesh_know_its_names_alone() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        abstract = {"w": jax.eval_shape(lambda: jnp.zeros((64, 32), out_sharding=P("data", "model")))}
        made = fj.materialize(abstract, 0, {"w": LECUN})["w"]
    assert same(made, ff.draw((64, 32), LECUN, seed=0, name="w"))
    assert made.sharding.is_equivalent_to(NamedSharding(mesh, P("data", "model")), 2)


def test_jax_takes_the_memory_over() -> None:
    memory = fj.aligned((16, 16), np.float32)
    assert memory.ctypes.data % 64 == 0
    ff.fill(memory, ff.normal(), seed=1)
    assert jax.device_put(memory).unsafe_buffer_pointer() == memory.ctypes.data
    assert fj.aligned((0, 3), "bfloat16").shape == (0, 3)
    assert fj.aligned((), np.float16).shape == ()


@pytest.mark.usefixtures("nothing_drawn")
def test_what_cannot_be_drawn_is_refused_before_anything_is() -> None:
    def refused(kind: type[Exception], match: str, abstract: Any = None, rules: Any = RULES) -> None:
        with pytest.raises(kind, match=match):
            fj.materialize(tree() if abstract is None else abstract, 0, rules)

    refused(
        ValueError,
        "expected a rule for every leaf; got none for b/w, b/x;",
        tree(b={"w": shape(2), "x": shape(2)}),
    )
    refused(
        ValueError,
        "expected each key to fit a leaf .*; got '\\*/kernal', which fits none",
        rules={**RULES, "*/kernal": "ones"},
    )
    refused(ValueError, "leaf 'b/kernel': expected a shape of two axes or more", tree(b={"kernel": shape(2)}))
    refused(
        TypeError,
        "leaf 'b/kernel': expected one of the dtypes .*; got int32",
        tree(b={"kernel": shape(2, dtype=np.int32)}),
    )
    keys = jax.eval_shape(lambda: jax.random.key(0))
    refused(
        TypeError, r"leaf 'b/kernel': expected a floating-point dtype; got key<fry>", tree(b={"kernel": keys})
    )
    refused(
        TypeError,
        "leaf 'b/kernel': expected a dtype that JAX holds; got float64",
        tree(b={"kernel": shape(2, 2, dtype=np.float64)}),
    )
    refused(TypeError, "leaf 'b/kernel': expected a shape and a dtype, .*; got 3", tree(b={"kernel": 3}))
    refused(TypeError, r"rules: expected a mapping from names to initializers; got \[\]", rules=[])
    refused(TypeError, "rules: expected names, or patterns of names, as keys; got 3", rules={3: "ones"})
    refused(
        ValueError,
        "expected the name of an initializer for 'w'; got 'normal'; the names are zeros, ones, glorot_normal",
        rules={"w": "normal"},
    )
    refused(
        TypeError,
        r"expected an initializer of fanfill.jax or fanfill, a name or None for 'w'; got 3",
        rules={"w": 3},
    )
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    uneven = {"w": {"kernel": shape(12, 4, sharding=NamedSharding(mesh, P("d")))}}
    refused(ValueError, "leaf 'w/kernel': .*evenly divide", uneven, {"*": LECUN})


@pytest.mark.usefixtures("nothing_drawn")
def test_seeds_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seed: expected an integer in \[0, 2\*\*64\); got -1"):
        fj.materialize(tree(), -1, RULES)
    with pytest.raises(TypeError, match="seed: expected an integer"):
        fj.materialize(tree(), "5", RULES)
    with pytest.raises(ValueError, match="expected one key; got an array of them"):
        fj.materialize(tree(), jax.random.split(jax.random.key(0)), RULES)
    with pytest.raises(TypeError, match="seed: expected a key that is known; got one that is being traced"):
        jax.jit(lambda key: fj.materialize(tree(), key, RULES))(jax.random.key(0))


def test_jax_is_asked_for_its_default_device_once_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    memory._devices_by.cache_clear()
    asked: list[Any] = []
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda *given: asked.append(given) or put(*given))
    for device in (jax.devices()[2], jax.devices()[1], jax.devices()[2]):
        with jax.default_device(device):
            assert memory._default_devices() == memory._default_devices() == {device}
    assert memory._default_devices() == {jax.devices()[0]}
    assert len(asked) == 3
