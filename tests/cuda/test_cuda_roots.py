"""The square root and the quotients that the CUDA kernels make themselves round to nearest.

Of a square root the fast path of ptxas' own ``sqrt.rn`` is taken, operation by operation: what holds for
that, on whatever GPU, holds here. A quotient is tried here for every argument that occurs, whichever of the
floats within two places of 1 / d the GPU has. ``fanfill selftest --device cuda --exhaustive`` tries both on
a GPU.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cuda_instructions
import pytest
from cuda_instructions import Instruction, main_path
from cuda_on_cpu import compiled
from cuda_on_cpu.fixtures import cubins, emulated, gpu  # noqa: F401

from fanfill.__main__ import main
from fanfill.cuda import nvrtc
from fanfill.selftest import exhaustive, golden
from fanfill_kernels.cuda import source, text

BOTH = (
    source("exact.cu")
    + """
extern "C" __global__ void own(float* out, const float* in) {
  out[threadIdx.x] = __fsqrt_rn(in[threadIdx.x]);
}
extern "C" __global__ void ours(float* out, const float* in) {
  out[threadIdx.x] = arithmetic::root(in[threadIdx.x]);
}
"""
)


def stored(path: list[Instruction]) -> str:
    """What a kernel stores, as an expression of what it loads."""
    known: dict[str, str] = {"RZ": "0"}

    def value(operand: str) -> str:
        sign, name = operand[: operand.startswith("-")], operand.lstrip("-").removesuffix(".reuse")
        return sign + known.get(name, name)

    for i in path:
        name, operands = i.name.split(".")[0], i.operands.split(", ")
        if name in ("ST", "STG"):
            return value(operands[-1])
        if name == "MUFU":
            known[operands[0]] = f"{i.name}({value(operands[1])})"
        elif name in ("FMUL", "FFMA"):
            # No operand or result is subnormal here, so that .FTZ says nothing.
            first, second, *rest = map(value, operands[1:])
            known[operands[0]] = f"{name}({', '.join([*sorted((first, second)), *rest])})"
        elif name == "MOV":
            known[operands[0]] = value(operands[1])
        else:
            known[operands[0]] = "x" if name in ("LD", "LDG") else name
    raise AssertionError("expected a store")


@compiled.each("major", "arch")
def test_a_root_is_what_ptxas_makes_of_its_own(major: int, arch: int) -> None:
    if arch == 70:  # the disassembler of CUDA 13 has forgotten it
        return
    compiler = next(c for c in nvrtc.compilers() if c.version[0] == major)
    found = cuda_instructions.kernels(compiler.compile(BOTH, "both.cu", arch))
    own, ours = (stored(main_path(found[name].code)) for name in ("own", "ours"))
    assert own == ours
    assert ours.count("MUFU.RSQ(x)") >= 4
    # It takes that path where the bits, as an unsigned integer, lie less than this far above those.
    code = " ".join(f"{i.name} {i.operands}" for i in found["own"].code)
    assert re.search(r"(V?IADD3?) (\w+, )+(-0xd000000|0xf3000000)", code)
    assert "0x727fffff" in code
    least, beyond = exhaustive.RANGES["roots"]
    assert float.fromhex("0x1p-101") <= least < beyond < float.fromhex("0x1p127")


# By how many places an approximation is off; the last is the negative control: by a thousandth.
PLACES = (-2, -1, 0, 1, 2, 2**15)


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[int]]:
    """The counts of a function of ``exact.c``, behind the polynomials of ``arithmetic.cuh``, for PLACES."""
    folder = tmp_path_factory.mktemp("exact")
    arrays = re.findall(
        r"__device__ constexpr (f32 (?:CENTRE|TAIL)_[PQ]\[\] = \{[^}]*\};)", text("arithmetic.cuh")
    )
    assert len(arrays) == 4
    program = Path(__file__).with_name("exact.c").read_text()
    (folder / "exact.c").write_text(
        "\n".join([f"#define PLACES {len(PLACES)}", "typedef float f32;", *arrays, program])
    )
    command = ["gcc", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC"]
    subprocess.run([*command, "exact.c", "-o", "exact.so", "-lm"], check=True, cwd=folder)
    made = ctypes.CDLL(str(folder / "exact.so"))

    def differing(operation: str) -> list[int]:
        counts = (ctypes.c_uint64 * len(PLACES))()
        getattr(made, operation)((ctypes.c_int * len(PLACES))(*PLACES), counts)
        return list(counts)

    return differing


def test_a_quotient_is_right_whatever_the_approximation(tallies: Callable[[str], list[int]]) -> None:
    """PTX bounds the error of ``rcp.approx`` by one place. All arguments: 2^24 probabilities below 2^-7, and
    all floats from there to 1/2; all radii from 1 to 16.
    """
    for operation in ("centre_quotients", "tail_quotients"):
        *near, control = tallies(operation)
        assert near == [0] * 5
        assert control > 0


def test_a_root_is_right_but_for_a_few_arguments_whatever_the_approximation(
    tallies: Callable[[str], list[int]],
) -> None:
    """Why that is no proof for square roots: of 2^24 mantissas these need the better approximation."""
    assert tallies("roots") == [11, 3, 0, 2, 10, 2**24]


FEW = {"roots": (1.0, 1.001), "centre_quotients": (0.25, 0.2502), "tail_quotients": (3.0, 3.001)}
WRONG = {**FEW, "roots": (2.0**-140, 2.0**-139)}  # flushed to zero, whose reciprocal root is infinite


@pytest.fixture
def no_fills(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "cases", lambda: iter(()))
    monkeypatch.setattr(exhaustive, "RANGES", FEW)


def test_selftest_tries_every_argument_on_a_device(
    no_fills: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", "--device", "cuda:1", "--exhaustive"]) == 0
    assert "cuda:1: roots, 8,389 arguments: each result IEEE's" in capsys.readouterr().out
    monkeypatch.setattr(exhaustive, "RANGES", WRONG)
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--device", "cuda:0", "--exhaustive"])
    assert ended.value.code == 1
    assert re.search(r"cuda:0: roots, ([\d,]+) arguments: \1 not IEEE's, WRONG", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["selftest", "--device", "cuda:0", "--exhaustive", "--json"])
    tried = json.loads(capsys.readouterr().out)["exhaustive"]
    assert [one["operation"] for one in tried] == list(WRONG)
    assert [bool(one["differing"]) for one in tried] == [True, False, False]


def test_exhaustive_needs_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--device", "cpu", "--exhaustive"]) == 2
    expected = "--exhaustive: expected a CUDA device, .*; got --device cpu, .*; leave --exhaustive out"
    assert re.search(expected, " ".join(capsys.readouterr().err.split()))


def test_the_ranges_are_those_of_every_argument() -> None:
    """In binades of 2^23 floats."""
    counts = {"roots": 47, "centre_quotients": 31, "tail_quotients": 4}
    for operation, (least, beyond) in exhaustive.RANGES.items():
        assert beyond / least == 2.0 ** counts[operation]
