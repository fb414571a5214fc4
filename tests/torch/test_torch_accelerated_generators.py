"""accelerated(seed=...): every way to draw follows the seed, and torch's own stream goes on after."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fanfill.torch as ft  # noqa: E402
from fanfill.torch import governing  # noqa: E402

nn, F, E = torch.nn, torch.nn.functional, torch.empty
aten = torch.ops.aten
T = torch.linspace(0.1, 0.9, 40).reshape(8, 5)
NOISE = torch.zeros(8, 5)


def rnn(kind: str) -> Callable[[], Any]:
    """With dropout between two layers, the only part of it that draws."""
    module = getattr(nn, kind)(5, 4, 2, dropout=0.5)
    return lambda: module(T[:, None])[0]


def flat(function: str) -> Callable[[], Any]:
    """A recurrent function with packed sequences."""
    kind = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}[function]
    module = getattr(nn, kind)(5, 4, 2, dropout=0.5)
    packed = nn.utils.rnn.pack_sequence([T, T[:4]])
    return lambda: module(packed)[0].data


# By the operation's name in torch's table: ways to call it, as users or torch's own functions do.
WAYS: dict[str, list[Callable[[], Any]]] = {
    "_sample_dirichlet": [lambda: torch._sample_dirichlet(T), lambda: aten._sample_dirichlet(T)],
    "_scaled_dot_product_attention_math": [
        lambda: aten._scaled_dot_product_attention_math(T[None], T[None], T[None], None, 0.5)[0]
    ],
    "_standard_gamma": [
        lambda: torch._standard_gamma(T),
        lambda: torch.distributions.Gamma(T, 1.0).sample(),
    ],
    "alpha_dropout": [lambda: F.alpha_dropout(T, 0.5, True)],
    "alpha_dropout_": [lambda: torch.alpha_dropout_(T.clone(), 0.5, True)],
    "bernoulli": [
        lambda: torch.bernoulli(T),
        lambda: T.bernoulli(),
        lambda: T.bernoulli(0.5),
        lambda: torch.distributions.Bernoulli(T).sample(),
    ],
    "bernoulli_": [lambda: E(40).bernoulli_(), lambda: E(8, 5).bernoulli_(T), lambda: E(40).bernoulli_(0.3)],
    "binomial": [lambda: torch.binomial(torch.full((8, 5), 50.0), T)],
    "cauchy": [lambda: aten.cauchy(T)],
    "cauchy_": [lambda: E(40).cauchy_(), lambda: E(40).cauchy_(1.0, 2.0)],
    "dropout": [lambda: F.dropout(T), lambda: nn.Dropout()(T), lambda: torch.dropout(T, 0.5, True)],
    "dropout_": [lambda: torch.dropout_(T.clone(), 0.5, True), lambda: F.dropout(T.clone(), inplace=True)],
    "exponential": [lambda: aten.exponential(T)],
    "exponential_": [lambda: E(40).exponential_(), lambda: F.gumbel_softmax(T)],
    "feature_alpha_dropout": [lambda: F.feature_alpha_dropout(T, 0.5, True)],
    "feature_alpha_dropout_": [lambda: torch.feature_alpha_dropout_(T.clone(), 0.5, True)],
    "feature_dropout": [lambda: F.dropout1d(T[None], 0.5, True)],
    "feature_dropout_": [lambda: torch.feature_dropout_(T.clone(), 0.5, True)],
    "geometric": [lambda: aten.geometric(T, 0.1)],
    "geometric_": [lambda: E(40).geometric_(0.1)],
    "gru": [rnn("GRU"), flat("gru")],
    "log_normal": [lambda: aten.log_normal(T)],
    "log_normal_": [lambda: E(40).log_normal_()],
    "lstm": [rnn("LSTM"), flat("lstm")],
    "multinomial": [lambda: torch.multinomial(T, 4), lambda: torch.multinomial(T, 20, True)],
    "native_dropout": [lambda: torch.native_dropout(T, 0.5, True)[0]],
    "normal": [
        lambda: torch.normal(0.0, 1.0, (40,)),
        lambda: torch.normal(T),
        lambda: torch.normal(T, 2.0),
        lambda: torch.normal(1.0, T),
        lambda: torch.normal(T, T),
        lambda: torch.normal(T, T, out=E(8, 5)),
        lambda: torch.distributions.Normal(T, 1.0).sample(),
        lambda: aten.normal(T),
    ],
    "normal_": [lambda: E(40).normal_(), lambda: aten.normal_(E(40)), lambda: E(40).normal_(0.0, 1e-30)],
    "normal_functional": [lambda: aten.normal_functional(T)],
    "poisson": [lambda: torch.poisson(50 * T)],
    "rand": [
        lambda: torch.rand(40),
        lambda: torch.rand((8, 5), dtype=torch.float64),
        lambda: torch.rand(40, out=E(40)),
        lambda: aten.rand([40]),
    ],
    "rand_like": [lambda: torch.rand_like(T), lambda: aten.rand_like(T)],
    "randint": [lambda: torch.randint(1000, (40,)), lambda: torch.randint(5, 1000, (40,))],
    "randint_like": [lambda: torch.randint_like(T, 1000), lambda: torch.randint_like(T, 5, 1000)],
    "randn": [
        lambda: torch.randn(40),
        lambda: torch.randn(8, 5, dtype=torch.float64),
        lambda: torch.randn(40, dtype=torch.complex64),
        lambda: torch.svd_lowrank(T, 2)[0],
        lambda: aten.randn([40]),
    ],
    "randn_like": [lambda: torch.randn_like(T), lambda: aten.randn_like(T)],
    "random": [lambda: aten.random(T), lambda: aten.random(T, 1000)],
    "random_": [lambda: E(40).random_(), lambda: E(40).random_(1000), lambda: E(40).random_(5, 1000)],
    "randperm": [lambda: torch.randperm(40)],
    "rnn_relu": [lambda: RELU(T[:, None])[0]],
    "rnn_tanh": [rnn("RNN"), flat("rnn_tanh")],
    "rrelu": [lambda: torch.rrelu(-T, training=True), lambda: F.rrelu(-T, training=True)],
    "rrelu_": [lambda: torch.rrelu_(-T, training=True)],
    "rrelu_with_noise": [lambda: aten.rrelu_with_noise(-T, NOISE, 0.1, 0.3, True)],
    "rrelu_with_noise_": [lambda: aten.rrelu_with_noise_(-T, NOISE, 0.1, 0.3, True)],
    "rrelu_with_noise_functional": [lambda: aten.rrelu_with_noise_functional(-T, NOISE, 0.1, 0.3, True)[0]],
    "scaled_dot_product_attention": [
        lambda: F.scaled_dot_product_attention(T[None], T[None], T[None], dropout_p=0.5)
    ],
    "uniform": [lambda: aten.uniform(T)],
    "uniform_": [lambda: E(40).uniform_(), lambda: E(40, dtype=torch.complex64).uniform_()],
}
RELU = nn.RNN(5, 4, 2, nonlinearity="relu", dropout=0.5)
for weight in RELU.parameters():
    nn.init.constant_(weight, 0.1)  # units that never fire would hide what is dropped
# Each is a part of scaled_dot_product_attention, lstm or dropout for one kind of device; none draws on a CPU.
ELSEWHERE = {
    "_cudnn_attention_backward",
    "_cudnn_attention_forward",
    "_cudnn_init_dropout_state",
    "_cudnn_rnn",
    "_efficient_attention_forward",
    "_fill_mem_eff_dropout_mask_",
    "_flash_attention_forward",
    "_flash_attention_forward_no_dropout_inplace",
    "_fused_dropout",
    "_fused_sdp_choice",
    "_lstm_mps",
    "_nested_tensor_softmax_with_shape",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_triton_scaled_dot_attention",
    "miopen_rnn",
}


def seeded_operations() -> set[str]:
    """What torch's own table says: takes a generator, or is tagged as seeded."""
    found = set()
    for full in torch._C._dispatch_get_all_op_names():
        space, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        if space != "aten":
            continue
        try:
            operation = getattr(getattr(aten, name), overload or "default")
        except AttributeError:  # without a schema that Python can call
            continue
        takes = any("Generator" in str(argument.type) for argument in operation._schema.arguments)
        if takes or torch.Tag.nondeterministic_seeded in operation.tags:
            found.add(name)
    return found


