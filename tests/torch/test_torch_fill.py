"""`fanfill.fill` and `words` on torch CPU tensors: what autograd learns; storages that are too short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.cpu import buffers  # noqa: E402
from fanfill.cpu import run as cpu_run  # noqa: E402
from fanfill.dtypes import STORAGES  # noqa: E402

LAW = ff.normal()
FILLS = {
    "fill": lambda w, **how: ff.fill(w, LAW, seed=1, **how),
    "normal_": lambda w, **_: ft.normal_(w, seed=1),
}


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("shape", [(3,), (), (400, 500)])
def test_a_graph_that_saved_the_old_values_refuses_to_go_backward(name: str, shape: tuple[int, ...]) -> None:
    p = torch.ones(shape, requires_grad=True)
    y = (p * p).sum()
    FILLS[name](p)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    y = (p * p).sum()
    y.backward()
    assert torch.equal(p.grad, 2 * p.detach())


@pytest.mark.parametrize("name", FILLS)
def test_a_leaf_that_requires_grad_is_filled_outside_of_any_graph(name: str) -> None:
    p = torch.nn.Parameter(torch.zeros(3, 4))
    assert FILLS[name](p) is p
    assert p.is_leaf
    assert p.requires_grad
    assert p.grad_fn is None
    assert p.detach().any()


@pytest.mark.parametrize("name", FILLS)
def test_a_view_of_a_parameter_that_was_made_under_no_grad_is_filled_again_and_again(name: str) -> None:
    """Once it is filled, torch raises when asked whether such a view is a leaf."""
    p = torch.nn.Parameter(torch.zeros(8, 4))
    with torch.no_grad():
        v = p[1:3]
        for _ in range(3):
            v.zero_()
            FILLS[name](v)
            assert np.array_equal(p.detach()[1:3].numpy(), ff.draw((2, 4), LAW, seed=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("view", [lambda w: w, lambda w: w.t(), lambda w: w[1:, ::2], lambda w: w[:0]])
def test_views_and_their_base_share_the_count(dtype: Any, view: Any) -> None:
    base = torch.zeros(6, 8, dtype=dtype)
    part = view(base)
    before = base._version
    ff.fill(part, LAW, seed=1)
    assert base._version > before
    assert part._version > before


def test_words_go_into_torch_s_uint32_and_move_the_count() -> None:
    tensor = torch.zeros(3, 5, dtype=torch.uint32)
    before = tensor._version
    assert ff.words(tensor.t(), seed=1, name="w", start=7) is not tensor
    assert tensor._version > before
    expected = ff.words(np.zeros((5, 3), np.uint32), seed=1, name="w", start=7)
    assert tensor.t().contiguous().numpy().tobytes() == expected.tobytes()
    for dtype, remedy in (
        (torch.float32, r"fill\(\) makes floating-point"),
        (torch.int32, r"words\(\) makes no"),
    ):
        with pytest.raises(TypeError, match=rf"expected a torch tensor of uint32; got {dtype}; {remedy}"):
            ff.words(torch.zeros(3, dtype=dtype), seed=0)


@pytest.mark.parametrize(
    "refused",
    [
        lambda w: ff.fill(w, "he_normal", seed=0),
        lambda w: ff.fill(w, ff.normal(std=1e-300), seed=0),
        lambda w: ff.fill(w, LAW, seed=0, global_shape=(2, 2)),
        lambda w: ff.fill(w, LAW, seed=0, progress=3),
        lambda w: ft.normal_(w, std=1e-300, seed=0),
        lambda w: ft.uniform_(w, 1.00000001, 1.00000002, seed=0),
    ],
)
def test_a_refused_call_does_not_move_the_count(refused: Any) -> None:
    tensor = torch.zeros(3, 4)
    before = tensor._version
    with pytest.raises((TypeError, ValueError), match="expected"):
        refused(tensor)
    assert tensor._version == before
    assert not tensor.any()


def test_a_fill_that_ends_early_has_moved_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cpu_run, "SMALL", 64)
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Linear(300, 300, dtype=dtype)
        before = layer.weight._version
        with pytest.raises(ZeroDivisionError):
            ft.init_module(layer, seed=0, progress=stop)
        assert layer.weight._version > before
    tensor = torch.zeros(3000)
    with pytest.raises(ZeroDivisionError):
        ff.fill(tensor, LAW, seed=0, progress=stop)
    assert tensor._version == 1


def test_a_torch_without_a_way_to_move_the_count_gets_it_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.autograd.graph, "increment_version")
    for shape in ((), (3,), (0, 2)):
        p = torch.ones(shape, requires_grad=True)
        buffers.mark_written(p)
        assert p._version > 0
        assert bool((p == 1).all())


def test_numpy_s_view_of_a_tensor_tells_autograd_nothing() -> None:
    p = torch.ones(3)
    ff.fill(p.numpy(), LAW, seed=1)
    assert p._version == 0
    assert torch.equal(p, ff.fill(torch.empty(3), LAW, seed=1))


@pytest.mark.parametrize(
    ("make", "end", "there"),
    [
        (lambda w: w, 48, 44),
        (lambda w: w.t(), 48, 0),
        (lambda w: w[1:, ::2], 44, 40),
        (lambda w: w[2], 48, 40),
    ],
)
def test_a_storage_that_is_too_short_is_refused(make: Any, end: int, there: int) -> None:
    # Not the same tensor twice: its NumPy view makes a storage one that torch no longer resizes.
    whole, base = torch.zeros(3, 4), torch.zeros(3, 4)
    fits, tensor = make(whole), make(base)
    whole.untyped_storage().resize_(end)
    ff.fill(fits, LAW, seed=1)
    base.untyped_storage().resize_(there)
    message = (
        f"whose storage holds its elements; .* reaches byte {end} of a storage of {there}; fill it while"
    )
    with pytest.raises(ValueError, match=message):
        ff.fill(tensor, LAW, seed=1)
    with pytest.raises(RuntimeError, match=message):
        ft.normal_(tensor, seed=1)
    assert ff.fill(base[:0], LAW, seed=1).numel() == 0


DTYPES = [name for name in STORAGES if hasattr(torch, name)]


def bits(tensor: Any) -> np.ndarray:
    """A tensor's bytes, element by element, in C order."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().reshape(-1, tensor.element_size())


