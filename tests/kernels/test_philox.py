"""The words: known answers, counters, carries, keys; against a Philox written apart from the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model import philox_block
from numba import njit

import fanfill as ff
from fanfill_kernels import philox
from fanfill_kernels.blocks import replay as blocks
from fanfill_kernels.compile import cpu
from fanfill_kernels.compile.compiler import operation
from fanfill_kernels.compile.rebinding import rebind

WORD = 2**32 - 1
NAMED_W = 0x20925082A2286B9E  # `printf w | b2sum -l 64` prints 9e6b28a282509220, the bytes from the lowest up
BACKENDS = {"numba": cpu.kernels, "numpy": blocks.kernels}
KEY = (0x1BD11BDA, 0xA9FC1A22, 0x13198A2E, 0x03707344)
KNOWN = [
    line.split()
    for line in Path(__file__).parents[1].joinpath("data", "philox4x32_kat.txt").read_text().splitlines()
    if not line.startswith("#")
]

Words = tuple[int, ...]


def words_from(start: int, count: int, key: Words, rounds: int = 10) -> np.ndarray:
    """Words start, start + 1, ... by the number contract; key: (seed, substream) in 32-bit halves."""
    blocks_of = {
        b: philox_block((b & WORD, b >> 32, *key[2:]), key[:2], rounds)
        for b in range(start // 4, (start + count) // 4 + 1)
    }
    return np.array([blocks_of[i // 4][i % 4] for i in range(start, start + count)], np.uint32)


def drawn(backend: str, start: int, count: int, key: Words = KEY) -> np.ndarray:
    out = np.empty(count, np.uint32)
    BACKENDS[backend]("words", "uint32").run(out, start, key, ())
    return out


def assert_words(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


def hexadecimal(row: list[str]) -> tuple[int, Words, Words, Words]:
    """(rounds, counter, key, block) of a line of known answers."""
    words = tuple(int(word, 16) for word in row[2:])
    return int(row[1]), words[:4], words[4:6], words[6:]


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row[1]}-{row[2]}")
def test_the_reference_of_these_tests_gives_the_known_answers(row: list[str]) -> None:
    rounds, ctr, key, expected = hexadecimal(row)
    assert philox_block(ctr, key, rounds) == expected


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row[1]}-{row[2]}")
def test_the_lane_function_gives_the_known_answers(row: list[str]) -> None:
    rounds, ctr, key, expected = hexadecimal(row)
    function = rebind(philox.philox_pairs, {philox.last_round: rebind(philox.last_round, {}, ROUNDS=rounds)})
    pairs = function(*(np.full(3, word, np.uint64) for word in (*ctr, *key)))
    for place in range(3):
        assert tuple(np.array([p[place] for p in pairs]).view(np.uint32).tolist()) == expected


def test_strands_are_the_words_of_the_pairs_in_another_order() -> None:
    counters = np.arange(5, dtype=np.uint64) * np.uint64(0x123456789)
    rest = [np.uint64(word) for word in (9, 2**32 - 1, 7, 0x85A308D3, 2**32 - 2)]
    with np.errstate(all="ignore"):
        pairs = [p.view(np.uint32) for p in philox.philox_pairs(counters, *rest)]
        strands = [s.view(np.uint32) for s in philox.philox_strands(counters, *rest)]
    for k in range(2):
        assert strands[k][0::2].tolist() == pairs[0][k::2].tolist()
        assert strands[k][1::2].tolist() == pairs[1][k::2].tolist()


def test_there_are_known_answers_for_seven_and_for_ten_rounds() -> None:
    assert sorted(row[1] for row in KNOWN) == ["10"] * 3 + ["7"] * 3


def lanes_of(ctr: np.ndarray, key: np.ndarray) -> Any:
    c, k = ctr.astype(np.uint64), key.astype(np.uint64)
    with np.errstate(over="ignore"):
        return philox.philox_pairs(c[0], c[1], c[2], c[3], k[0], k[1])


def test_the_lane_function_is_the_reference_at_random_counters_and_keys_compiled_too() -> None:
    generator = np.random.default_rng(7)
    ctr = generator.integers(0, 2**32, (4, 300), np.uint64)
    key = generator.integers(0, 2**32, (2, 300), np.uint64)
    expected = [
        philox_block(tuple(c), tuple(k), 10) for c, k in zip(ctr.T.tolist(), key.T.tolist(), strict=True)
    ]
    assert_words(np.stack(lanes_of(ctr, key), 1).view(np.uint32), np.array(expected, np.uint32))

    block = operation(philox.philox_pairs)
    compiled = njit(lambda c0, c1, c2, c3, k0, k1: block(c0, c1, c2, c3, k0, k1))
    scalars = [compiled(*c, *k) for c, k in zip(ctr.T, key.T, strict=True)]
    assert_words(np.array(scalars, np.uint64).view(np.uint32), np.array(expected, np.uint32))


def test_whatever_stands_above_a_counters_32_bits_is_ignored() -> None:
    generator = np.random.default_rng(8)
    ctr = generator.integers(0, 2**64, (4, 100), np.uint64)
    key = generator.integers(0, 2**32, (2, 100), np.uint64)
    for dirty, clean in zip(lanes_of(ctr, key), lanes_of(ctr & np.uint64(WORD), key), strict=True):
        np.testing.assert_array_equal(dirty, clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_gives_the_known_answer_that_its_counters_reach(backend: str) -> None:
    assert drawn(backend, 0, 4, (0, 0, 0, 0)).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


# The block index crosses 2^32, where its upper half carries, at word 2^34; NumPy and Numba cut there.
CARRIES = (2**31 - 7, 2**32 - 9, 2**33 - 5, 2**34 - 11, 2**34, 5 * 2**34 - 6, 2**48 - 3, 2**62 - 13, 2**62)


@pytest.mark.parametrize("start", [*range(10), 2045, *CARRIES, 2**63 - 37])
@pytest.mark.parametrize("backend", BACKENDS)
def test_words_are_those_of_the_reference_wherever_they_start(backend: str, start: int) -> None:
    assert_words(drawn(backend, start, 37), words_from(start, 37, KEY))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_run_across_the_carry_is_that_of_the_reference(backend: str) -> None:
    start = 2**34 - 3001
    assert_words(drawn(backend, start, 6001), words_from(start, 6001, KEY))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_box_of_words_across_the_carry_is_that_of_the_reference(backend: str) -> None:
    shape, pitch, start = np.array([3, 5]), np.array([2**33, 3]), 2**34 - 7
    out = np.empty(15, np.uint32)
    BACKENDS[backend]("words", "uint32").box(out, start, shape, pitch, KEY, ())
    expected = [words_from(start + 2**33 * i + 3 * j, 1, KEY)[0] for i in range(3) for j in range(5)]
    assert_words(out, np.array(expected))


@pytest.mark.parametrize(
    "key", [(0,) * 4, (WORD,) * 4, *(tuple(row) for row in np.eye(4, dtype=int).tolist())]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_part_of_seed_and_substream_has_its_place(backend: str, key: Words) -> None:
    assert_words(drawn(backend, 1, 9, key), words_from(1, 9, key))


def test_words_takes_seed_name_and_start_as_the_contract_says() -> None:
    seed, name, start = 0x0123456789ABCDEF, 0xFEDCBA9876543210, 2**34 - 5
    key = (seed & WORD, seed >> 32, name & WORD, name >> 32)
    found = ff.words(np.empty(12, np.uint32), seed=seed, name=name, start=start)
    assert_words(found, words_from(start, 12, key))
    by_string = ff.words(np.empty(12, np.uint32), seed=seed, name="w", start=start)
    assert_words(by_string, ff.words(np.empty(12, np.uint32), seed=seed, name=NAMED_W, start=start))


def test_the_comparison_sees_a_round_less_and_a_changed_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = words_from(0, 8, KEY)
    assert_words(drawn("numpy", 0, 8), expected)
    for name, wrong in (("ROUNDS", 9), ("W0", philox.W1), ("M1", philox.M0), ("HALF", np.uint64(31))):
        with monkeypatch.context() as patch:
            patch.setattr(philox, name, wrong)
            with pytest.raises(AssertionError):
                assert_words(drawn("numpy", 0, 8), expected)
    with pytest.raises(AssertionError):
        assert_words(drawn("numpy", 0, 8), words_from(0, 8, KEY, rounds=9))
