"""What `fanfill.keras` promises beside Keras, on each backend that is installed: time and memory of kernels.

    python benchmarks/keras_targets.py [--backends jax,torch] [--width 3162] [--layers 10] [--rounds 5]

A model of Dense layers without biases is made anew by Keras' own initializer and by ours, in turns, in a
process for each backend: 100 M float32 parameters, first touch of their memory included; medians of the
rounds. Beside them stand our fill of fresh memory without Keras, which is the least that ours can take, and a
model of zeros. Growth of memory is that of a process which makes one kernel more, at its highest and over the
kernel's own size.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from targets import Target, show

import fanfill as ff
from fanfill.bench import report

WANTED = {"HeNormal": 10.0, "GlorotUniform": 4.0}
BACKENDS = ("jax", "torch", "tensorflow", "numpy")
WIDTH = 4096


def seconds_of_models(width: int, layers: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of a build, of the clock and of processors. The first turn compiles, and is left out."""
    import keras

    import fanfill.keras as fk

    def model_of(initializer: Any) -> Callable[[], Any]:
        def build() -> Any:
            # In one list: after each `add`, Keras makes the whole model anew.
            dense = [
                keras.layers.Dense(width, use_bias=False, kernel_initializer=initializer())
                for _ in range(layers)
            ]
            model = keras.Sequential([keras.Input((width,)), *dense])
            wait_for(model)
            return model

        return build

    def bare(name: str) -> Callable[[], Any]:
        law = getattr(fk, name)().law((width, width))
        return lambda: [ff.fill(np.empty((width, width), np.float32), law, seed=n) for n in range(layers)]

    makers = {"zeros": model_of(keras.initializers.Zeros)}
    for name in WANTED:
        makers[f"bare {name}"] = bare(name)
        makers[f"ours {name}"] = model_of(getattr(fk, name))
        makers[f"Keras' {name}"] = model_of(getattr(keras.initializers, name))
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for turn in range(rounds + 1):
        for name, make in makers.items():
            gc.collect()
            used, began = process_time(), perf_counter()
            made = make()
            if turn:
                spent[name].append((perf_counter() - began, process_time() - used))
            del made
    return {name: (median(s for s, _ in kept), median(c for _, c in kept)) for name, kept in spent.items()}


def wait_for(model: Any) -> None:
    """JAX and TensorFlow may return before the values are there."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        jax.block_until_ready([variable.value for variable in model.weights])


def growth_of_kernel(ours: bool, values: int) -> float:
    """How far the process grew while it made one kernel, over that kernel's bytes."""
    import keras

    import fanfill.keras as fk

    initializer = (fk if ours else keras.initializers).HeNormal(seed=1)
    keras.Variable(initializer, shape=(256, 256), dtype="float32")  # imports, pools and kernels are there
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the highest resident size is counted anew
    before = resident("VmRSS")
    kept = keras.Variable(initializer, shape=(values // WIDTH, WIDTH), dtype="float32")
    return (resident("VmHWM") - before) * 1024 / (4 * kept.shape[0] * kept.shape[1])


def resident(field: str) -> int:
    """KiB of this process, as the kernel counts them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def in_child(backend: str, *arguments: str) -> Any:
    """What this script finds in a process of its own: Keras takes its backend when it is imported."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--in-child", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(backend: str, width: int, layers: int, rounds: int) -> list[Target]:
    """A line a promise on one backend."""
    spent = in_child(backend, "times", str(width), str(layers), str(rounds))
    seconds = {name: clock for name, (clock, _) in spent.items()}
    each = ", ".join(f"{name} {clock:.3f} ({cpu:.3f})" for name, (clock, cpu) in spent.items())
    print(f"# {backend}, s (of processors): {each}", flush=True)
    found = [
        Target(
            f"{backend}, {name}, over Keras'",
            wanted,
            seconds[f"Keras' {name}"] / seconds[f"ours {name}"],
            "x",
        )
        for name, wanted in WANTED.items()
    ]
    ours, theirs = (in_child(backend, "memory", side, str(50_000_000)) for side in ("ours", "Keras'"))
    print(f"# {backend}, growth over the kernel's size: ours {ours:.2f}, Keras' {theirs:.2f}")
    if backend != "numpy":  # Keras copies every array into a variable of its NumPy backend
        found.append(Target(f"{backend}, HeNormal, growth: the kernel", 1.1, ours, "x", most=True))
    return found


def main() -> int:
    """Measure, print a line a promise, and return 1 if one is missed."""
    if sys.argv[1:2] == ["--in-child"]:
        what, *rest = sys.argv[2:]
        found: Any = (
            seconds_of_models(*map(int, rest))
            if what == "times"
            else growth_of_kernel(rest[0] == "ours", int(rest[1]))
        )
        print(json.dumps(found))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    installed = [name for name in BACKENDS if find_spec(name)]
    parser.add_argument("--backends", type=lambda text: text.split(","), default=installed)
    parser.add_argument("--width", type=int, default=3162)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    table = [
        row for name in chosen.backends for row in rows(name, chosen.width, chosen.layers, chosen.rounds)
    ]
    show(table)
    found = report.surroundings(report.command_line(), [])
    print(f"\n{found.command}, {found.date}")
    print(f"{found.machine['cpu']}, {ff.get_threads()} threads")
    return int(not all(row.met for row in table))


if __name__ == "__main__":
    sys.exit(main())
