"""accelerated: torch's own initialisers run on fanfill inside the block, and only there."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill as ff  # noqa: E402
import fanfill.torch as ft  # noqa: E402
from fanfill.torch import acceleration  # noqa: E402

nn, init = torch.nn, torch.nn.init
E = torch.empty


def drawn(shape: tuple[int, ...], law: ff.Initializer, call: int = 0, seed: int = 3) -> Any:
    return torch.from_numpy(ff.draw(shape, law, seed=seed, name=call))


BOUND = math.sqrt(3.0) * (5 / 3) * math.sqrt(2.0 / 50.0)
CALLS: dict[str, tuple[Callable[[Any], Any], ff.Initializer]] = {
    "Tensor.uniform_": (lambda w: w.uniform_(-1, 2), ff.uniform(-1.0, 2.0, endpoint=False)),
    "Tensor.uniform_, by name": (
        lambda w: w.uniform_(**{"from": -1.0, "to": 2.0}),
        ff.uniform(-1.0, 2.0, endpoint=False),
    ),
    "Tensor.normal_": (lambda w: w.normal_(1.0, std=2.0), ff.normal(1.0, 2.0)),
    "Tensor.data.normal_": (lambda w: w.data.normal_(mean=0.0, std=0.5), ff.normal(0.0, 0.5)),
    "uniform_": (lambda w: init.uniform_(w, b=0.5), ff.uniform(0.0, 0.5, endpoint=False)),
    "normal_": (lambda w: init.normal_(w, 1.0, 2.0), ff.normal(1.0, 2.0)),
    "normal_, by name": (lambda w: init.normal_(tensor=w, std=2.0), ff.normal(0.0, 2.0)),
    "trunc_normal_": (
        lambda w: init.trunc_normal_(w, std=0.5, a=-1.0, b=1.0),
        ff.truncated_normal(0.0, 0.5, -2.0, 2.0),
    ),
    "xavier_uniform_": (lambda w: init.xavier_uniform_(w, gain=5 / 3), ff.uniform(-BOUND, BOUND)),
    "xavier_normal_": (lambda w: init.xavier_normal_(w), ff.normal(0.0, math.sqrt(2.0 / 50.0))),
    "kaiming_uniform_": (
        lambda w: init.kaiming_uniform_(w, nonlinearity="relu"),
        ff.he_uniform(in_axis=1, out_axis=0),
    ),
    "kaiming_normal_": (
        lambda w: init.kaiming_normal_(w, nonlinearity="relu"),
        ff.normal(0.0, math.sqrt(2.0) / math.sqrt(20)),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_of_torchs_functions_runs_on_fanfill(call: str) -> None:
    function, law = CALLS[call]
    w = torch.nn.Parameter(torch.zeros(30, 20))
    with torch.no_grad(), ft.accelerated(seed=3):
        result = function(w)
    assert result is w or result.data_ptr() == w.data_ptr()
    assert torch.equal(w.detach(), drawn((30, 20), law))
    with torch.no_grad():
        function(w)
    assert not torch.equal(w.detach(), drawn((30, 20), law))


def test_calls_are_counted_and_a_generator_of_their_own_is_honoured() -> None:
    a, b, c = E(9), E(9), E(9)
    with ft.accelerated(seed=3):
        init.normal_(a)
        init.normal_(b, generator=torch.Generator().manual_seed(1))
        init.normal_(c)
    assert torch.equal(a, drawn((9,), ff.normal(), 0))
    assert torch.equal(c, drawn((9,), ff.normal(), 1))
    assert torch.equal(b, ft.normal_(E(9), generator=torch.Generator().manual_seed(1)))


def test_without_a_seed_manual_seed_governs() -> None:
    def model() -> Any:
        torch.manual_seed(5)
        with ft.accelerated():
            return nn.Linear(30, 20).weight.detach()

    torch.manual_seed(5)
    expected = ft.kaiming_uniform_(E(20, 30), a=math.sqrt(5))
    assert torch.equal(model(), expected)
    assert torch.equal(model(), model())


def test_what_fanfill_does_not_draw_moves_no_numbers() -> None:
    """Torch draws it, by the seed; factories and complex tensors have numbers of their own."""

    def others() -> list[Any]:
        return [
            E(9, dtype=torch.int64).random_(0, 100),
            torch.dropout(torch.ones(9), 0.5, True),
            E(9).normal_(0.0, 1e-30),
            E(9).exponential_(),
            torch.randn(9),
            E(9, dtype=torch.complex64).normal_(),
        ]

    with ft.accelerated(seed=3):
        got = others()
        meta = init.normal_(E(9, device="meta"))
        last = init.normal_(E(9))
    with ft.accelerated(seed=3):
        init.normal_(E(9))
        assert all(torch.equal(x, y) for x, y in zip(got, others(), strict=True))
    assert meta.is_meta
    assert torch.equal(last, drawn((9,), ff.normal(), 0))


def test_orthogonal_and_sparse_still_are() -> None:
    with ft.accelerated(seed=3):
        w = init.orthogonal_(E(6, 6))
        s = init.sparse_(E(10, 4), 0.5)
    assert torch.allclose(w @ w.T, torch.eye(6), atol=1e-5)
    assert ((s == 0).sum(0) == 5).all()


WRONG: dict[str, Callable[[], Any]] = {
    "std": lambda: init.normal_(E(4), 0.0, -1.0),
    "bounds": lambda: init.uniform_(E(4), 1.0, 0.0),
    "dtype": lambda: init.normal_(E(4, dtype=torch.int32)),
    "fans": lambda: init.kaiming_uniform_(E(4)),
    "generator": lambda: init.normal_(E(4), generator=5),
    "argument": lambda: E(4).normal_(sigma=1.0),
    "trunc": lambda: init.trunc_normal_(E(4), std=0.0),
    "expanded": lambda: init.normal_(E(1).expand(4)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_get_torchs_errors(wrong: str) -> None:
    with pytest.raises(Exception, match=r".*") as theirs:
        WRONG[wrong]()
    with pytest.raises(type(theirs.value)) as ours, ft.accelerated(seed=3):
        WRONG[wrong]()
    assert str(ours.value) == str(theirs.value)
    assert_undone()


def assert_undone() -> None:
    from fanfill.torch import laws

    assert init._no_grad_trunc_normal_ is laws.torch_trunc_normal
    torch.manual_seed(0)
    expected = E(4).normal_()
    torch.manual_seed(0)
    assert torch.equal(init.normal_(E(4)), expected)


def test_warnings_are_torchs() -> None:
    with ft.accelerated(seed=3):
        with pytest.warns(UserWarning, match="mean is more than 2 std"):
            init.trunc_normal_(E(4), mean=4.5)
        with pytest.warns(UserWarning, match="zero-element"):
            init.kaiming_uniform_(E(0, 4))


def test_an_error_inside_undoes_it() -> None:
    with pytest.raises(KeyError), ft.accelerated(seed=3), ft.accelerated(seed=4):
        raise KeyError
    assert_undone()


def test_blocks_nest() -> None:
    outer = ft.accelerated(seed=3)
    a, b, c, d, e = (E(9) for _ in range(5))
    with outer:
        init.normal_(a)
        with ft.accelerated(seed=4):
            init.trunc_normal_(b)
        with outer:
            init.normal_(c)
        init.normal_(d)
    with outer:
        init.normal_(e)
    assert torch.equal(a, drawn((9,), ff.normal(), 0))
    assert torch.equal(b, drawn((9,), ff.truncated_normal(), 0, seed=4))
    assert torch.equal(c, drawn((9,), ff.normal(), 1))
    assert torch.equal(d, drawn((9,), ff.normal(), 2))
    assert torch.equal(e, a)
    assert_undone()


def test_a_block_in_a_signal_handler_while_its_thread_opens_or_closes_another() -> None:
    """At each line of what puts fanfill in torch's place and takes it away."""
    codes = (acceleration._hook.__code__, acceleration._unhook.__code__)
    inner = torch.empty(9)

    def once(line: int) -> bool:
        passed = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal passed
            if frame.f_code not in codes:
                return None
            if event == "line":
                passed += 1
                if passed == line:
                    sys.settrace(None)
                    with ft.accelerated(seed=3):
                        init.trunc_normal_(inner)
                    assert torch.equal(inner, expected)
                    sys.settrace(trace)
            return trace

        outer = torch.empty(9)
        sys.settrace(trace)
        try:
            with ft.accelerated(seed=3):
                init.trunc_normal_(outer)
        finally:
            sys.settrace(None)
        assert torch.equal(outer, expected)
        assert_undone()
        return passed >= line

    with ft.accelerated(seed=3):
        expected = init.trunc_normal_(torch.empty(9))
    ended: list[int] = []

    def all_lines() -> None:
        line = 1
        while once(line):
            line += 1
        ended.append(line)

    thread = threading.Thread(target=all_lines, daemon=True)
    thread.start()
    thread.join(60)
    assert ended
    assert ended[0] > 10


