"""CUDA devices under JAX, as far as a machine without one can show it.

Emulated: the device, its memory and launches (`cuda_on_cpu.fixtures`); XLA's call frame is made here. Real:
the native gate, the handler, the kernels' PTX run on the CPU, and what JAX lowers for the platform "cuda".
Not shown: XLA calling the handler, its streams and command buffers, and CuPy's memory in JAX's hands. For
those ``ci/gpu.sh`` runs `benchmarks/jax_cuda.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("fanfill.jax.gate", reason="llvmlite is not installed")
cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

import jax_cuda  # noqa: E402
from cuda_on_cpu.cupy_on_host import Machine  # noqa: E402
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: E402, F401
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fanfill as ff  # noqa: E402
import fanfill.jax as fj  # noqa: E402
from fanfill.jax import callframe, ffi, memory, on_cuda, tracing  # noqa: E402
from fanfill.jax.callframe import Api, Frame  # noqa: E402
from fanfill.jax.spec import Spec, encode  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiling_nothing")

LAW = ff.normal(0.0, 0.02)
SEED = 0xC0FFEE01_01234567
NUMBERS = {dtype: number for number, dtype in callframe._DTYPES.items()}
STREAM = 2


def structure(name: str) -> Any:
    return getattr(callframe, f"_{name}")


class Xla:
    """XLA's side of a custom call on device 1: its API, and frames with what it would hand over."""

    def __init__(self, gpu: Machine) -> None:  # noqa: F811
        self.gpu = gpu
        self.errors: list[str] = []
        self.refuses = 0
        self.kept: list[Any] = []
        error = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(callframe.ErrorArgs))(self.error)
        stream = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(callframe.StreamArgs))(self.stream)
        self.functions = error, stream
        self.api = Api(
            error_create=ctypes.cast(error, ctypes.c_void_p), stream_get=ctypes.cast(stream, ctypes.c_void_p)
        )

    def error(self, args: Any) -> int:
        self.errors.append(args.contents.message.decode())
        return 77

    def stream(self, args: Any) -> int:
        assert args.contents.context == 0xC0
        args.contents.stream = STREAM
        return self.refuses

    def memory(self, array: np.ndarray) -> Any:
        """A buffer in the device's memory that holds this array."""
        with self.gpu.use(1):
            made = cupy.empty(max(array.nbytes, 1), cupy.uint8)
        self.gpu.bytes(made.data.ptr, array.nbytes)[:] = (
            np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        )
        dims = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        self.kept += [made, dims]
        return structure("Buffer")(dtype=NUMBERS[array.dtype], data=made.data.ptr, rank=array.ndim, dims=dims)

    def frame(self, words: Any, offsets: Any, out: np.ndarray, text: str) -> Any:
        """A frame, and a function that reads its result."""

        def listed(*buffers: Any) -> Any:
            places = (ctypes.POINTER(structure("Buffer")) * len(buffers))(*map(ctypes.pointer, buffers))
            self.kept += [buffers, places]
            return structure("Buffers")(size=len(buffers), items=places)

        spec = ctypes.create_string_buffer(text.encode())
        span = structure("Span")(pointer=ctypes.addressof(spec), size=len(text))
        items = (ctypes.c_void_p * 1)(ctypes.addressof(span))
        result = self.memory(out)
        self.kept += [spec, span, items]
        frame = Frame(
            api=ctypes.addressof(self.api),
            context=0xC0,
            stage=3,
            operands=listed(
                self.memory(np.asarray(words, np.uint32)), self.memory(np.asarray(offsets, np.uint32))
            ),
            results=listed(result),
            attributes=structure("Attributes")(size=1, items=items),
        )
        return (
            frame,
            lambda: self.gpu.bytes(result.data, out.nbytes).view(out.dtype).reshape(out.shape).copy(),
        )


@pytest.fixture(scope="module")
def handler() -> Callable[[Any], Any]:
    """The gate around the handler for CUDA, as XLA gets it; and what it would be registered as."""
    with pytest.MonkeyPatch.context() as patch:
        asked: list[Any] = []
        patch.setattr(on_cuda, "has_plugin", lambda: True)
        patch.setattr(jax.ffi, "register_ffi_target", lambda *given, **named: asked.append((*given, named)))
        patch.setattr(jax.ffi, f"_{fj.TARGET}_CUDA", None, raising=False)
        patch.delattr(jax.ffi, f"_{fj.TARGET}_CUDA")
        assert ffi.register("CUDA")
        assert ffi.register("CUDA")
        ((name, _, named),) = asked
        assert (name, named) == (fj.TARGET, {"platform": "CUDA"})
        gate, _ = getattr(jax.ffi, f"_{fj.TARGET}_CUDA")
    call = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(gate.address)
    kept = gate  # native code, as long as tests call it

    def through(frame: Any) -> Any:
        assert kept.address
        return call(ctypes.addressof(frame))

    return through


