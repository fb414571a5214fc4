"""The commands and their options. Parsing turns arguments into one callable, before any work begins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

import fanfill as ff
from fanfill.cli import bench as benching
from fanfill.cli import cache as caching
from fanfill.cli import checkpoints as checkpointing
from fanfill.cli import compile as compiling
from fanfill.cli import fill as filling
from fanfill.cli import info as informing
from fanfill.cli import selftest as selftesting
from fanfill.cli import words as wording

__all__ = ["parse"]

Command = Callable[[], None]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments name, ready to be called without arguments.

    Raises
    ------
    ValueError
        If the arguments do not make a command; the message says why in one line.
    """
    command = typer.main.get_command(app)
    try:
        # Not standalone: typer neither prints nor exits, so its errors are reported as ours are.
        result = command.main(list(arguments), prog_name="fanfill", standalone_mode=False)
    except typer.Abort as error:  # Ctrl-C while parsing, in older releases; newer ones return 130
        raise KeyboardInterrupt from error
    except Exception as error:
        # typer's exceptions for misuse moved between its releases; they have this method in common.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        raise ValueError(f"{explain()} (fanfill --help shows what there is)") from error
    if callable(result):
        return cast(Command, result)
    if result:
        raise KeyboardInterrupt
    return nothing_more


def nothing_more() -> None:
    """Do nothing: the arguments asked for help or the version, and it was shown."""


def show_version(asked: bool) -> None:
    """Print the version and stop, if asked."""
    if asked:
        sys.stdout.write(f"{ff.__version__}\n")
        raise typer.Exit


