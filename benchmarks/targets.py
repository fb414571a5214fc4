"""Measure every target for speed in one run, and say which are met.

    python benchmarks/targets.py [--values 256Mi] [--rounds 5] [--json FILE]

float32 and 2^28 values unless the row says otherwise, one warmed buffer, medians of at least five turns,
every figure a ratio of contestants that took turns. Takes several minutes and 2 GiB of memory. On a machine
with more than two cores, run it on two: ``taskset -c 0,1``. Exit code 1 if a target is missed.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from two_processes import gain as gain_of_two_processes

import fanfill as ff
from fanfill.bench import cold, report
from fanfill.bench.measure import LAWS, SEED, Arena, Case, contest, filler, limits, parse_size, size_text
from fanfill.bench.peers import entrants


class Target(NamedTuple):
    """A row of the table: the figure is to be at least (or, where `most`, at most) the wanted one."""

    name: str
    wanted: float
    measured: float | None
    unit: str = ""
    most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.most else self.measured >= self.wanted


class Measurer:
    """Contests on one arena, all with the same effort."""

    def __init__(self, values: int, rounds: int) -> None:
        self.arena, self.values, self.rounds = Arena(), values, rounds
        self.arena.view("float64", values)

    def times(self, runs: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each call."""
        samples = contest(list(runs.values()), rounds=2 * self.rounds, seconds=3.0, least=self.rounds)
        return {name: sample.seconds for name, sample in zip(runs, samples, strict=True)}

    def case(self, distribution: str, dtype: str = "float32") -> tuple[Case, Any]:
        return Case(distribution, dtype, self.values), self.arena.view(dtype, self.values)

    def against(
        self, distribution: str, dtype: str, peer: str, wanted: Callable[[str], bool]
    ) -> dict[str, Any]:
        """fanfill on all threads and on one, memset, and a peer's ways whose method is wanted."""
        case, buffer = self.case(distribution, dtype)
        every = ff.get_threads()
        runs: dict[str, Callable[[], object]] = {"memset": limits(buffer)[0].run or (lambda: None)}
        runs["fanfill"] = filler(case, buffer, "numba", every)
        runs["fanfill, one thread"] = filler(case, buffer, "numba", 1)
        peers = [
            entrant for entrant in entrants(peer, case, buffer) if wanted(entrant.method) or entrant.missing
        ]
        for entrant in peers:
            if entrant.run is not None:
                runs[entrant.method] = entrant.run
            else:
                print(f"# {peer}: {entrant.missing}", file=sys.stderr)
        return self.times(runs)


def best(times: dict[str, float]) -> tuple[float | None, str]:
    """The fastest of the peer's ways, and which it was."""
    found = {name: t for name, t in times.items() if name not in ("memset", "fanfill", "fanfill, one thread")}
    if not found:
        return None, "the peer is missing"
    name = min(found, key=found.__getitem__)
    return found[name], name


def over(numerator: float | None, denominator: float) -> float | None:
    return None if numerator is None else numerator / denominator


def torch_rows(m: Measurer) -> list[Target]:
    """Against memset and against torch, and the second core's gain."""
    found = []
    gains = []
    for kind, share, factor, method in (
        ("uniform", 0.68, 14.0, "Tensor.uniform_"),
        ("normal", 0.36, 9.5, "Tensor.normal_"),
        ("truncated", 0.28, 120.0, "nn.init.trunc_normal_"),
    ):
        times = m.against(kind, "float32", "torch", lambda name, method=method: name == method)
        label = "truncated normal at 2 sigma" if kind == "truncated" else kind
        limit = m.values * 4 / times["memset"] / 1e9
        found.append(
            Target(
                f"{label} / memset",
                share,
                times["memset"] / times["fanfill"],
                note=f"memset {limit:.1f} GB/s",
            )
        )
        peer, name = best(times)
        found.append(Target(f"{label} / torch {name}", factor, over(peer, times["fanfill"]), "x"))
        gain = times["fanfill, one thread"] / times["fanfill"]
        note = f"{ff.get_threads()} threads; {beside(Case(kind, 'float32', m.values // 2))}"
        gains.append(Target(f"second core's gain, {label}", 1.93, gain, "x", note=note))
    times = m.against("normal", "bfloat16", "torch", lambda name: name == "Tensor.normal_")
    found.append(Target("normal bf16 / torch bf16", 12.0, over(best(times)[0], times["fanfill"]), "x"))
    return found + gains


