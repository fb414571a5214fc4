"""`fanfill.Philox`: its words are those of `fanfill.words`, wherever it stands and whoever asks."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fanfill as ff
from fanfill import bitgenerator
from fanfill.backends import Selection
from fanfill.bitgenerator import Stream
from fanfill.streams import substream

SEED, NAME = 0xC0FFEE0123456789, "augmentation"
# Around the ends of blocks and halves, far away, and up to the last word that exists.
POSITIONS = (0, 1, 3, 1021, 1022, 1023, 1024, 1025, 2**34 - 7, 2**40 + 1, 2**63 - 5001)


def philox(position=0):
    return ff.Philox(SEED, NAME, position)


def words(count, start=0, seed=SEED, name=NAME):
    return ff.words(np.empty(count, np.uint32), seed=seed, name=name, start=start)


def raw(count, start=0, **key):
    """Words of 64 bits, the lower half first."""
    low, high = words(2 * count, start, **key).astype(np.uint64).reshape(-1, 2).T
    return low | high << np.uint64(32)


def go_on_alike(one, other):
    """Whether two bit generators give the same values, now and after some."""
    one, other = np.random.Generator(one), np.random.Generator(other)
    return all(
        np.array_equal(a, b)
        for a, b in (
            (one.random(5, np.float32), other.random(5, np.float32)),
            (one.standard_normal(1500), other.standard_normal(1500)),
        )
    )


# The words


@pytest.mark.parametrize("position", POSITIONS)
def test_raw_words_floats_and_doubles_are_those_of_words(position):
    assert np.array_equal(philox(position).random_raw(2500), raw(2500, position))
    rng = np.random.Generator(philox(position))
    assert np.array_equal(rng.random(5000, np.float32), (words(5000, position) >> 8) * np.float32(2**-24))
    rng = np.random.Generator(philox(position))
    assert np.array_equal(rng.random(2500), (raw(2500, position) >> np.uint64(11)) * 2.0**-53)


@pytest.mark.parametrize("bit", [0, 17, 31])
def test_one_wrong_bit_is_noticed(bit):
    expected = raw(2500)
    expected[1777] ^= np.uint64(1 << bit)
    assert not np.array_equal(philox().random_raw(2500), expected)


def test_the_functions_may_be_called_in_any_order():
    """By ctypes, as C code of other libraries does; blocks end within a word of 64 bits, and before one."""
    rng = np.random.default_rng(5)
    bits, count = philox(3), 20_000
    interface = bits.ctypes  # which keeps nobody alive
    stream, at = words(3 * count, 3).tolist(), 0
    for kind in rng.integers(0, 3, count).tolist():
        whole = stream[at] | stream[at + 1] << 32
        if kind == 0:
            assert interface.next_uint32(interface.state) == stream[at]
        elif kind == 1:
            assert interface.next_uint64(interface.state) == whole
        else:
            assert interface.next_double(interface.state) == (whole >> 11) * 2.0**-53
        at += 1 if kind == 0 else 2


def test_seed_name_and_start_choose_the_words():
    assert np.array_equal(ff.Philox().random_raw(9), raw(9, seed=0, name=0))
    assert np.array_equal(
        ff.Philox(2**64 - 1, 2**64 - 1).random_raw(9), raw(9, seed=2**64 - 1, name=2**64 - 1)
    )
    assert np.array_equal(ff.Philox(np.int32(5), np.uint8(6)).random_raw(9), raw(9, seed=5, name=6))
    assert ff.Philox(7, "a").random_raw() == ff.Philox(seed=7, name="a", start=0).random_raw()
    firsts = {ff.Philox(*key).random_raw() for key in ((0, 0), (1, 0), (0, 1), (0, "a"), (0, 0, 1))}
    assert len(firsts) == 5


def test_past_the_last_word_of_the_contract_they_go_on():
    bits = ff.Philox(0, 0, 2**63 - 10)
    found = bits.random_raw(1000)
    assert np.array_equal(found[:5], raw(5, 2**63 - 10, seed=0, name=0))
    assert len(np.unique(found)) == 1000
    assert bits.state["state"]["position"] == 2**63 + 1990
    assert go_on_alike(pickle.loads(pickle.dumps(bits)), bits)


# State and places


@pytest.mark.parametrize("taken", [0, 1, 1001, 1023, 1024, 2047])
def test_a_state_goes_on_where_it_was_read(taken):
    bits = philox()
    np.random.Generator(bits).random(taken, np.float32)
    state = bits.state
    assert state == {
        "bit_generator": "fanfill.Philox",
        "stream": ff.STREAM_VERSION,
        "state": {"seed": SEED, "substream": substream(NAME), "position": taken},
    }
    other = ff.Philox()
    other.state = state
    assert np.array_equal(other.random_raw(900), raw(900, taken))
    for made in (pickle.loads(pickle.dumps(bits)), copy.deepcopy(bits), copy.copy(bits)):
        assert type(made) is ff.Philox
        assert go_on_alike(made, copy.copy(bits))
    assert np.array_equal(bits.random_raw(900), raw(900, taken))


def test_generators_are_pickled_and_copied_with_it():
    rng = np.random.Generator(philox())
    rng.random(1001, np.float32)
    for made in (pickle.loads(pickle.dumps(rng)), copy.deepcopy(rng)):
        assert np.array_equal(made.random(1001), (raw(1001, 1001) >> np.uint64(11)) * 2.0**-53)


def changed(**entries):
    return philox().state | entries


INNER = {"seed": 1, "substream": 2, "position": 3}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"a"}, TypeError, r"state: expected a dict, as state returns; got \{'a'\}"),
        (
            changed(bit_generator="Philox"),
            ValueError,
            "state: expected one of fanfill.Philox; got one of 'Phil",
        ),
        (
            {},
            ValueError,
            "state: expected one of fanfill.Philox; got one of None; set it on such a generator",
        ),
        (changed(stream=1), ValueError, "expected one of stream version 2; got 1; only a release of fanfill"),
        (
            changed(state={"seed": 1}),
            ValueError,
            "expected seed, substream and position in state; got {'seed",
        ),
        (changed(state=None), ValueError, "expected seed, substream and position in state; got None"),
        (
            changed(state=INNER | {"seed": -1}),
            ValueError,
            r"seed: expected an integer in \[0, 2\*\*64\); got",
        ),
        (changed(state=INNER | {"substream": "a"}), TypeError, r"substream: expected an integer in \[0"),
        (changed(state=INNER | {"position": 2**64}), ValueError, r"position: expected an integer in \[0"),
    ],
)
def test_another_state_is_refused_and_changes_nothing(state, error, message):
    bits = philox(11)
    with pytest.raises(error, match=message):
        bits.state = state
    assert np.array_equal(bits.random_raw(9), raw(9, 11))


def test_advance_counts_words_there_and_back():
    bits = philox()
    assert bits.advance(2**40 + 1) is bits
    assert np.array_equal(bits.random_raw(9), raw(9, 2**40 + 1))
    assert np.array_equal(bits.advance(-18 - 2**40).random_raw(9), raw(9, 1))
    assert np.array_equal(bits.advance(-5).random_raw(9), raw(9, 14))
    assert bits.advance(2**63 - 1 - 32).state["state"]["position"] == 2**63 - 1


@pytest.mark.parametrize(
    ("delta", "error", "message"),
    [
        (-12, ValueError, r"delta: expected a step from word 11 to one in \[0, 2\*\*63\); got -12"),
        (2**63 - 11, ValueError, r"delta: expected a step from word 11 to one in \[0, 2\*\*63\); got 92"),
        (2**64, ValueError, r"delta: expected an integer in \(-2\*\*64, 2\*\*64\); got 18446744073709551616"),
        (1.0, TypeError, r"delta: expected an integer in \(-2\*\*64, 2\*\*64\); got 1.0"),
    ],
)
def test_an_advance_out_of_the_stream_is_refused_and_changes_nothing(delta, error, message):
    bits = philox(11)
    with pytest.raises(error, match=message):
        bits.advance(delta)
    assert np.array_equal(bits.random_raw(9), raw(9, 11))


def test_jumps_add_up_and_lead_to_integer_names():
    bits = ff.Philox(1, 3, 5)
    bits.random_raw(8)
    assert bits.jumped(2).jumped(3).state == bits.jumped(5).state
    assert np.array_equal(bits.jumped(4).random_raw(9), raw(9, 21, seed=1, name=7))
    assert np.array_equal(bits.jumped().random_raw(9), raw(9, 21, seed=1, name=4))
    assert np.array_equal(bits.jumped(-4).random_raw(9), raw(9, 21, seed=1, name=2**64 - 1))
    assert np.array_equal(bits.random_raw(9), raw(9, 21, seed=1, name=3))
    with pytest.raises(TypeError, match=r"jumps: expected an integer in \(-2\*\*64, 2\*\*64\); got 'a'"):
        bits.jumped("a")


# Children


def test_children_are_named_distinct_and_repeatable():
    bits = philox(77)
    children = bits.spawn(3) + bits.spawn(2)
    for k, child in enumerate(children):
        assert type(child) is ff.Philox
        assert np.array_equal(child.random_raw(9), raw(9, name=f"{NAME}#{k}"))
    (grandchild,) = children[2].spawn(1)
    assert np.array_equal(grandchild.random_raw(9), raw(9, name=f"{NAME}#2#0"))
    assert grandchild.seed_seq.spawn_key == (2, 0)
    (rng,) = np.random.Generator(bits).spawn(1)
    assert np.array_equal(rng.bit_generator.random_raw(9), raw(9, name=f"{NAME}#5"))
    (child,) = pickle.loads(pickle.dumps(bits)).spawn(1)
    assert np.array_equal(child.random_raw(9), raw(9, name=f"{NAME}#6"))


def test_children_of_the_integer_5_and_of_the_text_5_differ():
    (one,), (other,) = ff.Philox(0, 5).spawn(1), ff.Philox(0, "5").spawn(1)
    assert np.array_equal(one.random_raw(9), raw(9, seed=0, name="0x0000000000000005#0"))
    assert np.array_equal(other.random_raw(9), raw(9, seed=0, name="5#0"))


def test_a_stream_stands_where_numpy_has_a_seed_sequence():
    stream = Stream(SEED, NAME)
    assert np.array_equal(ff.Philox(stream, start=7).random_raw(9), raw(9, 7))
    assert stream.generate_state(6).tolist() == words(6, name=f"{NAME}#state").tolist()
    assert stream.generate_state(3, np.uint64).tolist() == raw(3, name=f"{NAME}#state").tolist()
    assert stream.pool.tolist() == list(stream.key)
    assert stream.state == {"seed": SEED, "name": NAME, "spawn_key": (), "n_children_spawned": 0}
    one, other = (np.random.default_rng(Stream(3, name)).random() for name in "ab")  # seeds NumPy's own
    assert one != other
    with pytest.raises(ValueError, match=r"dtype: expected uint32 or uint64; got <class 'numpy\.float32'>"):
        stream.generate_state(3, np.float32)
    with pytest.raises(ValueError, match=r"n_words: expected an integer in \[0, 2\*\*48\); got -1"):
        stream.generate_state(-1)
    with pytest.raises(ValueError, match=r"n_children: expected an integer in \[0, 2\*\*31\); got -1"):
        stream.spawn(-1)
    assert stream.spawn(0) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, r"seed: expected an integer in \[0, 2\*\*64\); got None"),
        ((-1,), ValueError, r"seed: expected an integer in \[0, 2\*\*64\); got -1"),
        ((2**64,), ValueError, r"seed: expected an integer in \[0, 2\*\*64\); got 18446744073709551616"),
        ((np.random.SeedSequence(1),), TypeError, r"seed: expected an integer in .*; got SeedSequence\("),
        ((0, None), TypeError, r"name: expected an integer in \[0, 2\*\*64\), or a str; got None"),
        ((0, -1), ValueError, r"name: expected an integer in \[0, 2\*\*64\), or a str; got -1"),
        ((0, 0, -1), ValueError, r"start: expected an integer in \[0, 2\*\*63\); got -1"),
        ((0, 0, 2**63), ValueError, r"start: expected an integer in \[0, 2\*\*63\); got 9223372036854775808"),
        ((Stream(0, 0), "a"), TypeError, "name: expected none beside a Stream, which has its own; got 'a'"),
    ],
)
def test_other_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ff.Philox(*arguments)


# Where it is used


def test_eight_threads_get_each_value_once():
    rng, count, parts = np.random.Generator(philox()), 40_000, [[] for _ in range(8)]

    def take(part):
        while len(part) < 40:
            part.append(rng.bit_generator.random_raw(count // 40))

    threads = [threading.Thread(target=take, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = np.sort(np.concatenate([values for part in parts for values in part]))
    assert np.array_equal(found, np.sort(raw(8 * count)))


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory as Linux counts it")
def test_generators_that_are_dropped_leave_no_memory_behind():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def make(count):
        for k in range(count):
            np.random.Generator(ff.Philox(k)).random()

    make(2000)
    gc.collect()
    before = resident()
    make(20_000)
    gc.collect()
    assert resident() - before < 2 << 20


def test_a_generator_outlives_the_name_of_what_it_draws_from():
    rng = np.random.Generator(philox())
    gc.collect()
    assert np.array_equal(rng.random(3000), (raw(3000) >> np.uint64(11)) * 2.0**-53)


def test_numpys_functions_take_it():
    assert np.random.default_rng(philox()).bit_generator.random_raw() == raw(1)[0]
    assert np.random.default_rng(philox()).permutation(100).tolist() == (
        np.random.Generator(philox()).permutation(100).tolist()
    )
    old = np.random.RandomState(philox())
    assert np.array_equal(old.random_sample(50), (raw(50) >> np.uint64(11)) * 2.0**-53)
    state = old.get_state(legacy=False)
    values = old.standard_normal(3)
    old.set_state(state)
    assert np.array_equal(old.standard_normal(3), values)


def test_scipys_distributions_take_it():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    one, other = (
        stats.gamma.rvs(2.5, size=200, random_state=np.random.Generator(philox())) for _ in range(2)
    )
    assert np.array_equal(one, other)
    assert stats.kstest(one, stats.gamma(2.5).cdf).pvalue > 1e-6


def test_compiled_code_of_numba_takes_a_generator():
    numba = pytest.importorskip("numba", reason="numba is not installed")

    @numba.njit
    def total(rng, out):
        for k in range(out.size):
            out[k] = rng.random()

    found = np.empty(2000)
    total(np.random.Generator(philox()), found)
    assert np.array_equal(found, (raw(2000) >> np.uint64(11)) * 2.0**-53)


# Where it cannot be


def test_without_compiled_code_it_is_refused_and_says_why(monkeypatch):
    ff.Philox()
    for why, end in (
        ("FANFILL_BACKEND=numpy", r"got 'numpy' \(FANFILL_BACKEND=numpy\); unset it"),
        (
            "numba is not usable: no Numba; pip install numba",
            "got 'numpy'; numba is not usable: no Numba; pip",
        ),
    ):
        bitgenerator._machine.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(bitgenerator, "select_backend", lambda buffer, why=why: Selection("numpy", why))
            with pytest.raises(ff.BackendUnavailableError, match=f"fanfill.Philox: expected the .*; {end}"):
                ff.Philox()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(
        ff.BackendUnavailableError, match="expected Numba to compile; NUMBA_DISABLE_JIT is set"
    ):
        ff.Philox()
    monkeypatch.undo()
    assert ff.Philox().random_raw() == raw(1, seed=0, name=0)[0]


def test_an_empty_pointer_is_noticed_before_numpy_calls_it(monkeypatch):
    code = bitgenerator._machine().code()
    for name in ("uint64", "uint32", "double"):
        monkeypatch.setattr(bitgenerator._machine(), "code", lambda name=name: code._replace(**{name: 0}))
        with pytest.raises(RuntimeError, match=r"expected five addresses; got \(\d+, "):
            ff.Philox()


def test_a_subclass_that_does_not_initialise_it_is_no_generator():
    class Forgetful(ff.Philox):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match="Invalid bit generator"):
        np.random.Generator(Forgetful())


def test_a_subclass_keeps_its_class():
    assert type(pickle.loads(pickle.dumps(Named(1)))) is Named
    assert type(Named(1).jumped()) is Named
    assert [type(child) for child in Named(1).spawn(2)] == [Named, Named]


class Named(ff.Philox):
    """A subclass that a pickle can find."""


def test_the_name_is_the_packages_and_another_is_not():
    assert "Philox" in dir(ff)
    assert ff.Philox is bitgenerator.Philox
    with pytest.raises(AttributeError, match="module 'fanfill' has no attribute 'philox'"):
        ff.philox  # noqa: B018
