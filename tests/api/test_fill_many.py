"""Many tensors in one call: the values of single fills, or an error before anything is written."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from equality import assert_same_bits

import fanfill as ff
from fanfill.cpu import run as cpu_run
from fanfill.cpu import threads as pool
from fanfill.fill import plans
from fanfill_kernels.compile import rows
from fanfill_kernels.store import objects

LAW = ff.he_normal()
LARGE = (cpu_run.SMALL // 64 + 1, 64)


def several() -> list[tuple[Any, ...]]:
    """Buffers of all kinds, zeroed: small, large, strided, empty, narrow, constant, and parts of a tensor."""
    items: list[tuple[Any, ...]] = []
    for number, dtype in enumerate(("float32", "float64", "float16", ml_dtypes.bfloat16)):
        items += [
            (np.zeros((7, 5), dtype), LAW, f"small {number}"),
            (np.zeros((9, 6), dtype), ff.uniform(-1, 2), f"uniform {number}"),
            (np.zeros((5, 40), dtype).T, "xavier_uniform", f"transposed {number}"),
            (np.zeros(LARGE, dtype), ff.truncated_normal(), f"large {number}"),
            (np.full(33, 7, dtype), "zeros", f"bias {number}"),
            (np.zeros(33, dtype), "ones", number),
        ]
    items += [
        (np.zeros((0, 3), np.float32), LAW, "empty"),
        (np.zeros((), np.float32), ff.normal(), "scalar"),
        (np.zeros((20, 30), np.float32)[::2, ::-1], LAW, "strided"),
        (np.zeros((4, 8), np.float32), LAW, "sharded", (16, 8), (4, 0)),
        (np.zeros((4, 8), np.float32), LAW, "sharded", (16, 8), (12, 0)),
        (np.zeros(11, np.float32), ff.normal(), "flat", (10, 10), 5),
        (np.zeros(11, np.float32), ff.normal(), "flat", (10, 10), 16),
    ]
    return items


def single(item: tuple[Any, ...], seed: int) -> np.ndarray:
    """What `fill` draws, by NumPy."""
    buffer, law, name, *place = item
    law = {"zeros": ff.constant(0.0), "ones": ff.constant(1.0)}.get(law, law)
    out = np.empty(buffer.shape, buffer.dtype)
    where = dict(zip(("global_shape", "offset"), place, strict=False))
    return ff.fill(out, law, seed=seed, name=name, backend="numpy", **where)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("backend", [None, "numba", "numpy"])
def test_the_values_are_those_of_single_fills(backend: str | None, threads: int) -> None:
    items = several()
    for _ in range(2):  # the second time by plans that are remembered
        assert ff.fill_many(items, seed=5, backend=backend, threads=threads) is items
        for item in items:
            assert_same_bits(item[0].copy(), single(item, 5))
        for item in items:
            item[0][...] = 3
    plans.clear()


def test_a_mapping_names_its_items() -> None:
    items = {
        "w": (np.zeros((4, 3), np.float32), LAW),
        7: (np.zeros((4, 3), np.float32), LAW),
        "part": (np.zeros((2, 3), np.float32), LAW, (4, 3), (2, 0)),
        "first": (np.zeros((2, 3), np.float32), LAW, (4, 3)),
    }
    assert ff.fill_many(items, seed=1) is items
    for name, (buffer, law, *place) in items.items():
        assert_same_bits(buffer, single((buffer, law, name, *place), 1))


def test_an_iterator_of_lists_and_nothing_at_all_are_filled() -> None:
    buffer = np.zeros(5, np.float32)
    ff.fill_many(iter([[buffer, ff.normal(), "a"]]), seed=1)
    assert_same_bits(buffer, ff.draw(5, ff.normal(), seed=1, name="a"))
    assert ff.fill_many([], seed=1) == []
    assert ff.fill_many({}, seed=1) == {}


def test_thousands_of_small_tensors_are_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [(np.empty(500, np.float32), ff.normal(), number) for number in range(3000)]
    jobs: list[int] = []
    share = pool.share
    monkeypatch.setattr(pool, "share", lambda tasks, *rest: [jobs.append(tasks), share(tasks, *rest)])
    ff.fill_many(items, seed=1, threads=4)
    assert len(jobs) == 1
    assert 8 < jobs[0] < 100
    for buffer, law, name in items[::97]:
        assert_same_bits(buffer, ff.draw(500, law, seed=1, name=name))


def test_progress_counts_all_items_and_its_error_ends_the_job() -> None:
    items = several()
    total, seen = sum(item[0].size for item in items), []
    ff.fill_many(items, seed=1, threads=1, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (total, total)
    assert sorted(seen) == seen
    assert len(set(seen)) == len(seen) > 2
    seen.clear()
    ff.fill_many([], seed=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 0)]

    def stop(done: int, whole: int) -> None:
        raise LookupError(done)

    with pytest.raises(LookupError):
        ff.fill_many(items, seed=1, progress=stop)


GOOD = np.full(4, 7, np.float32)
FROZEN = np.full(3, 7, np.float32)
FROZEN.flags.writeable = False


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (
            [(GOOD, ff.normal(), "a"), (np.ones(3, np.int32), LAW, "b")],
            TypeError,
            r"^item 1 \('b'\): expected one of",
        ),
        (
            [(GOOD, "zeros", "a"), (FROZEN, "ones", "b")],
            ValueError,
            r"^item 1 .*: expected a writable",
        ),
        ({"a": (GOOD, "zeros"), "b": (FROZEN, "ones")}, ValueError, "^item 'b': expected a writable buffer"),
        ([(GOOD, "he_norml", "a")], ValueError, r"^item 0 \('a'\): expected the name of an initializer"),
        ([(GOOD, LAW, 1.5)], TypeError, r"^item 0 \(1.5\): name: expected an integer"),
        ([(GOOD, LAW, "\ud800")], ValueError, r"^item 0 \('.ud800'\): .*surrogates not allowed"),
        ([(GOOD, LAW, "a")], ValueError, r"^item 0 \('a'\): .*fan"),
        ([(GOOD, ff.normal(), "a", (3,))], ValueError, r"^item 0 \('a'\): offset: expected a box inside"),
        (
            [(GOOD, ff.normal())],
            TypeError,
            r"^item 0: expected \(buffer, initializer, name\), or .*; got",
        ),
        ([GOOD], TypeError, "^item 0: expected .* got "),
        ({"a": GOOD}, TypeError, r"^item 'a': expected \(buffer, initializer\), or with .*; got "),
        (5, TypeError, r"^items: expected a sequence of \(buffer, initializer, name\).*; got 5"),
        ("ab", TypeError, "^items: expected a sequence .*; got 'ab'"),
        (
            [(GOOD, ff.normal(), "a"), (np.ones(4, np.float32), "zeros", "a")],
            ValueError,
            r"^items: expected a name for each tensor; got 'a' for 0 \('a'\) and 1 \('a'\), which",
        ),
        (
            [(GOOD, ff.normal(), "a", (8,)), (np.ones(4, np.float32), ff.normal(), "a", (9,), (4,))],
            ValueError,
            "^items: expected a name for each tensor",
        ),
        (
            [(GOOD, ff.normal(), "a", (8,)), (np.ones(4, np.float64), ff.normal(), "a", (8,), (4,))],
            ValueError,
            "^items: expected a name for each tensor",
        ),
        (
            [(GOOD, ff.normal(), "a", (8,)), (np.ones(4, np.float32), ff.normal(), "a", (8,), (3,))],
            ValueError,
            r"^items: expected parts of 'a' that do not overlap; got 0 \('a'\) and 1 \('a'\), which do",
        ),
        (
            [(GOOD, ff.normal(), "a", (3, 4), 2), (np.ones(4, np.float32), ff.normal(), "a", (3, 4), 5)],
            ValueError,
            "^items: expected parts of 'a' that do not overlap",
        ),
        (
            [(GOOD, ff.normal(), "a"), (GOOD[2:], ff.normal(), "b")],
            ValueError,
            r"expected buffers that do not share memory; got 0 \('a'\) and 1 \('b'\), which do; fill",
        ),
        (
            {"a": (GOOD[:2], ff.normal()), "b": (GOOD.reshape(2, 2).T, ff.normal())},
            ValueError,
            "^items: expected buffers that do not share memory; got '[ab]' and '[ab]'",
        ),
    ],
)
def test_an_item_that_cannot_be_filled_is_named_before_anything_is_written(
    items: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ff.fill_many(items, seed=1)
    assert (GOOD == 7).all()


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"seed": -1}, ValueError, "^seed: "),
        ({"seed": 1, "threads": 0}, ValueError, "^threads: "),
        ({"seed": 1, "progress": 5}, TypeError, "^progress: expected a callable"),
        ({"seed": 1, "backend": "gpu"}, ValueError, r"^item 0 \('a'\): expected a backend among"),
        (
            {"seed": 1, "backend": "cuda"},
            ValueError,
            "expected a backend for a buffer in host .*'cuda'",
        ),
    ],
)
def test_wrong_arguments_are_refused(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ff.fill_many([(GOOD, ff.normal(), "a")], **how)
    assert (GOOD == 7).all()


def test_parts_that_touch_but_do_not_overlap_are_filled() -> None:
    grid = [(row, column) for row in (0, 3) for column in (0, 5)]
    items = [(np.zeros((3, 5), np.float32), LAW, "w", (6, 10), offset) for offset in grid]
    ff.fill_many(items, seed=2)
    whole = ff.draw((6, 10), LAW, seed=2, name="w")
    for buffer, *_, (row, column) in items:
        assert_same_bits(buffer, np.ascontiguousarray(whole[row : row + 3, column : column + 5]))


@pytest.mark.parametrize(
    "views",
    [
        lambda memory: (memory, memory[::2]),
        lambda memory: (memory[::2], memory),
        lambda memory: (memory[::3], memory[1::2]),
        lambda memory: (memory[6:8], memory[::-2]),
        lambda memory: (memory.reshape(4, 5)[:, 1:3], memory.reshape(4, 5)[2:, ::2]),
    ],
)
def test_views_with_gaps_that_share_an_element_are_refused(views: Callable[..., Any]) -> None:
    memory = np.full(20, 7, np.float32)
    one, other = views(memory)
    with pytest.raises(ValueError, match=r"do not share memory; got 0 \('a'\) and 1 \('b'\), which do"):
        ff.fill_many([(one, ff.normal(), "a"), (other, ff.normal(), "b")], seed=1)
    assert (memory == 7).all()


def test_views_that_interleave_but_share_no_element_are_filled() -> None:
    memory = np.zeros(20, np.float32)
    ff.fill_many([(memory[::2], ff.normal(), "even"), (memory[:0:-2], ff.normal(), "odd")], seed=2)
    assert_same_bits(np.ascontiguousarray(memory[::2]), ff.draw(10, ff.normal(), seed=2, name="even"))
    assert_same_bits(np.ascontiguousarray(memory[:0:-2]), ff.draw(10, ff.normal(), seed=2, name="odd"))


def test_torch_tensors_are_filled_and_their_versions_move() -> None:
    torch = pytest.importorskip("torch")
    axes = ff.he_normal(in_axis=1, out_axis=0)
    weight = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.bfloat16))
    bias = torch.zeros(6)
    versions = weight._version, bias._version
    ff.fill_many([(weight, axes, "w"), (bias, "zeros", "b")], seed=3)
    assert weight._version > versions[0]
    assert bias._version > versions[1]
    drawn = ff.draw((6, 4), axes, seed=3, name="w", dtype="bfloat16")
    assert weight.detach().view(torch.int16).numpy().tobytes() == drawn.tobytes()
    with pytest.raises(ValueError, match=r"^item 0 \('w'\): expected explicit axes on a torch tensor"):
        ff.fill_many([(weight, ff.he_normal(), "w")], seed=3)


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_torch_tensors_of_one_kind_have_the_values_of_single_fills(backend: Any) -> None:
    torch = pytest.importorskip("torch")

    def law() -> Any:  # a new one for each item, equal to the others
        return ff.he_normal(in_axis=1, out_axis=0)

    shapes = ((6, 4), (6, 4), (4,), (6, 4), (300, 500), (4,), (300, 500), ())
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    made: dict[str, Any] = {}
    for dtype in dtypes:
        for number, shape in enumerate(shapes):
            tensor = torch.zeros(shape, dtype=dtype)
            made[f"{dtype}.{number}"] = torch.nn.Parameter(tensor) if number % 2 else tensor
    made["part"] = torch.zeros(13, 4)[7:]
    made["na\u00efve"] = torch.zeros(6, 4)
    versions = {name: tensor._version for name, tensor in made.items()}
    given = {name: (tensor, law() if tensor.dim() > 1 else "ones") for name, tensor in made.items()}
    ff.fill_many(given, seed=3, backend=backend)
    for name, tensor in made.items():
        alone = torch.zeros(tensor.shape, dtype=tensor.dtype)
        ff.fill(alone, law() if tensor.dim() > 1 else ff.ones(), seed=3, name=name)
        assert torch.equal(tensor, alone), name
        assert tensor._version > versions[name], name


def _resized(torch: Any, to: int) -> Any:
    tensor = torch.zeros(6, 6)
    tensor.untyped_storage().resize_(to)
    return tensor


UNLIKE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "expanded": (lambda torch: torch.zeros(1, 6).expand(6, 6), "elements do not share memory"),
    "freed": (lambda torch: _resized(torch, 0), "storage holds its elements"),
    "shrunk": (lambda torch: _resized(torch, 8), "storage holds its elements"),
    "negated": (lambda torch: torch._neg_view(torch.zeros(6, 6)), "no NumPy view"),
    "meta": (lambda torch: torch.zeros(6, 6, device="meta"), "on device 'meta'"),
    "sparse": (lambda torch: torch.eye(6).to_sparse(), "no NumPy view"),
    "nested": (lambda torch: torch.nested.nested_tensor([torch.zeros(6)] * 6), "no NumPy view|expected"),
    "of integers": (lambda torch: torch.zeros(6, 6, dtype=torch.int32), "expected a torch tensor of"),
}


@pytest.mark.parametrize("kind", UNLIKE)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_torch_tensor_that_cannot_be_filled_is_named_among_others_like_it(kind: str) -> None:
    torch = pytest.importorskip("torch")
    make, message = UNLIKE[kind]
    first = torch.zeros(6, 6)
    items = [
        (first, ff.normal(), "a"),
        (torch.zeros(6, 6), ff.normal(), "b"),
        (make(torch), ff.normal(), "c"),
    ]
    with pytest.raises((TypeError, ValueError), match=rf"^item 2 \('c'\): .*({message})"):
        ff.fill_many(items, seed=0)
    assert not first.any()


def test_torch_tensors_of_one_kind_that_share_memory_or_a_name_are_refused() -> None:
    torch = pytest.importorskip("torch")
    law, block = ff.normal(), torch.zeros(9, 6)
    whole, moved = block[:6], block[3:]
    with pytest.raises(ValueError, match=r"got 1 \('b'\) and 2 \('c'\), which do; fill a tied"):
        ff.fill_many([(torch.zeros(6, 6), law, "a"), (whole, law, "b"), (moved, law, "c")], seed=0)
    with pytest.raises(ValueError, match=r"got 1 \('b'\) and 2 \('c'\), which do"):  # one has gaps
        ff.fill_many([(torch.zeros(6, 6), law, "a"), (whole[:, 1:], law, "b"), (moved, law, "c")], seed=0)
    with pytest.raises(ValueError, match=r"got 'a' for 0 \('a'\) and 1 \('a'\), which would hold"):
        ff.fill_many([(whole, law, "a"), (torch.zeros(6, 6), law, "a")], seed=0)
    assert not block.any()


def test_torch_tensors_that_lie_otherwise_than_the_first_of_their_kind_are_filled() -> None:
    torch = pytest.importorskip("torch")
    law = ff.normal()
    odd = torch.frombuffer(bytearray(6 * 6 * 4 + 1), dtype=torch.float32, offset=1).view(6, 6)
    made = [torch.zeros(6, 6), torch.zeros(6, 6).t(), torch.zeros(12, 6)[::2], odd, torch.zeros(6, 6)]
    ff.fill_many([(tensor, law, f"w{k}") for k, tensor in enumerate(made)], seed=0)
    for k, tensor in enumerate(made):
        assert np.array_equal(tensor.numpy(), ff.draw((6, 6), law, seed=0, name=f"w{k}"))


def test_versions_move_under_a_torch_that_tells_one_tensor_at_a_time(monkeypatch: Any) -> None:
    torch = pytest.importorskip("torch")
    move = torch.autograd.graph.increment_version

    def single(tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("expected a Tensor")
        move(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", single)
    made = [torch.zeros(6, 6) for _ in range(3)]
    before = [tensor._version for tensor in made]
    ff.fill_many([(tensor, ff.normal(), f"w{k}") for k, tensor in enumerate(made)], seed=0)
    assert all(tensor._version > version for tensor, version in zip(made, before, strict=True))


def kernel(status: Callable[[int], int]) -> Any:
    """A function of the kernels' kind, and what it was called with."""
    seen: list[int] = []

    @objects._Function
    def function(result: Any, exception: Any, arguments: Any) -> int:
        seen.append(len(seen))
        return status(len(seen))

    return function, seen