@pytest.fixture
def xla(gpu: Machine) -> Xla:  # noqa: F811
    return Xla(gpu)


def words_of(*seeds: int) -> np.ndarray:
    return np.array([[seed >> 32, seed & 0xFFFFFFFF] for seed in seeds], np.uint32)


def test_the_handler_says_that_its_work_may_be_captured(handler: Any) -> None:
    metadata = structure("Metadata")()
    extension = structure("MetadataExtension")(metadata=ctypes.pointer(metadata))
    extension.base.type = 1
    frame = Frame(extension=ctypes.cast(ctypes.pointer(extension), ctypes.POINTER(structure("Extension"))))
    assert handler(frame) is None
    assert (metadata.version.major, metadata.version.minor, metadata.traits) == (0, 1, callframe.CAPTURABLE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_call_launches_on_xlas_stream_and_draws_the_bits_of_draw(
    dtype: str, handler: Any, xla: Xla
) -> None:
    whole = ff.draw((24, 64), LAW, seed=SEED, name="w", dtype=dtype)
    frame, read = xla.frame(words_of(SEED)[0], (0, 0), np.zeros_like(whole), encode(Spec(LAW, (24, 64), "w")))
    xla.gpu.launches.clear()
    assert handler(frame) is None
    assert read().tobytes() == whole.tobytes()
    assert [launch[:1] + launch[3:] for launch in xla.gpu.launches] == [
        (f"keyed_run_normal_centred_{dtype}", 1, STREAM)
    ]
    # As XLA captures it: nothing is loaded, allocated, copied or waited for.
    with xla.gpu.capture():
        assert handler(frame) is None
    assert not xla.errors


def test_a_part_of_a_tensor_and_a_batch(handler: Any, xla: Xla) -> None:
    """As a partitioned and a mapped program call it; a batch axis of length 1 stands for any length."""
    seeds = (SEED, 5, 2**64 - 1)
    text = encode(Spec(LAW, (24, 64), 0))
    drawn = [ff.draw((24, 64), LAW, seed=seed) for seed in seeds]
    for offset, shape in (((16, 0), (8, 64)), ((0, 16), (24, 16))):
        box = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        frame, read = xla.frame(words_of(*seeds), [offset], np.zeros((3, *shape), np.float32), text)
        assert handler(frame) is None
        assert np.array_equal(read(), [one[box] for one in drawn])
        offsets = [(0, 0), offset, (0, 0)]
        frame, read = xla.frame(words_of(SEED), offsets, np.zeros((3, *shape), np.float32), text)
        assert handler(frame) is None
        first = drawn[0][: shape[0], : shape[1]]
        assert np.array_equal(read(), [first, drawn[0][box], first])


def test_an_error_in_the_handler_is_xlas(handler: Any, xla: Xla) -> None:
    text = encode(Spec(LAW, (4,), 0))
    frame, _ = xla.frame(np.zeros(4), (0,), np.zeros(4, np.float32), text)
    assert handler(frame) == 77
    xla.refuses = 5
    frame, _ = xla.frame(np.zeros(2), (0,), np.zeros(4, np.float32), text)
    assert handler(frame) == 77
    assert xla.errors == [
        "ValueError: expected keys of two words on a CUDA device; got 4; compile the program anew",
        "RuntimeError: expected a CUDA stream from XLA; got an error; report it with the versions of jax",
    ]


def test_without_jaxs_plugin_nothing_is_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(jax.ffi, "register_ffi_target", None)
    with monkeypatch.context() as patch:
        patch.setattr(on_cuda, "has_plugin", lambda: False)
        patch.delattr(jax.ffi, f"_{fj.TARGET}_CUDA", raising=False)
        assert not ffi.register("CUDA")
    on_cuda.has_plugin.cache_clear()
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "jax_plugins", raising=False)
    try:
        assert on_cuda.has_plugin()
    finally:
        on_cuda.has_plugin.cache_clear()


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Programs are traced as where JAX has CUDA devices."""
    monkeypatch.setattr(ffi, "available_on_cuda", True)
    monkeypatch.setattr(on_cuda, "unusable", lambda: None)
    tracing.traced.clear_cache()
    yield
    tracing.traced.clear_cache()


def lowered(draw: Any, key: Any) -> str:
    text: str = jax.jit(draw).trace(key).lower(lowering_platforms=("cuda",)).as_text()
    return text


def draw(key: Any, sharding: Any = None) -> Any:
    return fj.normal(0.02)(key, (64, 32), None, sharding)


KEY = jax.random.key(5)


@pytest.mark.usefixtures("usable")
def test_a_program_for_cuda_has_the_custom_call_and_no_callback() -> None:
    rbg = jax.random.key(5, impl="rbg")
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    sharded = NamedSharding(mesh, P("d"))
    for program, key, hashed in (
        (draw, KEY, False),
        (draw, rbg, True),  # hashed on the device
        (jax.vmap(draw), jax.random.split(rbg, 3), True),
        (lambda key: draw(key, sharded), KEY, False),
    ):
        text = lowered(program, key)
        assert text.count(f"@{fj.TARGET}(") == 1
        assert "callback" not in text
        assert ("stablehlo.while" in text) == hashed
    # The CPU's program is what it was.
    assert np.array_equal(
        jax.jit(draw)(rbg), ff.draw((64, 32), LAW, seed=fj.keys.seed_of(jax.random.key_data(rbg)))
    )


@pytest.mark.usefixtures("usable")
def test_without_a_usable_device_the_host_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: a callback, which JAX lowers for the devices that it has."""
    monkeypatch.setattr(on_cuda, "unusable", lambda: "no CuPy")
    with pytest.raises(ValueError, match="platform"):
        lowered(lambda key: draw(key), KEY)  # traced anew


