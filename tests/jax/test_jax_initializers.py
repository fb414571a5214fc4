"""The initializers as JAX's: names, arguments, laws, protocol; and what they refuse, while tracing too."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from scipy import stats

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402

KEY = jax.random.key(5)
OURS = sorted(
    set(fj.__all__) - {"JaxInitializer", "TARGET", "aligned", "draw_words", "materialize", "recipe"}
)
THEIRS = jax.nn.initializers


def test_all_of_jaxs_names_are_there() -> None:
    public = {name for name in dir(THEIRS) if not name.startswith("_")}
    assert set(OURS) == public - {"Initializer"}


@pytest.mark.parametrize("name", OURS)
def test_the_arguments_are_jaxs(name: str) -> None:
    def arguments(function: Any) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert arguments(getattr(fj, name)) == arguments(getattr(THEIRS, name))


@pytest.mark.parametrize("name", ["zeros", "ones", "constant"])
def test_what_fanfill_does_not_draw_is_jaxs_own(name: str) -> None:
    assert getattr(fj, name) is getattr(THEIRS, name)


@pytest.mark.parametrize(
    ("ours", "shape", "law"),
    [
        (fj.orthogonal(1.5), (3, 4, 6), ff.orthogonal(1.5)),
        (fj.orthogonal(column_axis=0), (5, 2, 3), ff.orthogonal(out_axis=0)),
        (fj.delta_orthogonal(), (3, 3, 4, 6), ff.delta_orthogonal()),
    ],
    ids=repr,
)
def test_orthogonal_matrices_have_the_bits_of_draw(ours: Any, shape: Any, law: ff.Initializer) -> None:
    wanted = ff.draw(shape, law, seed=5)
    key = jax.random.key(5)
    assert np.asarray(ours(key, shape)).tobytes() == wanted.tobytes()
    assert np.asarray(jax.jit(lambda key: ours(key, shape))(key)).tobytes() == wanted.tobytes()


def test_orthogonal_matrices_that_cannot_be_are_refused_while_tracing() -> None:
    for made, shape in (
        (fj.orthogonal(), (3,)),
        (fj.delta_orthogonal(), (3, 3)),
        (fj.delta_orthogonal(), (3, 3, 6, 4)),
    ):
        with pytest.raises(ValueError, match=r"expected|at least a 2D|3D, 4D or 5D"):
            jax.eval_shape(lambda key, made=made, shape=shape: made(key, shape), KEY)
    with pytest.raises(ValueError, match="expected a gain >= 0"):
        fj.orthogonal(-1.0)


def test_second_names_are_the_same_functions() -> None:
    for ours, theirs in (("xavier", "glorot"), ("kaiming", "he")):
        for kind in ("uniform", "normal"):
            assert getattr(fj, f"{ours}_{kind}") is getattr(fj, f"{theirs}_{kind}")


@pytest.mark.usefixtures("compiling_nothing")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (getattr(fj, name)(*more), getattr(THEIRS, name)(*more))
        for name, *more in (
            ("he_normal",),
            ("uniform", 0.5),
            ("truncated_normal", 0.5, None, -1.0, 3.0),
            ("variance_scaling", 0.3, "fan_geo_avg", "normal"),
        )
    ],
)
def test_the_laws_are_jaxs(ours: Any, theirs: Any) -> None:
    shape = (256, 128)
    drawn, expected = (np.asarray(init(KEY, shape)).ravel() for init in (ours, theirs))
    assert stats.ks_2samp(drawn, expected).pvalue > 1e-4
    assert float(drawn.std()) == pytest.approx(float(expected.std()), rel=0.02)


@pytest.mark.usefixtures("compiling_nothing")
def test_another_law_would_be_noticed() -> None:
    cut, uncut = (
        np.asarray(fj.JaxInitializer(ff.he_normal(truncated=cut))(KEY, (256, 128))).ravel()
        for cut in (True, False)
    )
    assert stats.ks_2samp(cut, uncut).pvalue < 1e-4


@pytest.mark.usefixtures("compiling_nothing")
def test_a_uniform_does_not_reach_its_end() -> None:
    # bfloat16 rounds up to 1 once in 2^9 draws.
    drawn = np.asarray(fj.uniform(1.0, "bfloat16")(KEY, (1 << 14,))).astype(np.float32)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    closed = ff.draw(1 << 14, ff.uniform(0, 1), seed=5, dtype="bfloat16").astype(np.float32)
    assert closed.max() == 1


def test_an_initializer_is_a_value() -> None:
    init = fj.he_normal(dtype=jnp.bfloat16)
    assert isinstance(init, jax.nn.initializers.Initializer)
    assert init == fj.kaiming_normal(dtype="bfloat16")
    assert hash(init) == hash(fj.he_normal(dtype="bfloat16"))
    assert init != fj.he_normal()
    assert init != fj.lecun_normal(dtype="bfloat16")
    assert init != "he_normal"
    copy = pickle.loads(pickle.dumps(init))
    assert copy == init
    assert copy.theirs.func is init.theirs.func
    assert repr(init) == "JaxInitializer(he_normal(truncated=True), 'bfloat16')"
    assert repr(fj.normal(1.0)) == "JaxInitializer(normal(0.0, 1.0))"
    with pytest.raises(AttributeError, match="expected no assignment to a JaxInitializer"):
        init.dtype = None


@pytest.mark.usefixtures("compiling_nothing")
def test_any_initializer_of_fanfill_can_be_one() -> None:
    init = fj.JaxInitializer(ff.he_normal("fan_out", 0.2))
    assert np.array_equal(init(KEY, (8, 4)), ff.draw((8, 4), ff.he_normal("fan_out", 0.2), seed=5))
    assert fj.JaxInitializer("he_normal").law == ff.he_normal()
    with pytest.raises(TypeError, match="expected one of the dtypes"):
        init(KEY, (8, 4), "complex64")


@pytest.mark.usefixtures("compiling_nothing")
def test_the_dtype_is_the_calls_then_the_initializers_then_jaxs() -> None:
    assert fj.normal()(KEY, (2,)).dtype == np.float32
    assert fj.normal(dtype="float16")(KEY, (2,)).dtype == np.float16
    assert fj.normal(dtype="float16")(KEY, (2,), jnp.bfloat16).dtype == jnp.bfloat16
    assert fj.normal()(KEY, (2,), "float64").dtype == np.float32  # as JAX without its 64 bits


def test_parameters_may_be_arrays_without_axes() -> None:
    assert fj.normal(jnp.float32(0.5)) == fj.normal(np.float32(0.5)) == fj.normal(np.array(0.5))


def test_complex_dtypes_are_jaxs() -> None:
    ours, theirs = (room.normal(0.5)(KEY, (4, 4), "complex64") for room in (fj, THEIRS))
    assert np.array_equal(ours, theirs)
    for name, *more in (("he_normal",), ("variance_scaling", 0.3, "fan_out", "normal", 0, 1)):
        ours, theirs = (getattr(room, name)(*more) for room in (fj, THEIRS))
        made, expected = (
            str(jax.make_jaxpr(lambda k, f=f: f(k, (4, 4), "complex64"))(KEY)) for f in (ours, theirs)
        )
        assert made == expected
    with pytest.raises(ValueError, match="dtype argument to `uniform` must be a float dtype"):
        fj.uniform()(KEY, (4, 4), "complex64")


def test_these_functions_may_stand_in_jaxs_place(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = THEIRS.normal(0.5)(KEY, (4, 4), "complex64")
    monkeypatch.setattr(THEIRS, "normal", fj.normal)
    assert np.array_equal(jax.nn.initializers.normal(0.5)(KEY, (4, 4), "complex64"), expected)


def traced(init: Any, *more: Any) -> Any:
    return jax.jit(lambda key: init(key, *more))(KEY)


@pytest.mark.parametrize("call", [lambda init, *more: init(KEY, *more), traced], ids=["eager", "traced"])
def test_refusals_come_at_once(call: Any) -> None:
    with pytest.raises(ValueError, match="Can't compute input and output sizes of a 1-dimensional weights"):
        call(fj.he_normal(), (3,))
    with pytest.raises(ValueError, match=r"which names axis 1 of .* again; give each axis one role"):
        call(fj.he_normal(0, 1, 1), (3, 4))
    with pytest.raises(ValueError, match="largest finite value of float16"):
        call(fj.normal(1e6, "float16"), (3, 4))
    with pytest.raises(TypeError, match=r"expected one of the dtypes float32, .*; got int32"):
        call(fj.normal(), (3, 4), "int32")
    with pytest.raises(ValueError, match=r"shape: expected an integer in \[0, 2\*\*63\]; got -1"):
        call(fj.normal(), (-1, 4))


def test_keys_that_are_none_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected one key; got an array of them, of shape \(2,\); .*jax.vmap"
    ):
        fj.normal()(jax.random.split(KEY), (4,))
    with pytest.raises(TypeError, match=r"key: expected a key; got 5; make one with jax.random.key\(seed\)"):
        fj.normal()(5, (4,))
    with pytest.raises(TypeError, match="whose words are uint32; got an array of float32"):
        fj.normal()(jnp.zeros(2), (4,))


def test_a_compiled_program_has_no_axis_of_more_than_32_bits() -> None:
    with pytest.raises(ValueError, match=r"expected axes of at most 2\*\*32 elements in a compiled program"):
        jax.eval_shape(lambda k: fj.normal()(k, (2**32 + 1,)), KEY)
    assert jax.eval_shape(lambda k: fj.normal()(k, (2**32,)), KEY).shape == (2**32,)


def test_parameters_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a scale >= 0; got -1; draw by its magnitude, and negate"):
        fj.uniform(-1)
    with pytest.raises(TypeError, match="stddev: expected a number that is known while tracing"):
        jax.jit(lambda s: fj.normal(s)(KEY, (2,)))(1.0)
    with pytest.raises(TypeError, match="expected a real number as std"):
        fj.normal("1")
    with pytest.raises(ValueError, match="expected a mode among"):
        fj.variance_scaling(1.0, "fan", "normal")
