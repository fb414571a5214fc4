"""Pictures of what `fanfill.show` finds, by matplotlib: legible 800 pixels wide, in light and in dark.

An SVG paints its own ground and takes the reader's colour scheme, so that neither a light nor a dark page
around it makes text disappear. A PNG is light. No label has an exponent: it would be the
smallest text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, ParamSpec

from fanfill.show.histograms import Histogram
from fanfill.show.models import Layer
from fanfill.show.propagation import Propagation

__all__ = [
    "Contestant",
    "canvas",
    "histogram",
    "layers",
    "propagation",
    "save",
    "styled",
    "throughput",
]

Given = ParamSpec("Given")

# 8 inches are 576 points of an SVG: 800 pixels wide, a point is 1.39 of them, and the smallest text 12.5.
WIDTH: Final = 8.0
TEXT, TITLE = 9, 10
# Light, and what becomes of it in dark. Distinct from each other and from any line's colour.
THEME: Final = {
    "#ffffff": "#14171c",  # ground
    "#1b1f24": "#e4e8ec",  # ink
    "#d5dae0": "#3a414a",  # grid
    "#aab2bd": "#6b7480",  # bars of others
}
GROUND, INK, GRID, MUTED = THEME
ACCENT = "#2f81c7"
KINDS: Final = {"fanfill": ACCENT, "peer": MUTED, "limit": INK}
# Okabe and Ito's, less black and yellow: told apart by the colour-blind, and visible on either ground.
LINES: Final = ("#2f81c7", "#e08a00", "#1a9c78", "#cf5fa0", "#d55e00", "#56b4e9", "#8f7ae5", "#8a8f98")
DASHES: Final = ("-", "--", "-.", ":")

_STYLE = {
    "font.size": TEXT,
    "axes.titlesize": TITLE,
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "figure.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "svg.fonttype": "none",
    "svg.hashsalt": "fanfill",
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def styled(draw: Callable[Given, Any]) -> Callable[Given, Any]:
    """A drawing function that draws in this module's style; ImportError without matplotlib."""

    @functools.wraps(draw)
    def drawn(*given: Given.args, **options: Given.kwargs) -> Any:
        with import_module("matplotlib").rc_context(_STYLE):
            return draw(*given, **options)

    return drawn


