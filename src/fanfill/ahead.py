"""Compiles the kernels that a program will ask for before it does: for container images.

Nothing is filled, since the kernels may be for another processor or for a GPU that is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from fanfill.backends import get
from fanfill.distributions import recipe
from fanfill.dtypes import STORAGES
from fanfill.errors import BackendUnavailableError
from fanfill.named import NAMED, NAMES, initializer
from fanfill.structures import STRUCTURES

if TYPE_CHECKING:
    from fanfill_kernels.store.keys import Target

__all__ = ["Job", "Made", "carry_out", "environment", "job", "known_initializers"]

# Arguments under which an initializer that takes some leads to each of its kernels.
_ARGUMENTS: dict[str, tuple[dict[str, Any], ...]] = {
    "constant": ({"value": 1.0},),
    "normal": ({},),
    "truncated_normal": ({}, {"lower": -3.0, "upper": 3.0}),
    "uniform": (
        {"low": -1.0, "high": 1.0},
        {"low": -1.0, "high": 1.0, "endpoint": False},
        {"low": 0.0, "high": 1.0},
    ),
    "variance_scaling": tuple({"distribution": name} for name in ("normal", "truncated_normal", "uniform")),
}
_WORDS = ("words", "uint32")


class Made(NamedTuple):
    """A kernel that is kept: for what, its key, whether it was compiled now, and in how many seconds."""

    device: str
    kernel: str
    compiled: bool
    seconds: float


class Job(NamedTuple):
    """What is to be compiled: forms with their dtypes, and for what; no processor means this machine's."""

    forms: tuple[tuple[str, str], ...]
    on_cpu: bool
    processor: Target | None
    architectures: tuple[int, ...]


def known_initializers() -> tuple[str, ...]:
    """The names of initializers, and "words"."""
    return (*NAMES, "words")


def job(
    names: Sequence[str] | None, dtypes: Sequence[str] | None, devices: Sequence[str], cpu: str | None
) -> Job:
    """The work that is asked for; None stands for all.

    Raises
    ------
    ValueError
        If there is no such initializer, dtype, device or processor; if a processor is named and "cpu" is not
        among the devices.
    BackendUnavailableError
        If the GPUs of this machine are asked for, and there is none.
    """
    chosen = _known("initializers", names, known_initializers())
    storages = _known("dtypes", dtypes, tuple(STORAGES))
    forms = dict.fromkeys(form for dtype in storages for name in chosen for form in _forms(name, dtype))
    architectures = dict.fromkeys(arch for device in devices or [""] for arch in _architectures(device))
    if cpu is not None and "cpu" not in devices:
        raise ValueError(
            f"--cpu: expected cpu among the devices with it; got --device {','.join(devices)}; leave one out"
        )
    return Job(tuple(forms), "cpu" in devices, None if cpu is None else _processor(cpu), tuple(architectures))


def environment(processor: Target) -> dict[str, str]:
    """What must be set where kernels for a processor that was named are used."""
    from fanfill_kernels.compile import ahead

    return ahead.environment(processor)


def _processor(name: str) -> Target:
    from fanfill_kernels.compile.ahead import processor

    return processor(name)


def carry_out(work: Job) -> Iterator[tuple[Made, int]]:
    """Compile what is not kept yet, kernel by kernel; with each, how many there are in all.

    Raises
    ------
    OSError
        If a kernel cannot be kept.
    BackendUnavailableError
        If there is no compiler.
    """
    total, parts = 0, []
    if work.on_cpu:
        count, made = _on_cpu(work)
        total += count
        parts.append(made)
    for architecture in work.architectures:
        count, made = _on_gpu(work, architecture)
        total += count
        parts.append(made)
    for part in parts:
        for kernel in part:
            yield kernel, total


