"""``fanfill compile``: compiles kernels and keeps them before a program needs them."""

from __future__ import annotations

from collections.abc import Sequence

from fanfill import ahead
from fanfill.cli.outcome import Output, took
from fanfill_kernels.store import cache

__all__ = ["chosen", "command"]


def chosen(dtypes: str | None, names: str | None, devices: str, cpu: str | None) -> ahead.Job:
    """The work that the options ask for."""
    return ahead.job(listed(names), listed(dtypes), listed(devices) or (), cpu)


def listed(text: str | None) -> Sequence[str] | None:
    """The names in a comma-separated list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def command(work: ahead.Job, output: Output) -> None:
    """Run ``fanfill compile``.

    Raises
    ------
    ValueError
        If there is nowhere to keep kernels; raised before any is compiled.
    """
    refused = cache.refused()
    if refused is not None:
        raise ValueError(
            f"expected a folder where compiled kernels are kept; got {cache.folder()}, unusable: {refused}; "
            "name one with FANFILL_CACHE_DIR"
        )
    made: list[ahead.Made] = []
    with output.phases("kernels") as follow:
        follow("compiling")
        for kernel, total in ahead.carry_out(work):
            made.append(kernel)
            follow("compiling", len(made), total)
    # What must be set wherever kernels for a named processor are used.
    environment = {} if work.processor is None else ahead.environment(work.processor)
    facts = {
        "folder": str(cache.folder()),
        "seconds": sum(follow.seconds.values()),
        "compiled": sum(kernel.compiled for kernel in made),
        "kept_before": sum(not kernel.compiled for kernel in made),
        "environment": environment,
        "kernels": [kernel._asdict() for kernel in made],
        "phases": follow.seconds,
    }
    lines = []
    for device in dict.fromkeys(kernel.device for kernel in made):
        anew = [kernel.seconds for kernel in made if kernel.device == device and kernel.compiled]
        before = sum(kernel.device == device for kernel in made) - len(anew)
        lines.append((device, f"{len(anew)} kernels compiled in {sum(anew):.1f} s, {before} kept before"))
    lines.append(("folder", str(cache.folder())))
    if environment:
        named = " ".join(f"{name}={value}" for name, value in environment.items())
        lines.append(("to be set", f"{named} wherever these kernels are to be used"))
    output.report("compile", facts, [*lines, took(follow.seconds)])
