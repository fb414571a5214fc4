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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanfill.amounts import amount
from fanfill.arguments import number_of
from fanfill.checkpoints import checking, safetensors, writing
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.cli.outcome import DIFFERENT, Output, took
from fanfill.cli.terms import Spoken
from fanfill.expressions import initializer_from
from fanfill.initializers import Initializer
from fanfill.messages import shown
from fanfill_kernels import STREAM_VERSION

if TYPE_CHECKING:
    from fanfill.torch.pretrained import Pretrained

__all__ = ["function_of", "init", "parse_part", "parse_rule", "recipe", "verify"]

SHOWN = 10  # differences that are shown one by one

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
        raise Spoken(f"--rule is PATTERN=INITIALIZER, as in '*.weight=normal(0.0, 0.02)'; got {text!r}")
    try:
        return pattern, initializer_from(law)
    except (ValueError, TypeError) as error:
        raise Spoken(f"--rule {text!r}: {error}") from error  # an expression, whose arguments are no options


def init(
    source: str,
    out: Path,
    *,
    seed: int,
    dtype: str | None,
    rules: Rules,
    format: Any,
    max_shard_size: str,
    part: tuple[int, int],
    threads: int | None,
    output: Output,
) -> None:
    """Run ``fanfill init`` and print its report to stdout."""
    with output.phases() as follow:
        follow("planning")
        planned = _pretrained(source, dtype, rules)
        made = _recipe(source, dtype, rules) if planned is None else planned.recipe
        if planned is not None and format == "safetensors":
            from fanfill.torch import pretrained

            job = pretrained.job(planned, seed, max_shard_size)
        else:
            job = writing.plan(made, seed, format=format, max_shard_size=max_shard_size)
        size = 0

        def written_so_far(done: int, total: int) -> None:
            nonlocal size
            size = total
            follow("writing", done, total)

        written = writing.carry_out(job, out, part=part, threads=threads, progress=written_so_far)
    rate = size / max(follow.seconds["writing"], 1e-9)
    restated = [] if planned is None else planned.restated
    facts = {
        "out": str(out),
        "format": format,
        "written": written,
        "tensors": len(made.tensors),
        "values": made.values,
        "bytes": made.nbytes,
        "bytes_written": size,
        "seed": seed,
        "recipe": made.digest,
        "part": f"{part[0]}/{part[1]}",
        "restated": restated,
        "seconds": sum(follow.seconds.values()),
        "bytes_per_second": rate,
        "phases": follow.seconds,
    }
    lines = [
        ("tensors", f"{len(made.tensors):,} of {made.values:,} values, {amount(made.nbytes, 'B')}"),
        ("seed", f"{seed} (stream version {STREAM_VERSION})"),
        ("recipe", made.digest),
        *([("part", f"{part[0]}/{part[1]}")] if part != (1, 1) else []),
        ("written", f"{len(written)} files, {amount(size, 'B')}, in {out}"),
    ]
    if restated:
        names = ", ".join(restated[:3]) + ", ..." * (len(restated) > 3)
        lines.append(("by stored name", f"{len(restated)} tensors that are no box of a parameter: {names}"))
    lines += [("rate", f"{amount(rate, 'B/s')}, until the disk has it"), took(follow.seconds)]
    output.report("init", facts, lines)


def recipe(source: str, *, dtype: str | None, rules: Rules, out: Path | None) -> None:
    """Run ``fanfill recipe``: print the recipe as JSON to stdout, or write it into a file."""
    planned = _pretrained(source, dtype, rules)
    made = _recipe(source, dtype, rules) if planned is None else planned.recipe
    if out is None:
        sys.stdout.write(made.dumps())
    else:
        out.write_text(made.dumps())


def verify(folder: Path, *, threads: int | None, output: Output) -> None:
    """Run ``fanfill verify``: make every byte again and compare.

    Raises
    ------
    SystemExit
        With code 1, after everything was shown, if a file differs: its name, the tensor and the element.
    """
    with output.phases() as follow:
        follow("planning")
        checked = checking.planned(folder)
        size = sum(file.size for file in checked.files)
        follow("verifying", 0, size)
        found = list(checked.differences)
        found += writing.verify(
            checked.files,
            folder,
            threads=threads,
            progress=lambda done, total: follow("verifying", done, total),
        )
    rate = size / max(follow.seconds["verifying"], 1e-9)
    facts = {
        "folder": str(folder),
        "files": len(checked.files),
        "bytes": size,
        "seed": checked.seed,
        "differences": [each._asdict() for each in found],
        "seconds": sum(follow.seconds.values()),
        "bytes_per_second": rate,
        "phases": follow.seconds,
    }
    lines = [
        ("files", f"{len(checked.files):,}, {amount(size, 'B')}, in {folder}"),
        ("seed", f"{checked.seed} (stream version {STREAM_VERSION})"),
        *(("different", str(each)) for each in found[:SHOWN]),
        *([("different", f"and {len(found) - SHOWN} more files")] if len(found) > SHOWN else []),
        ("result", f"{len(found):,} files differ" if found else "every byte is as planned"),
        ("rate", amount(rate, "B/s")),
        took(follow.seconds),
    ]
    output.report("verify", facts, lines)
    if found:
        sys.stdout.flush()
        raise SystemExit(DIFFERENT)


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
        returns = "a torch.nn.Module, a tree of jax.ShapeDtypeStruct or a ModelRecipe"
        made = _of_function(function_of(source, "SOURCE", returns), rules)
    else:
        raise ValueError(
            "SOURCE: expected a config.json or its folder, a recipe (.json, .toml), a safetensors file or "
            f"index, or package.module:function; got {shown(source)}, which is none of these"
        )
    _check_dtype(dtype)
    return (made if dtype is None else made.astype(dtype)).check()


class _NoModule(Exception):
    """What a function has returned in place of a torch module."""


def _of_function(function: Callable[[], Any], rules: Rules) -> ModelRecipe:
    """The recipe of what a function returns: a torch module, as it is made, or a tree of JAX's shapes."""
    if "jax" in sys.modules and "torch" not in sys.modules:
        return _of_tree(function(), rules)
    torch_recipes: Any = _needed("fanfill.torch.recipes", "torch", "a module")

    def build() -> Any:
        found = function()
        if isinstance(found, ModelRecipe) or ("jax" in sys.modules and not torch_recipes.is_module(found)):
            raise _NoModule(found)
        return found

    try:
        made: ModelRecipe = torch_recipes.recipe(build, dict(rules))
    except _NoModule as other:
        return _of_tree(other.args[0], rules)
    return made


def _of_tree(found: Any, rules: Rules) -> ModelRecipe:
    if isinstance(found, ModelRecipe):
        return found.with_rules(rules)
    if not rules:
        raise ValueError(
            "SOURCE: expected --rule PATTERN=INITIALIZER for the leaves of a tree of shapes; got none; or "
            "let the function return fanfill.jax.recipe(tree, rules)"
        )
    made: ModelRecipe = _needed("fanfill.jax", "jax", "a tree of shapes").recipe(found, dict(rules))
    return made


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