@pytest.mark.usefixtures("usable")
def test_in_a_program_the_host_draws_matrices_as_a_whole() -> None:
    for init in (fj.orthogonal(), fj.JaxInitializer(ff.identity())):
        with pytest.raises(ValueError, match="platform"):  # a callback, as above
            lowered(lambda key, init=init: init(key, (6, 4)), KEY)


def test_a_key_is_hashed_as_on_the_host() -> None:
    hashed = jax.jit(fj.keys.two_words)
    for seed in range(3):  # words of an rbg key: one of another length would take another second to compile
        words = np.random.default_rng(seed).integers(0, 2**32, 4, np.uint32)
        high, low = map(int, hashed(words))
        assert high << 32 | low == fj.keys.seed_of(words)
    with pytest.raises(ValueError, match="key: expected at most 32 words of a key on a device; got 33"):
        fj.keys.two_words(np.zeros(33, np.uint32))


def test_only_cudas_devices_are_cudas() -> None:
    def device(platform: str, version: str) -> Any:
        client = type("Client", (), {"platform_version": version})
        return type("Device", (), {"platform": platform, "client": client})

    found = [
        on_cuda.is_cuda(device(*d)) for d in (("gpu", "cuda 12090"), ("gpu", "rocm 60300"), ("tpu", "TPU"))
    ]
    assert found == [True, False, False]
    assert not memory.on_devices(None)


# materialize


