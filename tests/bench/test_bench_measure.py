"""The benchmark's measurements: contests, sizes, peers that are missing, models and whole processes."""

from __future__ import annotations

import numpy as np
import pytest

import fanfill as ff
from fanfill.bench import cold, llama, measure, model, peers
from fanfill.bench.measure import Arena, Case, contest, parse_size, size_text


def test_wrong_values_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("normal", "float32", 100)
    buffer = Arena().view("float32", 100)
    assert measure.filler(case, buffer, "numpy", 1) is not None
    monkeypatch.setattr(measure, "_call", lambda *_: lambda: None)
    with pytest.raises(RuntimeError, match="expected the values of the NumPy oracle"):
        measure.filler(case, buffer, "numpy", 1)


def test_a_contest_runs_everyone_in_turns_and_gives_medians() -> None:
    calls: list[str] = []
    samples = contest([lambda: calls.append("a"), lambda: calls.append("b")], rounds=5, seconds=0.0, least=3)
    assert [sample.rounds for sample in samples] == [3, 3]
    assert all(0 < sample.seconds < 1 for sample in samples)
    assert calls.index("b") < len(calls) - calls[::-1].index("a")


def test_a_deadline_leaves_everyone_one_turn() -> None:
    samples = contest([lambda: None, lambda: None], rounds=5, seconds=9.0, deadline=0.0)
    assert [sample.rounds for sample in samples] == [1, 1]


def test_an_arena_is_one_piece_of_memory() -> None:
    arena = Arena()
    whole = arena.view("float64", 1000)
    assert np.shares_memory(whole, arena.view("bfloat16", 500))
    assert arena.view("bfloat16", 500).dtype.name == "bfloat16"


@pytest.mark.parametrize(
    ("text", "values"), [("64Mi", 1 << 26), ("1Ki", 1024), ("1gi", 1 << 30), ("1000", 1000)]
)
def test_sizes_are_read_and_written(text: str, values: int) -> None:
    assert parse_size(text) == values
    assert parse_size(size_text(values)) == values


@pytest.mark.parametrize("text", ["", "64M", "-1", "0", "1.5Ki", "Ki"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 64Ki"):
        parse_size(text)


# Peers


@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_missing_peer_is_an_entrant_that_says_so(monkeypatch: pytest.MonkeyPatch, peer: str) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {peer!r}")

    monkeypatch.setitem(peers.PEERS, peer, missing)
    (entrant,) = peers.entrants(peer, Case("normal", "float32", 10), np.empty(10, np.float32))
    assert entrant.run is None
    assert entrant.missing is not None
    assert "No module named" in entrant.missing
    assert "pip install" in entrant.missing


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_draws_what_we_draw(distribution: str, dtype: str) -> None:
    """The peer does the whole job: same law, same scale, every element."""
    values = 200_000
    buffer = np.zeros(values, dtype)
    for entrant in peers.entrants("numpy", Case(distribution, dtype, values), buffer):
        buffer.fill(0)
        assert entrant.run is not None
        entrant.run()
        law = measure.LAWS[distribution]
        assert abs(buffer.mean()) < 5 * law.std((values,)) / values**0.5
        assert buffer.std() == pytest.approx(law.std((values,)), rel=0.02)
        assert np.count_nonzero(buffer == 0) < 10


# The model and the processes


@pytest.mark.parametrize(
    ("size", "tensors", "values"), [(llama.TINY, 201, 1_100_048_384), (llama.LLAMA_8B, 291, 8_030_261_248)]
)
def test_the_models_have_their_published_numbers_of_parameters(size, tensors, values) -> None:
    table = list(llama.parameters(size))
    assert len({name for name, _ in table}) == len(table) == tensors
    assert sum(int(np.prod(shape)) for _, shape in table) == values


def test_a_model_is_filled_by_name_with_both_schemes() -> None:
    table = [("embed.weight", (40, 8)), ("q.weight", (16, 8)), ("norm.weight", (8,))]
    rows = model.rows("float32", Arena(), with_torch=False, parameters=table)
    found = {(row.subject, row.distribution) for row in rows}
    assert found == {("limit", ""), ("fanfill", "N(0, 0.02)"), ("fanfill", "defaults")}
    assert {row.values for row in rows} == {456}


def test_defaults_are_those_of_torchs_modules() -> None:
    assert model.law_of("defaults", "q.weight", 2).std((16, 12)) == pytest.approx((1 / (3 * 12)) ** 0.5)
    assert model.law_of("defaults", "model.embed_tokens.weight", 2) == ff.normal()
    assert model.law_of("defaults", "norm.weight", 1) == ff.constant(1.0)
    assert model.law_of("N(0, 0.02)", "model.embed_tokens.weight", 2) == ff.normal(0, 0.02)


def test_processes_are_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (cold.Process("a", "nothing", "pass", "warm"), cold.Process("b", "nothing", "pass", "empty"))
    monkeypatch.setattr(cold, "processes", lambda: chosen)
    (found,) = cold.measure(1)
    assert found.keys() == set(chosen)
    assert all(0 < seconds < 30 for seconds in found.values())
    assert len(list(cold.measure(4, seconds=60.0))) == 4
    assert len(list(cold.measure(4, seconds=0.0))) == 1
