"""``fanfill show``: what initial weights do, as text, JSON and pictures.

What works is imported by the command that is given: help is to come at once.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fanfill.expressions import initializer_from
from fanfill.initializers import Initializer

__all__ = ["app"]

Command = Callable[[], None]

INITIALIZERS = (
    "he_normal",
    "he_uniform",
    "xavier_normal",
    "xavier_uniform",
    "normal(0.0, 0.02)",
)
ACTIVATIONS = ("relu", "tanh", "linear")  # of the default table
_MODELS = "a torch, Keras or flax model, or a pair of it and a batch of inputs"

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Show what initial weights do: signals through a deep network, a fill beside its law.",
)

_Out = Annotated[Path | None, typer.Option("-o", "--out", help="a picture, .svg or .png (needs matplotlib)")]
_Json = Annotated[bool, typer.Option("--json", help="print JSON in place of text")]
_Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="print nothing")]
_Seed = Annotated[int, typer.Option(help="0 to 2^64 - 1")]


@app.command()
def propagation(
    init: Annotated[
        list[str] | None,
        typer.Option(
            help="he_normal, 'xavier_normal(gain=1.5)', ...; again for more [default: five of them]"
        ),
    ] = None,
    activation: Annotated[
        list[str] | None,
        typer.Option(help="relu, leaky_relu, gelu, tanh, ...; again for more [default: relu, tanh, linear]"),
    ] = None,
    width: Annotated[int, typer.Option(help="units of a layer")] = 512,
    depth: Annotated[int, typer.Option(help="layers")] = 50,
    batch: Annotated[int, typer.Option(help="samples")] = 32,
    model: Annotated[
        str | None, typer.Option(help=f"package.module:function, which returns {_MODELS}", show_default=False)
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="of one sample, for --model: 3x32x32 [default: the model's]")
    ] = None,
    seed: _Seed = 0,
    out: _Out = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Send a signal through a deep network, and a gradient back: does the variance stay, vanish or explode?

    fanfill show propagation --init he_normal --init 'normal(0.0, 0.02)' --activation relu

    fanfill show propagation --model models:build --init he_normal -o model.svg
    """
    from fanfill.cli.fill import parse_shape

    laws = [initializer_from(each) for each in init or ()]
    picture = _picture(out)
    if model is None:
        if shape is not None:
            raise ValueError(
                "--input is the shape of a model's sample; name one with --model, or use --width"
            )
        return partial(
            _networks,
            laws or [initializer_from(each) for each in INITIALIZERS],
            activation or ACTIVATIONS,
            {"width": width, "depth": depth, "batch": batch, "seed": seed},
            picture,
            as_json=as_json,
            quiet=quiet,
        )
    if activation:
        raise ValueError("--activation is for networks that fanfill makes; a model has its own: leave it out")
    sizes = None if shape is None else parse_shape(shape)
    return partial(
        _model, model, laws, sizes, batch=batch, seed=seed, picture=picture, as_json=as_json, quiet=quiet
    )


@app.command()
def histogram(
    initializer: Annotated[
        str, typer.Argument(help="he_normal, 'normal(0.0, 0.02)', ...", show_default=False)
    ],
    shape: Annotated[str, typer.Argument(help="the tensor's shape: 4096x1024", show_default=False)],
    dtype: Annotated[str, typer.Option(help="float32, float64, float16, bfloat16, float8_...")] = "float32",
    name: Annotated[str, typer.Option(help="the tensor's own name; digits are an integer")] = "0",
    bins: Annotated[int, typer.Option(help="1 to 10000")] = 40,
    seed: _Seed = 0,
    out: _Out = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> Command:
    """Draw a tensor, and show its values beside what the law expects.

    fanfill show histogram 'truncated_normal(0.0, 0.02)' 1024x1024
    """
    from fanfill.cli.fill import parse_name, parse_shape

    options = {"dtype": dtype, "name": parse_name(name), "bins": bins, "seed": seed}
    law, sizes, picture = initializer_from(initializer), parse_shape(shape), _picture(out)
    return partial(_histogram, law, sizes, options, picture, as_json=as_json, quiet=quiet)


def _networks(
    laws: Sequence[Initializer],
    activations: Sequence[str],
    sizes: Mapping[str, int],
    picture: _Picture,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Each initializer with each activation; a line is shown as soon as it is known."""
    from fanfill import show
    from fanfill.show import text

    found = []
    talk = not (as_json or quiet)
    for activation in activations:
        for law in laws:
            found.append(show.propagation(law, activation, **sizes))
            if talk:
                head = text.propagation_head(**sizes) if len(found) == 1 else []
                _print([*head, text.propagation_line(found[-1], sys.stdout.encoding)])
                sys.stdout.flush()
    picture("propagation", found)
    if as_json and not quiet:
        _print([_json([asdict(each) for each in found])])


def _model(
    source: str,
    laws: Sequence[Initializer],
    shape: tuple[int, ...] | None,
    *,
    batch: int,
    seed: int,
    picture: _Picture,
    as_json: bool,
    quiet: bool,
) -> None:
    """A model as it is built, or anew with each initializer."""
    from fanfill import show
    from fanfill.cli.checkpoints import function_of
    from fanfill.show import text

    build = function_of(source, "--model", _MODELS)
    found = {}
    choices: Sequence[Initializer | None] = laws or [None]
    for law in choices:
        made = build()
        model, *rest = made if isinstance(made, tuple) else (made,)
        variables = [each for each in rest if isinstance(each, Mapping)]
        inputs = next((each for each in rest if not isinstance(each, Mapping)), None)
        found["as built" if law is None else repr(law)] = show.propagation_of(
            (model, *variables) if variables else model,
            inputs,
            initializer=law,
            shape=shape,
            batch=batch,
            seed=seed,
        )
    picture("layers", found)
    if quiet:
        return
    if as_json:
        _print([_json({title: [each._asdict() for each in layers] for title, layers in found.items()})])
    else:
        _print(text.layer_lines(found, sys.stdout.encoding))


def _histogram(
    law: Initializer,
    shape: tuple[int, ...],
    options: Mapping[str, Any],
    picture: _Picture,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """One fill."""
    from fanfill import show
    from fanfill.show import text

    found = show.histogram(law, shape, **options)
    picture("histogram", [found])
    if not quiet:
        _print([_json(asdict(found))] if as_json else text.histogram_lines(found, sys.stdout.encoding))


_Picture = Callable[[str, Any], None]


def _picture(out: Path | None) -> _Picture:
    """What draws a picture of a kind, or nothing; refuses a path, or a lack, before any work."""
    if out is None:
        return lambda kind, found: None
    if out.suffix not in (".svg", ".png"):
        raise ValueError(f"--out: expected a picture's name that ends in .svg or .png; got {str(out)!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--out: a picture needs matplotlib: pip install 'fanfill[plot]'; or leave it out")
    if not out.parent.is_dir():
        raise ValueError(f"--out: expected a file in a folder that exists; got {str(out)!r}")

    def draw(kind: str, found: Any) -> None:
        from fanfill.show import pictures

        pictures.save(getattr(pictures, kind)(found), out)

    return draw


def _print(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _json(found: Any) -> str:
    """JSON, in which what is not finite is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(found))
