"""Where values come from: fanfill's own kernels, and other libraries' functions on the same laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from quality_laws import Array, Law
from quality_tally import BLOCK, Draw, Source

from fanfill.distributions import recipe
from fanfill.streams import substream
from fanfill_kernels.compile.cpu import kernels

SEED = 20_251
NAME = 1_000
BETWEEN = ("neighbouring seeds", "neighbouring integer names", "names layer.0 and layer.1")
PEERS = ("numpy", "torch", "jax")
PEER_DTYPES = ("float32", "bfloat16", "float64")


class Stream(NamedTuple):
    """One row of the table: who draws, by which call, what law, and which streams stand beside it."""

    library: str
    call: str
    law: Law
    source: Source
    neighbours: tuple[tuple[Source, Source | None], ...] = ()


class FanfillSource(NamedTuple):
    """The real kernels; block b holds elements b BLOCK, b BLOCK + 1, ... of an endless tensor."""

    law: Law
    seed: int = SEED
    name: str | int = NAME

    def __call__(self) -> Draw:
        made, sub = recipe(self.law.initializer, (1,), self.law.dtype), substream(self.name)
        run = kernels(made.form, made.dtype).run
        key = (self.seed & 0xFFFFFFFF, self.seed >> 32, sub & 0xFFFFFFFF, sub >> 32)
        return lambda number, out: run(out, number * BLOCK, key, made.params)


class Flaw(NamedTuple):
    """What is done to a block of float32 in place: on the host, and the kernel that does it on a device."""

    change: Callable[[Array], object]
    kernel: str
    by: float = 0.0

    def __call__(self, out: Array) -> object:
        return self.change(out)


class Altered(NamedTuple):
    """fanfill's stream, each block changed in place."""

    source: FanfillSource
    change: Callable[[Array], object]

    def __call__(self) -> Draw:
        draw = self.source()

        def drawn(number: int, out: Array) -> None:
            draw(number, out)
            self.change(out)

        return drawn


class Mixed(NamedTuple):
    """A stream in which one value in ``every`` is another stream's."""

    source: FanfillSource
    other: FanfillSource
    every: int

    def __call__(self) -> Draw:
        draw, foreign = self.source(), self.other()

        def drawn(number: int, out: Array) -> None:
            draw(number, out)
            block = np.empty_like(out)
            foreign(number, block)
            out[:: self.every] = block[:: self.every]

        return drawn


def fanfill_stream(law: Law, seed: int = SEED) -> Stream:
    own = partial(FanfillSource, law)
    beside = (
        (own(seed + 1), None),
        (own(seed, NAME + 1), None),
        (own(seed, "layer.0"), own(seed, "layer.1")),
    )
    return Stream("fanfill", law.label, law, own(seed), beside)


def in_turn(make: Callable[[int], Callable[[Array], object]], seed: int = SEED) -> Source:
    """A source that knows no block numbers: each thread has a generator of its own, seeded one apart."""
    made = iter(range(seed, seed + 10**6))

    def begin() -> Draw:
        draw = make(next(made))
        return lambda number, out: draw(out)

    return begin


def peer_streams(peer: str, laws: tuple[Law, ...]) -> Iterator[Stream]:
    """A library's streams of those laws that it has a function for."""
    for law in laws:
        if law.dtype not in PEER_DTYPES:
            continue
        found = _MAKERS[peer](law)
        if found is not None:
            call, make = found
            yield Stream(peer, call, law, in_turn(make))


Made = tuple[str, Callable[[int], Callable[[Array], object]]]


def _numpy(law: Law) -> Made | None:
    real = np.float32 if law.dtype == "float32" else np.float64
    unit = law.kind == "uniform" and law.scale == law.middle == 0.5
    if law.dtype == "bfloat16" or law.kind == "truncated" or not (unit or law.scale == 1.0):
        return None

    def make(seed: int) -> Callable[[Array], object]:
        generator = np.random.Generator(np.random.PCG64(seed))

        def uniform(out: Array) -> None:
            generator.random(out=out, dtype=real)
            if not unit:
                out *= real(2)
                out -= real(1)

        def normal(out: Array) -> None:
            generator.standard_normal(out=out, dtype=real)

        return uniform if law.kind == "uniform" else normal

    call = "standard_normal()"
    if law.kind == "uniform":
        call = "random()" if unit else "2 * random() - 1"
    return f"Generator(PCG64).{call}", make


def _torch(law: Law) -> Made | None:
    torch = import_module("torch")
    torch.set_num_threads(1)
    b = law.scale
    low, high = law.middle - b, law.middle + b

    def make(seed: int) -> Callable[[Array], object]:
        generator = torch.Generator().manual_seed(seed)

        def draw(out: Array) -> None:
            if law.dtype == "bfloat16":
                flat = torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
            else:
                flat = torch.from_numpy(out)
            if law.kind == "uniform":
                flat.uniform_(low, high, generator=generator)
            elif law.kind == "normal":
                flat.normal_(0.0, b, generator=generator)
            else:
                torch.nn.init.trunc_normal_(flat, 0.0, b, -2 * b, 2 * b, generator=generator)

        return draw

    calls = {
        "uniform": f"Tensor.uniform_({low:g}, {high:g})",
        "normal": f"Tensor.normal_(0, {b:g})",
        "truncated": f"nn.init.trunc_normal_(0, {b:g}, {-2 * b:g}, {2 * b:g})",
    }
    return calls[law.kind], make


def _jax(law: Law) -> Made | None:
    if law.dtype == "float64" or (law.scale != 1.0 and law.kind != "uniform"):
        return None
    jax = import_module("jax")
    dtype, random = jax.numpy.dtype(law.dtype), jax.random
    low, high = law.middle - law.scale, law.middle + law.scale

    def drawn(key: Any) -> Any:
        key, sub = random.split(key)
        if law.kind == "uniform":
            return key, random.uniform(sub, (BLOCK,), dtype, low, high)
        if law.kind == "normal":
            return key, random.normal(sub, (BLOCK,), dtype)
        return key, random.truncated_normal(sub, -2, 2, (BLOCK,), dtype)

    jitted = jax.jit(drawn)

    def make(seed: int) -> Callable[[Array], object]:
        state = [random.key(seed)]

        def draw(out: Array) -> None:
            state[0], values = jitted(state[0])
            out[:] = np.asarray(values).view(out.dtype)

        return draw

    calls = {
        "uniform": f"random.uniform({low:g}, {high:g})",
        "normal": "random.normal()",
        "truncated": "random.truncated_normal(-2, 2)",
    }
    return calls[law.kind], make


_MAKERS: dict[str, Callable[[Law], Made | None]] = {"numpy": _numpy, "torch": _torch, "jax": _jax}