def test_the_list_of_ways_to_draw_is_torchs() -> None:
    assert seeded_operations() <= set(WAYS) | ELSEWHERE
    assert not set(WAYS) & ELSEWHERE


@pytest.mark.parametrize(
    "operation", [name for name in WAYS if hasattr(aten, name)]
)  # older torch lacks some
def test_every_way_to_draw_follows_the_seed(operation: str) -> None:
    for number, way in enumerate(WAYS[operation]):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        with ft.accelerated(seed=3):
            first = way()
            again = way()
        assert torch.equal(torch.get_rng_state(), state), number
        torch.manual_seed(number + 100)  # what torch would draw is something else now
        with ft.accelerated(seed=3):
            second = way()
        with ft.accelerated(seed=4):
            third = way()
        assert torch.equal(first, second), number
        assert not torch.equal(first, third), number
        assert not torch.equal(first, again), number


def test_torchs_stream_goes_on_as_if_nothing_had_happened() -> None:
    def draws() -> list[Any]:
        return [torch.randn(3), E(3).exponential_(), torch.randperm(9)]

    torch.manual_seed(5)
    expected = [*draws(), *draws()]
    torch.manual_seed(5)
    got = draws()
    inside = []

    @ft.accelerated(seed=3)
    def fails() -> None:
        draws()
        torch.manual_seed(9)  # governs the rest of the block, and ends with it
        inside.append(E(3).exponential_())
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    got += draws()
    assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))
    torch.manual_seed(9)
    assert torch.equal(inside[0], E(3).exponential_())


