"""Every argument of the operations that the CUDA kernels make themselves, on a device.

A float32 normal takes a square root, a truncated one a quotient of polynomials. The kernels make both from
the GPU's approximations of 1 / sqrt(x) and 1 / x, by sequences of fused operations that round to nearest for
every argument that a form can produce. Here a GPU tries them, against its own IEEE operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fanfill.cuda import backend as cuda_backend
from fanfill.selftest import Subject

__all__ = ["RANGES", "Tried", "run"]

THREADS = 256
BLOCKS = 16  # a multiprocessor

# By entry point of ``exact.cu``: the least argument, and the first one beyond. Radii squared lie above 2^-32
# and below 90, central probabilities in [2^-31, 1/2], and a tail's radii above 2.8 and below 14.
RANGES = {
    "roots": (2.0**-40, 128.0),
    "centre_quotients": (2.0**-31, 1.0),
    "tail_quotients": (1.0, 16.0),
}


class Tried(NamedTuple):
    """One operation on one device: how many arguments, and for how many of them the result is not IEEE's."""

    subject: Subject
    operation: str
    arguments: int
    differing: int


def run(subject: Subject) -> Iterator[Tried]:
    """Try every argument on a CUDA device."""
    from fanfill_kernels.cuda import source

    assert subject.number is not None
    gpu = cuda_backend.driver()
    with gpu.use(subject.number):
        module = cuda_backend.load_source(gpu, source("exact.cu"), "exact.cu")
        blocks = BLOCKS * gpu.multiprocessors(subject.number)
        found = gpu.allocate(4 * blocks * THREADS)
        for operation, (least, beyond) in RANGES.items():
            first, stop = (int(np.float32(end).view(np.uint32)) for end in (least, beyond))
            arguments = [found.ptr.to_bytes(8, "little"), first.to_bytes(4, "little")]
            arguments.append((stop - first).to_bytes(4, "little"))
            function = int(module.get_function(operation).ptr)
            stream = gpu.stream(subject.number)
            cuda_backend.start(gpu, function, blocks, THREADS, stream, arguments)
            tallies = np.frombuffer(gpu.read(found.ptr, 4 * blocks * THREADS), np.uint32)
            yield Tried(subject, operation, stop - first, int(tallies.sum(dtype=np.uint64)))
