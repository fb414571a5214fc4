"""``fanfill init``, ``fanfill recipe`` and ``fanfill verify``: start checkpoints from a model's
description.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fanfill.arguments import number_of
from fanfill.checkpoints import checking, safetensors, writing
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.cli.fill import progress_bar
from fanfill.expressions import initializer_from
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill_kernels import STREAM_VERSION

if TYPE_CHECKING:
    from fanfill.torch.pretrained import Pretrained

__all__ = ["function_of", "init", "parse_part", "parse_rule", "recipe", "verify"]

Rules = Sequence[tuple[str, Initializer]]


def parse_part(text: str) -> tuple[int, int]:
    """The share that ``3/16`` names."""
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", text)
    if match is None:
        raise ValueError(f"--part is K/N, the K-th of N shares, as in 3/16; got {text!r}")
    return number_of(match[1], "--part"), number_of(match[2], "--part")


def parse_rule(text: str) -> tuple[str, Initializer]:
    """The pattern and the initializer of ``*.bias=zeros``."""
    pattern, equals, law = text.partition("=")
    if not (equals and pattern):
        raise ValueError(f"--rule is PATTERN=INITIALIZER, as in '*.weight=normal(0.0, 0.02)'; got {text!r}")
    return pattern, initializer_from(law)


@dataclass(frozen=True)
class _Written:
    """What `fanfill init` reports; sizes in bytes."""

    out: str
    format: str
    written: list[str]
    tensors: int
    values: int
    bytes: int
    bytes_written: int
    seed: int
    stream_version: int
    recipe: str
    part: str
    restated: list[str]
    planning_seconds: float
    seconds: float
    bytes_per_second: float


def init(
    source: str,
    out: Path,
    *,
    seed: int,
    dtype: str | None,
    rules: Rules,
    format: str,
    max_shard_size: str,
    part: tuple[int, int],
    threads: int | None,
    as_json: bool,
) -> None:
    """Run ``fanfill init`` and print its report to stdout."""
    began = perf_counter()
    planned = _pretrained(source, dtype, rules)
    made = _recipe(source, dtype, rules) if planned is None else planned.recipe
    if planned is not None and format == "safetensors":
        from fanfill.torch import pretrained

        job = pretrained.job(planned, seed, max_shard_size)
    elif format != "dcp":
        job = writing.plan(made, seed, format=format, max_shard_size=max_shard_size)
    else:
        job = None
    planning = perf_counter() - began
    sizes: list[int] = [0]
    with progress_bar(wanted=not as_json and sys.stderr.isatty(), rate=True) as progress:

        def follow(done: int, total: int) -> None:
            sizes[0] = total
            progress("writing", done, total)

        if job is None:
            written = made.write(out, seed, format=format, part=part, threads=threads, progress=follow)
        else:
            written = writing.carry_out(job, out, part=part, threads=threads, progress=follow)
    seconds = perf_counter() - began
    report = _Written(
        out=str(out),
        format=format,
        written=written,
        tensors=len(made.tensors),
        values=made.values,
        bytes=made.nbytes,
        bytes_written=sizes[0],
        seed=seed,
        stream_version=STREAM_VERSION,
        recipe=made.digest,
        part=f"{part[0]}/{part[1]}",
        restated=[] if planned is None else planned.restated,
        planning_seconds=planning,
        seconds=seconds,
        bytes_per_second=sizes[0] / max(seconds - planning, 1e-9),
    )
    sys.stdout.write((json.dumps(asdict(report)) if as_json else _render(report)) + "\n")


def _render(report: _Written) -> str:
    """The report for people: one line per fact."""
    lines = [
        ("tensors", f"{report.tensors:,} of {report.values:,} values, {report.bytes / 1e9:.3g} GB"),
        ("seed", f"{report.seed} (stream version {report.stream_version})"),
        ("recipe", report.recipe),
        ("written", f"{len(report.written)} files, {report.bytes_written / 1e9:.3g} GB, in {report.out}"),
        (
            "seconds",
            f"{report.seconds:.4g}, {report.planning_seconds:.3g} of them to import libraries and to plan",
        ),
        ("rate", f"{report.bytes_per_second / 1e9:.4g} GB/s, until the disk has it"),
    ]
    if report.part != "1/1":
        lines.insert(3, ("part", report.part))
    if report.restated:
        names = ", ".join(report.restated[:3]) + ", ..." * (len(report.restated) > 3)
        lines.append(
            ("by stored name", f"{len(report.restated)} tensors that are no box of a parameter: {names}")
        )
    return "\n".join(f"{label:16}{text}" for label, text in lines)


def recipe(source: str, *, dtype: str | None, rules: Rules) -> None:
    """Run ``fanfill recipe``: print the recipe as JSON to stdout."""
    planned = _pretrained(source, dtype, rules)
    made = _recipe(source, dtype, rules) if planned is None else planned.recipe
    sys.stdout.write(made.dumps())


def verify(folder: Path, *, threads: int | None, as_json: bool) -> None:
    """Run ``fanfill verify``: make every byte again and compare.

    Raises
    ------
    ValueError
        If a file differs; the message names file, tensor and element.
    """
    began = perf_counter()
    checked = checking.planned(folder)
    sizes = sum(file.size for file in checked.files)
    with progress_bar(wanted=not as_json and sys.stderr.isatty(), rate=True) as progress:
        found = list(checked.differences)
        found += writing.verify(
            checked.files,
            folder,
            threads=threads,
            progress=lambda done, total: progress("comparing", done, total),
        )
    seconds = perf_counter() - began
    if as_json:
        facts = {
            "folder": str(folder),
            "files": len(checked.files),
            "bytes": sizes,
            "seed": checked.seed,
            "differences": [each._asdict() for each in found],
            "seconds": seconds,
        }
        sys.stdout.write(json.dumps(facts) + "\n")
    if found:
        more = f"; and {len(found) - 1} more files differ" if len(found) > 1 else ""
        raise ValueError(f"{folder}: {found[0]}{more}")
    if not as_json:
        sys.stdout.write(
            f"{folder}: {len(checked.files)} files, {sizes / 1e9:.3g} GB, are those of seed {checked.seed}; "
            f"{sizes / seconds / 1e9:.3g} GB/s\n"
        )


# What a checkpoint can be made from


def _pretrained(source: str, dtype: str | None, rules: Rules) -> Pretrained | None:
    """The plan of a transformers configuration; None if the source is something else."""
    path = Path(source)
    if not ((path / "config.json").is_file() or (path.is_file() and _is_config(path))):
        return None
    pretrained: Any = _needed("fanfill.torch.pretrained", "transformers", "a transformers configuration")
    _check_dtype(dtype)
    planned: Pretrained = pretrained.plan(path, dtype=dtype, rules=rules)
    return planned


def _is_config(path: Path) -> bool:
    if path.suffix != ".json" or path.name.endswith(".index.json"):
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False  # refused as the recipe that it is not
    return isinstance(found, dict) and isinstance(found.get("model_type"), str)


def _recipe(source: str, dtype: str | None, rules: Rules) -> ModelRecipe:
    """The recipe of any source but a configuration."""
    path = Path(source)
    if path.is_file():
        described = source.endswith((".safetensors", ".safetensors.index.json"))
        made = safetensors.described(path) if described else ModelRecipe.load(path)
        made = made.with_rules(rules)
    elif re.fullmatch(r"[\w.]+:[\w.]+", source):
        torch_recipes: Any = _needed("fanfill.torch.recipes", "torch", "a module")
        made = torch_recipes.recipe(function_of(source, "SOURCE", "a torch.nn.Module"), dict(rules))
    else:
        raise ValueError(
            "SOURCE: expected a config.json or its folder, a recipe (.json, .toml), a safetensors file or "
            f"index, or package.module:function; got {shown(source)}, which is none of these"
        )
    _check_dtype(dtype)
    return (made if dtype is None else made.astype(dtype)).check()


def _check_dtype(dtype: str | None) -> None:
    if dtype is not None:
        ModelRecipe({}).astype(dtype)


def _needed(module: str, library: str, what: str) -> Any:
    try:
        importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ValueError(f"{what} needs {library}, which is not installed; pip install {library}") from None
    return importlib.import_module(module)


def function_of(source: str, what: str, returns: str) -> Callable[[], Any]:
    """The function that ``package.module:function`` names; modules of the current folder are found too."""
    place, _, name = source.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{what}: expected a module that can be imported; got {place!r}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())
    for step in name.split("."):
        found = getattr(found, step, None)
    if not callable(found):
        raise ValueError(
            f"{what}: expected a function of {place} that takes no arguments and returns {returns}; "
            f"got {name!r}, which is {'not there' if found is None else 'not callable'}"
        )
    function: Callable[[], Any] = found
    return function
