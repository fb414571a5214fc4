"""What an installed wheel must do, wherever it is: run outside the source tree, with ``python -I``."""

import sys
from pathlib import Path

import numpy as np

import fanfill as ff
import fanfill_kernels

for package in (ff, fanfill_kernels):
    place = Path(package.__file__).resolve()
    assert "site-packages" in place.parts, f"{package.__name__} comes from {place}, not from the wheel"
assert (Path(ff.__file__).parent / "py.typed").exists(), "py.typed is missing from the wheel"

for dtype in (np.float32, np.float64, np.float16):
    for initializer in (ff.he_normal(), ff.xavier_uniform(), ff.lecun_normal(truncated=True)):
        whole = {
            backend: ff.fill(np.empty((300, 200), dtype), initializer, seed=7, name="smoke", backend=backend)
            for backend in ("numba", "numpy")
        }
        same = whole["numba"].tobytes() == whole["numpy"].tobytes()
        assert same, f"Numba and NumPy differ: {initializer}, {np.dtype(dtype)}"
        part = np.empty((100, 50), dtype)
        ff.fill(part, initializer, seed=7, name="smoke", global_shape=(300, 200), offset=(150, 25))
        box = whole["numpy"][150:250, 25:75]
        assert np.array_equal(part, box), f"a part differs from the whole: {initializer}"

print(f"fanfill works on Python {sys.version.split()[0]}, NumPy {np.__version__}")
