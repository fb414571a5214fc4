"""The distributions are Keras' own, which a wrong one is told from; what is refused, and in what words."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import optional
import pytest

import fanfill as ff

optional.needs("keras", "torch", "scipy")
keras, layers, stats = map(optional.Lazy, ("keras", "keras.layers", "scipy.stats"))
keras_checks, fk = map(optional.Lazy, ("keras_checks", "fanfill.keras"))

# NumPy's, of how Keras' torch backend makes arrays of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = ((256, 300), (3, 3, 32, 64), (4096,))


def values(made: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(made(shape)), np.float64).ravel()


def alike(ours: Any, theirs: Any, shape: tuple[int, ...]) -> bool:
    one, other = values(ours, shape), values(theirs, shape)
    return bool(stats.ks_2samp(one, other).pvalue > 1e-4 and abs(one.std() / other.std() - 1) < 0.05)


def test_the_laws_are_those_of_keras() -> None:
    for name in keras_checks.TEN:
        for shape in SHAPES:
            ours, theirs = (getattr(module, name)(seed=1) for module in (fk, keras.initializers))
            assert alike(ours, theirs, shape), (name, shape)


def test_fans_of_scalars_and_of_vectors() -> None:
    for shape, fan in (((), 1), ((7,), 7)):
        end = (6 / fan) ** 0.5
        assert fk.HeUniform(seed=1).law(shape).law(shape).params == pytest.approx((-end, end))


def test_axes_that_are_neither_input_nor_output_count_for_nothing() -> None:
    if not keras_checks.EINSUM:
        pytest.skip("this Keras gives no axes")
    ours, theirs = (
        module.VarianceScaling(2.0, "fan_in", seed=1, input_axes=[0], output_axes=[2])
        for module in (fk, keras.initializers)
    )
    assert alike(ours, theirs, (40, 50, 30))
    assert ours.law((40, 50, 30)) == keras_checks.truncated(in_axis=[0], out_axis=[2], batch_axis=[1])


def test_another_law_is_found_out() -> None:
    for shape in SHAPES:
        theirs = keras.initializers.HeNormal(seed=1)
        for wrong in (fk.LecunNormal(seed=1), fk.HeUniform(seed=1)):
            assert not alike(wrong, theirs, shape)
    # Of one variance: 4,096 values are too few to tell these two.
    uncut = fk.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=1)
    assert not alike(uncut, keras.initializers.HeNormal(seed=1), SHAPES[0])


def test_parameters_may_be_scalar_tensors_and_equal_ends_are_a_constant() -> None:
    made = fk.RandomNormal(keras.ops.convert_to_tensor(1.0), keras.ops.convert_to_tensor(2.0), seed=5)
    assert made.law((3,)) == ff.normal(1.0, 2.0)
    assert set(values(fk.RandomUniform(0.5, 0.5), (9,))) == {0.5}


def test_a_subclass_draws_its_base() -> None:
    class Mine(fk.HeNormal):
        pass

    assert Mine(seed=5).law((3, 4)) == ff.variance_scaling(2.0, "fan_in", "truncated_normal")


def test_numpy_module_in_this_process() -> None:
    from fanfill.keras import drawing, on_numpy

    law = ff.he_normal()
    assert (on_numpy.draw(law, (3, 4), "float32", 5, None) == ff.draw((3, 4), law, seed=5)).all()
    with keras.SymbolicScope():
        assert not on_numpy.draw(law, (3, 4), "float32", 5, None).any()
        assert drawing.in_symbolic_scope()


def test_torch_fills_a_tensor_that_is_made_on_keras_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """For CUDA without a device; tests/keras/test_keras_cuda.py has one."""
    from fanfill.keras import on_torch

    made: list[Any] = []
    filled: list[Any] = []
    torch_empty = on_torch.torch.empty

    def empty(shape: Any, *, dtype: Any, device: Any) -> Any:
        assert device == "cuda"
        made.append(torch_empty(shape, dtype=dtype))
        return made[0]

    monkeypatch.setattr(on_torch, "get_device", lambda: "cuda")
    monkeypatch.setattr(on_torch.torch, "empty", empty)
    monkeypatch.setattr(on_torch, "fill_memory", lambda out, *rest: filled.append(out))
    out = on_torch.draw(ff.he_normal(), (3, 4), "float32", 5, None)
    assert made[0] is filled[0] is out


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (lambda: fk.RandomNormal(stddev=-1.0)((3,)), ValueError, "expected a std >= 0; got -1.0"),
        (lambda: fk.RandomUniform(2.0, 1.0)((3,)), ValueError, "expected low <= high"),
        (lambda: fk.RandomNormal(mean=float("nan"))((3,)), ValueError, "got nan"),
        (lambda: fk.HeNormal()((3, 4), dtype="int32"), TypeError, "expected one of the dtypes .*; got int32"),
    ],
)
def test_an_initializer_refuses(made: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        made()


def test_jax_module_in_this_process() -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    from fanfill.keras import drawing, on_jax

    law, old = ff.he_normal(), on_jax.draw(ff.he_normal(), (3, 4), "float32", 5, None)
    assert (np.asarray(old) == ff.draw((3, 4), law, seed=5)).all()
    assigned: list[Any] = []
    variable = SimpleNamespace(value=old, assign=assigned.append)
    on_jax.fill([drawing.Task("w", variable, law)], 7)
    assert (np.asarray(assigned[0]) == ff.draw((3, 4), law, seed=7, name="w")).all()


def model() -> Any:
    return keras.Sequential([keras.Input((4, 3)), layers.LSTM(2), layers.Dense(2, name="head")])


def test_a_layer_that_draws_by_itself_needs_a_rule() -> None:
    class Odd(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.own = self.add_weight(shape=(3, 3), name="own", initializer="he_normal")
            self.count = self.add_weight(shape=(), name="count", trainable=False)

    layer = Odd()
    layer.build(None)
    with pytest.raises(ValueError, match="got none for own; name them in rules"):
        fk.init_model(layer, 0)
    fk.init_model(layer, 0, {re.compile("own"): "he_normal"})
    assert keras_checks.equals(layer.own, (3, 3), keras_checks.HE, 0, name="own")


def test_names_of_users_stay_and_weights_without_a_name_are_numbered_anew() -> None:
    from fanfill.keras.names import named_variables

    class Unnamed(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.pair = [self.add_weight(shape=(3, 3)) for _ in range(2)]

        def call(self, x: Any) -> Any:
            return x

    for _ in range(2):  # Keras numbers on: variable_7
        made = keras.Sequential([keras.Input((3,)), Unnamed(name="block_7")])
        assert [named.name for named in named_variables(made)] == ["block_7/variable", "block_7/variable_1"]


def test_weights_of_one_name() -> None:
    class Twice(layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            for attribute in ("one", "other"):
                setattr(self, attribute, self.add_weight(shape=(3,), name="same"))

    layer = Twice()
    layer.build(None)
    with pytest.raises(ValueError, match="expected a name for each variable; got two that are called"):
        fk.init_model(layer, 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, ValueError, r"got none for lstm/lstm_cell/recurrent_kernel \(Orthogonal\); name them"),
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*64\)"),
        ({"on_missing": "skip"}, ValueError, "on_missing: expected 'error' or 'leave'; got 'skip'"),
        ({"rules": ["a"]}, TypeError, "rules: expected a mapping"),
        (
            {"rules": {3: "zeros"}},
            TypeError,
            "rules: expected a name, a compiled regular",
        ),
        ({"rules": {"*": {"bias": "zeros"}}}, TypeError, r"expected one initializer for the name '\*'"),
        ({"rules": {"*": 3}}, TypeError, "expected an initializer, the name of one or None"),
        ({"rules": {"*": "he"}}, ValueError, "expected the name of an initializer of Keras"),
        ({"rules": {"*": "orthogonal"}}, ValueError, "expected an initializer that has a law for 'lstm/"),
        ({"rules": {"*bias": ff.he_normal()}}, ValueError, "weight 'lstm/lstm_cell/bias': expected a shape"),
        ({"rules": {"*": "zeros", "tail/*": "zeros"}}, ValueError, "got 'tail/\\*', which fits none"),
    ],
)
def test_init_model_refuses_before_it_writes(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    made = model()
    before = keras_checks.digest(made.weights)
    with pytest.raises(kind, match=message):
        fk.init_model(made, **{"seed": 0, **arguments})
    assert keras_checks.digest(made.weights) == before


def test_what_is_no_model_or_has_no_weights() -> None:
    with pytest.raises(TypeError, match=r"model: expected a keras\.Model or a layer; got 3"):
        fk.init_model(3, 0)
    with pytest.raises(ValueError, match="model: expected one that has weights; got 'late' without any"):
        fk.init_model(layers.Dense(3, name="late"), 0)


def test_rules_of_types_and_what_is_left() -> None:
    made = model()
    old = {v.path.split("/", 1)[1]: keras_checks.bytes_of(v) for v in made.weights}
    version = made.layers[1].kernel.value._version
    fk.init_model(
        made, 0, {layers.LSTM: {"kernel": ff.normal()}, layers.Dense: "lecun_uniform"}, on_missing="leave"
    )
    new = {v.path.split("/", 1)[1]: keras_checks.bytes_of(v) for v in made.weights}
    changed = {name.partition("/")[2] for name in new if new[name] != old[name]}
    assert changed == {"lstm_cell/kernel", "kernel"}
    assert made.layers[1].kernel.value._version > version  # torch is told, for graphs that saved it
    assert keras_checks.equals(made.layers[1].kernel, (2, 2), ff.lecun_uniform(), 0, name="head/kernel")


def test_einsum_axes_are_given_to_laws_too() -> None:
    made = keras.Sequential([keras.Input((5, 6)), layers.EinsumDense("abc,cde->abde", (None, 8, 4))])
    fk.init_model(made, 0, {"*": ff.he_uniform()})
    law = ff.he_uniform(in_axis=0, out_axis=(1, 2))
    kernel = made.layers[0].kernel
    assert keras_checks.equals(kernel, (6, 8, 4), law, 0, name="einsum_dense/kernel")


def test_no_keras_or_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from fanfill.keras import available

    monkeypatch.setattr(keras, "__version__", "3.2.1")
    with pytest.raises(ImportError, match=r"expected Keras 3.10 or newer; got 3.2.1; pip install 'fanfill"):
        available.assert_available()
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match="got none that can be imported"):
        available.assert_available()
