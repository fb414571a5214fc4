"""The peers on the same buffers; a peer that is missing is a skip that says so."""

import pytest

from fanfill.bench.measure import Case, limits, parse_size
from fanfill.bench.peers import PEERS, entrants

CASES = [
    Case(distribution, dtype, parse_size(size))
    for size in ("64Ki", "64Mi")
    for distribution in ("uniform", "normal", "truncated")
    for dtype in ("float32", "float64", "float16", "bfloat16")
]


def label(case):
    return f"{case.distribution}-{case.dtype}-{case.values}"


@pytest.mark.parametrize("case", CASES, ids=label)
@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("peer", PEERS)
def test_peer(measured, arena, peer, which, case):
    buffer = arena.view(case.dtype, case.values)
    found = entrants(peer, case, buffer)
    if which >= len(found):
        pytest.skip(f"{peer} has {len(found)} ways to do this")
    entrant = found[which]
    if entrant.run is None:
        pytest.skip(entrant.missing)
    measured(entrant.run, case, buffer, peer=peer, method=entrant.method, threads=entrant.threads)


@pytest.mark.parametrize("case", [Case("words", "uint32", parse_size("64Mi"))], ids=label)
@pytest.mark.parametrize("which", [0, 1])
def test_limit(measured, arena, which, case):
    buffer = arena.view(case.dtype, case.values)
    entrant = limits(buffer)[which]
    measured(entrant.run, case, buffer, method=entrant.method, threads=1)
