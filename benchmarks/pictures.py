"""Draw the pictures of README and docs from the JSON files beside them.

    python benchmarks/pictures.py                    # every docs/pictures/NAME.svg from its NAME.json
    python benchmarks/pictures.py --measure keras    # first the JSON anew: of propagation, histogram or keras

What was timed (throughput-*.json) is written by hand, from the pages that it names. An SVG carries the hash
of its JSON, by which tests/docs/test_pictures.py sees one that is out of date.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fanfill as ff
from fanfill import show
from fanfill.show import pictures

FOLDER = Path(__file__).resolve().parents[1] / "docs/pictures"
INITIALIZERS = (
    ff.he_normal(),
    ff.he_uniform(),
    ff.xavier_normal(),
    ff.xavier_uniform(),
    ff.normal(0.0, 0.02),
)
HISTOGRAMS = (
    ff.he_normal(),
    ff.he_normal(truncated=True),
    ff.xavier_uniform(),
    ff.truncated_normal(0.0, 0.02, -1.0, 3.0),
)


def propagation() -> Any:
    """Each initializer through each activation."""
    return [
        asdict(show.propagation(law, activation, width=1024, batch=32))
        for activation in ("relu", "tanh", "linear")
        for law in INITIALIZERS
    ]


def histogram() -> Any:
    """A million values of four laws."""
    return [asdict(show.histogram(law, (1024, 1024))) for law in HISTOGRAMS]


def keras_model() -> Any:
    """The sums of a Keras model's 50 Dense layers, with ReLU between them, with each initializer."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    def build() -> Any:
        layers = [make() for _ in range(50) for make in (lambda: keras.layers.Dense(512), keras.layers.ReLU)]
        return keras.Sequential([keras.Input((512,)), *layers])

    return {
        repr(law): [
            layer._asdict()
            for layer in show.propagation_of(build(), initializer=law, batch=32)
            if layer.kind == "Dense"
        ]
        for law in INITIALIZERS
    }


def _throughput(found: Any) -> Any:
    lines = [pictures.Contestant(*row) for row in found["rows"]]
    return pictures.throughput(found["title"], lines)


MEASURED: dict[str, Callable[[], Any]] = {
    "histogram": histogram,
    "keras": keras_model,
    "propagation": propagation,
}
DRAWN: dict[str, Callable[[Any], Any]] = {
    "histogram": lambda found: pictures.histogram([show.Histogram(**each) for each in found]),
    "keras": lambda found: pictures.layers(
        {law: [show.Layer(**each) for each in layers] for law, layers in found.items()}
    ),
    "propagation": lambda found: pictures.propagation([show.Propagation(**each) for each in found]),
    "throughput-cpu": _throughput,
    "throughput-h200": _throughput,
}


def rounded(found: Any) -> Any:
    """Floats to six digits: what a picture can show, and more."""
    if isinstance(found, dict):
        return {key: rounded(each) for key, each in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(each) for each in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def note(source: Path) -> str:
    """What an SVG says of the file that it was made from."""
    return f"made from {source.name}, SHA-256 {hashlib.sha256(source.read_bytes()).hexdigest()}"


def draw(name: str, folder: Path = FOLDER) -> Path:
    """Draw one picture from its JSON in `FOLDER`."""
    source, picture = FOLDER / f"{name}.json", folder / f"{name}.svg"
    pictures.save(DRAWN[name](json.loads(source.read_text())), picture, note(source))
    return picture


def main() -> None:
    """Measure what is asked for, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *DRAWN], help="[default: all]")
    parser.add_argument("--measure", action="store_true")
    chosen = parser.parse_args()
    for name in chosen.names or DRAWN:
        if chosen.measure and name in MEASURED:
            text = json.dumps(rounded(MEASURED[name]()), separators=(",", ":"))
            (FOLDER / f"{name}.json").write_text(f"{text}\n")
        print(draw(name))


if __name__ == "__main__":
    main()
