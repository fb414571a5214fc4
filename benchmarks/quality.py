"""Whether values follow their distributions, at scales where a flaw of one part in 10^5 shows.

    python benchmarks/quality.py --quick                 # fanfill alone; a minute on two cores
    python benchmarks/quality.py --peers all             # 10^11 float32 draws of each law: an hour or two
    python benchmarks/quality.py --streams normal@1/float32 --draws 1e10
    python benchmarks/quality.py --device cuda --streams normal --draws 1e12 --controls

Needs the extra ``test`` (SciPy). Draws blocks with the real kernels, counts them, in threads or, with
``--device cuda``, where a GPU has drawn them, and keeps nothing; ``docs/quality.md`` says what is counted.
Prints Markdown; ``--write`` puts it between a document's markers instead. Progress goes to stderr. Bits for
other batteries: ``benchmarks/feeds.py``.

Exit code 1 if a stream of fanfill's departs from its law, or a control does not.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from quality_checks import checks
from quality_controls import CONTROLS
from quality_device import Device, can_draw
from quality_laws import Law
from quality_report import Row, departures, power, rate, setting, table, tails
from quality_sources import PEERS, Stream, fanfill_stream, peer_streams
from quality_tally import Engine, tallied

from fanfill.cpu.threads import usable_cpus
from fanfill.errors import BackendUnavailableError
from fanfill.selftest import subjects

KINDS = ("uniform", "normal", "truncated")
NARROW = ("float16", "float8_e4m3fn", "float8_e5m2")
LAWS = (
    *(Law(kind, 1.0, "float32") for kind in KINDS),
    Law("uniform", 0.5, "float32", 0.5),
    Law("uniform", 0.5, "float32", 1.5),
    Law("uniform", 0.05, "float32", 0.05),
    Law("normal", 0.5, "float32"),
    Law("truncated", 0.5, "float32"),
    *(Law(kind, 1.0, "bfloat16") for kind in KINDS),
    Law("uniform", 0.1, "bfloat16"),
    Law("uniform", 0.5, "bfloat16", 0.5),
    *(Law(kind, 1.0, "float64") for kind in KINDS),
    Law("uniform", 0.5, "float64", 0.5),
    Law("uniform", 0.5, "float64", 1.5),
    *(Law(kind, 1.0, dtype) for dtype in NARROW for kind in KINDS),
)
BEGIN, END = "<!-- measured: {} -->", "<!-- end -->"
DRAWS, QUICK = 10**11, 2 * 10**8
LEAST = 10**6  # draws: 65536 cells of pairs want some values each


def shown(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(text)
    sys.stderr.flush()


def measured(stream: Stream, draws: int, engine: Engine) -> Row:
    """One stream's row."""
    began, law = time.monotonic(), stream.law
    title = f"{stream.library} {stream.call} {law.dtype}"

    def progress(done: int) -> None:
        shown(f"\r{title}: {done:.3g} of {draws:.3g} draws, {time.monotonic() - began:.0f} s ")

    found = engine(law, stream.source, draws, stream.neighbours, progress=progress)
    row = Row(stream, found, checks(law, found))
    seconds, failed = time.monotonic() - began, len(row.failures)
    shown(f"\r{title}: {found.values:.3g} draws, {seconds:.0f} s, {failed} departures\n")
    return row


def chosen(laws: Sequence[Law], wanted: str) -> tuple[Law, ...]:
    """The laws that a list such as ``normal,uniform/bfloat16,truncated@0.5/float32`` names."""
    names = wanted.split(",")
    known = {name for law in laws for name in names_of(law)}
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        raise SystemExit(
            f"--streams: expected all, or some of {', '.join(sorted(known))}; got {unknown[0]!r}"
        )
    return tuple(law for law in laws if {"all", *names_of(law)} & set(names))


def names_of(law: Law) -> tuple[str, str, str]:
    """What may name a law, on the command line: a kind, a kind's dtype, one scale of these."""
    kind = "range" if law.middle else law.kind
    return kind, f"{kind}/{law.dtype}", f"{kind}@{law.scale:g}/{law.dtype}"


def peers_of(wanted: str) -> tuple[str, ...]:
    """The peers that a list names."""
    if wanted in ("all", "none"):
        return PEERS if wanted == "all" else ()
    names = tuple(wanted.split(","))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise SystemExit(f"--peers: expected all, none, or some of {', '.join(PEERS)}; got {unknown[0]!r}")
    return names


