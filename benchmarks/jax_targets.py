"""What `fanfill.jax` promises beside JAX: each ratio within one process, warm, by turns.

    python benchmarks/jax_targets.py [--values 16Mi] [--rounds 7]

Draws of float32 on one CPU device, inside `jax.jit`, over `jax.random`'s with JAX's default keys, and over
`fanfill.draw`, which allocates its memory anew as a compiled program does.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import jax
from targets import Target, show

import fanfill as ff
import fanfill.jax as fj
from fanfill.bench import report
from fanfill.bench.measure import parse_size

LAWS = {
    "normal": (fj.normal(1.0), ff.normal(), jax.random.normal),
    "truncated_normal": (
        fj.truncated_normal(1.0),
        ff.truncated_normal(),
        lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
    ),
    "uniform": (fj.uniform(1.0), ff.uniform(0, 1, endpoint=False), jax.random.uniform),
}


def seconds_of(calls: list[Callable[[], object]], rounds: int, repeats: int = 1) -> list[float]:
    """The median seconds of each, called by turns; two turns before the clock counts."""
    spent: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 2):
        for call, kept in zip(calls, spent, strict=True):
            began = perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(call())
            if turn > 1:
                kept.append((perf_counter() - began) / repeats)
    return [median(kept) for kept in spent]


def rows(values: int, rounds: int) -> list[Target]:
    """A line a promise."""
    found = []
    key, shape = jax.random.key(5), (values,)
    for name, (init, law, theirs) in LAWS.items():
        ours = jax.jit(lambda key, init=init: init(key, shape))
        random = jax.jit(lambda key, theirs=theirs: theirs(key, shape))
        in_jit, in_jax, eager, drawn = seconds_of(
            [
                lambda ours=ours: ours(key),
                lambda random=random: random(key),
                lambda init=init: init(key, shape),
                lambda law=law: ff.draw(shape, law, seed=5, device="cpu"),
            ],
            rounds,
        )
        each = {"jit": in_jit, "jax.random": in_jax, "eager": eager, "ff.draw": drawn}
        print(f"# {name}, ns a value: " + ", ".join(f"{k} {v / values * 1e9:.2f}" for k, v in each.items()))
        if name == "normal":
            found += [
                Target(f"jit, {name}, over jax.random's", 8.0, in_jax / in_jit, "x"),
                Target(f"jit, {name}: ff.draw's time", 1.6, in_jit / drawn, "x", most=True),
            ]
    small = (32, 32)
    ours, random = (
        jax.jit(lambda key, init=init: init(key, small))
        for init in (fj.normal(1.0), jax.nn.initializers.normal(1.0))
    )
    in_jit, in_jax = seconds_of([lambda: ours(key), lambda: random(key)], 4 * rounds, 200)
    found.append(Target("jit, normal, 32 x 32: JAX's time", 1.5, in_jit / in_jax, "x", most=True))
    print(f"# 32 x 32, us: jit {in_jit * 1e6:.0f}, jax.random {in_jax * 1e6:.0f}")
    return found


def main() -> int:
    """Measure, print a line a promise, and return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=parse_size, default=parse_size("16Mi"))
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    table = rows(chosen.values, chosen.rounds)
    show(table)
    found = report.surroundings(report.command_line(), [])
    print(f"\n{found.command}, {found.date}")
    print(f"{found.machine['cpu']}, {ff.get_threads()} threads, jax {jax.__version__}")
    return int(not all(row.met for row in table))


if __name__ == "__main__":
    sys.exit(main())
