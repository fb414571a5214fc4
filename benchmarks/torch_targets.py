"""What `fanfill.torch` promises beside torch: each ratio within one process, warm, by turns.

    python benchmarks/torch_targets.py [--values 64Mi] [--layers 22] [--rounds 5]

Functions are timed on memory that is there already. A model is timed whole, from nothing to initialised
parameters, its pages touched for the first time: built by torch with its own initialisers, built under
`accelerated`, and built on the meta device, given memory, and initialised by `init_module`. What it takes to
write ones there is printed beside: the memory's own share, which no generator can go below.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from time import perf_counter
from typing import Any

import torch
from targets import Target, show
from torch import nn
from torch_llama import Net

import fanfill as ff
import fanfill.torch as ft
from fanfill.bench import llama, report
from fanfill.bench.measure import parse_size


def seconds_of(calls: list[Callable[[], object]], rounds: int, repeats: int = 1) -> list[float]:
    """The median seconds of each, called by turns; one turn before the clock counts."""
    spent: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, kept in zip(calls, spent, strict=True):
            began = perf_counter()
            for _ in range(repeats):
                call()
            if turn:
                kept.append((perf_counter() - began) / repeats)
    return [median(kept) for kept in spent]


def built(layers: int, context: Any) -> Net:
    with context:
        return Net(llama.TINY._replace(layers=layers))


def built_on_meta(layers: int, rules: Any = None) -> Net:
    net = built(layers, torch.device("meta")).to_empty(device="cpu")
    ft.init_module(net, seed=0, rules=rules)
    return net


def function_rows(values: int, rounds: int) -> list[Target]:
    """Single tensors, large and small."""
    side = 1 << (values.bit_length() - 1) // 2
    large = torch.zeros(values // side, side)
    small = torch.zeros(32, 32)
    init = nn.init
    theirs, ours = seconds_of(
        [lambda: init.kaiming_normal_(large), lambda: ft.kaiming_normal_(large)], rounds
    )
    rows = [
        Target(f"kaiming_normal_, {large.numel() >> 20} Mi float32, over torch's", 8.0, theirs / ours, "x")
    ]
    theirs, ours = seconds_of(
        [
            lambda: init.trunc_normal_(large, 0.0, 1.0, -2.0, 2.0),
            lambda: ft.trunc_normal_(large, 0.0, 1.0, -2.0, 2.0),
        ],
        rounds,
    )
    rows.append(
        Target(
            f"trunc_normal_ at 2 sigma, {large.numel() >> 20} Mi float32, over torch's",
            60.0,
            theirs / ours,
            "x",
        )
    )
    for name, theirs_, ours_ in (
        ("kaiming_normal_", init.kaiming_normal_, ft.kaiming_normal_),
        ("kaiming_uniform_", init.kaiming_uniform_, ft.kaiming_uniform_),
        ("normal_", init.normal_, ft.normal_),
        ("trunc_normal_", init.trunc_normal_, ft.trunc_normal_),
    ):
        theirs, ours = seconds_of([lambda f=theirs_: f(small), lambda f=ours_: f(small)], 4 * rounds, 200)
        rows.append(Target(f"{name}, 32 x 32: torch's time", 2.5, ours / theirs, "x", most=True))
    return rows


def model_rows(layers: int, rounds: int) -> list[Target]:
    """A whole model, each let go before the next is built.

    Each is built twice in a row, and the second time counts: a virtual machine's memory that lay idle comes
    back from the host at a cost that is not the builder's.
    """
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, build in (
            ("torch", lambda: built(layers, nullcontext())),
            ("accelerated", lambda: built(layers, ft.accelerated(seed=0))),
            ("init_module", lambda: built_on_meta(layers)),
            ("ones by init_module", lambda: built_on_meta(layers, {"*": "ones"})),
        ):
            for counts in (False, True):
                began = perf_counter()
                net = build()
                if counts:
                    spent.setdefault(name, []).append(perf_counter() - began)
                count = sum(parameter.numel() for parameter in net.parameters())
                del net
                gc.collect()
    torchs, accelerated, module, ones = (median(found) for found in spent.values())
    print(f"# {count:,} parameters: " + ", ".join(f"{k} {median(v):.2f} s" for k, v in spent.items()))
    print(f"# init_module takes {module / ones:.2f} times as long as writing ones into the same fresh memory")
    return [
        Target("init_module after to_empty, over building with torch's own", 5.0, torchs / module, "x"),
        Target("building under accelerated, over building with torch's own", 4.0, torchs / accelerated, "x"),
    ]


def main() -> int:
    """Measure, print a line a promise, and return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=parse_size, default=parse_size("64Mi"))
    parser.add_argument("--layers", type=int, default=llama.TINY.layers)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rows = function_rows(chosen.values, chosen.rounds) + model_rows(chosen.layers, max(3, chosen.rounds // 2))
    show(rows)
    found = report.surroundings(report.command_line(), [])
    print(f"\n{found.command}, {found.date}")
    print(f"{found.machine['cpu']}, {ff.get_threads()} threads, torch {torch.__version__}")
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
