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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fanfill as ff

ROUNDS = 7
HIDDEN, INTERMEDIATE, VOCABULARY, KEY_VALUE, LAYERS = 4096, 14_336, 128_256, 1024, 32
LAW = ff.normal(0.0, 0.02)
SEED = 20_251


def llama() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The parameters of a network of Llama's shape with 8 billion of them."""
    layer = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (KEY_VALUE, HIDDEN),
        "self_attn.v_proj": (KEY_VALUE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for number in range(LAYERS):
        for name, shape in layer.items():
            yield f"model.layers.{number}.{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


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


def contest(torch: Any, tensors: list[tuple[str, Any]]) -> dict[str, dict[str, float]]:
    """All tensors by each way."""
    items = [(tensor, LAW, name) for name, tensor in tensors]

    def by_loop() -> None:
        for name, tensor in tensors:
            ff.fill(tensor, LAW, seed=SEED, name=name)

    def by_torch() -> None:
        for _, tensor in tensors:
            tensor.normal_(0.0, 0.02)

    ff.fill_many(items, seed=SEED)
    for name, tensor in sorted(tensors, key=lambda pair: pair[1].numel())[:3]:
        assert_bits(torch, tensor, LAW, name)
    ways: dict[str, Callable[[], object]] = {
        "fill_many": lambda: ff.fill_many(items, seed=SEED),
        "a loop of fill": by_loop,
        "a loop of torch's normal_": by_torch,
    }
    return {way: timed(torch, run) for way, run in ways.items()}


def figures() -> dict[str, Any]:
    """Everything, with what it ran on."""
    import torch

    import fanfill.torch as ft

    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    w = torch.empty(32, 32, device="cuda")
    singles: dict[str, Callable[[], object]] = {
        "fill": lambda: ff.fill(w, LAW, seed=SEED, name="w"),
        "ft.kaiming_normal_": lambda: ft.kaiming_normal_(w, seed=SEED, name="w"),
        "torch's normal_": lambda: w.normal_(0.0, 0.02),
        "torch's kaiming_normal_": lambda: torch.nn.init.kaiming_normal_(w),
    }
    for way, run in singles.items():
        repeated = timed(torch, lambda run=run: [run() for _ in range(200)])  # type: ignore[misc]
        found.setdefault("32 x 32, host us", {})[way] = repeated["host_ms"] * 1e3 / 200
    block = torch.empty(10_000, 4096, device="cuda")
    found["10,000 x 4,096 float32"] = contest(torch, [(f"b.{k}", row) for k, row in enumerate(block)])
    del block
    free, sizes = torch.cuda.mem_get_info()[0], dict(llama())
    scale = 1
    while sum(rows_of(shape) for shape in sizes.values()) * 2 * 1.2 / scale > free:
        scale *= 2
    model = [
        (name, torch.empty(rows_of(shape) // scale, dtype=torch.bfloat16, device="cuda"))
        for name, shape in sizes.items()
    ]
    found[f"291 tensors of 8 G values / {scale}, bfloat16"] = contest(torch, model)
    return found


def rows_of(shape: tuple[int, ...]) -> int:
    """How many values a shape has."""
    count = 1
    for n in shape:
        count *= n
    return count


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
    for name in ("many.json", "bench/bench.json"):
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
