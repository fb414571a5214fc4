"""The commands and their options. Parsing turns arguments into one callable, before any work begins.

What carries a command out is imported by that command alone: help and completion are to come at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

import fanfill as ff
from fanfill.cli import choices
from fanfill.cli import show as showing
from fanfill.cli.choices import completing, epilog, listed
from fanfill.cli.outcome import Output

__all__ = ["parse"]

Command = Callable[[], None]

app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(),
)
app.add_typer(showing.app, name="show")


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments name, ready to be called without arguments.

    Raises
    ------
    ValueError
        If the arguments do not make a command; the message says why in one line.
    """
    try:
        # Not standalone: typer neither prints nor exits, so its errors are reported as ours are.
        result = _commands().main(list(arguments) or ["--help"], prog_name="fanfill", standalone_mode=False)
    except typer.Abort as error:  # Ctrl-C while parsing, in older releases; newer ones return 130
        raise KeyboardInterrupt from error
    except Exception as error:
        # typer's exceptions for misuse moved between its releases; they have this method in common.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        asked = "fanfill" if context is None else context.command_path
        raise ValueError(f"{explain()} ({asked} --help shows what there is)") from error
    if callable(result):
        return cast(Command, result)
    if result:
        raise KeyboardInterrupt
    return nothing_more


@functools.cache
def _commands() -> Any:
    """The tree of all commands, made of the signatures below; the first call takes 25 ms."""
    return typer.main.get_command(app)


def nothing_more() -> None:
    """Do nothing: the arguments asked for help or the version, and it was shown."""


def show_version(asked: bool) -> None:
    """Print the version and stop, if asked."""
    if asked:
        sys.stdout.write(f"{ff.__version__}\n")
        raise typer.Exit


def known_peers() -> Iterable[str]:
    """What ``bench --peers`` takes."""
    from fanfill.bench.peers import PEERS

    return ("none", *PEERS)


# Options that several commands have: the same names and words everywhere.

_Seed = Annotated[int, typer.Option(help="0 to 2^64 - 1")]
_Threads = Annotated[
    int | None,
    typer.Option("--threads", "--jobs", help="the most threads to use; default: as fanfill info shows"),
]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON object, and no progress bar")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing; errors and the exit code remain")]
_Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1, or auto: a GPU that can be used, else the CPU",
        autocompletion=completing(choices.DEVICES),
    ),
]
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
_Dtype = Annotated[
    str | None,
    typer.Option(
        help=f"{listed(choices.DTYPES)}; default: the model's own",
        autocompletion=completing(choices.DTYPES),
    ),
]


