"""The CUDA source as g++ compiles it makes the NumPy backend's bits: values, indices, and nothing beyond."""

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import FORMS
from cuda_on_cpu.shim import COMPUTED, NAMES, Shim

import fanfill as ff
from fanfill.distributions import recipe
from fanfill_kernels import cuda
from fanfill_kernels.arithmetic import clamp, scaled
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.cuda.geometry import (
    AXES,
    AXIS,
    BOX,
    GRID,
    HALF_LINE,
    RUN,
    THREADS,
    launches,
    resident,
    taken,
)
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import form_of
from fanfill_kernels.narrow import store_of

INF = math.inf
LAWS = {
    "words": [None],
    "uniform": [ff.uniform(-0.05, 0.05), ff.uniform(-1.7, 1.7)],
    "uniform_clamped": [ff.uniform(-0.05, 0.05, endpoint=False), ff.uniform(-2, 2, endpoint=False)],
    "uniform_range": [ff.uniform(-0.5, 1.5), ff.uniform(0, 0.1), ff.uniform(10, 12, endpoint=False)],
    "normal": [ff.normal(0.0, 0.02), ff.normal(0.25, 2.0)],
    "truncated_central": [ff.truncated_normal(0.0, 0.02), ff.truncated_normal(0.5, 1.5, -1.0, 0.25)],
    "truncated": [
        ff.truncated_normal(0.0, 0.02, -3.0, 3.0),
        ff.truncated_normal(0.1, 0.5, 3.0, 5.0),
        ff.truncated_normal(0.1, 0.5, -INF, -4.0),
        ff.truncated_normal(0.0, 1.0, -INF, INF),
    ],
}
CASES = [(form, dtype, law) for form, dtype in COMPUTED for law in range(len(LAWS.get(form, ())))]
# Heads, tails and axes depend on an item's size and on how many words make a value, and on nothing else.
each_store = pytest.mark.parametrize(
    ("form", "dtype"),
    [
        pytest.param(
            form,
            dtype,
            marks=()
            if form in ("words", "uniform_clamped", "normal")
            and dtype in ("uint32", "float64", "float32", "float16", "float8_e5m2")
            else pytest.mark.slow,
        )
        for form, dtype in COMPUTED
    ],
)
KEY = (0x01234567, 0xC0FFEE01, 0x89ABCDEF, 0x7654321F)
EXTREMES = sorted({w % 2**32 for b in range(33) for w in (2**b - 2, 2**b - 1, 2**b, 2**b + 1)} | {0, 5})
FILL = 0xA5


def params_of(form: str, dtype: str, law: int = 0) -> tuple[Any, ...]:
    chosen = LAWS[form][law]
    if chosen is None:
        return ()
    made = recipe(chosen, (64,), dtype)
    assert made.form == form
    return made.params


def numpy_values(form: str, dtype: str, words: Any, params: Any) -> Any:
    """What the lane functions make of words, four a block."""
    how = form_of(form, dtype)
    pairs = words.view(np.uint64)
    with np.errstate(all="ignore"):
        if how.arguments is not None:
            pairs = how.arguments(pairs, params)
        lanes = pairs if dtype == "float64" else pairs.view(np.uint32)
        made = (
            how.function(lanes[0::2], lanes[1::2], params) if how.paired else (how.function(lanes, params),)
        )
        stored = [np.ascontiguousarray(store_of(dtype)(value)) for value in made]
    whole = np.stack(stored, axis=1).ravel()
    if whole.dtype.itemsize != FORMATS[dtype].itemsize:
        return whole.astype(f"<u{FORMATS[dtype].itemsize}")
    return whole.view(f"<u{FORMATS[dtype].itemsize}")


@cache
def numpy_kernels(form: str, dtype: str) -> Any:
    return blocks.kernels(form, dtype)


def numpy_elements(form: str, dtype: str, start: int, shape: Any, pitches: Any, params: Any) -> Any:
    """The bits of the NumPy backend's box."""
    out = np.empty(math.prod(shape), f"<u{FORMATS[dtype].itemsize}")
    lanes = {"float32": np.float32, "float64": np.float64}.get(dtype, out.dtype)
    kernels = numpy_kernels(form, dtype)
    if tuple(pitches) == (1,):
        kernels.run(out.view(lanes), start, KEY, params)
    else:
        kernels.box(out.view(lanes), start, tuple(shape), tuple(pitches), KEY, params)
    return out.reshape(shape)


