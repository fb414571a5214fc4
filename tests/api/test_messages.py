"""Whatever a caller gives, an error shows it, shortly; and integers come in every kind that is iterable."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fanfill as ff
from fanfill import messages, regions
from fanfill.arguments import number_of
from fanfill.cli.fill import parse_axes, parse_name, parse_shape

HUGE = 10**5000  # Python turns no integer of more than 4,300 digits into text


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


Namesake = type("list", (), {})  # whose values reprlib takes for lists


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (2**64, "18446744073709551616"),
        (HUGE, "an integer of 16610 bits"),
        (-HUGE, "a negative integer of 16610 bits"),
        ((1, HUGE), "(1, an integer of 16610 bits)"),
        ([(HUGE,)], "[(an integer of 16610 bits,)]"),
        ("he", "'he'"),
        (np.float32(1.5), "np.float32(1.5)"),
        (Namesake(), "a value of type list"),
        (None, "None"),
    ],
    ids=range(10),
)
def test_a_value_is_shown_as_itself_or_in_words(value: object, text: str) -> None:
    assert messages.shown(value) == text


@pytest.mark.parametrize(
    "value",
    [
        Mute(),
        (Mute(),) * 100,
        "x" * 100_000,
        b"x" * 100_000,
        range(HUGE),
        Fraction(HUGE, HUGE + 1),
        np.array([HUGE], object),
        np.zeros(100_000),
        (2**127,) * 64,
        {HUGE: HUGE},
        list(range(100_000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_is_long_or_an_error(value: object) -> None:
    assert 1 < len(messages.shown(value)) <= 400


W = np.zeros((2, 3), np.float32)
V = np.zeros(3, np.float32)


@pytest.mark.parametrize("number", [HUGE, -HUGE], ids=["huge", "negative"])
@pytest.mark.parametrize(
    "call",
    [
        lambda n: ff.fill(W, ff.normal(), seed=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, name=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, threads=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, backend=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, progress=n),
        lambda n: ff.fill(W, n, seed=0),
        lambda n: ff.fill(W, ff.normal(), seed=0, global_shape=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, global_shape=(n, 3)),
        lambda n: ff.fill(W, ff.normal(), seed=0, offset=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, global_shape=(4, 4), offset=n),
        lambda n: ff.fill(W, ff.normal(), seed=0, global_shape=(4, 4), offset=(0, n)),
        lambda n: ff.fill(W, ff.normal(), seed=0, global_shape=(4, 4), offset=(n,)),
        lambda n: ff.fill(V, ff.normal(), seed=0, global_shape=(4, 4), offset=n),
        lambda n: ff.fill(W, ff.he_normal(in_axis=n), seed=0),
        lambda n: ff.draw((n, 2), ff.normal(), seed=0),
        lambda n: ff.draw(2, ff.normal(), seed=0, device=n),
        lambda n: ff.draw(2, ff.normal(), seed=0, dtype=n),
        lambda n: ff.draw(2, ff.normal(), seed=0, device=f"cuda:{'9' * 5000}"),
        lambda n: ff.words(np.zeros(2, np.uint32), seed=0, start=n),
        lambda n: ff.set_threads(n),
        lambda n: ff.fans((-abs(n), 2)),
        lambda n: ff.fans((-2, abs(n))),
        lambda n: ff.fans((2, 2), in_axis=n),
        lambda n: ff.fans((abs(n), 2), in_axis=7),
        lambda n: ff.fans((abs(n), 2), in_axis=0, out_axis=0),
        lambda n: ff.fans((abs(n),)),
        lambda n: ff.gain(n),
        lambda n: ff.gain("relu", n),
        lambda n: ff.normal(n),
        lambda n: ff.normal(0.0, -Fraction(HUGE, HUGE + 1)),
        lambda n: ff.he_normal(truncated=n),
        lambda n: ff.he_normal(mode=n),
        lambda n: ff.variance_scaling(distribution=n),
        lambda n: ff.initializer(n),
        lambda n: ff.normal().bounds((), n),
    ],
)
def test_an_integer_of_any_length_gets_fanfills_own_words(call: Any, number: int) -> None:
    with pytest.raises((TypeError, ValueError), match="expected") as caught:
        call(number)
    assert "Exceeds the limit" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not W.any()


def test_rules_of_a_model_are_shown_too() -> None:
    torch = pytest.importorskip("torch")
    import fanfill.torch as ft

    layer = torch.nn.Linear(2, 2)
    for rules in ({HUGE: "normal"}, {"*": HUGE}, HUGE, {"*": "zeros", Mute: "zeros"}):
        with pytest.raises(TypeError, match="rules: expected"):
            ft.init_module(layer, seed=0, rules=rules)
    with pytest.raises(TypeError, match="expected a seed with the name an integer of 16610 bits"):
        ft.normal_(torch.empty(2), name=HUGE)


def test_numbers_in_text_have_a_longest() -> None:
    digits = "9" * 5000
    assert number_of("  -12", "x") == -12
    for parse in (
        parse_shape,
        parse_name,
        lambda text: parse_axes("--in-axis", text),
        lambda t: number_of(t, "x"),
    ):
        with pytest.raises(ValueError, match="expected a number of at most 40 digits; got 5000 of them"):
            parse(digits)


# What stands for integers in a row


def once(*entries: int) -> Any:
    return (entry for entry in entries)


@pytest.mark.parametrize(
    "row",
    [
        lambda *n: n,
        lambda *n: list(n),
        lambda *n: np.array(n),
        lambda *n: np.array(n, np.uint8),
        once,
        lambda *n: dict.fromkeys(n).keys() if len(set(n)) == len(n) else n,
        lambda *n: [np.int64(k) for k in n],
        lambda *n: [np.array(k) for k in n],
    ],
)
def test_any_iterable_of_integers_is_a_shape_or_an_offset(row: Any) -> None:
    whole = ff.draw((4, 6), ff.normal(), seed=1)
    part = ff.fill(
        np.zeros((2, 3), np.float32), ff.normal(), seed=1, global_shape=row(4, 6), offset=row(1, 3)
    )
    assert part.tobytes() == whole[1:3, 3:6].tobytes()
    assert ff.draw(row(4, 6), ff.normal(), seed=1).tobytes() == whole.tobytes()
    line = ff.fill(np.zeros(2, np.float32), ff.normal(), seed=1, global_shape=row(24), offset=row(5))
    assert line.tobytes() == whole.reshape(-1)[5:7].tobytes()


def test_tensors_are_iterables_and_those_without_axes_are_integers() -> None:
    torch = pytest.importorskip("torch")
    assert regions.region((2, 3), torch.Size((4, 6)), torch.tensor([1, 3])).start == 9
    for flat in (np.array(5), torch.tensor(5), np.int8(5)):
        assert regions.region((2,), (4, 6), flat) == regions.Region((4, 6), 5, (1,))


@pytest.mark.parametrize(
    ("what", "value", "error", "message"),
    [
        ("offset", np.array([0]), ValueError, r"offset: expected 2 integers, .*; got \(np.int64\(0\),\)"),
        ("offset", np.array([[0], [1]]), TypeError, r"offset: expected an integer in .*; got array\(\[0\]\)"),
        ("offset", np.array([0.0, 1.0]), TypeError, "offset: expected an integer in .*float64"),
        ("offset", np.array([True, False]), TypeError, "offset: expected an integer in .*bool"),
        (
            "offset",
            {0, 1},
            TypeError,
            r"offset: expected an integer or a tuple of them; got \{0, 1\} \(set\)",
        ),
        ("offset", {0: 0, 1: 1}, TypeError, r"offset: expected an integer or a tuple of them; .*\(dict\)"),
        ("offset", b"01", TypeError, r"offset: expected an integer or a tuple of them; .*\(bytes\)"),
        ("offset", np.array(1.5), TypeError, r"offset: expected an int or a tuple of them; .*\(ndarray\)"),
        ("global_shape", bytearray(b"44"), TypeError, "global_shape: expected an integer or a tuple of them"),
        (
            "global_shape",
            itertools.count(),
            ValueError,
            r"global_shape: expected at most 64 axes; got more: \(0, 1",
        ),
        ("offset", itertools.repeat(0), ValueError, "offset: expected at most 64 axes; got more"),
        ("global_shape", (1,) * 65, ValueError, "global_shape: expected at most 64 axes"),
        ("global_shape", np.array(1.5), TypeError, r"global_shape: expected an integer in .*\(ndarray\)"),
    ],
)
def test_what_is_no_row_of_integers_is_refused_in_fanfills_words(
    what: str, value: Any, error: type[Exception], message: str
) -> None:
    places = {"global_shape": (4, 4), "offset": (0, 0), what: value}
    with pytest.raises(error, match=message):
        ff.fill(W, ff.normal(), seed=0, **places)
    assert not W.any()
