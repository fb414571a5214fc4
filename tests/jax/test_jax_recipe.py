"""Model recipes of JAX's trees and start checkpoints of them: what `materialize` draws, by the same names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Capture, assert_refused

jax = pytest.importorskip("jax", reason="jax is not installed")

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.checkpoints import ModelRecipe  # noqa: E402
from fanfill.cli import main  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiling_nothing")

SHAPES = {
    "params": {
        "Dense_0": {
            "kernel": jax.ShapeDtypeStruct((32, 64), np.float32),
            "bias": jax.ShapeDtypeStruct((64,), np.dtype("bfloat16")),
        },
        "count": jax.ShapeDtypeStruct((), np.int32),
    }
}
RULES = {"*/kernel": fj.he_normal(), "*/bias": "zeros", "*/count": None}
KERNEL, BIAS = "params/Dense_0/kernel", "params/Dense_0/bias"

SOURCE = """
import jax, numpy as np
import fanfill.jax as fj

def shapes():
    leaf = jax.ShapeDtypeStruct
    return {"params": {"Dense_0": {"kernel": leaf((32, 64), np.float32), "bias": leaf((64,), "bfloat16")}}}

def build():
    return fj.recipe(shapes(), {"*/kernel": fj.he_normal(), "*/bias": "zeros"})

def nothing():
    return 3
"""


def test_a_recipe_has_the_values_of_materialize() -> None:
    made = fj.recipe(SHAPES, RULES)
    assert set(made.tensors) == {KERNEL, BIAS}
    assert made.tensors[KERNEL].whole_law() == ff.he_normal(truncated=True)
    assert (made.tensors[BIAS].shape, made.tensors[BIAS].dtype) == ((64,), "bfloat16")
    assert ModelRecipe.loads(made.dumps()) == made
    drawn = fj.materialize(SHAPES, 3, RULES)["params"]["Dense_0"]
    buffers = {KERNEL: np.empty((32, 64), np.float32), BIAS: np.ones(64, "bfloat16")}
    made.fill(buffers, 3)
    assert buffers[KERNEL].tobytes() == np.asarray(drawn["kernel"]).tobytes()
    assert buffers[BIAS].tobytes() == np.asarray(drawn["bias"]).tobytes()
    with pytest.raises(ValueError, match="expected a rule for every leaf; got none for params/count"):
        fj.recipe(SHAPES, {"*/kernel": fj.he_normal(), "*/bias": "zeros"})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_flax_model.py").write_text(SOURCE)
    yield "own_flax_model"
    sys.modules.pop("own_flax_model", None)


@pytest.mark.parametrize("alone", [True, False], ids=["JAX alone", "torch too"])
def test_init_writes_what_materialize_draws(
    alone: bool, source: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if alone:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        pytest.importorskip("torch", reason="torch is not installed")
    numpy_files = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    assert main(["init", f"{source}:build", "--seed", "3", "--out", "out"]) == 0, capsys.readouterr().err
    assert main(["verify", "out"]) == 0
    loaded = numpy_files.load_file("out/model.safetensors")
    kernel = fj.materialize(SHAPES, 3, RULES)["params"]["Dense_0"]["kernel"]
    assert set(loaded) == {KERNEL, BIAS}
    assert loaded[KERNEL].tobytes() == np.asarray(kernel).tobytes()


def test_a_tree_of_shapes_takes_its_rules_from_the_command_line(source: str, capsys: Capture) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    words = ("--rule", "*/kernel=lecun_normal(truncated=True)", "--rule", "*=zeros")
    assert main(["recipe", f"{source}:shapes", *words]) == 0
    made = ModelRecipe.loads(capsys.readouterr().out)
    assert made == fj.recipe(SHAPES, {"*/kernel": fj.lecun_normal(), "*/count": None, "*": "zeros"})
    assert main(["recipe", f"{source}:build", "--rule", "*/bias=ones"]) == 0
    assert ModelRecipe.loads(capsys.readouterr().out).tensors[BIAS].whole_law() == ff.constant(1)
    assert_refused(capsys, "expected --rule PATTERN=INITIALIZER for the leaves", "recipe", f"{source}:shapes")
    assert_refused(
        capsys, "expected a shape and a dtype.*got 3", "recipe", f"{source}:nothing", "--rule", "*=zeros"
    )


def test_a_flax_model_starts_from_the_file(tmp_path: Path) -> None:
    """Linen: the tree that its file gives is that of its parameters."""
    nn = pytest.importorskip("flax.linen", reason="flax is not installed")
    files = pytest.importorskip("safetensors.flax", reason="safetensors is not installed")
    from flax.traverse_util import unflatten_dict

    model = nn.Sequential([nn.Dense(16), nn.LayerNorm(), nn.Dense(3)])
    x = np.ones((2, 8), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), x)
    rules = {"*/kernel": fj.lecun_normal(), "*/scale": "ones", "*": "zeros"}
    fj.recipe(abstract, rules).write(tmp_path, seed=7)
    params = unflatten_dict(files.load_file(tmp_path / "model.safetensors"), sep="/")
    wanted = fj.materialize(abstract, 7, rules)
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(wanted)))
    assert np.array_equal(model.apply(params, x), model.apply(wanted, x))


@pytest.mark.filterwarnings("ignore")  # orbax's own
def test_orbax_keeps_what_materialize_draws(tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    rules = {"*/kernel": fj.he_normal(), "*/bias": "zeros"}
    abstract = {"params": {"Dense_0": SHAPES["params"]["Dense_0"]}}
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "start", fj.materialize(abstract, 3, rules))
        saver.wait_until_finished()
        found = saver.restore(tmp_path / "start", abstract)
    buffers = {KERNEL: np.empty((32, 64), np.float32), BIAS: np.ones(64, "bfloat16")}
    fj.recipe(abstract, rules).fill(buffers, 3)
    for name, wanted in buffers.items():
        assert np.asarray(found["params"]["Dense_0"][name.rsplit("/")[-1]]).tobytes() == wanted.tobytes()
