"""`fanfill.dask.draw` on a cluster: a gigavalue to zarr, in bounded memory and with the right bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optional
import pytest

optional.needs("dask", "distributed", "zarr")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB, as Linux has it"),
]

# Two workers of one thread; the most memory that each held, in bytes, and 40 boxes compared with fill.
PROGRAM = """
import json, resource
import numpy as np, zarr
from dask.distributed import Client, LocalCluster
import fanfill as ff, fanfill.dask as fd

def most():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if __name__ == "__main__":
    shape, law = (32768, 32768), ff.he_normal()
    lazy = fd.draw(shape, law, seed=0, name="w", dtype="float16")
    settings = dict(n_workers=2, threads_per_worker=1, memory_limit="1.5GB", dashboard_address=None)
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        stored = zarr.create_array(
            "w.zarr", shape=shape, chunks=lazy.chunksize, dtype="float16", compressors=None, fill_value=0,
            config={"write_empty_chunks": True},
        )
        lazy.store(stored, lock=False)
        held = client.run(most)
    rng = np.random.Generator(ff.Philox(1, "boxes"))
    for _ in range(40):
        corner = tuple(int(n) for n in rng.integers(0, 32768 - 100, 2))
        box = np.empty((100, 90), np.float16)
        ff.fill(box, law, seed=0, name="w", global_shape=shape, offset=corner)
        found = stored[corner[0] : corner[0] + 100, corner[1] : corner[1] + 90]
        assert found.tobytes() == box.tobytes(), corner
    chunk = 2 * int(np.prod(lazy.chunksize))
    print(json.dumps({"held": list(held.values()), "chunk": chunk, "chunks": lazy.npartitions}))
"""


def test_a_gigavalue_goes_to_zarr_in_bounded_memory(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["held"]) == 2
    assert found["chunks"] >= 16
    assert max(found["held"]) < 3 * found["chunk"] + 250e6