def canvas(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of the usual width, and its panels."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def save(figure: Any, path: Path, note: str = "") -> None:
    """Write a figure as SVG or PNG, by the path's ending; the same figure gives the same bytes.

    Raises
    ------
    ValueError
        Any other ending.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"expected a picture's name that ends in .svg or .png; got {path.name!r}")
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".svg":
        path.write_text(_themed(path.read_text(encoding="utf-8"), note), encoding="utf-8")


def _themed(svg: str, note: str) -> str:
    """An SVG with the dark scheme's colours, and a note."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in THEME.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head, tag, rest = svg.partition(" <defs>")
    comment = f" <!-- {note} -->\n" if note else ""
    return f"{head} {style}\n{comment}{tag}{rest}"


@styled
def propagation(found: Sequence[Propagation]) -> Any:
    """For each activation a row: mean over sigma and variance forward, the gradient's variance backward."""
    activations = list(dict.fromkeys(each.activation for each in found))
    initializers = list(dict.fromkeys(each.initializer for each in found))
    figure, panels = canvas(len(activations), 3, 1.2 + 1.55 * len(activations), sharex=True)
    for row, activation in zip(panels, activations, strict=True):
        for each in (each for each in found if each.activation == activation):
            number = initializers.index(each.initializer)
            style = {"color": LINES[number % len(LINES)], "linestyle": DASHES[number % len(DASHES)]}
            layers = range(1, each.depth + 1)
            sigmas = [math.sqrt(v) if v > 0 else math.nan for v in each.variance]
            row[0].plot(layers, [m / s for m, s in zip(each.mean, sigmas, strict=True)], **style)
            row[1].plot(layers, each.variance, label=each.initializer, **style)
            row[2].plot(layers, each.gradient_variance, **style)
        row[0].set_ylabel(activation, fontsize=TITLE)
        row[0].set_ylim(-1, 1)
        for axes in row[1:]:
            _logarithmic(axes)
    for axes, title in zip(
        panels[0], ("mean / sigma", "variance, forward", "gradient, backward"), strict=True
    ):
        axes.set_title(title)
    first = found[0]
    figure.supxlabel(f"layer ({first.width} units each; sums before the activation)")
    figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis of variances around 1, clipped where nobody needs to read them."""
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 1e6)
    axes.set_yticks([1e-6, 1e-3, 1, 1e3, 1e6], ["1e-6", "1e-3", "1", "1e3", "1e6"])
    axes.minorticks_off()


@styled
def layers(models: Mapping[str, Sequence[Layer]]) -> Any:
    """Mean over sigma, and variance, of each layer's output, a line for each initializer."""
    figure, ((left, right),) = canvas(1, 2, 3.4)
    for number, (title, found) in enumerate(models.items()):
        style = {"color": LINES[number % len(LINES)], "linestyle": DASHES[number % len(DASHES)]}
        places = range(1, len(found) + 1)
        sigmas = [math.sqrt(each.variance) if each.variance > 0 else math.nan for each in found]
        left.plot(places, [each.mean / s for each, s in zip(found, sigmas, strict=True)], **style)
        right.plot(places, [each.variance for each in found], label=title, **style)
    left.set_title("mean / sigma")
    left.set_ylim(-1, 1)
    right.set_title("variance")
    _logarithmic(right)
    figure.supxlabel("layer, in the order of its call")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def histogram(found: Sequence[Histogram]) -> Any:
    """A panel for each fill: its counts as bars, the law's expectation as a line."""
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure, panels = canvas(rows, columns, 0.6 + 2.3 * rows)
    for axes, each in zip(panels.flat, found, strict=False):
        width = each.edges[1] - each.edges[0]
        scale = 1 / (each.values * width)
        middles = [edge + width / 2 for edge in each.edges[:-1]]
        axes.bar(middles, [count * scale for count in each.counts], width, color=MUTED, label="drawn")
        axes.plot(middles, [wanted * scale for wanted in each.expected], color=ACCENT, label="law")
        axes.set_title(each.initializer)
        axes.locator_params(axis="x", nbins=5)
    for axes in list(panels.flat)[len(found) :]:
        axes.set_visible(False)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.supxlabel(f"value; density of {found[0].values:,} draws")
    return figure


class Contestant(NamedTuple):
    """One line of a picture of throughput; `kind` is a key of `KINDS`."""

    name: str
    kind: str
    rates: Mapping[str, float]


@styled
def throughput(title: str, contestants: Sequence[Contestant]) -> Any:
    """G values/s: a panel for each distribution, a bar for each contestant, ordered by the first panel."""
    columns = list(dict.fromkeys(column for each in contestants for column in each.rates))
    rows = sorted(contestants, key=lambda each: each.rates.get(columns[0], 0.0)) if columns else []
    figure, (panels,) = canvas(1, len(columns) or 1, 0.9 + 0.24 * len(rows), sharey=True)
    for axes, column in zip(panels, columns, strict=False):
        rates = [each.rates.get(column, 0.0) for each in rows]
        drawn = axes.barh(range(len(rows)), rates, color=[KINDS[each.kind] for each in rows])
        axes.bar_label(drawn, [_rate(rate) for rate in rates], padding=3)
        axes.set_xlim(0, 1.3 * max(rates) or 1.0)
        axes.set_title(column, loc="left")
        axes.tick_params(length=0, labelbottom=False)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [each.name for each in rows])
    for label, each in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if each.kind == "fanfill" else "normal")
    figure.supxlabel(f"G values/s; {title}")
    return figure


def _rate(rate: float) -> str:
    """A rate by two or three digits; a dash where there is none."""
    if not rate:
        return "-"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"