def expected(law: ff.Initializer, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same tensor by NumPy."""
    drawn = ff.draw(shape, law, seed=1, dtype=dtype, backend="numpy")
    return drawn.view(np.uint8).reshape(-1, drawn.itemsize)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 5), (600, 500)])
def test_tensors_of_every_dtype_are_buffers(dtype: str, shape: tuple[int, ...]) -> None:
    for make in (torch.empty, lambda shape, dtype: torch.empty(shape[::-1], dtype=dtype).t()):
        tensor = make(shape, dtype=getattr(torch, dtype))
        before = tensor._version
        assert ff.fill(tensor, LAW, seed=1) is tensor
        assert np.array_equal(bits(tensor), expected(LAW, dtype, shape))
        assert tensor._version > before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "law"),
    [
        (ft.normal_, ff.normal()),
        (ft.uniform_, ff.uniform(0.0, 1.0, endpoint=False)),
        (ft.trunc_normal_, ff.truncated_normal()),
        (ft.xavier_uniform_, ff.xavier_uniform(in_axis=1, out_axis=0)),
        (ft.xavier_normal_, ff.xavier_normal(in_axis=1, out_axis=0)),
        (ft.kaiming_uniform_, ff.he_uniform(in_axis=1, out_axis=0)),
        (ft.kaiming_normal_, ff.he_normal(in_axis=1, out_axis=0)),
        (ft.lecun_uniform_, ff.lecun_uniform(in_axis=1, out_axis=0)),
        (ft.lecun_normal_, ff.lecun_normal(in_axis=1, out_axis=0)),
        (ft.variance_scaling_, ff.variance_scaling(in_axis=1, out_axis=0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_part_gets_the_whole_tensors_values_and_fans(
    function: Any, law: ff.Initializer, dtype: str
) -> None:
    """A tensor-parallel shard, without DTensor."""
    whole = expected(law, dtype, (64, 48)).reshape(64, 48, -1)
    shard = torch.empty(16, 48, dtype=getattr(torch, dtype))
    for fill in (
        lambda where: function(shard, seed=1, **where),
        lambda where: ff.fill(shard, law, seed=1, **where),
    ):
        shard.zero_()
        assert fill({"global_shape": (64, 48), "offset": (32, 0)}) is shard
        assert np.array_equal(bits(shard), whole[32:48].reshape(-1, shard.element_size()))
    column = torch.empty(64, 3, dtype=getattr(torch, dtype))
    function(column, seed=1, global_shape=(64, 48), offset=(0, 5))
    assert np.array_equal(bits(column), whole[:, 5:8].reshape(-1, column.element_size()))


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"global_shape": (8, 4), "offset": (7, 0)}, ValueError, "offset: "),
        ({"global_shape": (4,)}, ValueError, "global_shape"),
        ({"offset": (1, 0)}, ValueError, "offset"),
        ({"global_shape": (8.0, 4)}, TypeError, "global_shape"),
    ],
)
@pytest.mark.parametrize("function", [ft.normal_, ft.xavier_normal_, ft.kaiming_uniform_, ft.lecun_normal_])
def test_a_part_that_cannot_be_is_refused_before_anything_is_written_or_drawn(
    function: Any, where: dict[str, Any], error: type[Exception], message: str
) -> None:
    tensor, state = torch.full((4, 4), 7.0), torch.get_rng_state()
    with pytest.raises(error, match=message):
        function(tensor, **where)
    assert (tensor == 7).all()
    assert torch.equal(state, torch.get_rng_state())


def test_a_dtensor_knows_its_own_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.torch.drawing.is_dtensor", lambda tensor: True)
    with pytest.raises(TypeError, match=r"got them for a DTensor, which knows where its shard lies; leave"):
        ft.normal_(torch.empty(3), seed=1, global_shape=(4,), offset=(1,))
