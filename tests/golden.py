"""The golden fills: what is drawn, and the SHA-256 of the bytes that every backend on every machine must
draw.

Run as a script it draws them all with the NumPy backend and rewrites ``data/golden.json``: a deliberate act,
for a change of the stream that ``docs/stream.md`` and the changelog name.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

import fanfill as ff

FILE = Path(__file__).parent / "data" / "golden.json"

DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
INITIALIZERS = {
    "xavier_uniform": ff.xavier_uniform(),
    "xavier_normal gain 5/3": ff.xavier_normal(gain=5 / 3),
    "xavier_normal truncated": ff.xavier_normal(truncated=True),
    "he_uniform fan_out": ff.he_uniform(mode="fan_out"),
    "he_normal": ff.he_normal(),
    "he_normal truncated": ff.he_normal(truncated=True),
    "lecun_uniform": ff.lecun_uniform(),
    "lecun_normal": ff.lecun_normal(),
    "variance_scaling fan_geo_avg": ff.variance_scaling(1.5, "fan_geo_avg", "uniform"),
    "uniform symmetric": ff.uniform(-0.1, 0.1),
    "uniform": ff.uniform(-0.5, 1.5),
    "normal": ff.normal(0.25, 2.0),
    "truncated_normal": ff.truncated_normal(),
    "truncated_normal one-sided": ff.truncated_normal(0.5, 1.5, -1.0, math.inf),
    "truncated_normal wide": ff.truncated_normal(lower=-4.0, upper=3.0),
    "truncated_normal far": ff.truncated_normal(lower=3.0, upper=5.0),
    "truncated_normal far below": ff.truncated_normal(lower=-math.inf, upper=-4.0),
    "constant": ff.constant(0.3),
}
SEED = 0xC0FFEE0123456789
# Shape of the buffer, of the global tensor, and where it lies there: whole, odd and far beyond 2^32 elements.
PLACES = {
    "small": ((7, 3), None, None),
    "large": ((129, 257), None, None),
    "box": ((5, 11), (9000, 70000), (8991, 69987)),
    "far box": ((4, 3, 5), (2**20, 2**20, 64), (2**20 - 4, 2**19 + 1, 33)),
}


def cases() -> Iterator[tuple[str, str, str]]:
    """Every (initializer, dtype, place)."""
    for law in INITIALIZERS:
        for dtype in DTYPES:
            for place in PLACES:
                yield law, dtype, place


def digest(law: str, dtype: str, place: str, backend: str, threads: int | None = None) -> str:
    """SHA-256 of one golden fill by one backend."""
    shape, global_shape, offset = PLACES[place]
    buffer = np.empty(shape, DTYPES[dtype])
    ff.fill(
        buffer,
        INITIALIZERS[law],
        seed=SEED,
        name=f"golden/{place}",
        global_shape=global_shape,
        offset=offset,
        backend=backend,
        threads=threads,
    )
    return hashlib.sha256(buffer.tobytes()).hexdigest()


def main() -> None:
    golden = {" / ".join(case): digest(*case, backend="numpy") for case in cases()}
    FILE.write_text(json.dumps({"stream": ff.STREAM_VERSION, "sha256": golden}, indent=1) + "\n")


if __name__ == "__main__":
    main()
