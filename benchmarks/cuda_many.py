"""Many tensors on a GPU: a model's 291 and 10,000 small ones, by `fill_many`, by a loop of `fill`, by torch.

    python benchmarks/cuda_many.py [--json FILE]      figures: medians of ms to the end, and of host time
    python benchmarks/cuda_many.py --small            a few tensors of every form, for compute-sanitizer
    python benchmarks/cuda_many.py --report FOLDER NAME:CODE:SECONDS ...    gpu.json and gpu.md of ci/gpu.sh

Needs torch with CUDA, but for the report. Bits are compared with the CPU's before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import fanfill as ff
from fanfill.bench import llama

ROUNDS = 7
LAW = ff.normal(0.0, 0.02)
SEED = 20_251


def timed(torch: Any, run: Callable[[], object]) -> dict[str, float]:
    """Median ms to the end of the work, and until the call returns."""
    run()
    whole, host = [], []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        host.append((time.perf_counter() - began) * 1e3)
        torch.cuda.synchronize()
        whole.append((time.perf_counter() - began) * 1e3)
    return {"ms": statistics.median(whole), "host_ms": statistics.median(host)}


def assert_bits(torch: Any, tensor: Any, law: ff.Initializer, name: str) -> None:
    """A tensor's values are the CPU's."""
    there = tensor.detach().cpu()
    here = ff.fill(torch.empty_like(there), law, seed=SEED, name=name)
    if not torch.equal(here.view(torch.uint8), there.view(torch.uint8)):
        raise SystemExit(f"{name}: expected the values of the CPU; got others")


def contest(
    torch: Any, tensors: list[tuple[str, Any]], more: dict[str, Callable[[], object]]
) -> dict[str, dict[str, float]]:
    """All tensors by each way, and by `more` ways, the first of which has the same bits."""
    items = [(tensor, LAW, name) for name, tensor in tensors]

    def by_loop() -> None:
        for name, tensor in tensors:
            ff.fill(tensor, LAW, seed=SEED, name=name)

    def by_torch() -> None:
        for _, tensor in tensors:
            tensor.normal_(0.0, 0.02)

    ways: dict[str, Callable[[], object]] = {
        "fill_many": lambda: ff.fill_many(items, seed=SEED),
        **more,
        "a loop of fill": by_loop,
        "a loop of torch's normal_": by_torch,
    }
    for run in list(ways.values())[:2]:
        for _, tensor in tensors:
            tensor.zero_()
        run()
        by_size = sorted(tensors, key=lambda pair: pair[1].numel())
        for name, tensor in (*by_size[:3], by_size[len(by_size) // 2]):
            assert_bits(torch, tensor, LAW, name)
    return {way: timed(torch, run) for way, run in ways.items()}


def small_fills(torch: Any, ft: Any) -> dict[str, float]:
    """The host's us of one small fill."""
    w = torch.empty(32, 32, device="cuda")
    ways: dict[str, Callable[[], object]] = {
        "fill": lambda: ff.fill(w, LAW, seed=SEED, name="w"),
        "ft.kaiming_normal_": lambda: ft.kaiming_normal_(w, seed=SEED, name="w"),
        "torch's normal_": lambda: w.normal_(0.0, 0.02),
        "torch's kaiming_normal_": lambda: torch.nn.init.kaiming_normal_(w),
        "torch's normal_ on the CPU": lambda: torch.empty(32, 32).normal_(),
    }
    return {
        way: timed(torch, lambda run=run: [run() for _ in range(200)])["host_ms"] * 1e3 / 200  # type: ignore[misc]
        for way, run in ways.items()
    }


def model_ways(torch: Any, ft: Any, net: Any) -> dict[str, Callable[[], object]]:
    """A whole module by `init_module`, by torch's functions under `accelerated`, by torch's own resets."""
    parameters = list(net.parameters())

    def by_functions() -> None:
        with torch.no_grad():
            for parameter in parameters:
                parameter.normal_(0.0, 0.02)

    def by_accelerated() -> None:
        with ft.accelerated(seed=SEED):
            by_functions()

    def by_resets() -> None:
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    return {
        "init_module, one law": lambda: ft.init_module(net, seed=SEED, rules={"*": LAW}),
        "init_module, torch's own laws": lambda: ft.init_module(net, seed=SEED),
        "torch's normal_ under accelerated": by_accelerated,
        "torch's reset_parameters": by_resets,
    }


