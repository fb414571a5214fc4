"""The other generators and initialisers, one function each: entrants for a case, on a given buffer.

Each is used in the fastest way that its documentation shows, on the same memory (JAX, which has no ``out``,
donates its own array). The case's scale is passed to the call if possible, otherwise applied in place
afterwards. A peer yields nothing for a case that it has no function for; a missing peer yields an entrant
that says so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fanfill.bench.measure import BOUND, STD, Case, Entrant
from fanfill.cpu import threads

__all__ = ["PEERS", "entrants"]

Run = Callable[[], object]
Buffer = NDArray[Any]

SEED = 1
NUMPY_BLOCK = 1 << 16  # values that are drawn, then scaled in place while they are in cache
FLOATS = ("float32", "float64")


def entrants(peer: str, case: Case, buffer: Buffer) -> list[Entrant]:
    """A peer's ways to do a case: none if it has none; if the peer cannot be used, one that says why."""
    try:
        return list(PEERS[peer](case, buffer))
    except (ImportError, OSError) as error:
        return [Entrant(peer, "", 1, None, f"{error}; {REMEDIES[peer]}")]


def in_blocks(buffer: Buffer, draw: Callable[[Buffer], object]) -> Run:
    """Call ``draw`` on one block of the buffer after another."""
    blocks = [buffer[start : start + NUMPY_BLOCK] for start in range(0, buffer.size, NUMPY_BLOCK)]

    def run() -> None:
        for block in blocks:
            draw(block)

    return run


def from_generator(generator: np.random.Generator, case: Case, buffer: Buffer) -> Run | None:
    """NumPy's interface: ``out=``, float32 or float64, then the scale in place."""
    if case.dtype not in FLOATS or case.distribution not in ("uniform", "normal"):
        return None
    real: Any = buffer.dtype.type

    def uniform(block: Buffer) -> None:
        generator.random(out=block, dtype=real)
        block *= real(2 * BOUND)
        block -= real(BOUND)

    def normal(block: Buffer) -> None:
        generator.standard_normal(out=block, dtype=real)
        block *= real(STD)

    return in_blocks(buffer, uniform if case.distribution == "uniform" else normal)


