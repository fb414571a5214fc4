"""Host time of fills on a GPU, without one: torch tensors in host memory, a driver that launches nothing.

    python benchmarks/cuda_host.py [--rounds N]

One small fill by its plan, next to ``torch.empty(32, 32).normal_()`` on the CPU, and an item of many by
`fill_many`'s grouped launches: medians of samples taken in turns, of the thread's CPU time, which others on
the machine do not lengthen. A launch itself costs the host 3.9 us on an H200's machine, torch's ``normal_``
there 7.5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

import fanfill as ff
import fanfill.torch as ft
from fanfill import regions
from fanfill.cpu import buffers as host_buffers
from fanfill.cuda import backend
from fanfill.cuda import buffers as device_buffers
from fanfill.cuda import run as cuda_run
from fanfill.cuda.buffers import Target
from fanfill.cuda.driver import Driver
from fanfill.distributions import recipe
from fanfill.torch import laws

CALLS = 2000
ITEMS = 10_000
CONTEXT = 0xC1
HOST = -1  # what `Tensor.get_device` says of a tensor on the CPU


class Kernel:
    """What a module has of a kernel."""

    ptr = 7

    def get_function(self, name: str) -> Kernel:
        return self


class Used:
    """A device in use."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def install() -> None:
    """Let the backend see a driver that launches nothing."""
    nothing: Callable[..., None] = lambda *given: None  # noqa: E731
    stubs = dict.fromkeys(Driver._fields, nothing) | {
        "version": lambda: 13000,
        "architecture": lambda number: 90,
        "context": lambda: CONTEXT,
        "use": lambda number: Used(),
        "stream": lambda number: 0,
        "multiprocessors": lambda number: 132,
    }
    found = Driver(**stubs)
    backend._found = lambda: found  # type: ignore[assignment]
    backend._module = lambda *given: Kernel()  # type: ignore[assignment]
    torch._C._cuda_getCurrentRawStream = lambda number: 0


def target_of(tensor: torch.Tensor) -> Target:
    """The tensor as if it lay on a device."""
    strides = tuple(step * tensor.element_size() for step in tensor.stride())
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Target(
        tensor.data_ptr(), tuple(tensor.shape), strides, dtype, tensor.element_size(), HOST, 0, is_torch=True
    )


def planned(tensor: torch.Tensor, law: ff.Initializer) -> None:
    """Make the plan of a tensor, by the fill that makes plans."""
    fills = sys.modules["fanfill.fill"]
    fills.fill_storage(target_of(tensor), law, (0, 0, 0, 0))


def in_turns(calls: dict[str, Callable[[], object]], rounds: int, count: int) -> dict[str, float]:
    """Median us of a call, of samples taken in turns."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.thread_time_ns()
            for _ in range(count):
                call()
            samples[name].append((time.thread_time_ns() - began) / count / 1e3)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def small(rounds: int) -> dict[str, float]:
    """One fill of 32 x 32 values."""
    w, law = torch.empty(32, 32), ff.normal(0.0, 0.02)
    kaiming = laws.kaiming(0, "fan_in", "leaky_relu", "normal", (32, 32), torch.float32)
    planned(w, law)
    planned(w, kaiming)
    standard = ff.normal()
    planned(w, standard)
    long = target_of(w)
    region, made = regions.region((32, 32)), recipe(law, (32, 32), "float32")
    engine = backend.BACKEND

    mode = ft.accelerated(seed=0)
    calls: dict[str, Callable[[], object]] = {
        "torch.empty(32, 32).normal_()": lambda: torch.empty(32, 32).normal_(),
        "fill by plan": lambda: ff.fill(w, law, seed=0),
        "fill by plan, with a name": lambda: ff.fill(
            w, law, seed=0, name="model.layers.3.mlp.up_proj.weight"
        ),
        "ft.kaiming_normal_, seed and name": lambda: ft.kaiming_normal_(w, seed=0, name="up_proj.weight"),
        "ft.kaiming_normal_, generator": lambda: ft.kaiming_normal_(w),
        "fill the long way, from its target": lambda: cuda_run.fill_target(
            long, region, made, (0, 0, 0, 0), engine
        ),
    }
    found = in_turns(calls, rounds, CALLS)
    with mode:
        found |= in_turns({"normal_ under accelerated": lambda: w.normal_()}, rounds, CALLS)
    return found


def many(rounds: int) -> dict[str, float]:
    """An item of `fill_many`, of ITEMS on a device with 4 Ki values each; launches are left out."""
    host = host_buffers.device_of, device_buffers._torch_target
    host_buffers.device_of = lambda buffer: "cuda"  # type: ignore[assignment]
    device_buffers._torch_target = lambda tensor, torch: target_of(tensor)
    law = ff.normal(0.0, 0.02)
    items = [(row, law, f"layers.{k}.weight") for k, row in enumerate(torch.empty(ITEMS, 4096))]
    calls = {"an item of fill_many, by 10,000": lambda: ff.fill_many(items, seed=0)}
    try:
        found = in_turns(calls, rounds, 1)
    finally:
        host_buffers.device_of, device_buffers._torch_target = host
    return {name: us / ITEMS for name, us in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    install()
    found = small(options.rounds) | many(options.rounds)
    base = found["torch.empty(32, 32).normal_()"]
    print(f"{'us':>8} {'ratio':>6}")
    for name, us in found.items():
        print(f"{us:8.2f} {us / base:6.2f}  {name}")


if __name__ == "__main__":
    main()