def assert_filled(
    shim: Shim, form: str, dtype: str, start: int, view: Any, memory: Any, pitches: Any, params: Any
) -> None:
    """Fill a view of some memory, whose other bytes must stay."""
    memory.view(np.uint8)[...] = FILL
    expected = memory.copy()
    offset = view.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
    there = np.ndarray(view.shape, view.dtype, expected.data, offset, view.strides)
    there[...] = numpy_elements(form, dtype, start, view.shape, pitches, params)
    axes = list(zip(view.shape, pitches, view.strides, strict=True))
    for launch in launches(form, dtype, view.__array_interface__["data"][0], start, axes, KEY, params):
        shim.launch(launch)
    assert np.array_equal(memory, expected)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shim:
    """With the boxes that the tests of this run ask for: all of them take a third of the time."""
    boxes = [name for name in NAMES if name.startswith("constant_")] + ["uniform_float32"]
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.function is test_boxes:
            form, dtype = item.callspec.params["form"], item.callspec.params["dtype"]
            boxes.append(f"{taken(form, params_of(form, dtype))[0]}_{dtype}")
    return Shim(cuda.source(), tmp_path_factory.mktemp("shim"), boxes=dict.fromkeys((*boxes, "words_uint32")))


def aligned(size: int, dtype: str, at: int = 0) -> tuple[Any, Any]:
    """Memory with a border, and a flat array of `size` lanes in it that lies `at` lanes behind 16 bytes."""
    lane = np.dtype(f"<u{FORMATS[dtype].itemsize}")
    memory = np.empty(size * lane.itemsize + 512, np.uint8)
    first = -memory.ctypes.data % 16 + 64 + at * lane.itemsize
    return memory, memory[first : first + size * lane.itemsize].view(lane)


def test_every_form_has_its_laws() -> None:
    assert LAWS.keys() == {"words", *FORMS}, "a form needs an entry in LAWS"


@pytest.mark.parametrize(("form", "dtype", "law"), CASES)
def test_extreme_words(shim: Shim, form: str, dtype: str, law: int) -> None:
    """All pairs of extreme words; for float64, where a word is two, all pairs of a value's halves as well."""
    pairs = np.array(list(itertools.product(EXTREMES, EXTREMES)), np.uint32)
    words = pairs.ravel() if pairs.shape[0] % 2 == 0 else np.append(pairs.ravel(), pairs[0])
    if dtype == "float64":
        other = np.random.default_rng(3).integers(0, 2**32, words.size, np.uint32)
        mixed = np.stack([words.reshape(-1, 2), other.reshape(-1, 2)], axis=1)
        words = np.concatenate([mixed.ravel(), mixed[:, ::-1].ravel(), words])
    words = np.ascontiguousarray(words)
    params = params_of(form, dtype, law)
    assert np.array_equal(shim.values(form, dtype, words, params), numpy_values(form, dtype, words, params))