def device_of(name: str, peers: str) -> Device | None:
    """The GPU that a name stands for; None for the CPU."""
    if name == "cpu":
        return None
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise SystemExit(f"--device: expected cpu, cuda or cuda:N; got {name!r}")
    if peers != "none":
        raise SystemExit(
            f"--peers: expected none with --device {name}, which draws by fanfill's kernels alone; got "
            f"{peers!r}; compare peers on the CPU"
        )
    try:
        return Device(subjects(name)[0].number or 0)
    except BackendUnavailableError as error:
        raise SystemExit(f"--device {name}: {error}") from error


def rows_of(given: argparse.Namespace, engine: Engine) -> Iterator[Row]:
    """fanfill's streams, then the peers'; a peer that is not there is left out, and said so."""
    laws, peers = chosen(LAWS, given.streams), peers_of(given.peers)
    for law in laws:
        draws = given.draws if law.dtype == "float32" else max(LEAST, given.draws // 10)
        yield measured(fanfill_stream(law), draws, engine)
    for peer in peers:
        try:
            streams = list(peer_streams(peer, laws))
        except ImportError as error:
            shown(f"{peer}: left out: {error}\n")
            continue
        for stream in streams:
            yield measured(stream, given.peer_draws, engine)


def controls(engine: Engine, device: Device | None) -> tuple[list[str], int]:
    """A table of the flaws and of what rejects them; how many pass unseen. A device leaves out what NumPy
    makes.
    """
    lines = ["| flaw | law | draws | rejected by | for instance |", "|---|---|---:|---|---|"]
    missed = 0
    for control in CONTROLS:
        if device is not None and not can_draw(control.source):
            shown(f"control: {control.name}: left out: NumPy makes it\n")
            continue
        failed = [check for check in control.checks(engine) if check.failed]
        groups = {check.group for check in failed}
        missed += not control.fails <= groups
        first = next((f"{c.name}: {c.found}" for c in failed if c.group in control.fails), "")
        law = f"{control.law.kind} {control.law.dtype}"
        seen = ", ".join(sorted(groups)) or "**nothing**"
        lines.append(f"| {control.name} | {law} | {power(control.draws)} | {seen} | {first} |")
        shown(f"control: {control.name}: {seen}\n")
    return lines, missed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2e8 float32 draws, no peers")
    parser.add_argument("--draws", type=whole, help="of each float32 stream; others a tenth (default: 1e11)")
    parser.add_argument("--peer-draws", type=whole, help="of each stream of a peer (default: a hundredth)")
    parser.add_argument("--streams", default="all", help="all, or kinds: normal,range,uniform/bfloat16,...")
    parser.add_argument("--peers", default="none", help=f"all, none, or some of {','.join(PEERS)}")
    parser.add_argument("--controls", action="store_true", help="the negative controls as well")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, cuda:N: who draws and counts")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--write", type=Path, help="a document with markers; what stands between is replaced")
    parser.add_argument("--section", default="all", help="which pair of markers (default: all)")
    given = parser.parse_args(arguments)
    if given.write:
        replaced(given.write.read_text(), given.section, "")  # before hours of work, not after
    given.draws = given.draws or (QUICK if given.quick else DRAWS)
    given.peer_draws = given.peer_draws or max(LEAST, given.draws // 100)
    device = device_of(given.device, given.peers)
    engine: Engine = partial(tallied, threads=given.threads) if device is None else device.tallied
    began = time.monotonic()
    rows = list(rows_of(given, engine))
    parts = [table(rows), [rate(rows)], tails(rows), departures(rows)]
    missed = 0
    if given.controls:
        lines, missed = controls(engine, device)
        parts.append(lines)
    command = " ".join(["python benchmarks/quality.py", *arguments])
    where = f"with {given.threads} threads" if device is None else f"on {device}"
    parts.append([f"{setting(command)} {time.monotonic() - began:.0f} s {where}."])
    text = "\n".join("\n".join([*part, ""]) for part in parts if part)
    if given.write:
        given.write.write_text(replaced(given.write.read_text(), given.section, text))
    else:
        sys.stdout.write(text)
    departed = sum(len(row.failures) for row in rows if row.stream.library == "fanfill")
    return 1 if departed or missed else 0


def replaced(document: str, section: str, text: str) -> str:
    """The document with `text` between the section's marker and the next end."""
    begin = BEGIN.format(section)
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"--write: expected the lines {begin} and, after it, {END}; add them")
    return f"{before}{begin}\n\n{text}\n{END}{after}"


def whole(text: str) -> int:
    """A whole number such as 1e11, not below LEAST."""
    number = float(text)
    if not (LEAST <= number < math.inf and number == int(number)):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {LEAST:g} on, such as 1e11; got {text!r}"
        )
    return int(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
