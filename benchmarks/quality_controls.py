"""Negative controls: streams with one flaw each, that the statistics must reject, and by which of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from quality_checks import Check, checks
from quality_laws import Array, Law
from quality_sources import SEED, Altered, FanfillSource, Flaw, Mixed
from quality_tally import BLOCK, PASSES, Engine, Source, tallied

from fanfill.distributions import recipe
from fanfill_kernels import arithmetic, philox
from fanfill_kernels.compile.cpu import kernels
from fanfill_kernels.compile.rebinding import rebind
from fanfill_kernels.forms import form_of
from fanfill_kernels.narrow import store_of

UNIFORM = Law("uniform", 1.0, "float32")
NORMAL = Law("normal", 1.0, "float32")
NARROW = Law("uniform", 0.1, "bfloat16")
TRUNCATED = Law("truncated", 1.0, "float32")
FROM_ZERO = Law("uniform", 0.5, "float32", 0.5)
FROM_ZERO_64 = Law("uniform", 0.5, "float64", 0.5)
KEY = (SEED, 0, 7, 0)


class Control(NamedTuple):
    """A flawed source, how much of it is drawn, what is counted, and which groups of statistics must fail."""

    name: str
    law: Law
    source: Source
    draws: int
    fails: frozenset[str]
    wanted: frozenset[str] = PASSES
    neighbours: tuple[tuple[Source, Source | None], ...] = ()

    def checks(self, engine: Engine = tallied) -> list[Check]:
        """The statistics of this stream."""
        found = engine(self.law, self.source, self.draws, self.neighbours, wanted=self.wanted)
        return checks(self.law, found)


def altered(law: Law, change: Callable[[Array], object]) -> Altered:
    """fanfill's stream, each block changed in place."""
    return Altered(FanfillSource(law), change)


def of_words(law: Law, change: Callable[[Array], object], values: Any = None) -> Source:
    """fanfill's values of words that were changed, by the arithmetic in NumPy."""
    made = recipe(law.initializer, (1,), law.dtype)
    function = values or form_of(made.form, law.dtype).function
    store = store_of(law.dtype)

    def drawn(number: int, out: Array) -> None:
        words = np.empty(BLOCK, np.uint32)
        kernels("words", "uint32").run(words, number * BLOCK, KEY, ())
        change(words)
        with np.errstate(all="ignore"):
            if law.kind == "normal":
                out[0::2], out[1::2] = function(words[0::2].copy(), words[1::2].copy(), made.params)
            else:
                out[:] = store(function(words, made.params))

    return lambda: drawn


