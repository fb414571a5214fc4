"""A model recipe is a value: JSON and back, refused where it says nothing that can be drawn."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_recipes import every_kind

import fanfill as ff
from fanfill.checkpoints import ModelRecipe, TensorRecipe
from fanfill.checkpoints.tensors import Joined
from fanfill.expressions import initializer_from, with_torch_axes

drawn = TensorRecipe.drawn


def test_json_leads_back_to_the_recipe_and_to_nothing_else() -> None:
    recipe = every_kind()
    again = ModelRecipe.loads(recipe.dumps())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.digest == recipe.digest
    assert json.loads(recipe.dumps())["tied"] == {"tied": "ä"}
    assert recipe.dumps().count("\n") == len(recipe.tensors) + len(recipe.ties) + 2  # a line for each
    assert recipe != recipe.astype("float32")
    assert recipe.values == 300 * 70 + 24 + 3 + 100 + 2 + 1 + 7 * 30 * 5 + 8 + 9 + 21
    assert recipe.nbytes == sum(t.nbytes for t in again.tensors.values())


def test_a_recipe_is_read_from_toml_too(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        '[w]\nshape = [2, 3]\ndtype = "bfloat16"\ninitializer = "normal(0.0, 0.02)"\n'
    )
    (tmp_path / "m.json").write_text(
        '{"w": {"shape": [2, 3], "dtype": "bfloat16", "initializer": "normal(0.0, 0.02)"}}'
    )
    assert ModelRecipe.load(tmp_path / "m.toml") == ModelRecipe.load(tmp_path / "m.json")
    (tmp_path / "bad.toml").write_text("[")
    with pytest.raises(ValueError, match="expected a model recipe as TOML"):
        ModelRecipe.load(tmp_path / "bad.toml")


def test_a_recipe_loads_and_draws_without_torch() -> None:
    text = ModelRecipe({"w": drawn((5,), "float32", ff.normal())}).dumps()
    program = (
        "import sys\nsys.modules['torch'] = None\nimport numpy as np\n"
        "from fanfill.checkpoints import ModelRecipe\n"
        f"w = np.empty(5, np.float32)\nModelRecipe.loads({text!r}).fill({{'w': w}}, 1)\n"
        "print(w.tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    wanted = ff.draw(5, ff.normal(), seed=1, name="w", device="cpu")
    assert done.stdout.strip() == wanted.tobytes().hex()


REFUSED: list[tuple[Any, str]] = [
    ([], "expected a model recipe, names with an entry each"),
    ({"w": 3}, "tensor 'w': expected an entry with shape and dtype; got 3"),
    ({"w": {"shape": [2]}}, "expected the keys shape and dtype; got shape; add them"),
    ({"w": {"shape": [-2], "dtype": "float32"}}, "tensor 'w': shape: expected an integer"),
    ({"w": {"shape": [2], "dtype": "complex64"}}, "dtype: expected one of float32"),
    ({"w": {"shape": [2], "dtype": "float32", "law": 1}}, "expected some of the keys .*; got law; correct"),
    (
        {"w": {"shape": [2], "dtype": "float32", "value": 1, "initializer": "ones"}},
        "expected one law; got the keys initializer, value",
    ),
    ({"w": {"shape": [2], "dtype": "float32", "value": True}}, "value: expected a number"),
    (
        {"w": {"shape": [2], "dtype": "float32", "initializer": "he"}},
        "tensor 'w': expected the name of an init",
    ),
    ({"w": {"shape": [2], "dtype": "float32", "values": "1"}}, "values: expected a list of numbers"),
    (
        {"w": {"shape": [2], "dtype": "float32", "values": [1]}},
        r"values: expected 2 of them for \(2,\); got 1",
    ),
    ({"w": {"shape": [2], "dtype": "float32", "base64": "?"}}, "base64: expected text in base64"),
    ({"w": {"shape": [2], "dtype": "float32", "base64": "AAAA"}}, "base64: expected 8 bytes .*; got 3"),
    ({"w": {"shape": [2], "dtype": "float32", "parts": [{}]}}, "parts: expected start, shape and a law"),
    (
        {"w": {"shape": [2], "dtype": "float32", "parts": [{"start": [1], "shape": [2], "value": 0}]}},
        r"parts: expected a box inside \(2,\); got one of shape \(2,\) at \(1,\)",
    ),
    (
        {"w": {"shape": [2], "dtype": "float32", "value": 0, "of": {}}},
        "of: expected name, shape, start and axes",
    ),
    (
        {
            "w": {
                "shape": [2],
                "dtype": "float32",
                "value": 0,
                "of": {"name": 1, "shape": [2], "start": [0], "axes": [0]},
            }
        },
        "of: expected text as name; got 1",
    ),
    (
        {
            "w": {
                "shape": [2],
                "dtype": "float32",
                "value": 0,
                "of": {"name": "v", "shape": [2], "start": [0], "axes": [1]},
            }
        },
        "of: expected one of the 1 axes for each of 1",
    ),
    (
        {"w": {"shape": [2], "dtype": "float32", "joined": {"axis": 0, "tensors": []}}},
        r"joined: expected tensors of float32 that make up \(2,\) along axis 0",
    ),
    ({"w": {"shape": [2], "dtype": "float32", "joined": {}}}, "joined: expected axis and tensors"),
    (
        {"w": {"shape": [2], "dtype": "float32", "joined": {"axis": 1, "tensors": []}}},
        "joined: expected one of the 1 axes",
    ),
    ({"w": {"tied": "v"}}, "tensor 'w': expected it tied to a tensor of the recipe; got 'v'"),
]


@pytest.mark.parametrize(("table", "message"), REFUSED)
def test_what_is_no_recipe_is_refused_by_the_tensors_name(table: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ModelRecipe.loads(json.dumps(table))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a model recipe as JSON"):
        ModelRecipe.loads("{")


def test_a_tensor_without_elements_needs_no_law() -> None:
    recipe = ModelRecipe({"w": TensorRecipe((1, 0, 3), "float32")})
    assert ModelRecipe.loads(recipe.dumps()).check() == recipe.check()
    recipe.fill({"w": np.empty((1, 0, 3), np.float32)}, 0)


def test_a_recipe_without_all_laws_is_refused_and_names_the_tensors() -> None:
    missing = {f"w{k}": TensorRecipe((2,), "float32", unknown="orthogonal_") for k in range(7)}
    with pytest.raises(
        ValueError, match=r"got none for w0 \(orthogonal_\), .* and 2 more; give one by --rule"
    ):
        ModelRecipe(missing).check()
    halves = Joined(0, (drawn((1,), "float32", 0), TensorRecipe((1,), "float32", unknown="why")))
    with pytest.raises(ValueError, match="got none for j"):
        ModelRecipe({"j": TensorRecipe((2,), "float32", joined=halves)}).check()
    with pytest.raises(ValueError, match="tensor 'i': expected values or a number for a tensor of int64"):
        ModelRecipe({"i": drawn((2,), "int64", ff.normal())}).check()
    with pytest.raises(ValueError, match="tensor 'c': expected a constant within 65504"):
        ModelRecipe({"c": drawn((2,), "float16", ff.constant(1e9))}).check()


def test_rules_replace_laws_the_first_that_fits() -> None:
    recipe = every_kind().with_rules([("p*", ff.constant(2)), ("*", ff.he_normal("fan_out"))])
    assert recipe.tensors["parts"].whole_law() == ff.constant(2)
    assert recipe.tensors["ä"].whole_law() == ff.he_normal("fan_out", in_axis=1, out_axis=0)
    assert recipe.tensors["box"].source == every_kind().tensors["box"].source
    assert recipe.tensors["mask"].whole_law() == 1  # no initializer draws it
    for rules in ([("absent", ff.normal())], [("*", ff.normal()), ("ä", ff.normal())]):
        with pytest.raises(ValueError, match="rules: expected each pattern to fit a tensor"):
            every_kind().with_rules(rules)


def test_another_dtype_is_that_of_all_floating_point_tensors() -> None:
    found = every_kind().astype("float8_e4m3fn")
    assert {t.dtype for t in found.tensors.values()} == {"float8_e4m3fn", "int64", "bool"}
    assert found.tensors["joined"].joined is not None
    assert {t.dtype for t in found.tensors["joined"].joined.tensors} == {"float8_e4m3fn"}
    with pytest.raises(ValueError, match="dtype: expected one of float32"):
        every_kind().astype("int8")


# Buffers


def test_buffers_get_the_boxes_copies_and_values_of_the_recipe() -> None:
    recipe = every_kind()
    buffers = {
        name: np.zeros(tensor.shape, "float32" if tensor.dtype == "bfloat16" else tensor.dtype)
        for name, tensor in recipe.tensors.items()
    }
    buffers["tied"] = np.zeros((300, 70), np.float32)
    steps: list[tuple[int, int]] = []
    recipe.fill(buffers, 5, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == sum(b.size for b in buffers.values())
    assert np.array_equal(buffers["tied"], buffers["ä"])
    whole = ff.draw((5, 9, 40, 30), ff.normal(), seed=5, name="w", device="cpu")
    assert np.array_equal(buffers["box"], whole[:, 2:9, 3, :].transpose(1, 2, 0))
    parts = ff.draw((4, 6), ff.normal(), seed=5, name="parts", device="cpu")
    parts[1:3, 2:5] = 0
    assert np.array_equal(buffers["parts"], parts)
    assert np.array_equal(buffers["many"], np.arange(100))
    assert (buffers["infinite"] == -np.inf).all()
    assert buffers["mask"].all()
    assert (buffers["joined"][:, 2:] == 1).all()
    # A joined tensor's parts have no name of their own but the whole's.
    left = ff.draw((3, 2), ff.uniform(0, 1), seed=5, name="joined", dtype="float16", device="cpu")
    assert np.array_equal(buffers["joined"][:, :2], left)


def test_wrong_buffers_are_refused_before_any_is_written() -> None:
    recipe = ModelRecipe(
        {"w": drawn((2,), "float32", ff.normal()), "v": drawn((2,), "float32", ff.normal())}
        | {"b": drawn((2,), "float32", 1.0)}
    )
    first, frozen = np.zeros(2, np.float32), np.zeros(2, np.float32)
    frozen.flags.writeable = False
    for buffers, error, message in (
        ({"w": first, "x": first}, ValueError, "expected names of the recipe; got 'x', which it lacks"),
        ({"w": np.zeros(3)}, ValueError, r"expected shape \(2,\) for 'w'; got \(3,\)"),
        ({"w": [1, 2]}, TypeError, "expected arrays or torch tensors; got list for 'w'"),
        ({"w": first, "v": frozen}, ValueError, "^buffers: 'v': expected a writable buffer"),
        ({"w": first, "b": frozen}, ValueError, "^buffers: 'b': expected a writable buffer"),
        ({"w": first, "v": np.zeros(2, np.int32)}, TypeError, "^buffers: 'v': expected one of the dtypes"),
    ):
        with pytest.raises(error, match=message):
            recipe.fill(buffers, 0)
    with pytest.raises(ValueError, match="seed: expected an integer"):
        recipe.fill({"w": first}, -1)
    assert not first.any()


# Initializers as text


@pytest.mark.parametrize(
    "law",
    [
        ff.he_normal(),
        ff.he_uniform(in_axis=1, out_axis=0),
        ff.xavier_normal(truncated=True, batch_axis=(0, 1)),
        ff.normal(-1, 0.02),
        ff.uniform(-1, 1, endpoint=False),
        ff.truncated_normal(lower=-math.inf, upper=3),
        ff.constant(-0.0),
    ],
)
def test_the_repr_of_an_initializer_is_text_that_leads_back_to_it(law: ff.Initializer) -> None:
    assert initializer_from(repr(law)) == law


def test_short_names_are_text_too() -> None:
    assert initializer_from("he_normal") == ff.he_normal()
    assert initializer_from("normal(std=0.02)") == ff.normal(std=0.02)
    assert initializer_from("zeros") == ff.constant(0)
    assert initializer_from("ones") == ff.constant(1)
    assert with_torch_axes(ff.normal()) == ff.normal()
    assert with_torch_axes(ff.lecun_normal(batch_axis=0)) == ff.lecun_normal(
        in_axis=1, out_axis=0, batch_axis=0
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normal(", "expected an initializer as text"),
        ("normal(open('x'))", "expected an initializer as text"),
        ("ff.normal()", "expected an initializer as text"),
        ("__import__('os')", "expected the name of an initializer; got '__import__'"),
        ("norm()", "did you mean 'normal'"),
        ("normal(1, 2, 3)", "expected at most the 2 arguments mean, std for normal by position"),
        ("normal(1, mean=2)", "expected at most the 2 arguments"),
        ("normal(**{})", "expected at most the 2 arguments"),
        ("normal(mu=2)", "expected some of the arguments mean, std for normal"),
        ("normal(" + "-" * 600 + "1)", "expected an initializer as text"),
        ("normal(float('1e5'))", "expected an initializer as text"),
    ],
)
def test_text_is_parsed_and_never_evaluated(text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        initializer_from(text)