@app.callback()
def fanfill(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Fill tensors with initial weights: in parallel, and with the same bits everywhere."""


@app.command()
def fill(
    initializer: Annotated[
        str, typer.Argument(help="he_normal, xavier_uniform, normal, ...", show_default=False)
    ],
    shape: Annotated[
        str, typer.Argument(help="the tensor's shape: 4096x1024, or 4096,1024", show_default=False)
    ],
    dtype: Annotated[str, typer.Option(help="float32, float64, float16, bfloat16, float8_...")] = "float32",
    seed: Annotated[int, typer.Option(help="0 to 2^64 - 1")] = 0,
    name: Annotated[str, typer.Option(help="the tensor's own name; digits are an integer")] = "0",
    backend: Annotated[str | None, typer.Option(help="numba or numpy [default: the first usable]")] = None,
    threads: Annotated[int | None, typer.Option(help="[default: see fanfill info]")] = None,
    gain: Annotated[float | None, typer.Option(help="of xavier_*, identity, *orthogonal")] = None,
    scale: Annotated[float | None, typer.Option(help="of variance_scaling")] = None,
    mode: Annotated[str | None, typer.Option(help="fan_in, fan_out, fan_avg, fan_geo_avg")] = None,
    distribution: Annotated[str | None, typer.Option(help="of variance_scaling")] = None,
    negative_slope: Annotated[float | None, typer.Option(help="of he_*: leaky ReLU's slope")] = None,
    truncated: Annotated[bool, typer.Option("--truncated", help="of *_normal: cut at 2 sigma")] = False,
    low: Annotated[float | None, typer.Option(help="of uniform")] = None,
    high: Annotated[float | None, typer.Option(help="of uniform")] = None,
    mean: Annotated[float | None, typer.Option(help="of normal, truncated_normal")] = None,
    std: Annotated[float | None, typer.Option(help="of normal, truncated_normal, sparse")] = None,
    lower: Annotated[float | None, typer.Option(help="of truncated_normal: cut, in units of std")] = None,
    upper: Annotated[float | None, typer.Option(help="of truncated_normal: cut, in units of std")] = None,
    value: Annotated[float | None, typer.Option(help="of constant")] = None,
    sparsity: Annotated[float | None, typer.Option(help="of sparse: the share of zeros in a column")] = None,
    groups: Annotated[int | None, typer.Option(help="of dirac")] = None,
    in_axis: Annotated[str | None, typer.Option(help="of fan-scaled ones: 0, or 0,1 [default: -2]")] = None,
    out_axis: Annotated[str | None, typer.Option(help="of fan-scaled ones: 0, or 0,1 [default: -1]")] = None,
    batch_axis: Annotated[str | None, typer.Option(help="of fan-scaled ones [default: none]")] = None,
    out: Annotated[Path | None, typer.Option(help="write an .npy file")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object, and no progress bar")] = False,
) -> Command:
    """Fill one tensor, measure it, and print a report."""
    options = {
        "gain": gain,
        "scale": scale,
        "mode": mode,
        "distribution": distribution,
        "negative_slope": negative_slope,
        "truncated": truncated or None,
        "low": low,
        "high": high,
        "mean": mean,
        "std": std,
        "lower": lower,
        "upper": upper,
        "value": value,
        "sparsity": sparsity,
        "groups": groups,
        "in_axis": filling.parse_axes("--in-axis", in_axis),
        "out_axis": filling.parse_axes("--out-axis", out_axis),
        "batch_axis": filling.parse_axes("--batch-axis", batch_axis),
    }
    return partial(
        filling.command,
        initializer,
        {option: given for option, given in options.items() if given is not None},
        filling.parse_shape(shape),
        dtype=dtype,
        seed=seed,
        name=filling.parse_name(name),
        backend=backend,
        threads=threads,
        out=out,
        as_json=json,
    )


_Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", help="PATTERN=INITIALIZER: another law for tensors of such names; or several"),
]
_Source = Annotated[
    str,
    typer.Argument(
        help="a transformers config.json or its folder, package.module:function, a recipe (.json, .toml), or "
        "a safetensors file or index",
        show_default=False,
    ),
]
_Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ... [default: the model's own]")]


@app.command()
def init(
    source: _Source,
    out: Annotated[Path, typer.Option(help="the checkpoint's folder", show_default=False)],
    seed: Annotated[int, typer.Option(help="0 to 2^64 - 1")] = 0,
    dtype: _Dtype = None,
    rule: _Rules = None,
    format: Annotated[str, typer.Option(help="safetensors, npy, zarr, dcp")] = "safetensors",
    max_shard_size: Annotated[str, typer.Option(help="of a safetensors file: 5GB, 500MiB, ...")] = "5GB",
    part: Annotated[str, typer.Option(help="K/N: this host's share, on hosts with one file system")] = "1/1",
    threads: Annotated[
        int | None, typer.Option("--threads", "--jobs", help="[default: see fanfill info]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object, and no progress bar")] = False,
) -> Command:
    """Write a model's start checkpoint, of any size, without holding the model; again: write what is
    missing.
    """
    return partial(
        checkpointing.init,
        source,
        out,
        seed=seed,
        dtype=dtype,
        rules=[checkpointing.parse_rule(text) for text in rule or ()],
        format=format,
        max_shard_size=max_shard_size,
        part=checkpointing.parse_part(part),
        threads=threads,
        as_json=json,
    )


@app.command()
def recipe(source: _Source, dtype: _Dtype = None, rule: _Rules = None) -> Command:
    """Print what a model draws, tensor by tensor, as JSON that fanfill init takes."""
    rules = [checkpointing.parse_rule(text) for text in rule or ()]
    return partial(checkpointing.recipe, source, dtype=dtype, rules=rules)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="what fanfill init has written", show_default=False)],
    threads: Annotated[
        int | None, typer.Option("--threads", "--jobs", help="[default: see fanfill info]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object, and no progress bar")] = False,
) -> Command:
    """Make every byte of a checkpoint again, and compare."""
    return partial(checkpointing.verify, folder, threads=threads, as_json=json)


@app.command()
def info() -> Command:
    """Show versions, the processor, the threads and why that many, the backends, and the cache folder."""
    return informing.command


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="remove the kernels")] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> Command:
    """Show the folder of compiled kernels: where it is, whether it is used (or why not), and its contents."""
    return partial(caching.command, clear, as_json=json)


@app.command("compile")
def compile_ahead(
    dtypes: Annotated[str | None, typer.Option(help="float32,bfloat16,... [default: all]")] = None,
    initializers: Annotated[
        str | None, typer.Option(help="he_normal,uniform,words,... [default: all]")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda (this machine's), cuda:sm_90 (here or elsewhere); or several")
    ] = "cpu",
    cpu: Annotated[
        str | None, typer.Option(help="LLVM's name: x86-64-v3, neoverse-n1, ... [default: this one]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object, and no progress bar")] = False,
) -> Command:
    """Compile kernels before they are needed, for a container's image for example, and keep them."""
    return partial(compiling.command, compiling.chosen(dtypes, initializers, device, cpu), as_json=json)


@app.command()
def selftest(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: everything usable")] = "auto",
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="try every argument of a GPU's roots and quotients too")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> Command:
    """Draw every initializer in every dtype and layout, and compare with the committed hashes."""
    return partial(selftesting.command, device, exhaustively=exhaustive, as_json=json)


@app.command()
def words(
    seed: Annotated[int, typer.Option(help="0 to 2^64 - 1")] = 0,
    name: Annotated[str, typer.Option(help="the substream's name; digits are an integer")] = "0",
    start: Annotated[int, typer.Option(help="index of the first word")] = 0,
    count: Annotated[int | None, typer.Option(help="how many [default: until the reader closes]")] = None,
) -> Command:
    """Write the generator's raw 32-bit words to stdout, lowest byte first, for external test suites."""
    return partial(wording.command, seed=seed, name=filling.parse_name(name), start=start, count=count)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="smaller: a minute on two cores")] = False,
    peers: Annotated[str | None, typer.Option(help="numpy,torch,... or none [default: all]")] = None,
    sizes: Annotated[str | None, typer.Option(help="values: 64Mi,256Mi [default: 256Mi, quick 16Mi]")] = None,
    out: Annotated[Path, typer.Option(help="folder for JSON and pictures")] = Path("fanfill-bench"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: a usable GPU, else cpu")] = "auto",
    compare: Annotated[Path | None, typer.Option(help="an older bench.json; exit 1 if slower")] = None,
    threshold: Annotated[float, typer.Option(help="by how much, as a fraction")] = 0.1,
) -> Command:
    """Measure fanfill, its peers and the memory limit; show, keep and compare the results."""
    settings = benching.chosen(quick, peers, sizes, device)
    return partial(benching.command, settings, out=out, old=compare, threshold=threshold)