@app.callback()
def fanfill(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Fill tensors with initial weights: in parallel, and with the same bits everywhere."""


@app.command(epilog=epilog("fill"))
def fill(
    initializer: Annotated[
        str,
        typer.Argument(
            help=f"one of {listed(choices.INITIALIZERS)}",
            show_default=False,
            autocompletion=completing(choices.INITIALIZERS),
        ),
    ],
    shape: Annotated[
        str, typer.Argument(help="the tensor's shape: 4096x1024, or 4096,1024", show_default=False)
    ],
    dtype: Annotated[
        str, typer.Option(help=listed(choices.DTYPES), autocompletion=completing(choices.DTYPES))
    ] = "float32",
    seed: _Seed = 0,
    name: Annotated[str, typer.Option(help="the tensor's own name; digits are an integer")] = "0",
    device: _Device = "cpu",
    backend: Annotated[
        str | None,
        typer.Option(
            help=f"{listed(choices.BACKENDS)}; default: the device's first that is usable",
            autocompletion=completing(choices.BACKENDS),
        ),
    ] = None,
    threads: _Threads = None,
    gain: Annotated[float | None, typer.Option(help="of xavier_*, identity, *orthogonal")] = None,
    scale: Annotated[float | None, typer.Option(help="of variance_scaling")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help=f"of he_*, variance_scaling: {listed(choices.MODES)}",
            autocompletion=completing(choices.MODES),
        ),
    ] = None,
    distribution: Annotated[
        str | None,
        typer.Option(
            help=f"of variance_scaling: {listed(choices.LAWS)}", autocompletion=completing(choices.LAWS)
        ),
    ] = None,
    negative_slope: Annotated[float | None, typer.Option(help="of he_*: leaky ReLU's slope")] = None,
    truncated: Annotated[bool, typer.Option("--truncated", help="of *_normal: cut at 2 sigma")] = False,
    low: Annotated[float | None, typer.Option(help="of uniform")] = None,
    high: Annotated[float | None, typer.Option(help="of uniform")] = None,
    no_endpoint: Annotated[
        bool, typer.Option("--no-endpoint", help="of uniform: high itself is never drawn")
    ] = False,
    mean: Annotated[float | None, typer.Option(help="of normal, truncated_normal")] = None,
    std: Annotated[float | None, typer.Option(help="of normal, truncated_normal, sparse")] = None,
    lower: Annotated[float | None, typer.Option(help="of truncated_normal: cut, in units of std")] = None,
    upper: Annotated[float | None, typer.Option(help="of truncated_normal: cut, in units of std")] = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="of truncated_normal: the cuts are values, as in torch")
    ] = False,
    value: Annotated[float | None, typer.Option(help="of constant")] = None,
    sparsity: Annotated[float | None, typer.Option(help="of sparse: the share of zeros in a column")] = None,
    groups: Annotated[int | None, typer.Option(help="of dirac")] = None,
    in_axis: Annotated[
        str | None, typer.Option(help="of fan-scaled ones: 0, or 0,1, or none; default: -2")
    ] = None,
    out_axis: Annotated[
        str | None, typer.Option(help="of fan-scaled ones: 0, or 0,1, or none; default: -1")
    ] = None,
    batch_axis: Annotated[str | None, typer.Option(help="of fan-scaled ones; default: none")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write an .npy file")] = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Fill one tensor, measure it, and print a report."""
    from fanfill.cli import fill as filling

    options = {
        "gain": gain,
        "scale": scale,
        "mode": mode,
        "distribution": distribution,
        "negative_slope": negative_slope,
        "truncated": truncated or None,
        "low": low,
        "high": high,
        "endpoint": False if no_endpoint else None,
        "mean": mean,
        "std": std,
        "lower": lower,
        "upper": upper,
        "absolute": absolute or None,
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
        device=device,
        backend=backend,
        threads=threads,
        out=out,
        output=Output(json, quiet),
    )


@app.command(epilog=epilog("init"))
def init(
    source: _Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="the checkpoint's folder", show_default=False)],
    seed: _Seed = 0,
    dtype: _Dtype = None,
    rule: _Rules = None,
    format: Annotated[
        str, typer.Option(help=listed(choices.FORMATS), autocompletion=completing(choices.FORMATS))
    ] = "safetensors",
    max_shard_size: Annotated[
        str, typer.Option(help="of a safetensors or zarr file: 5GB, 500MiB, ...")
    ] = "5GB",
    part: Annotated[str, typer.Option(help="K/N: this host's share, on hosts with one file system")] = "1/1",
    threads: _Threads = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Write a model's start checkpoint, of any size, without holding the model; or what is missing of it."""
    from fanfill.cli import checkpoints as checkpointing

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
        output=Output(json, quiet),
    )


@app.command(epilog=epilog("recipe"))
def recipe(
    source: _Source,
    dtype: _Dtype = None,
    rule: _Rules = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="write a file in place of stdout", show_default=False)
    ] = None,
) -> Command:
    """Print what a model draws, tensor by tensor, as JSON that fanfill init takes."""
    from fanfill.cli import checkpoints as checkpointing

    rules = [checkpointing.parse_rule(text) for text in rule or ()]
    return partial(checkpointing.recipe, source, dtype=dtype, rules=rules, out=out)