def test_a_kernel_that_fails_ends_its_rows_with_an_error() -> None:
    for status, done in ((lambda number: 0, 5), (lambda number: 9 * (number == 3), 3)):
        function, seen = kernel(status)
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        calls = rows.rows_of(("[f4]", "i8", ("u8", "u8")), [(3, 0, (1, 2)), (4, 0, (1, 3))], [2, 3])
        assert calls.tolist() == [[0, 3, 0, 1, 2]] * 2 + [[0, 4, 0, 1, 3]] * 3
        run = rows.rows_caller(address, calls)
        if done == 5:
            run(0, 5)
            run(2, 2)
        else:
            with pytest.raises(RuntimeError, match="expected kernels to end without an error; got status 9"):
                run(0, 5)
        assert len(seen) == done


def test_addresses_are_those_of_numpy_and_read_only_memory_has_none() -> None:
    arrays: list[np.ndarray] = [np.zeros(shape, np.uint16) for shape in ((), 3, (2, 5))]
    assert rows.addresses_of(arrays).tolist() == [array.ctypes.data for array in arrays]
    assert rows.addresses_of([]).size == 0
    with pytest.raises(ValueError, match="read-only"):
        rows.addresses_of([arrays[0], FROZEN])
    gaps = np.zeros((4, 4), np.uint16)[:, ::2]
    with pytest.raises(ValueError, match="contiguous"):
        rows.addresses_of([gaps])