def numpy(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """``numpy.random.Generator``, one thread."""
    for name in ("SFC64", "PCG64", "Philox"):
        run = from_generator(np.random.Generator(getattr(np.random, name)(SEED)), case, buffer)
        if run is not None:
            yield Entrant("numpy", f"Generator({name}), out=", 1, run)


def randomgen(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """randomgen's bit generators under NumPy's Generator: a fast one, and its own Philox of 32-bit words."""
    package = import_module("randomgen")
    for name, bits in (
        ("Romu", package.Romu(SEED)),
        ("Philox4x32", package.Philox(SEED, number=4, width=32)),
    ):
        run = from_generator(np.random.Generator(bits), case, buffer)
        if run is not None:
            yield Entrant("randomgen", f"Generator({name}), out=", 1, run)


def torch(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """Tensor methods and ``torch.nn.init`` on a tensor that shares the buffer; torch draws on one thread."""
    package = import_module("torch")
    if case.distribution == "words":
        return
    lanes = buffer if case.dtype != "bfloat16" else buffer.view(np.int16)
    flat = package.from_numpy(lanes)
    if case.dtype == "bfloat16":
        flat = flat.view(package.bfloat16)
    rows = 1 << (case.values.bit_length() - 1) // 2
    matrix = flat[: case.values // rows * rows].view(-1, rows)
    init = package.nn.init
    if case.distribution == "truncated":
        yield Entrant(
            "torch",
            "nn.init.trunc_normal_",
            1,
            lambda: init.trunc_normal_(flat, 0.0, STD, -2 * STD, 2 * STD),
        )
        return
    kind = case.distribution
    plain = {"uniform": lambda: flat.uniform_(-BOUND, BOUND), "normal": lambda: flat.normal_(0.0, STD)}
    yield Entrant("torch", f"Tensor.{kind}_", 1, plain[kind])
    if matrix.numel() == flat.numel():  # otherwise they would draw fewer values than the case has
        kaiming, xavier = getattr(init, f"kaiming_{kind}_"), getattr(init, f"xavier_{kind}_")
        yield Entrant("torch", f"nn.init.kaiming_{kind}_", 1, lambda: kaiming(matrix))
        yield Entrant("torch", f"nn.init.xavier_{kind}_", 1, lambda: xavier(matrix))


def jax(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """Jitted draws on the CPU, with both kinds of key; each result takes the previous one's memory."""
    package = import_module("jax")
    if case.distribution == "words":
        return
    cpu, random, dtype = package.devices("cpu")[0], package.random, package.numpy.dtype(case.dtype)
    wide = package.enable_x64 if case.dtype == "float64" else package.default_device

    def draw(key: Any, old: Any) -> Any:
        shape = (case.values,)
        if case.distribution == "uniform":
            return random.uniform(key, shape, dtype, -BOUND, BOUND)
        if case.distribution == "normal":
            return random.normal(key, shape, dtype) * dtype.type(STD)
        return random.truncated_normal(key, -2, 2, shape, dtype) * dtype.type(STD)

    jitted = package.jit(draw, donate_argnums=1, keep_unused=True)
    for name in ("threefry2x32", "rbg"):
        state: list[Any] = []

        def run(name: str = name, state: list[Any] = state) -> None:
            with wide(True if case.dtype == "float64" else cpu):
                key = random.key(SEED, impl=name)
                old = state.pop() if state else package.numpy.zeros(case.values, dtype)
                state.append(jitted(key, old).block_until_ready())

        yield Entrant("jax", f"random.{case.distribution}, {name}, jit", threads.usable_cpus(), run)


def mkl_random(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """Intel's mkl_random, which draws new float64 arrays: in blocks that stay in cache, then copied."""
    package = import_module("mkl_random")
    if case.dtype not in FLOATS or case.distribution not in ("uniform", "normal"):
        return
    for brng in ("SFMT19937", "ARS5", "PHILOX4X32X10"):
        state = package.MKLRandomState(SEED, brng=brng)

        def uniform(block: Buffer, state: Any = state) -> None:
            block[...] = state.uniform(-BOUND, BOUND, block.size)

        def normal(block: Buffer, state: Any = state) -> None:
            block[...] = state.normal(0.0, STD, block.size, method="BoxMuller2")

        draw = uniform if case.distribution == "uniform" else normal
        yield Entrant("mkl_random", f"{brng}, float64 by blocks", 1, in_blocks(buffer, draw))


# oneMKL's mkl_vsl_defines.h and mkl_service.h.
BRNGS = {"SFMT19937": 13 << 20, "ARS5": 15 << 20, "PHILOX4X32X10": 16 << 20}
GAUSSIAN = {"ICDF": 2, "BOXMULLER2": 1}
SEQUENTIAL = 1
MOST = 1 << 28  # values per call: the count is a C int


def onemkl(case: Case, buffer: Buffer) -> Iterator[Entrant]:
    """oneMKL's vector statistics through ctypes, directly into the buffer, on one thread."""
    library = onemkl_library()
    if case.dtype not in FLOATS or case.distribution not in ("uniform", "normal"):
        return
    letter, real = ("s", ctypes.c_float) if case.dtype == "float32" else ("d", ctypes.c_double)
    kind = "Uniform" if case.distribution == "uniform" else "Gaussian"
    function = library[f"v{letter}Rng{kind}"]
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, real, real]
    a, b = (-BOUND, BOUND) if case.distribution == "uniform" else (0.0, STD)
    pieces = [
        (buffer.ctypes.data + start * buffer.itemsize, min(MOST, buffer.size - start))
        for start in range(0, buffer.size, MOST)
    ]
    for brng, number in BRNGS.items():
        stream = ctypes.c_void_p()
        if library.vslNewStream(ctypes.byref(stream), number, SEED):
            yield Entrant("onemkl", brng, 1, None, f"vslNewStream refuses {brng} on this processor")
            continue
        for method, code in {"": 0}.items() if kind == "Uniform" else GAUSSIAN.items():

            def run(stream: ctypes.c_void_p = stream, code: int = code) -> None:
                for address, count in pieces:
                    if status := function(code, stream, count, address, a, b):
                        raise RuntimeError(f"expected oneMKL to draw; got status {status}; leave it out")

            yield Entrant("onemkl", " ".join(filter(None, (f"v{letter}Rng{kind} {brng}", method))), 1, run)


@cache
def onemkl_library() -> ctypes.CDLL:
    """``libmkl_rt`` as the package ``mkl`` installs it, else as the loader finds it."""
    found = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))
    library = ctypes.CDLL(str(found[-1]) if found else "libmkl_rt.so")
    library.MKL_Set_Threading_Layer(SEQUENTIAL)
    library.vslNewStream.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    return library


PEERS: dict[str, Callable[[Case, Buffer], Iterator[Entrant]]] = {
    "numpy": numpy,
    "torch": torch,
    "jax": jax,
    "mkl_random": mkl_random,
    "onemkl": onemkl,
    "randomgen": randomgen,
}
REMEDIES = {name: f"pip install {'mkl' if name == 'onemkl' else name}" for name in PEERS}