@pytest.mark.parametrize("values", [10**6, pytest.param(10**7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("form", "dtype", "law"), CASES)
def test_random_values(shim: Shim, form: str, dtype: str, law: int, values: int) -> None:
    """Of every form and dtype, over all its laws together."""
    count = values // len(LAWS[form])
    memory, out = aligned(count, dtype)
    assert_filled(shim, form, dtype, 10**9, out, memory, (1,), params_of(form, dtype, law))


@pytest.mark.parametrize(("form", "dtype"), COMPUTED)
def test_counters(shim: Shim, form: str, dtype: str) -> None:
    """Around 2^32 elements, 2^32 Philox blocks and further multiples, from before and exactly there."""
    boundaries, places = (2**32, 2**34, 2**33, 2**35, 2**40), ((-1024, 3001), (0, 517), (-3, 7))
    for boundary, (before, count) in itertools.product(boundaries, places):
        start = boundary + before
        memory, out = aligned(count, dtype, at=start % 16)
        assert_filled(shim, form, dtype, start, out, memory, (1,), params_of(form, dtype))


@each_store
def test_heads_and_tails(shim: Shim, form: str, dtype: str) -> None:
    """Every alignment of the first element in its group, with lengths around one and two groups, and every
    alignment of the memory.
    """
    params = params_of(form, dtype)
    places = [*itertools.product(range(17), (1, 2, 15, 16, 17, 33)), (0, 4100), (3, 4100), (13, 2048)]
    for start, count in places:
        for at in {start, start // 5}:
            memory, out = aligned(count, dtype, at)
            assert_filled(shim, form, dtype, start, out, memory, (1,), params)


# Shape of the buffer, its start in the tensor, and its axes' pitches there; then the order of the axes in
# memory, lanes left out between the places of an axis, and axes that run backwards.
BOXES = {
    "columns": ((37, 29), 1234, (64, 1), (0, 1), (0, 0), ()),
    "aligned columns": ((9, 64), 2**20, (256, 1), (0, 1), (0, 0), ()),
    "rows of a padded array": ((6, 32), 5 * 2**30, (32, 1), (0, 1), (48, 0), ()),
    "transposed memory": ((23, 19), 77, (19, 1), (1, 0), (0, 0), ()),
    "no consecutive indices": ((13, 11), 2**33 + 1, (700, 3), (0, 1), (0, 0), ()),
    "short rows": ((40, 3), 2, (5, 1), (0, 1), (0, 0), ()),
    "backwards": ((7, 5, 9), 10**12, (45, 9, 1), (0, 1, 2), (0, 0, 0), (0, 2)),
    "backwards and apart": ((7, 5, 9), 3, (450, 90, 1), (2, 0, 1), (16, 0, 4), (1, 2)),
    "across 2^34": ((5, 1000), 2**34 - 2100, (1000, 1), (0, 1), (8, 0), ()),
    "misaligned": ((1000,), 3, (1,), (0,), (0,), ()),
    "apart": ((1000,), 3, (1,), (0,), (2,), ()),
    "one element": ((1, 1), 3, (7, 1), (0, 1), (0, 0), ()),
    "many axes": ((2,) * 10, 9, tuple(3**k for k in range(9, -1, -1)), tuple(range(10)), (0,) * 10, (3,)),
}


def boxed(dtype: str, shape: Any, order: Any, apart: Any, backwards: Any) -> tuple[Any, Any]:
    """Memory, and a view of it with axes in this order, outermost first, places apart, some backwards."""
    lane = np.dtype(f"<u{FORMATS[dtype].itemsize}")
    strides = [0] * len(shape)
    extent = 1
    for axis in reversed(order):
        strides[axis] = extent + apart[axis]
        extent = strides[axis] * shape[axis]
    memory, flat = aligned(extent, dtype)
    view = np.lib.stride_tricks.as_strided(flat, shape, [s * lane.itemsize for s in strides])
    return memory, view[tuple(slice(None, None, -1 if k in backwards else 1) for k in range(len(shape)))]


@each_store
def test_boxes(shim: Shim, form: str, dtype: str) -> None:
    params = params_of(form, dtype)
    for shape, start, pitches, order, apart, backwards in BOXES.values():
        memory, view = boxed(dtype, shape, order, apart, backwards)
        assert_filled(shim, form, dtype, start, view, memory, pitches, params)


def test_more_axes_than_a_launch_takes(shim: Shim) -> None:
    shape = (2,) * (AXES + 2)
    pitches = tuple(3**k for k in reversed(range(AXES + 2)))
    memory, view = boxed("float32", shape, range(AXES + 2), (0,) * (AXES + 2), ())
    assert_filled(shim, "uniform", "float32", 0, view, memory, pitches, params_of("uniform", "float32"))
    axes = list(zip(shape, pitches, view.strides, strict=True))
    made = list(launches("uniform", "float32", 0, 0, axes, KEY, params_of("uniform", "float32")))
    assert len(made) == 4


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float8_e5m2", "float8_e4m3fnuz"])
@pytest.mark.parametrize("shape", [(1,), (5,), (4099,), (3, 0), (7, 33), (64, 16)])
def test_constants(shim: Shim, dtype: str, shape: tuple[int, ...]) -> None:
    """Runs and boxes of a constant; the indices do not matter, not even negative steps of them."""
    bits = 0x0123456789ABCDEF >> 64 - 8 * FORMATS[dtype].itemsize
    for apart, at in itertools.product((0, 3), (0, 1, 3)):
        memory, flat = aligned(math.prod(shape[:-1]) * (shape[-1] + apart) + 1, dtype, at)
        row = flat[: math.prod(shape[:-1]) * (shape[-1] + apart)].reshape(*shape[:-1], shape[-1] + apart)
        for view in (row[..., : shape[-1]], row[..., : shape[-1]].T):
            memory[...] = FILL
            expected = memory.copy()
            start = view.__array_interface__["data"][0]
            offset = start - memory.__array_interface__["data"][0]
            np.ndarray(view.shape, view.dtype, expected.data, offset, view.strides)[...] = bits
            axes = [(n, 12345, stride) for n, stride in zip(view.shape, view.strides, strict=True)]
            for launch in launches("constant", dtype, start, 7, axes, KEY, (bits,)):
                shim.launch(launch)
            assert np.array_equal(memory, expected)


def test_launches_of_huge_tensors() -> None:
    """Nothing is drawn: runs are cut where the upper half of the block's number changes, boxes where a grid
    ends.
    """
    params = params_of("normal", "float32")
    start, address = 4 * HALF_LINE - 100, 16 * HALF_LINE
    made = list(
        launches("normal", "float32", address - 400, start, [(8 * HALF_LINE + 200, 1, 4)], KEY, params)
    )
    spans = [RUN.unpack(one.arguments[1]) for one in made]
    assert [count for count, *_ in spans] == [100, 4 * HALF_LINE, 4 * HALF_LINE, 100]
    assert [int.from_bytes(one.arguments[0], "little") for one in made] == [
        address - 400,
        *(16 * HALF_LINE * n for n in (1, 2, 3)),
    ]
    assert [block for _, block, *_ in spans] == [HALF_LINE - 25, 0, 0, 0]
    assert all(one.blocks <= GRID and one.threads == THREADS for one in made)
    # One thread for each element that has no neighbour in the tensor.
    made = list(launches("normal", "float32", 0, 0, [(2**41, 2, 4)], KEY, params))
    assert [BOX.unpack(one.arguments[1])[1] for one in made] == [n * GRID * THREADS for n in range(5)]
    assert sum(one.blocks for one in made) * THREADS == 2**41


@pytest.mark.parametrize("more", [0, 1, 2**22])
def test_the_last_chunk_of_the_longest_launch(shim: Shim, more: int) -> None:
    """Its groups are the last that 32 bits number. The loop over chunks makes them once and ends, whatever
    the grid: 32 bits may not hold its step.
    """
    params, group = params_of("normal", "float32"), 16 // 4
    chunk = 2 * THREADS * group
    chunks = group * HALF_LINE // chunk
    memory, out = aligned(chunk, "float32")
    start = (chunks - 1) * chunk
    address = out.ctypes.data - 4 * start
    (one,) = launches("normal", "float32", address, 0, [(group * HALF_LINE, 1, 4)], KEY, params)
    assert (one.blocks, start // group + 2 * THREADS) == (chunks, 2**32)
    memory.view(np.uint8)[...] = FILL
    around = memory.copy()
    shim.launch(one._replace(blocks=chunks + more), range(chunks - 1, chunks))
    assert np.array_equal(out, numpy_elements("normal", "float32", start, out.shape, (1,), params))
    out.view(np.uint8)[...] = FILL
    assert np.array_equal(memory, around)


def division(n: int, axis: Any) -> int:
    """The kernels' quotient of a thread number and an axis' length."""
    _, magic, _, _, shift, _ = axis
    return (4 * n * magic >> 64) >> shift


def test_division_by_multiplication() -> None:
    """Exact for thread numbers below 2^62, at multiples of the length and one below them."""
    rng = np.random.default_rng(5)
    lengths = [2, 3, 5, 7, 641, 2**31, 2**32 - 1, 2**32 + 1, 2**40 + 3, 2**61 + 1]
    for length in lengths + [int(x) for x in rng.integers(1, 2**45, 200)]:
        one = next(launches("words", "uint32", 0, 0, [(length, 5, 8), (2, 5, 4)], KEY, ()))
        axis = AXIS.unpack_from(BOX.unpack(one.arguments[1])[-1])
        largest = (2**62 - 1) // length
        for q in {0, 1, 2, largest - 1, largest, int(rng.integers(0, largest + 1))}:
            for n in (q * length, q * length + length - 1):
                if 0 <= n < 2**62:
                    assert division(n, axis) == n // length


# What is changed in one build, and where it must show; each change is of the least kind.
PERTURBED = {
    ("normal", "float32"): ("0x1.465fep+1f", "0x1.465fe2p+1f"),
    ("truncated_central", "float32"): ("0x1.4415e4p+11f", "0x1.4415e6p+11f"),
    ("normal", "float64"): ("0x1.03c1f081b5a53p+2", "0x1.03c1f081b5a54p+2"),
    ("uniform_clamped", "bfloat16"): ("HALF_BF16 = 0x7fffu", "HALF_BF16 = 0x8000u"),
    ("uniform_clamped", "float8_e4m3fn"): ("0x1p+14f, 141u", "0x1p+13f, 140u"),
    ("uniform", "float64"): ("i64(w) | ODD", "i64(w) | (2 * ODD)"),
}


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    source = cuda.source()
    for right, wrong in PERTURBED.values():
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    names = [f"{taken(case[0], params_of(*case))[0]}_{case[1]}" for case in PERTURBED]
    return Shim(source, tmp_path_factory.mktemp("perturbed"), "-O0", names)


@pytest.mark.parametrize(("form", "dtype"), PERTURBED)
def test_a_perturbed_constant_is_found(perturbed: Shim, form: str, dtype: str) -> None:
    memory, out = aligned(10**5, dtype)
    params = params_of(form, dtype)
    with pytest.raises(AssertionError):
        assert_filled(perturbed, form, dtype, 0, out, memory, (1,), params)


def test_words_are_those_of_the_known_answers(shim: Shim) -> None:
    """Against the generator's own definition, and so that both routes through the rounds are walked."""
    for start, count in ((0, 64), (2**34 - 32, 64), (2**50 + 1, 63)):
        made = []
        for stride in (1, 2):
            _, out = aligned(stride * count, "uint32", at=start % 4)
            view = out[::stride]
            axes = [(count, 1, 4 * stride)]
            for launch in launches("words", "uint32", view.ctypes.data, start, axes, KEY, ()):
                shim.launch(launch)
            made.append(view.copy())
        assert np.array_equal(*made)
        assert [int(w) for w in made[0][:5]] == [philox_word(start + n) for n in range(5)]


def philox_word(index: int) -> int:
    k0, k1, *substream = KEY
    c = [index // 4 % 2**32, index // 4 >> 32, *substream]
    for r in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        key = (k0 + r * 0x9E3779B9) % 2**32, (k1 + r * 0xBB67AE85) % 2**32
        c = [p1 >> 32 ^ c[1] ^ key[0], p1 % 2**32, p0 >> 32 ^ c[3] ^ key[1], p0 % 2**32]
    return c[index % 4]


def values_of(form: str, params: Any, z: Any) -> Any:
    """The values of a truncated normal for values of z: as arithmetic.py has them, and as `taken` does."""
    lower, upper, std, mean, low, high = params[-6:]
    *_, std_taken, mean_taken, least, greatest = taken(form, params)[1]
    with np.errstate(over="ignore"):
        twice = scaled(z, lower, upper, std, mean, low, high)
        return twice, clamp(z * std_taken + mean_taken, least, greatest)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float8_e5m2"])
def test_one_clamp_is_two(dtype: str) -> None:
    """Around both cuts, both ends and far outside, also where an end is none."""
    for law in (
        *LAWS["truncated_central"],
        *LAWS["truncated"],
        ff.truncated_normal(0.0, 1.0, -1.0, 0.0),
        ff.truncated_normal(3.0, 1.0, -3.0, -2.0),
        ff.truncated_normal(0.0, 3.0, -1.9, 1e30),
    ):
        made = recipe(law, (1,), dtype)
        compute = FORMATS[dtype].compute
        lower, upper, std, mean, low, high = made.params[-6:]
        near = [p for p in (lower, upper, (low - mean) / std, (high - mean) / std) if np.isfinite(p)]
        z = np.concatenate(
            [
                np.linspace(-9, 9, 1001, dtype=compute),
                *(compute(p) * (1 + np.arange(-50, 51, dtype=compute) * np.finfo(compute).eps) for p in near),
            ]
        ).astype(compute)
        twice, once = values_of(made.form, made.params, z)
        assert twice.tobytes() == once.tobytes()
        assert len(np.unique(once)) > 3


def test_a_kernel_gets_no_mean_that_is_zero() -> None:
    for mean in (0.0, -0.0):
        made = recipe(ff.normal(mean, 2.0), (1,), "float32")
        assert taken(made.form, made.params) == ("normal_centred", (np.float32(2.0),))
    made = recipe(ff.normal(1.0, 2.0), (1,), "float32")
    assert taken(made.form, made.params) == ("normal", made.params)


def test_thread_blocks_of_a_launch() -> None:
    """Of a strided kernel 16 to 64 a multiprocessor, with four chunks each; of others all."""
    name = "run_normal_centred_bfloat16"
    counts = (1, 159, 160, 161, 640, 1000, 2560, 10**6)
    assert [resident(name, n, 10) for n in counts] == [1, 159, 160, 160, 160, 250, 320, 320]
    for other in ("run_uniform_float32", "run_normal_float64", "box_normal_float32", "run_constant_8"):
        assert resident(other, 10**6, 10) == 10**6