def generator_rows(m: Measurer) -> list[Target]:
    """Against numpy's Generator, unscaled draws on both sides: the faster of its bit generators."""
    found = []
    case, buffer = m.case("normal", "float64")
    times = m.times({"fanfill": filler(case, buffer, "numba", ff.get_threads()), **generators(buffer)})
    peer, name = best(times)
    found.append(
        Target("normal f64 / numpy Generator f64", 6.0, over(peer, times["fanfill"]), "x", note=name)
    )
    case, buffer = m.case("normal")
    runs = generators(buffer)
    for count in sorted({1, ff.get_threads()}):
        runs[f"backend x{count}"] = filler(case, buffer, "numpy", count)
    times = m.times(runs)
    alone, together = times.pop("backend x1"), times.pop(f"backend x{ff.get_threads()}", None)
    peer, name = best(times)
    for generator, seconds in sorted(times.items()):
        label = f"NumPy backend, one thread: normal / numpy Generator f32 ({generator})"
        found.append(
            Target(label, 0.55, seconds / alone, "x", note="the faster one" if generator == name else "")
        )
    gain = over(alone, together or alone)
    note = beside(Case("normal", "float32", m.values // 16), "numpy")
    found.append(Target("NumPy backend: gain from a second thread", 1.6, gain, "x", note=note))
    return found


def beside(case: Case, backend: str = "numba") -> str:
    """What the hardware gives to two processes that share nothing, to hold a second thread's gain against."""
    found = gain_of_two_processes(case, backend)
    return "no two CPUs" if found is None else f"two processes {found:.2f}x"


def generators(buffer: Any) -> dict[str, Callable[[], object]]:
    """``standard_normal(out=)``: less work than a scaled draw."""
    made = {name: np.random.Generator(getattr(np.random, name)(SEED)) for name in ("PCG64", "SFC64")}
    return {
        name: lambda generator=generator: generator.standard_normal(out=buffer, dtype=buffer.dtype.type)
        for name, generator in made.items()
    }


def onemkl_rows(m: Measurer) -> list[Target]:
    """One thread against oneMKL's."""
    found = []
    for kind, wanted, label, pick in (
        ("uniform", 0.90, "uniform / oneMKL ARS5 uniform f32", lambda name: "ARS5" in name),
        ("normal", 2.1, "normal / the best of oneMKL's Gaussian f32", lambda name: True),
    ):
        times = m.against(kind, "float32", "onemkl", pick)
        peer, name = best(times)
        found.append(
            Target(f"one thread: {label}", wanted, over(peer, times["fanfill, one thread"]), "x", note=name)
        )
    return found


def call_rows(m: Measurer) -> list[Target]:
    """One small fill, and fills of strided memory."""
    small = np.empty(1024, np.float32)
    law = LAWS["normal"]
    (call,) = contest([lambda: ff.fill(small, law, seed=SEED)], rounds=101, seconds=math.inf)
    found = [Target("1,024 float32 normals, one fill call", 6.0, call.seconds * 1e6, " us", most=True)]
    found.append(many_row())
    side = 1 << (m.values.bit_length() - 1) // 2
    values = m.values // side * side
    flat, double = m.arena.view("float32", values), m.arena.view("float32", 2 * values)
    layouts = {
        "contiguous": flat.reshape(-1, side),
        "transposed": flat.reshape(-1, side).T,
        "every second column": double.reshape(-1, 2 * side)[:, ::2],
    }
    runs = {name: lambda view=view: ff.fill(view, law, seed=SEED) for name, view in layouts.items()}
    times = m.times(runs)
    return found + [
        Target(f"{name} / contiguous (normal)", 0.4, times["contiguous"] / times[name])
        for name in ("transposed", "every second column")
    ]


def many_row() -> Target:
    """A model of small tensors: one call over a loop of `fill`."""
    items = [(np.ones((64, 64), np.float32), LAWS["normal"], f"layers.{k}.weight") for k in range(10_000)]

    def loop() -> None:
        for buffer, law, name in items:
            ff.fill(buffer, law, seed=SEED, name=name)

    alone, together = contest([loop, lambda: ff.fill_many(items, seed=SEED)], rounds=15, seconds=math.inf)
    note = f"{together.seconds * 1e3:.0f} ms, {ff.get_threads()} threads"
    return Target(
        "10,000 x 4 Ki normals, fill_many / loop of fill", 1.8, alone.seconds / together.seconds, note=note
    )


def process_rows(rounds: int) -> list[Target]:
    """Whole processes: 1024 x 1024 He-normal values, over ``import numba``."""
    *_, medians = cold.measure(rounds)
    seconds = {(process.subject, process.method): found for process, found in medians.items()}
    numba = seconds["numba", "import"]
    return [
        Target(
            f"fresh process, cache {state} / import numba",
            wanted,
            seconds["fanfill", f"first fill, cache {state}"] / numba,
            "x",
            most=True,
            note=f"import numba {numba:.2f} s",
        )
        for state, wanted in (("warm", 1.6), ("empty", 5.0))
    ]


def pipe_rows(rounds: int, words: int = 1 << 30) -> list[Target]:
    """``fanfill words`` into a pipe that somebody empties, start of the process included."""
    command = [sys.executable, "-m", "fanfill", "words", "--seed", "1", "--count", str(words)]
    rates = []
    for _ in range(rounds):
        began = perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            subprocess.run(["cat"], stdin=child.stdout, stdout=subprocess.DEVNULL, check=True)
        assert child.returncode == 0
        rates.append(4e-9 * words / (perf_counter() - began))
    return [Target("fanfill words | cat", 1.0, median(rates), " GB/s")]


def show(targets: list[Target]) -> None:
    """Print a line a target."""
    print(f"{'target':78}{'wanted':>10}{'measured':>10}")
    for target in targets:
        sign = "<=" if target.most else ">="
        measured = "none" if target.measured is None else f"{target.measured:.3g}{target.unit}"
        verdict = {True: "met", False: "NOT MET", None: "no figure"}[target.met]
        wanted = f"{sign} {target.wanted:.3g}{target.unit}"
        print(f"{target.name:78}{wanted:>10}{measured:>10}  {verdict:9}  {target.note}")


def main() -> int:
    """Measure, print a line a target, and return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=parse_size, default=parse_size("256Mi"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=argparse.FileType("w"))
    chosen = parser.parse_args()
    began = perf_counter()
    measurer = Measurer(chosen.values, chosen.rounds)
    targets: list[Target] = []
    for step in (torch_rows, generator_rows, onemkl_rows, call_rows):
        targets += step(measurer)
        print(f"# {step.__name__}: {perf_counter() - began:.0f} s", file=sys.stderr)
    targets += process_rows(chosen.rounds) + pipe_rows(chosen.rounds)
    result = report.surroundings(report.command_line(), [])
    show(targets)
    print(
        f"\n{result.command} ({size_text(chosen.values)} values, "
        f"{perf_counter() - began:.0f} s), {result.date}"
    )
    print(
        f"{result.machine['cpu']}, {result.machine['threads']} threads, load {result.machine['load']}; ",
        end="",
    )
    print(f"commit {result.commit}; " + ", ".join(f"{k} {v}" for k, v in result.versions.items()))
    if chosen.json:
        rows = [{**target._asdict(), "met": target.met} for target in targets]
        json.dump(
            {"targets": rows, **{k: getattr(result, k) for k in ("date", "commit", "machine", "versions")}},
            chosen.json,
        )
    return int(any(target.met is False for target in targets))


if __name__ == "__main__":
    sys.exit(main())