def figures() -> dict[str, Any]:
    """Everything, with what it ran on."""
    import torch
    from torch_llama import Net

    import fanfill.torch as ft

    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    found["32 x 32, host us"] = small_fills(torch, ft)
    block = torch.empty(10_000, 4096, device="cuda")
    found["10,000 x 4,096 float32"] = contest(torch, [(f"b.{k}", row) for k, row in enumerate(block)], {})
    del block
    values = sum(prod(shape) for _, shape in llama.parameters(llama.LLAMA_8B))
    free, size = torch.cuda.mem_get_info()[0], llama.LLAMA_8B
    while 2 * values > 0.8 * free:
        size = size._replace(layers=size.layers // 2, vocabulary=size.vocabulary // 2)
        values = sum(prod(shape) for _, shape in llama.parameters(size))
    with torch.device("meta"):
        net = Net(size).to(torch.bfloat16)
    net.to_empty(device="cuda")
    tensors = [(name, parameter.detach()) for name, parameter in net.named_parameters()]
    what = f"{len(tensors)} tensors of {values / 1e9:.2f} G values, bfloat16"
    found[what] = contest(torch, tensors, model_ways(torch, ft, net))
    return found


def small() -> None:
    """A few tensors of every form, some that begin inside a group, some strided."""
    import torch

    laws = {
        "normal": LAW,
        "uniform": ff.uniform(-1.0, 1.0),
        "range": ff.uniform(0.0, 1.0),
        "central": ff.truncated_normal(),
        "truncated": ff.truncated_normal(lower=-3.0, upper=3.0),
        "constant": ff.constant(1.0),
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2):
        items: list[Any] = []
        for name, law in laws.items():
            for length, first in ((5000, 0), (4097, 0), (777, 16)):
                tensor = torch.empty(length, dtype=dtype, device="cuda")
                items.append((tensor, law, f"{name} {length}", (10_000,), first))
            items.append((torch.empty(60, 70, dtype=dtype, device="cuda").t(), law, f"{name} strided"))
        ff.fill_many(items, seed=SEED)
        torch.cuda.synchronize()
        for tensor, law, name, *place in items:
            if not place:
                assert_bits(torch, tensor.contiguous(), law, name)


def report(folder: Path, steps: list[str]) -> None:
    """One JSON and one page of what ci/gpu.sh has left in a folder."""
    rows = [dict(zip(("step", "code", "seconds"), step.rsplit(":", 2), strict=True)) for step in steps]
    kept: dict[str, Any] = {"steps": [{**row, "code": int(row["code"])} for row in rows]}
    for name in ("many.json", "kernels.json", "bench/bench.json"):
        file = folder / name
        kept[name.rpartition("/")[2].removesuffix(".json")] = (
            json.loads(file.read_text()) if file.exists() else None
        )
    (folder / "gpu.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = ["# Acceptance on a GPU", "", "| step | exit code | s |", "|---|---|---|"]
    lines += [f"| {row['step']} | {row['code']} | {row['seconds']} |" for row in rows]
    many = kept["many"] or {}
    for what, found in many.items():
        if isinstance(found, dict):
            lines += ["", f"## {what}", ""]
            lines += [f"* {way}: {shown(figure)}" for way, figure in found.items()]
        else:
            lines += ["", f"{what}: {found}"]
    for row in rows:
        text = (folder / f"{row['step']}.txt").read_text(errors="replace") if row["step"] != "many" else ""
        lines += ["", f"## {row['step']}", "", "```", *text.splitlines()[-40:], "```"] if text else []
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")


def shown(figure: float | dict[str, float]) -> str:
    """A figure of the page."""
    if isinstance(figure, dict):
        return f"{figure['ms']:.2f} ms, of which the host {figure['host_ms']:.2f}"
    return f"{figure:.2f} us"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--report", type=Path)
    parser.add_argument("steps", nargs="*")
    options = parser.parse_args()
    if options.report is not None:
        report(options.report, options.steps)
    elif options.small:
        small()
    else:
        found = figures()
        print(json.dumps(found, indent=1))
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