def few_rounds(rounds: int) -> Source:
    """Uniforms of a Philox of fewer rounds."""
    weak = rebind(philox.philox_pairs, {philox.last_round: rebind(philox.last_round, {}, ROUNDS=rounds)})
    made = recipe(UNIFORM.initializer, (1,), UNIFORM.dtype)

    def drawn(number: int, out: Array) -> None:
        counter = np.arange(BLOCK // 4, dtype=np.uint64) + np.uint64(number * (BLOCK // 4))
        rest = (np.uint64(part) for part in (0, KEY[2], KEY[3], KEY[0], KEY[1]))
        with np.errstate(all="ignore"):
            found = weak(counter, *rest)
            words = np.stack([np.broadcast_to(p, counter.shape) for p in found], 1).reshape(-1)
            out[:] = arithmetic.uniform(words.view(np.uint32), made.params)

    return lambda: drawn


def rounded_twice(law: Law) -> Source:
    """Stream version 1's asymmetric uniforms, in NumPy: the half-width times the signed unit is rounded, then
    the sum with the midpoint. What the first rounding leaves are half-steps of the second, and its ties go to
    even.
    """
    n = law.number
    integer = np.dtype(f"i{n.real().itemsize}").type
    half, middle = n.real(law.scale) * n.real(2.0**-n.sign), n.real(law.middle)
    ends = n.real(law.middle - law.scale), n.real(law.middle + law.scale)

    def drawn(number: int, out: Array) -> None:
        words = np.empty(BLOCK * out.itemsize // 4, np.uint32)
        kernels("words", "uint32").run(words, number * words.size, KEY, ())
        odd = words.view(integer) | integer(1)
        np.clip(odd.astype(n.real) * half + middle, *ends, out=out)

    return lambda: drawn


def addend_rounded(law: Law) -> Source:
    """Stream version 1's float32 truncated normals, in NumPy: 3 q + q P / Q, whose small part is rounded one
    to three bits below the sum's last place. So an eighth to a half of the sums are ties, which go to even.
    """
    origin, width = recipe(law.initializer, (1,), law.dtype).params[:2]
    units = np.float32(3 * 2.0**-31)

    def drawn(number: int, out: Array) -> None:
        words = np.empty(BLOCK, np.uint32)
        kernels("words", "uint32").run(words, number * BLOCK, KEY, ())
        with np.errstate(over="ignore"):
            n = ((origin + width * words) >> np.uint64(32)).astype(np.uint32).view(np.int32) | arithmetic.ODD
        d = (arithmetic.HALF_LINE - np.abs(n)).astype(np.float32) * arithmetic.UNIT
        y = d - d * d
        ratio = arithmetic.horner(y, arithmetic.CENTRE_P) / arithmetic.horner(y, arithmetic.CENTRE_Q)
        coarse, fine = ((n & mask).astype(np.float32) for mask in (arithmetic.UNFINE, arithmetic.FINE))
        z = coarse * units + (fine * units + (coarse + fine) * arithmetic.UNIT * ratio)
        np.multiply(z, np.float32(law.scale), out=out)

    return lambda: drawn


def _repeat_words(words: Array) -> None:
    words[1::8] = words[0::8]


def _repeat_swapped(out: Array) -> None:
    out[2::4], out[3::4] = out[1::4].copy(), out[0::4].copy()


def _keep_even(out: Array) -> None:
    """One value in 256 loses its last bit."""
    out.view(np.uint32)[::256] &= np.uint32(0xFFFFFFFE)


def _share_radii(words: Array) -> None:
    words[2::4] = words[0::4]


def _angle_from_radius(words: Array) -> None:
    words[1::2] = words[0::2]


def _keep_23_bits(out: Array) -> None:
    np.multiply(np.floor(out * 2.0**22), 2.0**-22, out=out)


def _keep_23_bits_off_zero(out: Array) -> None:
    np.multiply(np.floor(out * 2.0**22) + np.float32(0.5), 2.0**-22, out=out)


def _spoil_one(out: Array) -> None:
    out[out.size // 2] = np.nan


def _times(factor: float) -> Flaw:
    return Flaw(lambda out: np.multiply(out, np.float32(factor), out=out), "scaled", factor)


def _share_with_neighbour() -> tuple[tuple[Source, Source | None], ...]:
    """A neighbouring stream that has one value in 64 in common."""
    return ((Mixed(FanfillSource(NORMAL, SEED + 1), FanfillSource(NORMAL), 64), None),)


def _groups(*names: str) -> frozenset[str]:
    return frozenset(names)


CONTROLS = (
    Control("Philox of 3 rounds", UNIFORM, few_rounds(3), 2**22, _groups("pairs")),
    Control(
        "one word in eight used twice", UNIFORM, of_words(UNIFORM, _repeat_words), 2**20, _groups("lags")
    ),
    Control(
        "each pair again, swapped",
        NORMAL,
        altered(NORMAL, Flaw(_repeat_swapped, "swapped")),
        2**20,
        _groups("lags"),
    ),
    Control("one radius for two pairs", NORMAL, of_words(NORMAL, _share_radii), 2**20, _groups("lags")),
    Control(
        "radius and angle from one word",
        NORMAL,
        of_words(NORMAL, _angle_from_radius),
        2**20,
        _groups("chi-square", "KS", "pairs"),
    ),
    Control(
        "uniform of 23 bits",
        UNIFORM,
        altered(UNIFORM, Flaw(_keep_23_bits, "floored", 2.0**22)),
        2**27,
        _groups("zeros"),
    ),
    Control(
        "uniform of 23 bits, never 0",
        UNIFORM,
        altered(UNIFORM, Flaw(_keep_23_bits_off_zero, "centred", 2.0**22)),
        2**28,
        _groups("small"),
        _groups("cells"),
    ),
    Control("bound short by 2^-10", UNIFORM, altered(UNIFORM, _times(1 - 2.0**-10)), 2**22, _groups("tails")),
    Control("bound long by 2^-20", UNIFORM, altered(UNIFORM, _times(1 + 2.0**-20)), 2**22, _groups("bounds")),
    Control(
        "bfloat16 without its clamp",
        NARROW,
        of_words(NARROW, lambda words: None, arithmetic.uniform),
        2**20,
        _groups("bounds", "chi-square"),
    ),
    Control(
        "tails cut at 5.77 sigma",
        NORMAL,
        altered(NORMAL, Flaw(lambda out: np.clip(out, -5.77, 5.77, out=out), "clipped", 5.77)),
        2_300_000_000,
        _groups("tails"),
        _groups("levels"),
    ),
    Control(
        "std wrong by 10^-4",
        NORMAL,
        altered(NORMAL, _times(1 + 1e-4)),
        2_400_000_000,
        _groups("moments"),
        _groups("moments"),
    ),
    Control(
        "rounded twice, as in stream version 1",
        FROM_ZERO,
        rounded_twice(FROM_ZERO),
        2**20,
        _groups("last bits"),
        _groups("last"),
    ),
    Control(
        "rounded twice, float64",
        FROM_ZERO_64,
        rounded_twice(FROM_ZERO_64),
        2**20,
        _groups("last bits"),
        _groups("last"),
    ),
    Control(
        "a truncated normal's small part rounded first, as in version 1",
        TRUNCATED,
        addend_rounded(TRUNCATED),
        2**20,
        _groups("last bits"),
        _groups("last"),
    ),
    Control(
        "one last bit in 256 cleared",
        NORMAL,
        altered(NORMAL, Flaw(_keep_even, "evened")),
        2**23,
        _groups("last bits"),
    ),
    Control(
        "one NaN a block", NORMAL, altered(NORMAL, Flaw(_spoil_one, "spoiled")), 2**20, _groups("finite")
    ),
    Control(
        "one value in 64 shared with the next seed",
        NORMAL,
        FanfillSource(NORMAL),
        2**23,
        _groups("neighbours"),
        _groups("neighbours"),
        _share_with_neighbour(),
    ),
)
