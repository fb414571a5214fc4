"""Checks of fanfill.keras that hold on every backend of Keras, of which a process has one.

As a program, with a folder in which another backend has saved its model, it prints a JSON object: for each
check "" or a traceback, and values that all backends share.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras would import it, for 0.7 s

import keras
import ml_dtypes  # noqa: F401  the names of bfloat16 and of the 8-bit dtypes
import numpy as np

import fanfill as ff

BACKEND = keras.config.backend()
SAVED_BY = "torch"  # the backend of the process that runs the tests

# What loads a file before fanfill.keras is imported must not import it.
fk: Any = None
L = keras.layers
TEN = (
    *("VarianceScaling", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal"),
    *("LecunUniform", "RandomNormal", "RandomUniform", "TruncatedNormal"),
)
HE = ff.he_normal(truncated=True)


def import_fanfill() -> None:
    import fanfill.keras

    global fk
    fk = fanfill.keras


def bytes_of(value: Any) -> bytes:
    """The bits of a tensor or a variable; NumPy has no name for some dtypes of torch."""
    value = getattr(value, "value", value) if isinstance(value, keras.Variable) else value
    if BACKEND == "torch":
        import torch

        value = value.detach()
        return (
            value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes()
        )
    return np.asarray(value).tobytes()


def digest(weights: Any) -> str:
    return hashlib.sha256(b"".join(map(bytes_of, weights))).hexdigest()


def equals(value: Any, shape: tuple[int, ...], law: Any, seed: int = 5, **more: Any) -> bool:
    return bytes_of(value) == ff.draw(shape, law, seed=seed, **more).tobytes()


def truncated(**axes: Any) -> Any:
    return ff.variance_scaling(2.0, "fan_in", "truncated_normal", **axes)


def small_model() -> Any:
    """One of each way to name an initializer; Keras copies the seed of a SeedGenerator's config."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(16, kernel_initializer=fk.HeNormal(seed=5), activation="relu"),
            L.Dense(4, kernel_initializer="fanfill>GlorotUniform"),
            L.Dense(2, kernel_initializer=fk.TruncatedNormal(seed=keras.random.SeedGenerator(7))),
        ]
    )