@app.command(epilog=epilog("verify"))
def verify(
    folder: Annotated[Path, typer.Argument(help="what fanfill init has written", show_default=False)],
    threads: _Threads = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Make every byte of a checkpoint again, and compare; exit code 1 if any differs."""
    from fanfill.cli import checkpoints as checkpointing

    return partial(checkpointing.verify, folder, threads=threads, output=Output(json, quiet))


@app.command(epilog=epilog("info"))
def info(json: _Json = False) -> Command:
    """Show versions, the processor, the threads and why that many, the backends, and the cache folder."""
    from fanfill.cli import info as informing

    return partial(informing.command, Output(json))


@app.command(epilog=epilog("cache"))
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="remove the kernels")] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Show the folder of compiled kernels: where it is, whether it is used (or why not), and its contents."""
    from fanfill.cli import cache as caching

    return partial(caching.command, clear, Output(json, quiet))


@app.command("compile", epilog=epilog("compile"))
def compile_ahead(
    dtypes: Annotated[
        str | None,
        typer.Option(
            help="float32,bfloat16,...; default: all",
            autocompletion=completing(choices.DTYPES, several=True),
        ),
    ] = None,
    initializers: Annotated[
        str | None,
        typer.Option(
            help="he_normal,uniform,words,...; default: all",
            autocompletion=completing((*choices.INITIALIZERS, "words"), several=True),
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda (this machine's), cuda:sm_90 (here or elsewhere); or several",
            autocompletion=completing(choices.TARGETS, several=True),
        ),
    ] = "cpu",
    cpu: Annotated[
        str | None, typer.Option(help="LLVM's name: x86-64-v3, neoverse-n1, ...; default: this one")
    ] = None,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Compile kernels before they are needed, for a container's image for example, and keep them."""
    from fanfill.cli import compile as compiling

    work = compiling.chosen(dtypes, initializers, device, cpu)
    return partial(compiling.command, work, Output(json, quiet))


@app.command(epilog=epilog("selftest"))
def selftest(
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1, or auto: everything that can be used",
            autocompletion=completing(choices.DEVICES),
        ),
    ] = "auto",
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="try every argument of a GPU's roots and quotients too")
    ] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Draw every initializer in every dtype and layout, and compare with committed hashes; exit code 1 if any
    differs.
    """
    from fanfill.cli import selftest as selftesting

    return partial(selftesting.command, device, exhaustively=exhaustive, output=Output(json, quiet))


@app.command(epilog=epilog("words"))
def words(
    seed: _Seed = 0,
    name: Annotated[str, typer.Option(help="the substream's name; digits are an integer")] = "0",
    start: Annotated[int, typer.Option(help="index of the first word")] = 0,
    count: Annotated[int | None, typer.Option(help="how many; default: until the reader closes")] = None,
) -> Command:
    """Write the generator's raw 32-bit words to stdout, lowest byte first, for external test suites."""
    from fanfill.cli import fill as filling
    from fanfill.cli import words as wording

    return partial(wording.command, seed=seed, name=filling.parse_name(name), start=start, count=count)


@app.command(epilog=epilog("bench"))
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="smaller: a minute on two cores")] = False,
    peers: Annotated[
        str | None,
        typer.Option(
            help="numpy,torch,... or none; default: all",
            autocompletion=completing(known_peers, several=True),
        ),
    ] = None,
    sizes: Annotated[str | None, typer.Option(help="values: 64Mi,256Mi; default: 256Mi, quick 16Mi")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for JSON and pictures")] = Path(
        "fanfill-bench"
    ),
    device: _Device = "auto",
    compare: Annotated[Path | None, typer.Option(help="an older bench.json; exit code 1 if slower")] = None,
    threshold: Annotated[float, typer.Option(help="by how much, as a fraction")] = 0.1,
    readme: Annotated[
        bool, typer.Option("--readme", help="print the figures as README quotes them, in Markdown")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="make pictures and README's figures on a busy machine, too")
    ] = False,
    json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Measure fanfill, its peers and the memory limit; show, keep and compare the results."""
    from fanfill.cli import bench as benching

    settings = benching.chosen(quick, peers, sizes, device)
    return partial(
        benching.command,
        settings,
        out=out,
        old=compare,
        threshold=threshold,
        readme=readme,
        force=force,
        output=Output(json, quiet),
    )
