"""What `fanfill.show` finds, as lines of text: ASCII where nothing else can be shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from fanfill.show.histograms import Histogram
from fanfill.show.models import Layer
from fanfill.show.propagation import Propagation

__all__ = ["histogram_lines", "layer_lines", "propagation_head", "propagation_line", "spark"]

# Seven heights: the middle one is the first layer's variance, and a step is a power of ten.
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇", "_.:-+*#"
_SPARK = 25  # characters of a whole network
_BAR = 40
_CHANGE = 10.0  # of the variance from end to end: what is called kept lies within this factor


def _fits(encoding: str | None) -> bool:
    try:
        f"{_BLOCKS}█·".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def spark(variances: Sequence[float], encoding: str | None = "utf-8", length: int = _SPARK) -> str:
    """Variances as a row of heights, relative to the first: a step is a factor of ten, clipped at three."""
    heights = _BLOCKS if _fits(encoding) else _ASCII
    count = min(length, len(variances))
    picked = [variances[k * (len(variances) - 1) // max(count - 1, 1)] for k in range(count)]

    def height(variance: float) -> str:
        if not variances[0] or math.isnan(variance):
            return "?"
        ratio = variance / variances[0]
        decades = math.log10(ratio) if ratio else -math.inf
        return heights[round(min(max(decades, -3.0), 3.0)) + 3]

    return "".join(map(height, picked))


def verdict(ratio: float) -> str:
    """What became of a variance, in a word."""
    if math.isnan(ratio) or ratio > _CHANGE:
        return "explodes"
    return "vanishes" if ratio < 1 / _CHANGE else "kept"


def propagation_head(width: int, depth: int, batch: int, seed: int) -> list[str]:
    """What stands above the lines of `propagation_line`."""
    return [
        f"{depth} layers of {width} units, {batch} samples, seed {seed}. Forward: the variance of a layer's",
        f"sums, from 1 to {depth}. Backward: the gradient's, from {depth} to 1. One step is a factor of 10.",
        "",
        f"{'activation':11}{'initializer':24}{'forward':{_SPARK}} {'last/first':>10} {'backward':{_SPARK}}"
        f" {'first/last':>10}",
    ]


def propagation_line(found: Propagation, encoding: str | None = "utf-8") -> str:
    """One network: what becomes of the signal and of the gradient."""
    backward = spark(found.gradient_variance[::-1], encoding)
    return (
        f"{found.activation:11}{found.initializer:24}{spark(found.variance, encoding):{_SPARK}} "
        f"{found.forward:10.2g} {backward:{_SPARK}} {found.backward:10.2g}  {_verdicts(found)}"
    )


def _verdicts(found: Propagation) -> str:
    forward, backward = verdict(found.forward), verdict(found.backward)
    return forward if forward == backward else f"{forward}, gradient {backward}"


def layer_lines(models: Mapping[str, Sequence[Layer]], encoding: str | None = "utf-8") -> Iterator[str]:
    """Each layer of a model, for each initializer."""
    for title, layers in models.items():
        yield f"{title}: {spark([layer.variance for layer in layers], encoding)}"
        yield f"  {'layer':32}{'kind':18}{'mean':>12}{'variance':>12}"
        for layer in layers:
            yield f"  {layer.name:32}{layer.kind:18}{layer.mean:12.4g}{layer.variance:12.4g}"


def histogram_lines(found: Histogram, encoding: str | None = "utf-8") -> Iterator[str]:
    """A bar for each bin, and a mark where the law expects its end."""
    full, mark = ("█", "·") if _fits(encoding) else ("#", "|")
    parameters = ", ".join(f"{parameter:.6g}" for parameter in found.parameters)
    yield f"{found.initializer}, {found.values:,} values: {found.distribution}({parameters})"
    longest = max(*found.counts, *found.expected)
    for low, count, wanted in zip(found.edges, found.counts, found.expected, strict=False):
        bar = full * round(count / longest * _BAR)
        end = round(wanted / longest * _BAR)
        bar = bar.ljust(end) if len(bar) < end else bar
        yield (
            f"{low:12.5g}  {bar[:end]}{mark}{bar[end + 1 :]}".ljust(_BAR + 16) + f"{count:12,}{wanted:14,.1f}"
        )
    worst = max(map(abs, found.departures))
    yield f"{found.outside:,} beyond the bins; the largest departure is {worst:.2f} standard errors of a bin"
