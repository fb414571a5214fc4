"""Writes the files of a checkpoint, or one host's share of them, and compares them with what they should
be.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fanfill.checkpoints import planning, safetensors, zarr
from fanfill.checkpoints.planning import Difference, Index, Planned
from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.cpu import threads as pool
from fanfill.messages import shown
from fanfill.streams import key_of
from fanfill_kernels import STREAM_VERSION

__all__ = [
    "RECIPE_NAME",
    "STAMP_NAME",
    "Difference",
    "Job",
    "carry_out",
    "plan",
    "verify",
    "write",
]

FORMATS = ("safetensors", "npy", "zarr", "dcp")

RECIPE_NAME = "model.init.json"
"""The recipe's name in a checkpoint's folder: with it, every byte of the checkpoint can be made again."""

STAMP_NAME = "fanfill.json"
"""Where formats whose files say nothing of their seed keep it; written first, before any value."""

Progress = Callable[[int, int], object]


class Job(NamedTuple):
    """A checkpoint to write: files to make; small ones that come last, in this order; a stamp that must be
    there first, if the files themselves do not say of which seed they are; and an index that is made from the
    files, once all of them are there.
    """

    files: Sequence[Planned]
    last: Mapping[str, bytes]
    stamp: bytes = b""
    index_file: Index | None = None


def write(
    recipe: ModelRecipe,
    path: str | os.PathLike[str],
    seed: int,
    *,
    format: str = "safetensors",
    max_shard_size: int | str = "5GB",
    part: tuple[int, int] = (1, 1),
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """`ModelRecipe.write`."""
    job = plan(recipe, seed, format=format, max_shard_size=max_shard_size)
    return carry_out(job, path, part=part, threads=threads, progress=progress)


def plan(
    recipe: ModelRecipe, seed: int, *, format: str = "safetensors", max_shard_size: int | str = "5GB"
) -> Job:
    """What to write for a recipe. Pure: every host comes to the same."""
    key_of(seed, 0)  # refuses a wrong seed
    recipe.check()
    mark = {RECIPE_NAME: recipe.dumps().encode()}
    if format in ("npy", "zarr", "dcp"):
        facts: dict[str, Any] = {
            "format": format,
            "seed": seed,
            "stream": STREAM_VERSION,
            "recipe": recipe.digest,
        }
        most = safetensors.bytes_of(max_shard_size)
        if format == "zarr":
            facts["max_shard_size"] = most
        stamp = (json.dumps(facts) + "\n").encode()
        if format == "npy":
            return Job(planning.npy(recipe, seed), mark, stamp)
        if format == "dcp":
            from fanfill.torch import dcp

            return Job(dcp.plan(recipe, seed), mark, stamp, dcp.Index(recipe))
        return Job(zarr.plan(recipe, seed, most), {**mark, **zarr.described(recipe, most)}, stamp)
    if format != "safetensors":
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}; got {shown(format)}")
    files = safetensors.plan(recipe, seed, max_shard_size=max_shard_size, metadata=metadata(recipe, seed))
    if len(files) > 1:
        mark["model.safetensors.index.json"] = index_text(safetensors.index(files, recipe))
    return Job(files, mark)


def metadata(recipe: ModelRecipe, seed: int, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a header says of where the values come from, so that a file of other values is never kept."""
    made = f"seed={seed} stream={STREAM_VERSION} recipe={recipe.digest}"
    return {**({"format": "pt"} if given is None else given), "fanfill": made}


def index_text(index: Mapping[str, Any]) -> bytes:
    """An index as transformers writes it."""
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def carry_out(
    job: Job,
    path: str | os.PathLike[str],
    *,
    part: tuple[int, int] = (1, 1),
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Write this part of a job's files that are not there yet; return their names.

    The last files come once all the others are complete, whoever wrote them.
    """
    number, of = part
    if not 1 <= number <= of:
        raise ValueError(f"part: expected K/N with K from 1 to N; got {number}/{of}")
    count = pool.resolve(threads)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if job.stamp and not _holds(folder / STAMP_NAME, job.stamp):
        if (folder / STAMP_NAME).exists():
            raise ValueError(
                "expected a folder that is new, or of the same recipe, seed and format (zarr: and size of "
                f"shards); got {folder}, which its {STAMP_NAME} says is another's; name another folder, or "
                "remove it"
            )
        _put(folder / STAMP_NAME, job.stamp)
    mine = [file for k, file in enumerate(job.files) if k % of == number - 1]
    missing = [file for file in mine if not file.is_complete(folder)]
    total, before = sum(file.size for file in missing), 0
    written = []
    for file in missing:

        def done(bytes_of_file: int, before: int = before) -> None:
            if progress is not None and before + bytes_of_file < total:
                progress(before + bytes_of_file, total)

        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.write(target, count, done, lambda file=file: file.is_complete(folder)):  # type: ignore[misc]
            written.append(file.name)
        before += file.size
    if progress is not None:
        progress(total, total)
    if all(file.is_complete(folder) for file in job.files):
        if job.index_file is not None and job.index_file.write(folder):
            written.append(job.index_file.name)
        for name, text in job.last.items():
            if not _holds(folder / name, text):
                _put(folder / name, text)
                written.append(name)
    return written


def _holds(path: Path, text: bytes) -> bool:
    try:
        return path.read_bytes() == text
    except FileNotFoundError:
        return False


def _put(path: Path, text: bytes) -> None:
    """Write a small file, there whole or not at all; several hosts may do so at once, with the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with open(temporary, "xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# Comparing


def verify(
    files: Sequence[Planned],
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """Make every byte of the files again, and yield the first difference of each.

    Each unit is read once and made once.
    """
    folder, count = Path(path), pool.resolve(threads)
    total, before = sum(file.size for file in files), 0
    for file in files:

        def done(bytes_of_file: int, before: int = before) -> None:
            if progress is not None:
                progress(before + bytes_of_file, total)

        found = file.compare(folder, count, done)
        if found is not None:
            yield found
        before += file.size
        done(0, before)  # a helper's last unit is reported by nobody
