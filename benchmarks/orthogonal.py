"""The QR decomposition of `fanfill.orthogonal` beside LAPACK's: seconds, their ratio, and how orthonormal.

OPENBLAS_NUM_THREADS=1 python benchmarks/orthogonal.py 4096
"""

import sys
from statistics import median
from time import perf_counter

import numpy as np

from fanfill.qr import orthonormal


def main(size: int, rounds: int) -> None:
    columns = np.random.default_rng(0).standard_normal((size, size))
    times: dict[str, list[float]] = {"LAPACK": [], "fanfill": []}
    for _ in range(rounds):
        began = perf_counter()
        q, r = np.linalg.qr(columns.T)
        times["LAPACK"].append(perf_counter() - began)
        q *= np.sign(np.diag(r))
        rows = columns.copy()
        began = perf_counter()
        found = orthonormal(rows)
        times["fanfill"].append(perf_counter() - began)
    lapack, own = (median(times[name]) for name in ("LAPACK", "fanfill"))
    print(f"{size} x {size}, median of {rounds}: LAPACK {lapack:.3g} s, fanfill {own:.3g} s")
    print(f"ratio: {own / lapack:.2f}")
    print(f"largest element of Q^T Q - 1: {abs(found @ found.T - np.eye(size)).max():.2g}")
    print(f"largest difference from LAPACK's Q: {abs(found.T - q).max():.2g}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