def test_a_block_without_a_seed_leaves_factories_and_the_generator_to_torch() -> None:
    torch.manual_seed(5)
    expected = [torch.randn(9), torch.rand(9), E(9).exponential_(), torch.get_rng_state()]
    torch.manual_seed(5)
    with ft.accelerated():
        got = [torch.randn(9), torch.rand(9), E(9).exponential_(), torch.get_rng_state()]
    assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))


def test_inside_a_seeded_block_a_block_without_one_is_torchs_with_the_seeds_generator() -> None:
    def build() -> list[Any]:
        with ft.accelerated(seed=3):
            torch.rand(1)
            with ft.accelerated():
                return [torch.rand(9), E(9).normal_(), E(9).exponential_()]

    torch.manual_seed(0)
    first = build()
    torch.manual_seed(1)
    assert all(torch.equal(x, y) for x, y in zip(first, build(), strict=True))
    assert not torch.equal(first[0], ft.uniform_(E(9), seed=3, name="torch 1"))


def test_nested_blocks_have_streams_of_their_own() -> None:
    def drawn() -> Any:
        return E(9).exponential_()

    outer = ft.accelerated(seed=3)
    with outer:
        expected = [drawn() for _ in range(5)]
    with ft.accelerated(seed=4):
        inner = [drawn(), drawn()]
    with outer:
        got = [drawn()]
        with outer:
            got.append(drawn())
        with ft.accelerated(seed=4):
            assert torch.equal(drawn(), inner[0])
            with outer:
                got.append(drawn())
            assert torch.equal(drawn(), inner[1])
        got.append(drawn())
        got.append(drawn())
    assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))


