"""Rewrites the golden hashes of ``fanfill.selftest.golden``, by the NumPy backend; run as a script.

A deliberate act, for a change of the stream that ``docs/stream.md`` and the changelog name.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

import fanfill as ff
from fanfill.dtypes import STORAGES, dtype_of
from fanfill.selftest import golden

FILE = Path(golden.__file__).with_name("golden.json")

DTYPES = {name: dtype_of(name).type for name in STORAGES}


def digest(case: golden.Case, backend: str) -> str:
    """SHA-256 of one golden fill by one backend."""
    buffer = np.empty(case.shape, DTYPES.get(case.dtype, np.uint32))
    golden.draw(case, buffer, backend=backend)
    return hashlib.sha256(buffer.tobytes()).hexdigest()


def main() -> None:
    drawn = {str(case): digest(case, backend="numpy") for case in golden.cases()}
    FILE.write_text(json.dumps({"stream": ff.STREAM_VERSION, "sha256": drawn}, indent=1) + "\n")


if __name__ == "__main__":
    main()
