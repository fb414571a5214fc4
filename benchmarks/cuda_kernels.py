"""The kernels on a GPU: G values/s of each law and dtype, next to the driver's memset and torch's calls.

    python benchmarks/cuda_kernels.py [--values 256Mi] [--rounds 9] [--json FILE]
    ncu --clock-control none --csv --metrics METRICS python benchmarks/cuda_kernels.py --once

Entrants take turns on one buffer, by CUDA events. Before anything is timed, values at the beginning, in the
middle and at the end are compared with NumPy's. With ``--once`` each kernel runs once, for a profiler.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fanfill as ff
from fanfill.bench import cuda
from fanfill.bench.measure import Case, parse_size
from fanfill.cuda import backend


class Kernel(NamedTuple):
    """What a kernel draws, torch's counterpart, and the G values/s that it is to reach on an H200."""

    name: str
    law: ff.Initializer
    dtype: str
    peer: Callable[[Any, Any], object] | None = None
    wanted: float | None = None


def cut(torch: Any, flat: Any) -> object:
    return torch.nn.init.trunc_normal_(flat, 0.0, 0.02, -0.04, 0.04)


def normal(torch: Any, flat: Any) -> object:
    return flat.normal_(0.0, 0.02)


def uniform(torch: Any, flat: Any) -> object:
    return flat.uniform_(-0.05, 0.05)


CENTRED, TRUNCATED = ff.normal(0.0, 0.02), ff.truncated_normal(0.0, 0.02)
ANYWHERE = ff.truncated_normal(0.0, 0.02, -3.0, 3.0)
KERNELS = (
    Kernel("uniform", ff.uniform(-0.05, 0.05), "float32", uniform),
    Kernel("uniform", ff.uniform(-0.05, 0.05), "bfloat16", uniform, 1200),
    Kernel("uniform", ff.uniform(-0.05, 0.05), "float8_e4m3fn"),
    Kernel("uniform, not symmetric", ff.uniform(0.0, 1.0), "float32"),
    Kernel("uniform, not symmetric", ff.uniform(0.0, 1.0), "bfloat16"),
    Kernel("normal of mean 0", CENTRED, "float32", normal, 600),
    Kernel("normal of mean 0", CENTRED, "bfloat16", normal),
    Kernel("normal of mean 0", CENTRED, "float64", normal),
    Kernel("normal", ff.normal(0.5, 0.02), "float32"),
    Kernel("truncated at 2 sigma", TRUNCATED, "float32", cut, 465),
    Kernel("truncated at 2 sigma", TRUNCATED, "bfloat16", cut),
    Kernel("truncated anywhere", ANYWHERE, "float32", None, 250),
    Kernel("constant", ff.constant(1.0), "float32"),
)


def figures(memory: cuda.GpuMemory, values: int, rounds: int) -> dict[str, Any]:
    """What each kernel makes in a second, and its peers."""
    race, found = cuda.race(memory, rounds), {}
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    for kernel in KERNELS:
        case = Case(kernel.name, kernel.dtype, values)
        runs = [cuda.limit(memory, case).run, cuda.ours(memory, case, kernel.law).run]
        if torch is not None and kernel.peer is not None:
            flat = torch.empty(values, dtype=getattr(torch, kernel.dtype), device=f"cuda:{memory.number}")
            runs.append(lambda kernel=kernel, flat=flat: kernel.peer(torch, flat))
        limit, ours, *theirs = (values / sample.seconds / 1e9 for sample in race(runs))
        found[f"{kernel.name}, {kernel.dtype}"] = {
            "fanfill": ours,
            "of memset": ours / limit,
            "torch": theirs[0] if theirs else None,
            "wanted": kernel.wanted,
        }
    return found


def show(found: dict[str, Any]) -> None:
    print(f"{'G values/s':>10} {'of memset':>9} {'torch':>6} {'wanted':>6}")
    for name, row in found.items():
        theirs, wanted = (f"{row[key]:6.0f}" if row[key] else " " * 6 for key in ("torch", "wanted"))
        print(f"{row['fanfill']:10.0f} {row['of memset']:9.2f} {theirs} {wanted}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--values", type=parse_size, default=parse_size("256Mi"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = backend.driver()
    with gpu.use(0):
        block = gpu.allocate(8 * options.values)
        memory = cuda.GpuMemory(gpu, 0, block.ptr, gpu.stream(0))
        if options.once:
            for kernel in KERNELS:
                buffer = memory.buffer(Case("", kernel.dtype, options.values))
                ff.fill(buffer, kernel.law, seed=1, backend="cuda")
            memory.driver.read(memory.pointer, 1)
            return
        found = figures(memory, options.values, options.rounds)
    show(found)
    if options.json is not None:
        options.json.write_text(json.dumps({**cuda.facts(0), "kernels": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
