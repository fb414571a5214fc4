"""Repeated small calls, which skip most checks: the same values, and whatever changes between two is seen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402
from fanfill.backends import select_backend  # noqa: E402
from fanfill.torch import drawing  # noqa: E402

COMPILED = select_backend(bytearray(4)).name == "numba"

CALLS: dict[str, Callable[..., Any]] = {
    "uniform": lambda w, **k: ft.uniform_(w, -1.0, 2.0, **k),
    "normal": lambda w, **k: ft.normal_(w, 0.0, 0.5, **k),
    "trunc_normal": lambda w, **k: ft.trunc_normal_(w, std=0.5, **k),
    "xavier_uniform": lambda w, **k: ft.xavier_uniform_(w, 2.0, **k),
    "xavier_normal": lambda w, **k: ft.xavier_normal_(w, **k),
    "kaiming_uniform": lambda w, **k: ft.kaiming_uniform_(w, nonlinearity="relu", **k),
    "kaiming_normal": lambda w, **k: ft.kaiming_normal_(w, 0.1, **k),
    "lecun_uniform": ft.lecun_uniform_,
    "lecun_normal": lambda w, **k: ft.lecun_normal_(w, truncated=True, **k),
    "variance_scaling": lambda w, **k: ft.variance_scaling_(w, 2.0, "fan_avg", "uniform", **k),
}


@pytest.fixture(autouse=True)
def no_plans() -> None:
    drawing._plans.clear()


def bits(tensor: Any) -> Any:
    return tensor.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_a_repeated_call_draws_what_the_first_draws(call: str, dtype: Any) -> None:
    def drawn(**how: Any) -> list[Any]:
        torch.manual_seed(5)
        generator = torch.Generator().manual_seed(6)
        found = []
        for given in ({}, {"seed": 3}, {"seed": 3, "name": "w"}, {"generator": generator}, {}):
            w = torch.zeros(6, 5, dtype=dtype)
            before = w._version
            assert CALLS[call](w, **given, **how) is w
            assert w._version > before
            found.append(bits(w))
        return [*found, torch.random.get_rng_state(), generator.get_state()]

    by_first = drawn(global_shape=(6, 5))  # which is never remembered
    assert not drawing._plans
    CALLS[call](torch.zeros(6, 5, dtype=dtype))
    assert len(drawing._plans) == COMPILED
    for one, two in zip(drawn(), by_first, strict=True):
        assert torch.equal(one, two)
    assert len(drawing._plans) == COMPILED


OTHERS: dict[str, Callable[[], Any]] = {
    "transposed": lambda: torch.zeros(6, 6).t(),
    "strided": lambda: torch.zeros(12, 6)[::2],
    "a part of a storage": lambda: torch.zeros(13, 6)[7:],
    "a parameter": lambda: torch.nn.Parameter(torch.zeros(6, 6)),
    "a view of a parameter": lambda: torch.nn.Parameter(torch.zeros(7, 6))[1:],
    "float64": lambda: torch.zeros(6, 6, dtype=torch.float64),
    "of another shape": lambda: torch.zeros(4, 9),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_tensor_after_it_has_its_own_values(other: str) -> None:
    ft.normal_(torch.zeros(6, 6), seed=1)
    w = ft.normal_(OTHERS[other](), seed=1)
    drawing._plans.clear()
    assert torch.equal(w, ft.normal_(torch.zeros(w.shape, dtype=w.dtype), seed=1))


def _resized() -> Any:
    w = torch.zeros(6, 6)
    w.untyped_storage().resize_(8)
    return w


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: torch.eye(6).to_sparse(), NotImplementedError, "a dense tensor, of layout torch.strided"),
        (lambda: torch.zeros(6, 6).to_mkldnn(), NotImplementedError, "a dense tensor"),
        (lambda: torch.zeros(1, 6).expand(6, 6), RuntimeError, "more than one element"),
        (lambda: torch.zeros(6, 6, dtype=torch.complex64).conj().imag, NotImplementedError, "negated"),
        (_resized, RuntimeError, "storage holds its elements"),
        (lambda: torch.nn.Parameter(torch.zeros(6, 6)) * 2, RuntimeError, "computed from others"),
        (lambda: torch.zeros(6, 6, dtype=torch.int32), RuntimeError, "not implemented for 'Int'"),
    ],
)
def test_a_tensor_that_cannot_be_filled_is_refused_after_one_that_could(
    make: Any, error: Any, message: str
) -> None:
    for _ in range(2):
        ft.normal_(torch.zeros(6, 6), seed=1)
    with pytest.raises(error, match=message):
        ft.normal_(make(), seed=1)


def test_an_inference_tensor_is_refused_outside_inference_mode_alone() -> None:
    with torch.inference_mode():
        w = torch.zeros(6, 6)
        ft.normal_(w, seed=1)
        ft.normal_(w, seed=1)
    ft.normal_(torch.zeros(6, 6), seed=1)
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        ft.normal_(w, seed=1)


def test_meta_tensors_and_modes_are_seen_after_a_call_that_is_remembered() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    ft.normal_(torch.zeros(6, 6), seed=1)
    meta = torch.zeros(6, 6, device="meta")
    assert ft.normal_(meta, seed=1) is meta
    with FakeTensorMode():
        fake = torch.zeros(6, 6)
        assert ft.normal_(fake, seed=1) is fake
    with ft.accelerated(seed=0):
        seen = ft.normal_(torch.zeros(6, 6), seed=1)
    assert torch.equal(seen, ft.normal_(torch.zeros(6, 6), seed=1))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed: expected an integer"),
        ({"name": "w"}, TypeError, "expected a seed with the name 'w'"),
        ({"seed": 0, "generator": torch.Generator()}, TypeError, "a generator or a seed; got both"),
        ({"generator": 5}, TypeError, "Generator"),
        ({"std": -1.0}, RuntimeError, "std >= 0"),
        ({"std": []}, TypeError, "float"),
    ],
)
def test_wrong_arguments_are_refused_after_right_ones(kwargs: Any, error: Any, message: str) -> None:
    ft.normal_(torch.zeros(6, 6), seed=1)
    w = torch.zeros(6, 6)
    state = torch.random.get_rng_state()
    with pytest.raises(error, match=message):
        ft.normal_(w, **kwargs)
    assert not w.any()
    assert torch.equal(state, torch.random.get_rng_state())


def test_equal_arguments_of_other_types_are_other_calls() -> None:
    """2 == 2.0 and 1 == True, but torch may refuse one of them."""
    ft.kaiming_normal_(torch.zeros(6, 6), 1.0, seed=1)
    with pytest.raises(ValueError, match="negative_slope True not a valid number"):
        ft.kaiming_normal_(torch.zeros(6, 6), True, seed=1)


def test_a_warning_is_given_each_time() -> None:
    for _ in range(3):
        with pytest.warns(UserWarning, match="mean is more than 2 std"):
            ft.trunc_normal_(torch.zeros(6, 6), mean=4.5)


def test_threads_draw_from_the_generator_by_their_own_memory() -> None:
    torch.manual_seed(4)
    expected = [ft.normal_(torch.zeros(3, 3)) for _ in range(2)]
    torch.manual_seed(4)
    found = [ft.normal_(torch.zeros(3, 3))]
    thread = threading.Thread(target=lambda: found.append(ft.normal_(torch.zeros(3, 3))))
    thread.start()
    thread.join()
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


def test_the_plans_are_let_go_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fanfill.fill"], "_MOST_PLANS", 3)
    for n in range(1, 9):
        ft.normal_(torch.zeros(n, 2), seed=0)
        assert len(drawing._plans) <= 3


def test_a_kernel_that_fails_says_so() -> None:
    import ctypes

    from fanfill_kernels.store.objects import by_address

    failing = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3)(lambda *_: 7)
    address = ctypes.cast(failing, ctypes.c_void_p).value
    assert address
    fill = by_address(address, ("[f4]", "i8", ("u8",) * 4, ("f4",)), 4, (1.0,))
    with pytest.raises(RuntimeError, match="expected a kernel to end without an error; got status 7"):
        fill(0, (0, 0, 0, 0))