@pytest.fixture
def handed_over(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """JAX's eight CPU devices, each for a CUDA device of its number; CuPy's arrays that JAX has taken over.

    Taking over is emulated: a copy from the emulated device to the CPU device of its number.
    """
    machine = emulated(*(90,) * 8)
    machine.by_family = True
    taken: list[Any] = []

    def take(array: Any) -> Any:
        assert isinstance(array, cupy.ndarray)
        taken.append(array)
        return jax.device_put(machine.host(array), jax.devices()[array.device.id])

    monkeypatch.setattr(jax.dlpack, "from_dlpack", take)
    monkeypatch.setattr(on_cuda, "has_plugin", lambda: True)
    monkeypatch.setattr(on_cuda, "is_cuda", lambda device: True)
    return machine, taken


def leaf(*dims: int, dtype: Any = np.float32, partition: Any = None) -> Any:
    sharding = None
    if partition is not None:
        mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        sharding = NamedSharding(mesh, partition)
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def same(drawn: Any, wanted: np.ndarray) -> bool:
    return np.asarray(drawn).tobytes() == wanted.tobytes() and drawn.dtype == wanted.dtype


def test_materialize_draws_on_each_device_its_shard(
    handed_over: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, taken = handed_over
    monkeypatch.setattr(memory, "aligned", None)  # the host's way
    tree = {
        "a": leaf(64, 32, partition=P("data", "model")),
        "b": leaf(64, 32, dtype="bfloat16", partition=P("data")),
        "c": leaf(16, dtype="float8_e5m2", partition=P()),
        "d": leaf(3, 5),
        "e": leaf(0, 3, partition=P()),
    }
    # The narrow dtypes are a constant, whose kernels take no time to compile.
    laws = {"b": ff.constant(0.5), "c": ff.constant(0.5), "*": LAW}
    made = fj.materialize(tree, SEED, laws)
    for name, drawn in made.items():
        law = laws.get(name, LAW)
        wanted = ff.draw(tree[name].shape, law, seed=SEED, name=name, dtype=drawn.dtype)
        assert same(drawn, wanted), name
        assert tree[name].sharding is None or drawn.sharding == tree[name].sharding
    assert {launch.device for launch in machine.launches} == set(range(8))
    # Of float8, of which CuPy has no arrays, the bytes are taken over.
    assert [str(array.dtype) for array in taken] == ["float32"] * 8 + ["bfloat16"] * 8 + ["uint8"] * 8 + [
        "float32"
    ]
    assert [array.shape for array in taken[::8]] == [(16, 16), (16, 32), (16,), (3, 5)]
    assert [array.device.id for array in taken[:8]] == list(range(8))


def test_the_host_draws_what_it_alone_draws_and_sends_it(handed_over: Any) -> None:
    machine, taken = handed_over
    laws = {"orthogonal": ff.orthogonal(), "sparse": ff.sparse(0.5), "identity": ff.identity()}
    made = fj.materialize({name: leaf(8, 4, partition=P("data")) for name in laws}, 3, laws)
    for name, law in laws.items():
        assert same(made[name], ff.draw((8, 4), law, seed=3, name=name)), name
    assert len(taken) == 8  # the identity's shards, whose kernels every device has
    assert machine.launches


def test_the_host_draws_if_it_is_asked_to(handed_over: Any) -> None:
    machine, taken = handed_over
    made = fj.materialize({"w": leaf(8, 4, partition=P("data"))}, 3, {"w": LAW}, through_host=True)
    assert same(made["w"], ff.draw((8, 4), LAW, seed=3, name="w"))
    assert not machine.launches
    assert not taken


@pytest.mark.usefixtures("handed_over")
def test_devices_that_cannot_draw_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cuda, "unusable", lambda: "CuPy cannot be imported; pip install it")
    monkeypatch.setattr("fanfill.jax.trees.draw_shards", None)
    with pytest.raises(
        ff.BackendUnavailableError,
        match="expected CUDA devices that fanfill can draw on; got CuPy cannot be imported; pip install it; "
        "or draw on the host and send the values: through_host=True",
    ):
        fj.materialize({"w": leaf(8, 4)}, 3, {"w": LAW})


@pytest.mark.usefixtures("handed_over")
def test_an_initializer_draws_in_a_program_or_by_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of jit: on the default device in a program, so that the array is not committed to it."""
    monkeypatch.setattr(ffi, "available_on_cuda", True)
    tracing.traced.clear_cache()
    try:
        drawn = draw(KEY)
        assert same(drawn, ff.draw((64, 32), LAW, seed=5))
        assert not drawn.committed
        sharding = leaf(64, 32, partition=P("data")).sharding
        assert same(draw(KEY, sharding), ff.draw((64, 32), LAW, seed=5))
    finally:
        tracing.traced.clear_cache()


def test_the_acceptances_checks_are_right_of_a_cpu() -> None:
    """`benchmarks/jax_cuda.py` runs them on a GPU: that they are written rightly can be seen here."""
    found = dict(jax_cuda.checks(jax.devices("cpu")[0]))
    assert {"eager", "jit", "vmap", "scan", "a key of four words", "materialize, bfloat16"} <= set(found)
    assert found["jit"]()
    assert found["a key of four words"]()
    assert found["materialize, bfloat16"]()
    assert not jax_cuda.same(np.float32(1), np.ones((), np.float64))