def undrawn_model() -> Any:
    """The large model before `init_model`: zeros in place of Keras' own draws, for which JAX would compile a
    program for each shape, in half a minute.
    """

    def zeros(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        return keras.ops.zeros(shape, dtype)

    drawn = dict.fromkeys(("normal", "truncated_normal", "uniform"), zeros)
    with mock.patch.multiple("keras.src.initializers.random_initializers.random", **drawn):
        return large_model()


def large_model() -> Any:
    i = keras.Input((8, 8, 4))
    x = L.Conv2D(8, 3, kernel_initializer="he_normal")(i)
    x = L.BatchNormalization()(x)
    x = L.DepthwiseConv2D(3)(x)
    x = L.SeparableConv2D(8, 1)(x)
    x = L.Reshape((-1, 8))(x)
    x = L.MultiHeadAttention(2, 4)(x, x)
    x = L.TimeDistributed(L.Dense(16))(x)
    x = L.Bidirectional(L.LSTM(4, recurrent_initializer="glorot_uniform"))(x)
    x = L.Dense(8)(x)
    return keras.Model(i, L.Dense(2, name="head", kernel_initializer="random_normal")(x))


NAMES = [
    *("conv2d/kernel", "conv2d/bias"),
    *(f"batch_normalization/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
    *("depthwise_conv2d/kernel", "depthwise_conv2d/bias"),
    *(f"separable_conv2d/{name}" for name in ("depthwise_kernel", "pointwise_kernel", "bias")),
    *(
        f"multi_head_attention/{part}/{name}"
        for part in ("query", "key", "value", "attention_output")
        for name in ("kernel", "bias")
    ),
    *("time_distributed/dense/kernel", "time_distributed/dense/bias"),
    *(
        f"bidirectional/{way}_lstm/lstm_cell/{name}"
        for way in ("forward", "backward")
        for name in ("kernel", "recurrent_kernel", "bias")
    ),
    *("dense/kernel", "dense/bias", "head/kernel", "head/bias"),
]


def save(folder: Path) -> None:
    import_fanfill()
    model = small_model()
    model.save(folder / f"{BACKEND}.keras")
    (folder / f"{BACKEND}.sha").write_text(digest(model.weights))


def load(folder: Path, backend: str) -> list[str]:
    """The classes of the initializers of a saved model, whose weights are those that were saved."""
    model = keras.saving.load_model(folder / f"{backend}.keras")
    assert digest(model.weights) == (folder / f"{backend}.sha").read_text()
    return [
        f"{type(d.kernel_initializer).__module__}.{type(d.kernel_initializer).__name__}" for d in model.layers
    ]


# ------------------------------------------------------------------------------------------------- the checks
def check_every_class_has_the_bits_of_draw() -> None:
    for name in TEN:
        made = getattr(fk, name)(seed=5)
        assert isinstance(made, getattr(keras.initializers, name))
        for shape in ((6, 7), (3, 2, 4, 5), (9,), (), (0, 3)):
            assert equals(made(shape), shape, made.law(shape)), (name, shape)
    assert equals(fk.HeNormal(seed=5)((64, 32)), (64, 32), HE)
    # In bfloat16, or the values are those of the closed interval.
    half_open = fk.RandomUniform(-1, 2, seed=5)((9999,), dtype="bfloat16")
    assert equals(half_open, (9999,), ff.uniform(-1, 2, endpoint=False), dtype="bfloat16")
    assert not equals(half_open, (9999,), ff.uniform(-1, 2), dtype="bfloat16")


def check_integer_seeds() -> None:
    for seed in (0, 5, 2**40 + 3, -1):
        made = fk.GlorotUniform(seed=seed)
        for _ in range(2):  # the same values at each call, as in Keras
            assert equals(made((4, 3)), (4, 3), ff.glorot_uniform(), seed % 2**64)


def check_no_seed() -> None:
    made = fk.GlorotUniform()
    assert bytes_of(made((8, 8))) == bytes_of(made((8, 8)))
    assert bytes_of(made((8, 8))) != bytes_of(made.clone()((8, 8)))


def check_a_seed_generator_moves_on() -> None:
    generator = keras.random.SeedGenerator(5)
    made = fk.GlorotUniform(seed=generator)
    for count in range(3):
        assert equals(made((4, 3)), (4, 3), ff.glorot_uniform(), 5 << 32 | count)
    state = keras.ops.convert_to_numpy(generator.state.value)
    assert state.tolist() == [5, 3]


def check_names_for_strings() -> None:
    for name in TEN:
        spelled = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
        for text in (f"fanfill>{name}", f"fanfill>{spelled}"):
            assert type(keras.initializers.get(text)) is getattr(fk, name)
        assert type(keras.initializers.get(spelled)).__module__.startswith("keras."), "Keras' own stay"


def check_config_and_clone() -> None:
    for made in (
        fk.VarianceScaling(0.5, "fan_out", "uniform", seed=3),
        fk.RandomNormal(1.0, 2.0, seed=4),
        fk.HeNormal(seed=keras.random.SeedGenerator(3)),
    ):
        kept = keras.saving.serialize_keras_object(made)
        assert kept["registered_name"] == f"fanfill>{type(made).__name__}"
        for again in (
            keras.saving.deserialize_keras_object(kept),
            type(made).from_config(made.get_config()),
            made.clone(),
        ):
            assert type(again) is type(made)
            assert again.get_config() == made.get_config()


def check_fans_of_layers() -> None:
    he = fk.HeNormal(seed=5)
    for layer, shape, attribute, axes in (
        (L.Dense(8, kernel_initializer=he), (None, 6), "kernel", {}),
        (L.Conv2D(8, 3, kernel_initializer=he), (None, 8, 8, 6), "kernel", {}),
        (L.Conv2DTranspose(8, 3, kernel_initializer=he), (None, 8, 8, 6), "kernel", {}),
        (L.DepthwiseConv2D(3, depth_multiplier=4, depthwise_initializer=he), (None, 8, 8, 6), "kernel", {}),
        (L.SeparableConv2D(4, 3, depthwise_initializer=he), (None, 8, 8, 6), "depthwise_kernel", {}),
        (L.SeparableConv2D(4, 3, pointwise_initializer=he), (None, 8, 8, 6), "pointwise_kernel", {}),
        (L.Embedding(10, 4, embeddings_initializer=he), (None, 3), "embeddings", {}),
        (L.EinsumDense("abc,cde->abde", (None, 8, 4), kernel_initializer=he), (None, 5, 6), "kernel", EINSUM),
    ):
        layer.build(shape)
        value = getattr(layer, attribute)
        assert equals(value, tuple(value.shape), truncated(**axes)), (layer, attribute)
    cell = L.LSTM(4, kernel_initializer=he, recurrent_initializer=he)
    cell.build((None, 3, 6))
    assert equals(cell.cell.kernel, (6, 16), HE)
    assert equals(cell.cell.recurrent_kernel, (4, 16), HE)


# Before 3.14 a kernel (in, heads, out) has the fans of a convolution, in Keras as here.
_HAS_AXES = hasattr(keras.initializers.HeNormal(), "input_axes")
EINSUM: dict[str, Any] = {"in_axis": 0, "out_axis": (1, 2)} if _HAS_AXES else {}
JOINED: dict[str, Any] = {"in_axis": (0, 1), "out_axis": 2} if _HAS_AXES else {}


def check_attention() -> None:
    seeded = L.MultiHeadAttention(4, 16, kernel_initializer=fk.HeNormal(seed=5))
    seeded.build((None, 5, 64), (None, 5, 64))
    # By clones with one seed: Keras' rule, of which the page warns.
    for part in (seeded.query_dense, seeded.key_dense):
        assert equals(part.kernel, (64, 4, 16), truncated(**EINSUM))
    assert equals(seeded.output_dense.kernel, (4, 16, 64), truncated(**JOINED))
    free = L.MultiHeadAttention(4, 16, kernel_initializer="fanfill>HeNormal")
    free.build((None, 5, 64), (None, 5, 64))
    assert bytes_of(free.query_dense.kernel) != bytes_of(free.key_dense.kernel)


def check_dtypes() -> None:
    for dtype in ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"):
        value = fk.HeNormal(seed=5)((64, 32), dtype=dtype)
        got = keras.backend.standardize_dtype(value.dtype)
        assert got == ("float32" if (dtype, BACKEND) == ("float64", "jax") else dtype)  # JAX without x64
        assert equals(value, (64, 32), HE, dtype=got), dtype
        # Keras' NumPy backend has no variables of float8, and makes those of float64 of float32.
        if BACKEND != "numpy" or dtype in ("float16", "bfloat16", "float32"):
            made = keras.Variable(fk.HeNormal(seed=5), shape=(64, 32), dtype=dtype)
            assert equals(made, (64, 32), HE, dtype=got), dtype


def check_no_dtype_is_floatx() -> None:
    keras.config.set_floatx("float16")
    try:
        assert equals(fk.HeNormal(seed=5)((64, 32)), (64, 32), HE, dtype="float16")
    finally:
        keras.config.set_floatx("float32")


def check_policies() -> None:
    for policy, dtype in (("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16")):
        layer = L.Dense(32, kernel_initializer=fk.HeNormal(seed=5), dtype=policy)
        layer.build((None, 64))
        assert equals(layer.kernel, (64, 32), HE, dtype=dtype)


def check_a_variable_keeps_the_memory() -> None:
    made = []

    def keep(shape: Any, dtype: Any = None) -> Any:
        made.append(fk.HeNormal(seed=5)(shape, dtype))
        return made[0]

    for dtype in ("float32", "bfloat16"):
        made.clear()
        with filled() as buffers:
            variable = keras.Variable(keep, shape=(512, 512), dtype=dtype)
        # Drawn once, and not copied after that.
        assert [address_of_buffer(out) for out in buffers] == [address(made[0])]
        assert (address(variable.value) == address(made[0])) == (BACKEND != "numpy")  # Keras copies ndarrays
        if BACKEND in ("jax", "tensorflow"):
            assert address(made[0]) % 64 == 0


@contextmanager
def filled() -> Iterator[list[Any]]:
    """The buffers that the backend's module hands to fanfill meanwhile."""
    buffers: list[Any] = []
    names = {
        "jax": ("fanfill.jax.memory.fill_part", "fanfill.jax.spec.fill_part"),
        "torch": ("fanfill.keras.on_torch.fill_memory",),
    }.get(BACKEND, (f"fanfill.keras.on_{BACKEND}.fill_buffer",))
    with ExitStack() as patches:
        for name in names:
            module, _, function = name.rpartition(".")
            fill = getattr(importlib.import_module(module), function)

            def note(out: Any, *rest: Any, fill: Any = fill, **named: Any) -> Any:
                buffers.append(out)
                return fill(out, *rest, **named)

            patches.enter_context(mock.patch(name, note))
        yield buffers


def address(value: Any) -> int:
    if BACKEND == "jax":
        return int(value.unsafe_buffer_pointer())
    if BACKEND == "tensorflow":
        import tensorflow as tf

        value = tf.bitcast(value, "uint16") if value.dtype == "bfloat16" else value
        value = np.from_dlpack(value.value() if hasattr(value, "assign") else value)
    return address_of_buffer(value)


def address_of_buffer(out: Any) -> int:
    return int(out.data_ptr() if BACKEND == "torch" else out.ctypes.data)


class Late(keras.Model):  # type: ignore[misc]
    """Builds its layers at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = L.Dense(16, kernel_initializer=fk.HeNormal(seed=5))
        self.last = L.Dense(4)

    def call(self, x: Any) -> Any:
        return self.last(self.first(x))


def check_models_that_are_built_late_have_their_values() -> None:
    ones = np.ones((4, 8), "float32")
    late = Late()
    late(ones)
    assert equals(late.first.kernel, (8, 16), HE)
    if BACKEND != "numpy":  # which trains nothing
        model = keras.Sequential(
            [
                L.Dense(16, kernel_initializer=fk.HeNormal(seed=5)),
                L.Dense(4, kernel_initializer=fk.HeNormal(seed=keras.random.SeedGenerator(5))),
            ]
        )
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.fit(ones, np.ones((4, 4)), verbose=0)
        assert equals(model.layers[0].kernel, (8, 16), HE)
        late = Late()
        late.compile(keras.optimizers.SGD(0.0), "mse")
        late.fit(ones, np.ones((4, 4)), verbose=0)
        assert equals(late.first.kernel, (8, 16), HE)
    late = Late()
    late.predict(ones, verbose=0)
    assert equals(late.first.kernel, (8, 16), HE)


def check_a_stateless_scope_gets_values() -> None:
    """Nothing is thrown away there: a layer may call an initializer inside of its own call."""
    with keras.StatelessScope():
        assert equals(fk.HeNormal(seed=5)((8, 16)), (8, 16), HE)


def check_shapes_are_inferred_without_a_draw() -> None:
    from keras.src.backend import compute_output_spec

    generator = keras.random.SeedGenerator(5)
    made = fk.HeNormal(seed=generator)
    known: list[Any] = []

    def call(x: Any) -> Any:
        known.append(made((4, 4)))
        return x + known[-1]

    with filled() as buffers:
        inferred = compute_output_spec(call, keras.KerasTensor((4, 4)))
    assert tuple(inferred.shape) == (4, 4)
    assert known
    assert not buffers
    for value in known:
        if BACKEND == "torch":
            assert value.is_meta
        elif BACKEND == "jax":
            import jax

            assert isinstance(value, jax.core.Tracer)
        elif BACKEND == "numpy":
            assert not value.any()
    assert keras.ops.convert_to_numpy(generator.state.value).tolist() == [5, 0]


def check_one_model_on_all_backends() -> str:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8,)), L.Dense(16, kernel_initializer="fanfill>HeNormal")])
    model.add(L.Dense(4, kernel_initializer="fanfill>RandomNormal"))
    return digest(model.weights)


def check_init_model_on_all_backends() -> str:
    found = set()
    for _ in range(2):  # layers are numbered on: dense_7
        model = fk.init_model(undrawn_model(), 0, rules={"head/kernel": ff.normal(std=0.02)})
        found.add(digest(model.weights))
    assert len(found) == 1
    from fanfill.keras.names import named_variables

    named = {name: variable for name, variable, _ in named_variables(model)}
    assert list(named) == NAMES
    for name, law in (
        ("conv2d/kernel", HE),
        ("depthwise_conv2d/kernel", ff.glorot_uniform()),
        ("separable_conv2d/pointwise_kernel", ff.glorot_uniform()),
        ("multi_head_attention/query/kernel", ff.glorot_uniform(**EINSUM)),
        ("multi_head_attention/attention_output/kernel", ff.glorot_uniform(**JOINED)),
        ("bidirectional/backward_lstm/lstm_cell/recurrent_kernel", ff.glorot_uniform()),
        ("head/kernel", ff.normal(std=0.02)),
    ):
        variable = named[name]
        assert equals(variable, tuple(variable.shape), law, 0, name=name), name
    return found.pop()


def check_a_model_trains_from_what_init_model_gave_it() -> None:
    """The variables are still the model's."""
    if BACKEND == "numpy":  # where Keras trains nothing
        return
    # One layer: to compile a step of the model above takes half a minute, and shows no more.
    model = keras.Sequential([keras.Input((4,)), L.Dense(2, use_bias=False)])
    fk.init_model(model, 0)
    before = digest(model.weights)
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    assert digest(model.weights) != before
    fk.init_model(model, 0)
    assert digest(model.weights) == before


def check_layouts() -> None:
    """The distribution API, which JAX alone has: each device holds, and draws, its part."""
    if BACKEND != "jax":
        return
    import jax

    devices = keras.distribution.list_devices()
    assert len(devices) == 4
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    try:
        wanted = layouts["a/kernel"]

        def is_drawn_in_parts(draw: Callable[[], Any], seed: int = 5, parts: int = 2, **name: str) -> bool:
            """Each device keeps its half, and nobody has drawn a whole. Replicas may share a draw."""
            with filled() as buffers:
                value = jax.block_until_ready(draw())  # of every replica: to read one waits for that alone
                assert equals(value, (64, 32), HE, seed, **name)
            assert {part.data.shape for part in value.addressable_shards} == {(64, 16)}
            return [out.shape for out in buffers] == [(64, 16)] * parts

        def kernel_of_layer(initializer: Any) -> Any:
            layer = L.Dense(32, kernel_initializer=initializer)
            layer.build((None, 64))
            return layer.kernel.value

        # Before 3.15 Keras hands no layout to an initializer, and cuts the whole tensor up.
        has_layout = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 15)
        generator = keras.random.SeedGenerator(0)
        for seed, words in ((5, 5), (generator, 0)):
            draw = functools.partial(kernel_of_layer, fk.HeNormal(seed=seed))
            assert is_drawn_in_parts(draw, words) == has_layout
        assert is_drawn_in_parts(lambda: fk.HeNormal(seed=5)((64, 32), layout=wanted))
        layer = L.Dense(32, use_bias=False, kernel_initializer="he_normal")
        model = keras.Sequential([keras.Input((64,)), layer])
        assert is_drawn_in_parts(lambda: fk.init_model(model, 3).weights[0].value, 3, name="dense/kernel")
        # Of a large variable whose initializer takes no layout, Keras compiles the call.
        compiled = jax.jit(
            fk.HeNormal(seed=5).__call__,
            out_shardings=wanted.backend_layout,
            static_argnames=["shape", "dtype"],
        )
        assert is_drawn_in_parts(lambda: compiled(shape=(64, 32), dtype="float32"), parts=4)
    finally:
        keras.distribution.set_distribution(None)


def check_a_traced_seed() -> None:
    if BACKEND != "jax":
        return
    import jax

    generator = keras.random.SeedGenerator(5)
    made = fk.HeNormal(seed=generator)

    @jax.jit
    def run(state: Any) -> Any:
        with keras.StatelessScope([(generator.state, state)]) as scope:
            values = made((4, 3)), made((4, 3))
        return values, scope.get_current_value(generator.state)

    values, state = run(generator.state.value)
    assert np.asarray(state).tolist() == [5, 2]
    for count, value in enumerate(values):
        assert equals(value, (4, 3), HE, 5 << 32 | count)


def check_a_graph_gets_values() -> None:
    """Not to execute eagerly is not to infer shapes."""
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    @tf.function  # type: ignore[untyped-decorator]
    def run() -> Any:
        return fk.HeNormal(seed=5)((64, 32)) + 0.0

    assert equals(run(), (64, 32), HE)
    # DLPack of memory that is not aligned would abort here.
    for shape in ((1,), (3, 5), (7, 3, 3)):
        value = fk.HeNormal(seed=5)(shape)
        assert address(value) % 64 == 0
        assert np.isfinite(tf.linalg.norm(value + value).numpy())


CHECKS: dict[str, Callable[[], str | None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}


def attempt(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", call()
    except Exception:
        return traceback.format_exc(), None


def run_all(folder: Path) -> dict[str, Any]:
    failures, values = {}, {}
    for name, check in CHECKS.items():
        failures[name], values[name] = attempt(check)
    return {"failures": failures, "values": values}


def main(folder: Path) -> None:
    values = {}
    without = attempt(lambda: load(folder, SAVED_BY))
    assert "fanfill.keras" not in sys.modules
    import_fanfill()
    found = run_all(folder)
    for name, (failure, values) in {
        "load_without_fanfill": without,
        "load": attempt(lambda: load(folder, SAVED_BY)),
        "save": attempt(lambda: save(folder)),
    }.items():
        found["failures"][name], found["values"][name] = failure, values
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