def test_it_decorates_functions() -> None:
    @ft.accelerated(seed=3)
    def make() -> Any:
        return nn.Linear(30, 20)

    assert torch.equal(make().weight, make().weight)


def test_other_threads_are_not_affected() -> None:
    torch.manual_seed(0)
    expected = init.trunc_normal_(E(40)), init.normal_(E(40))
    got: list[Any] = []
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        torch.manual_seed(0)
        got.extend([init.trunc_normal_(E(40)), init.normal_(E(40))])
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with ft.accelerated(seed=3):
        inside.set()
        done.wait()
        mine = init.trunc_normal_(E(40))
    thread.join()
    assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))
    assert torch.equal(mine, drawn((40,), ff.truncated_normal()))


def test_many_threads_at_once() -> None:
    def build(seed: int) -> Any:
        with ft.accelerated(seed=seed):
            return [init.trunc_normal_(E(40)), nn.Linear(9, 9).weight.detach()]

    expected = [build(seed) for seed in range(8)]
    for _ in range(5):
        got: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda s=s, got=got: got.__setitem__(s, build(s))) for s in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(x, y) for s in range(8) for x, y in zip(expected[s], got[s], strict=True))
    assert_undone()


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**64, ValueError), ("a", TypeError)])
def test_the_seed_is_checked(seed: Any, error: Any) -> None:
    with pytest.raises(error, match="seed: expected an integer"):
        ft.accelerated(seed=seed)
