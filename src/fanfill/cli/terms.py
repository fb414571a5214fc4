"""The library's messages in the command line's words: ``--in-axis`` for ``in_axis=``.

The library speaks to who calls a function: of arguments, and of remedies in Python. This is the one place
where its words become those of options. Only what stands outside quotation marks is touched: inside is what
the user typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["Spoken", "spoken"]


class Spoken(ValueError):
    """An error whose message is in the command line's words already, or quotes an expression."""


# Arguments that have an option of the same name.
OPTIONS = (
    "absolute",
    "backend",
    "batch_axis",
    "device",
    "distribution",
    "dtype",
    "format",
    "gain",
    "high",
    "in_axis",
    "initializers",
    "low",
    "lower",
    "max_shard_size",
    "mean",
    "mode",
    "name",
    "negative_slope",
    "out_axis",
    "part",
    "scale",
    "seed",
    "sizes",
    "start",
    "std",
    "threads",
    "truncated",
    "upper",
    "value",
)
_RENAMED = {"endpoint": "no_endpoint"}
_NAMES = "|".join(OPTIONS)
_LIST = rf"(?:(?:{_NAMES}), )*(?:{_NAMES})"


def option(name: str) -> str:
    """How an argument's option is written."""
    return f"--{name.replace('_', '-')}"


def _options(names: str) -> str:
    return re.sub(rf"\b({_NAMES}|endpoint)\b", lambda match: option(_RENAMED.get(match[1], match[1])), names)


def _prose(match: re.Match[str]) -> str:
    return option(match[1]) if match[1] in OPTIONS else match[1]


# In this order; each a pattern and what it becomes.
_TERMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    # Remedies that are calls.
    (r"pass in_axis=1, out_axis=0, or use [\w.]+, which does", lambda _: "add --in-axis 1 --out-axis 0"),
    (r"(?:fanfill\.)?backends\(\)", lambda _: "fanfill info"),
    (r"; fill an array of one of these and convert it with \.astype\(\)", lambda _: ""),
    (r"move the buffer; draw makes it on the device that it is given", lambda _: "add --device cuda"),
    (r"\bconstant\(([^()]*)\)", lambda match: f"constant --value {match[1]}"),
    (r"\(either may be \(\)\)", lambda _: "(either may be none)"),
    (r", or a str\b", lambda _: ", or text"),
    (r"\b(?:global_shape|shape): ", lambda _: "SHAPE: "),
    (r", or rules=\{[^}]*\}", lambda _: ""),
    (r"\brules: ", lambda _: "--rule: "),
    (r"^size: ", lambda _: "--sizes: "),
    (r"\bleave endpoint out\b", lambda _: "leave --no-endpoint out"),
    # "the arguments mean, std for normal; got gain; leave out gain"
    (
        r"the arguments ((?:\w+, )*\w+)( for \w+; got )((?:\w+, )*\w+)(?=;)",
        lambda match: f"the options {_options(match[1])}{match[2]}{_options(match[3])}",
    ),
    (
        rf"\b(leave out|add|write|pass) ({_LIST})\b(?![=(.])",
        lambda match: f"{match[1]} {_options(match[2])}",
    ),
    (rf"\bleave ({_NAMES}) out\b", lambda match: f"leave {option(match[1])} out"),
    # "in_axis=1", "got low=3.0, high=2.0", "seed: expected"
    (r"(?<![\w-])(absolute|truncated)=True\b", lambda match: option(match[1])),
    (rf"(?<![\w-])({_NAMES})=", lambda match: f"{option(match[1])} "),
    (rf"(^|; |: )({_NAMES}): ", lambda match: f"{match[1]}{option(match[2])}: "),
    # In prose; an underscore marks the others for what they are.
    (r"(?<![\w-])([a-z]+(?:_[a-z]+)+)(?![\w(:=-])", _prose),
)
_QUOTED = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


def spoken(message: str) -> str:
    """A message of the library as the command line would say it."""
    parts = _QUOTED.split(message)
    for at in range(0, len(parts), 2):
        for pattern, becomes in _TERMS:
            parts[at] = re.sub(pattern, becomes, parts[at])
    return "".join(parts)
