"""Writes one start checkpoint by transformers and by fanfill, each in a process of its own, in turns.

    python benchmarks/checkpoints.py [--layers 22] [--rounds 3] [--folder /tmp]

The default is a Llama of 1.1 G parameters in bfloat16, 2.2 GB. A job begins after the imports and ends when
the disk has the files (transformers' are synced too, for it leaves them to the system). Memory is the peak of
anonymous pages, beside what the imports took.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

JOB = """
import json, os, sys, threading, time
import torch, transformers
from fanfill.checkpoints import writing
from fanfill.torch import pretrained

how, config, out = sys.argv[1:]
kind = transformers.LlamaForCausalLM  # imported before the clock starts

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

before = peak = anonymous()
running = True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.01)
thread = threading.Thread(target=watch, daemon=True)
thread.start()
began = time.perf_counter()
if how == "fanfill":
    planned = pretrained.plan(config, dtype="bfloat16")
    planning = time.perf_counter() - began
    writing.carry_out(pretrained.job(planned, 0), out)
else:
    model = kind._from_config(transformers.AutoConfig.from_pretrained(config), dtype=torch.bfloat16)
    planning = time.perf_counter() - began
    model.save_pretrained(out, max_shard_size="5GB")
    for name in os.listdir(out):
        with open(os.path.join(out, name), "rb+") as file:
            os.fsync(file.fileno())
seconds = time.perf_counter() - began
running = False
thread.join()
size = sum(os.path.getsize(os.path.join(out, name)) for name in os.listdir(out))
print(json.dumps({"seconds": seconds, "planning": planning, "peak": peak, "imports": before, "bytes": size}))
"""


def main() -> None:
    """Measure, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    import transformers

    found: dict[str, list[dict[str, float]]] = {"transformers": [], "fanfill": []}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        config = Path(folder, "config")
        transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=asked.layers,
            num_attention_heads=32,
            num_key_value_heads=4,
        ).save_pretrained(config)
        for _ in range(asked.rounds):
            for how, results in found.items():
                out = Path(folder, "out")
                command = [sys.executable, "-W", "ignore", "-c", JOB, how, str(config), str(out)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append(json.loads(done.stdout))
                shutil.rmtree(out)
    medians = {
        how: {what: statistics.median(r[what] for r in results) for what in results[0]}
        for how, results in found.items()
    }
    print(f"{'':14}{'seconds':>9}{'build/plan':>12}{'peak MB':>9}{'imports MB':>12}{'GB':>7}")
    for how, m in medians.items():
        print(
            f"{how:14}{m['seconds']:9.2f}{m['planning']:12.2f}{m['peak'] / 1e6:9.0f}"
            f"{m['imports'] / 1e6:12.0f}{m['bytes'] / 1e9:7.2f}"
        )
    theirs, ours = medians["transformers"], medians["fanfill"]
    faster, less = theirs["seconds"] / ours["seconds"], theirs["peak"] / ours["peak"]
    print(f"{faster:.1f} times as fast, 1/{less:.1f} of the memory")


if __name__ == "__main__":
    main()
