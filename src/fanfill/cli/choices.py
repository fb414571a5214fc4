"""What an argument may be, as help lists it and as the shell completes it; and examples of each command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, get_args

from fanfill import literals
from fanfill.named import NAMES

__all__ = [
    "BACKENDS",
    "DEVICES",
    "DTYPES",
    "FORMATS",
    "INITIALIZERS",
    "LAWS",
    "MODES",
    "TARGETS",
    "completing",
    "epilog",
    "listed",
]

INITIALIZERS: Final = NAMES
DTYPES: Final[tuple[str, ...]] = get_args(literals.DtypeName)
LAWS: Final[tuple[str, ...]] = get_args(literals.ScaledName)
MODES: Final[tuple[str, ...]] = get_args(literals.Mode)
BACKENDS: Final[tuple[str, ...]] = get_args(literals.BackendName)
FORMATS: Final[tuple[str, ...]] = get_args(literals.FormatName)
DEVICES: Final = ("auto", "cpu", "cuda", "cuda:0", "cuda:1")
TARGETS: Final = ("cpu", "cuda", "cuda:sm_80", "cuda:sm_90", "cuda:sm_100")

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "fill": (
        "fanfill fill he_normal 4096x1024",
        "fanfill fill xavier_uniform 1Kix1Ki --gain 1.5 --dtype bfloat16 -o w.npy",
        "fanfill fill truncated_normal 50000x512 --std 0.02 --seed 7 --name embed --json",
    ),
    "init": (
        "fanfill init config.json -o start --seed 1",
        "fanfill init package.model:build -o start --rule 'lm_head.weight=normal(0, 0.02)'",
        "fanfill init config.json -o start --part 3/16",
    ),
    "recipe": ("fanfill recipe config.json -o model.init.json", "fanfill recipe package.model:build"),
    "verify": ("fanfill verify start",),
    "info": ("fanfill info", "fanfill info --json"),
    "cache": ("fanfill cache", "fanfill cache --clear"),
    "compile": (
        "fanfill compile --dtypes float32,bfloat16 --initializers he_normal,normal",
        "fanfill compile --device cpu,cuda:sm_90 --cpu x86-64-v3",
    ),
    "selftest": ("fanfill selftest", "fanfill selftest --device cuda --exhaustive"),
    "words": ("fanfill words --seed 7 | RNG_test stdin32", "fanfill words --count 8 | od -A d -t x4"),
    "bench": (
        "fanfill bench --quick",
        "fanfill bench --device cpu --sizes 64Mi,256Mi -o results",
        "fanfill bench -o now --compare results/bench.json",
        "fanfill bench --readme",
    ),
}

EXIT_CODES: Final = (
    "0: done.",
    "1: done, and what was checked or compared differs.",
    "2: refused or failed; one line on stderr says why.",
    "130, 141, 143: interrupted; nobody reads the output any more; terminated.",
)


def epilog(command: str | None = None) -> str:
    """What follows a command's help; each paragraph is a line."""
    if command is None:
        return "\n\n".join(("Exit codes:", *EXIT_CODES))
    return "\n\n".join(("Examples:", *EXAMPLES[command]))


def listed(names: Iterable[str]) -> str:
    """Names as help lists them."""
    return ", ".join(names)


def completing(
    known: Iterable[str] | Callable[[], Iterable[str]], *, several: bool = False
) -> Callable[[str], list[str]]:
    """What completes one of the known words; or the last of several that are joined by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        words = known() if callable(known) else known
        return [f"{before}{comma}{word}" for word in words if word.startswith(last)]

    return complete