def _on_cpu(work: Job) -> tuple[int, Iterator[Made]]:
    reason = get("numba").unusable()
    if reason is not None:
        raise BackendUnavailableError(f"backend 'numba' is not usable: {reason}")
    from fanfill_kernels.compile import ahead, cpu

    if cpu.interpreted():
        raise BackendUnavailableError("expected Numba to compile; NUMBA_DISABLE_JIT is set; unset it")
    forms = [form for form in work.forms if form[0] != "constant"]
    itemsizes = sorted({STORAGES[dtype].itemsize for form, dtype in forms if form != "words"})
    count = len(ahead.kernels_of(forms, itemsizes))
    if work.processor is None:
        return count, (Made("cpu", *kept) for kept in ahead.keep(ahead.kernels_of(forms, itemsizes)))
    name, found = f"cpu {work.processor.name}", ahead.keep_for(work.processor, forms, itemsizes)
    return count, (Made(name, *kept) for kept in found)


def _on_gpu(work: Job, architecture: int) -> tuple[int, Iterator[Made]]:
    """With each NVRTC that a driver may choose: of one CUDA or another."""
    from fanfill.cuda import backend as cuda_backend
    from fanfill.cuda import nvrtc
    from fanfill_kernels.cuda.geometry import kernel_forms
    from fanfill_kernels.store import cache

    newest = [c.version[0] for c in nvrtc.compilers()] or [nvrtc.compiler().version[0]]
    compilers = list(dict.fromkeys(cuda_backend.compiler_for(major, architecture) for major in newest))
    for compiler in compilers:
        cuda_backend.newest_known(compiler, architecture)
    families = list(
        dict.fromkeys(
            f"constant_{8 * STORAGES[dtype].itemsize}" if form == "constant" else f"{of_kernel}_{dtype}"
            for form, dtype in work.forms
            for of_kernel in kernel_forms(form)
        )
    )

    def made() -> Iterator[Made]:
        for compiler in compilers:
            for family in families:
                began = perf_counter()
                key, _, anew = cuda_backend.kept(compiler, architecture, family)
                if anew and cache.load(key) is None:
                    raise OSError(
                        f"expected to keep {family} in {cache.folder()}; got no file there: is it full, or "
                        "is it read-only?"
                    )
                yield Made(f"cuda:sm_{architecture}", key, anew, perf_counter() - began)

    return len(compilers) * len(families), made()


def _known(what: str, asked: Sequence[str] | None, known: tuple[str, ...]) -> Sequence[str]:
    unknown = [name for name in asked or () if name not in known]
    if unknown or (asked is not None and not asked):
        raise ValueError(
            f"--{what}: expected names joined by commas, out of {', '.join(known)}; got "
            f"{', '.join(map(repr, unknown)) or 'none'}; leave it out for all of them"
        )
    return known if asked is None else asked


def _forms(name: str, dtype: str) -> set[tuple[str, str]]:
    """The kernels that an initializer may ask for."""
    if name == "words":
        return {_WORDS}
    arguments = _ARGUMENTS.get(name)
    if arguments is None:
        arguments = ({}, {"truncated": True}) if name.endswith("normal") else ({},)
    structure = STRUCTURES.get(NAMED[name].__name__)
    if structure is not None:
        return structure.forms(dtype)
    laws = [initializer(name, **given) for given in arguments]
    return {(recipe(law, (64, 64), dtype).form, dtype) for law in laws}


def _architectures(device: str) -> tuple[int, ...]:
    if device == "cpu":
        return ()
    named = re.fullmatch(r"cuda:sm_([0-9]+)", device)
    if named:
        return (int(named[1]),)
    if device != "cuda":
        raise ValueError(
            "--device: expected cpu, cuda (the GPUs of this machine) or cuda:sm_NN (an architecture, here or "
            f"not), joined by commas; got {device!r}"
        )
    from fanfill.cuda import backend as cuda_backend

    try:
        gpu = cuda_backend.driver()
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"--device cuda: {error}; to compile without a GPU name its architecture, as in cuda:sm_90"
        ) from error
    return tuple(gpu.architecture(number) for number in range(gpu.devices()))