def test_blocks_of_two_threads_give_back_what_was_there() -> None:
    """The later one has the generator; the one that ends last restores it, whichever began first."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with ft.accelerated(seed=4):
        expected = E(9).exponential_()
    begun, end = threading.Event(), threading.Event()
    got: list[Any] = []

    def other() -> None:
        with ft.accelerated(seed=4):
            got.append(E(9).exponential_())
            begun.set()
            end.wait()

    thread = threading.Thread(target=other)
    with ft.accelerated(seed=3):
        thread.start()
        begun.wait()
    assert not torch.equal(torch.get_rng_state(), state)
    end.set()
    thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(got[0], expected)


def test_a_signal_handler_may_open_a_block_while_the_generators_change_hands() -> None:
    codes = tuple(function.__code__ for function in (governing.govern, governing.release, governing._switch))
    with ft.accelerated(seed=3):
        expected = [E(9).exponential_(), E(9).exponential_()]
    with ft.accelerated(seed=4):
        inner = E(9).exponential_()

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
                    with ft.accelerated(seed=4):
                        assert torch.equal(E(9).exponential_(), inner)
                    sys.settrace(trace)
            return trace

        torch.manual_seed(5)
        state = torch.get_rng_state()
        sys.settrace(trace)
        try:
            with ft.accelerated(seed=3):
                sys.settrace(None)
                got = [E(9).exponential_(), E(9).exponential_()]
                sys.settrace(trace)
        finally:
            sys.settrace(None)
        assert torch.equal(torch.get_rng_state(), state), line
        assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True)), line
        return passed >= line

    ended: list[int] = []

    def all_lines() -> None:
        line = 1
        while once(line):
            line += 1
        ended.append(line)

    thread = threading.Thread(target=all_lines)  # its trace function is not the tests' coverage
    thread.start()
    thread.join(60)
    assert ended
    assert ended[0] > 20


class Card:
    """A generator of a device that is not there."""

    def __init__(self, state: int) -> None:
        self.state: Any = state

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state

    def manual_seed(self, seed: int) -> None:
        self.state = seed


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A CUDA of two devices as torch shows it."""
    cuda = SimpleNamespace(
        initialized=True,
        is_initialized=lambda: cuda.initialized,
        is_current_stream_capturing=lambda: False,
        default_generators=(Card(-1), Card(-2)),
        _queued_calls=[],
        _lazy_call=lambda call: cuda._queued_calls.append((call, [])),
    )
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    for name in vars(cuda):
        if name != "initialized":
            monkeypatch.setattr(torch.cuda, name, getattr(cuda, name), raising=False)
    monkeypatch.setattr(governing, "_awaits_cuda", False)
    return cuda


def states(cards: SimpleNamespace) -> list[Any]:
    return [card.state for card in cards.default_generators]


def test_generators_of_cuda_devices_are_governed_too(cards: SimpleNamespace) -> None:
    with ft.accelerated(seed=3):
        inside = states(cards)
        assert inside[0] == inside[1] not in (-1, -2)
        cards.default_generators[1].state = 7  # as after a draw
        with ft.accelerated(seed=4):
            assert states(cards)[0] not in (-1, *inside)
        assert states(cards) == [inside[0], 7]
    assert states(cards) == [-1, -2]


def test_a_cuda_that_comes_up_inside_a_block_is_governed_from_then_on(cards: SimpleNamespace) -> None:
    """torch makes the calls that were queued, then the seeds that it was given before."""

    def come_up() -> None:
        queue = [*cards._queued_calls, (lambda: cards.default_generators[0].manual_seed(5), [])]
        torch.cuda._queued_calls[:] = queue
        for call, _ in torch.cuda._queued_calls:
            call()
        cards.initialized = True

    cards.initialized = False
    with ft.accelerated(seed=3):
        assert states(cards) == [-1, -2]
        come_up()
        inside = states(cards)
        assert inside[0] == inside[1] not in (-1, -2, 5)
    assert states(cards) == [5, -2]


def test_a_cuda_that_comes_up_outside_is_left_alone(cards: SimpleNamespace) -> None:
    cards.initialized = False
    with ft.accelerated(seed=3):
        pass
    for call, _ in cards._queued_calls:
        call()
    assert states(cards) == [-1, -2]


def test_a_stream_that_is_captured_leaves_its_generators_alone(
    cards: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with ft.accelerated(seed=3):
        assert states(cards) == [-1, -2]
    assert states(cards) == [-1, -2]
