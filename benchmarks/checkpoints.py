"""Writes one start checkpoint by transformers and by fanfill, each in a process of its own, in turns.

    python benchmarks/checkpoints.py [--layers 22] [--rounds 3] [--folder /tmp]
    python benchmarks/checkpoints.py --ways [--gigabytes 2] [--rounds 5] [--folder /tmp]

The default is a Llama of 1.1 G parameters in bfloat16, 2.2 GB. A job begins after the imports and ends when
the disk has the files: transformers', which leaves them to the system, are synced too. The column "returned"
is when its call came back. Memory is the peak of the process's own pages, anonymous and shared, beside what
the imports took. fanfill's kernels were compiled before, as on any machine that has drawn such values once.

Where the disk is slower than two cores, its speed decides: compare in a folder of tmpfs too (/dev/shm).

``--ways`` compares fanfill's writer with plain ways to write the same values, each up to its fsync. The best
of the others in the same minutes is what a writer can reach on that disk.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOB = """
import json, os, sys, threading, time
imported = time.perf_counter()
import torch, transformers
from fanfill.checkpoints import writing
from fanfill.torch import pretrained

how, config, out = sys.argv[1:]
kind = transformers.LlamaForCausalLM  # imported before the clock starts
imported = time.perf_counter() - imported

def own():
    with open("/proc/self/status") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024

before = peak = own()
running = True
def watch():
    global peak
    while running:
        peak = max(peak, own())
        time.sleep(0.01)
thread = threading.Thread(target=watch, daemon=True)
thread.start()
began = time.perf_counter()
if how == "fanfill":
    planned = pretrained.plan(config, dtype="bfloat16")
    planning = time.perf_counter() - began
    writing.carry_out(pretrained.job(planned, 0), out)
    returned = time.perf_counter() - began
else:
    model = kind._from_config(transformers.AutoConfig.from_pretrained(config), dtype=torch.bfloat16)
    planning = time.perf_counter() - began
    model.save_pretrained(out, max_shard_size="5GB")
    returned = time.perf_counter() - began
    for name in os.listdir(out):
        with open(os.path.join(out, name), "rb+") as file:
            os.fsync(file.fileno())
seconds = time.perf_counter() - began
running = False
thread.join()
size = sum(os.path.getsize(os.path.join(out, name)) for name in os.listdir(out))
print(json.dumps({"seconds": seconds, "planning": planning, "returned": returned, "peak": peak,
                  "imports": before, "importing": imported, "bytes": size}))
"""


def main() -> None:
    """Measure, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--ways", action="store_true", help="compare ways to write, without any model")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each file of --ways")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if asked.ways:
            compare_ways(Path(folder, "values"), int(asked.gigabytes * 1e9), asked.rounds)
        else:
            compare_jobs(Path(folder), asked.layers, asked.rounds)


def compare_jobs(folder: Path, layers: int, rounds: int) -> None:
    """The whole job, by transformers and by fanfill."""
    import transformers

    def configured(name: str, layers: int) -> Path:
        transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=layers,
            num_attention_heads=32,
            num_key_value_heads=4,
        ).save_pretrained(folder / name)
        return folder / name

    def run(how: str, config: Path) -> dict[str, float]:
        command = [sys.executable, "-W", "ignore", "-c", JOB, how, str(config), str(folder / "out")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        shutil.rmtree(folder / "out")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    found: dict[str, list[dict[str, float]]] = {"transformers": [], "fanfill": []}
    run("fanfill", configured("small", 1))  # compiles the kernels
    config = configured("config", layers)
    for _ in range(rounds):
        for how, results in found.items():
            results.append(run(how, config))
    medians = {
        how: {what: statistics.median(r[what] for r in results) for what in results[0]}
        for how, results in found.items()
    }
    print(
        f"{'':14}{'imports':>9}{'build/plan':>12}{'returned':>10}{'on disk':>9}{'peak MB':>9}"
        f"{'imports MB':>12}{'GB':>7}"
    )
    for how, m in medians.items():
        print(
            f"{how:14}{m['importing']:9.2f}{m['planning']:12.2f}{m['returned']:10.2f}{m['seconds']:9.2f}"
            f"{m['peak'] / 1e6:9.0f}{m['imports'] / 1e6:12.0f}{m['bytes'] / 1e9:7.2f}"
        )
    theirs, ours = medians["transformers"], medians["fanfill"]
    faster, less = theirs["seconds"] / ours["seconds"], theirs["peak"] / ours["peak"]
    print(f"{faster:.1f} times as fast, 1/{less:.1f} of the memory")


# Ways to write


def compare_ways(path: Path, size: int, rounds: int) -> None:
    """Write the same values by fanfill's writer and by others, in turns."""
    import numpy as np

    import fanfill as ff
    from fanfill import system
    from fanfill.files import writer

    size -= size % (8 << 20)  # O_DIRECT takes whole blocks
    law, threads = ff.normal(std=0.02), ff.get_threads()

    def make(first: int, unit: np.ndarray[Any, Any]) -> None:
        place = {"global_shape": size // 4, "offset": first // 4}
        ff.fill(unit.view(np.float32), law, seed=0, threads=1, **place)

    def fanfill() -> None:
        writer.create(path, size, make, threads=threads, done=lambda _: None, is_there=lambda: False)

    def by_units(unit: int, threads: int, flags: int = 0, behind: bool = False) -> Callable[[], None]:
        begin, wait = system.write_behind()

        def work(descriptor: int, places: Any, lock: threading.Lock) -> None:
            buffer, started = np.frombuffer(mmap.mmap(-1, unit), np.uint8), []
            while True:
                with lock:
                    first = next(places, None)
                if first is None:
                    return
                made = buffer[: min(unit, size - first)]
                make(first, made)
                system.write_at(descriptor, made.data, first)
                if behind:
                    begin(descriptor, first, made.size)
                    started.append((first, made.size))
                    if len(started) > 1:
                        wait(descriptor, *started.pop(0))

        def run() -> None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            os.posix_fallocate(descriptor, 0, size)
            shared = (descriptor, iter(range(0, size, unit)), threading.Lock())
            workers = [threading.Thread(target=work, args=shared) for _ in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            os.fsync(descriptor)
            os.close(descriptor)

        return run

    large = 8 << 20
    ways: dict[str, Callable[[], None]] = {
        "fanfill's writer": fanfill,
        "pwrite, 8 MiB, write-behind": by_units(large, threads, behind=True),
        "pwrite, 8 MiB": by_units(large, threads),
        "pwrite, 8 MiB, one thread": by_units(large, 1),
        "O_DIRECT, 8 MiB": by_units(large, threads, getattr(os, "O_DIRECT", 0)),
        "O_DIRECT, 8 MiB, twice the threads": by_units(large, 2 * threads, getattr(os, "O_DIRECT", 0)),
    }
    make(0, np.empty(large, np.uint8))  # compiles both kernels
    make(0, np.empty(1 << 20, np.uint8))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            path.unlink(missing_ok=True)
            os.sync()
            began = time.perf_counter()
            way()
            rates[name].append(size / (time.perf_counter() - began) / 1e9)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    for name, each in rates.items():
        print(f"{name:36}{medians[name]:6.3f} GB/s ({min(each):.3f} to {max(each):.3f})")
    ours = medians.pop("fanfill's writer")
    best = max(medians, key=lambda name: medians[name])
    print(f"fanfill's writer has {ours / medians[best]:.2f} of the rate of: {best}")


if __name__ == "__main__":
    main()
