"""NVRTC compiles every kernel for every architecture, and what it makes is what the contract needs.

Nothing runs here. Of PTX, which is NVRTC's own output, the operations are audited; of machine code, which the
assembler made of it, the instructions, registers and stores.
"""

import json
import re
from collections import Counter
from functools import cache

import cuda_instructions
import pytest
from cuda_instructions import Kernel, is_wide, main_path, trips_of
from cuda_on_cpu import compiled
from cuda_on_cpu.compiled import KEYED, QUICK, TARGETS
from cuda_on_cpu.shim import NAMES

from fanfill.cuda import nvrtc
from fanfill.errors import BackendUnavailableError
from fanfill_kernels import cuda

EVERY = compiled.each_in_part("major", "arch", "every")
# Fused operations that the source asks for have one of these factors, and an exact product.
EXACT_FACTORS = {
    "0f40400000", "0f42800000", "0d4008000000000000", "0f40400300", "0d3CC0000000000000", "0f30000000",
    "0fB0000000",
}  # fmt: skip
FACTOR = re.compile(r"0[fd][0-9A-Fa-f]+")
# But for these two: a square root and a quotient, made from approximations that nothing else may read.
SEQUENCES = {
    "rsqrt.approx.ftz.f32": (
        "rsqrt.approx.ftz.f32 R, X", "mul.rn.f32 Y, X, R", "neg.f32 N, Y", "fma.rn.f32 T, N, Y, X",
        "mul.rn.f32 H, R, 0f3F000000", "fma.rn.f32 Z, T, H, Y",
    ),
    "rcp.approx.ftz.f32": (
        "rcp.approx.ftz.f32 R, D", "neg.f32 N, D", "fma.rn.f32 E, N, R, 0f3F800000", "fma.rn.f32 S, R, E, R",
        "mul.rn.f32 Q, X, S", "fma.rn.f32 T, N, Q, X", "fma.rn.f32 Z, T, S, Q",
    ),
}  # fmt: skip
# The one operation that is not rounded to nearest, and whose: it begins a rounding to odd.
TOWARD_ZERO = "add.rz.f32"
ROUNDED_TO_ODD = re.compile(r"^(run|box)_uniform_range_(b?float16|float8_\w+)$")
APPROXIMATE = re.compile(r"^(run|box)_(normal|truncated)\w*_(float32|b?float16|float8_\w+)$")
# By how many fused multiply-adds ptxas makes a square root and a quotient that are rounded to nearest.
FUSED_IN = {
    ("DFMA", "sqrt.rn.f64"): 5,
    ("DFMA", "div.rn.f64"): 7,
}
# Threads that a multiprocessor holds, where they are not 2048: so many more registers cost no occupancy.
THREADS_HELD = {75: 1024, 86: 1536, 89: 1536, 120: 1536}
# Where registers pay sooner than threads, how many a kernel may have. Elsewhere 32, with which all threads
# fit.
REGISTERS = {
    rf"{cuda.GROUPED}_truncated_float64$": 48,
    "64$": 40,
    "_truncated_(?!central)": 64,
    "_(normal|truncated_central)": 40,
    rf"{cuda.KEYED}_run_uniform_\w+_b?float(8|16)": 40,
}
STORES = {"8": 1, "16": 1, "32": 2, "64": 2}


def ptx_bodies(text: str) -> dict[str, list[str]]:
    """Each kernel's PTX instructions, guards left out."""
    parts = re.split(r"\.entry (\w+)\(", re.sub(r"//.*", "", text))
    found = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        # A register that holds a constant is read as that constant; each is written once.
        constants = dict(re.findall(r"mov\.f\d+\s+(%f\w+), (0[fd]\w+);", body))
        body = re.sub(r"%f\w+", lambda register, known=constants: known.get(register[0], register[0]), body)
        found[name] = re.findall(r"^\s+(?:@!?%p\d+ +)?([a-z][\w.]*(?:\s[^;]*)?);", body, re.MULTILINE)
    return found


@cache
def machine_code(major: int, arch: int, every: bool) -> dict[str, Kernel]:
    """Each kernel's machine code, disassembled once."""
    return cuda_instructions.kernels(compiled.cubin(major, arch, every))


def operation(instruction: str) -> str:
    return instruction.split(None, 1)[0]


def without_sequences(body: list[str]) -> list[str]:
    """The instructions that are not part of one of SEQUENCES, letter by letter and register by register."""
    rest = list(body)
    used = Counter(re.findall(r"%\w+", " ".join(body)))
    place = 0
    while place < len(rest):
        wanted = SEQUENCES.get(operation(rest[place]), ())
        registers: dict[str, str] = {}
        if wanted and all(
            matches(pattern, instruction, registers)
            for pattern, instruction in zip(wanted, rest[place:], strict=False)
        ):
            of_approximation = re.findall(r"\bR\b", " ".join(wanted))
            if len(rest) >= place + len(wanted) and used[registers["R"]] == len(of_approximation):
                del rest[place : place + len(wanted)]
                continue
        place += 1
    return rest


def matches(pattern: str, instruction: str, registers: dict[str, str]) -> bool:
    """Whether an instruction is that of a pattern; what its letters stand for must be so throughout."""
    names, found = pattern.split(" ", 1), instruction.split(None, 1)
    wanted, given = names[1].split(", "), re.split(r",\s*", found[1].strip()) if len(found) > 1 else []
    return (
        names[0] == found[0]
        and len(wanted) == len(given)
        and all(
            registers.setdefault(w, g) == g if w.isalpha() else w == g
            for w, g in zip(wanted, given, strict=True)
        )
    )


def fault(instruction: str) -> str | None:
    """What is wrong with a PTX instruction, if anything."""
    return fault_of(operation(instruction), bool(EXACT_FACTORS.intersection(FACTOR.findall(instruction))))


@cache
def fault_of(name: str, exact_factor: bool) -> str | None:
    """The same, of an operation: its faults are of its name, but for a factor that makes a product exact."""
    kind = name.split(".")[0]
    floats = name != TOWARD_ZERO and re.search(r"\.(f32|f64|f16|bf16)", name) is not None
    if ".approx" in name or ".ftz" in name or ".full" in name:
        return "not an IEEE operation"
    if floats and kind in ("add", "sub", "mul", "div", "sqrt", "fma", "rcp", "mad") and ".rn" not in name:
        return "not marked as rounded to nearest, so it may be contracted"
    if kind in ("fma", "mad") and floats and not exact_factor:
        return "a fused product that is not exact"
    if kind in ("rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh", "call", "bar", "atom", "red", "trap"):
        return "no such thing is needed"
    if ".local" in name or ".shared" in name or name.startswith(("ld.global", "ld.const")):
        return "memory that is read, or of its own"
    return None


@EVERY
def test_ptx_is_one_ieee_operation_at_a_time(major: int, arch: int, every: bool) -> None:
    text = compiled.ptx(major, arch, every)
    bodies = ptx_bodies(text)
    names = NAMES if every else compiled.SOME
    assert bodies.keys() == {cuda.entry(kind, *name.split("_", 1)) for kind in cuda.KINDS for name in names}
    assert not re.search(r"^\s*\.(local|shared|const)\b", text, re.MULTILINE)
    assert not [
        (name, i, fault(i)) for name, body in bodies.items() for i in without_sequences(body) if fault(i)
    ]
    approximate = {name for name, body in bodies.items() if any(".approx" in i for i in body)}
    assert approximate == {name for name in bodies if APPROXIMATE.match(name)}
    toward_zero = {name for name, body in bodies.items() if TOWARD_ZERO in map(operation, body)}
    assert toward_zero == {name for name in bodies if ROUNDED_TO_ODD.match(name)}


@compiled.each_in_part("major", "arch", "every", but=70)  # which the disassembler of CUDA 13 has forgotten
def test_machine_code(major: int, arch: int, every: bool) -> None:
    """No stack, no local memory, no more registers than full occupancy allows, 16-byte stores, no
    contraction, and no branch but those around the subroutines of float64's roots and quotients.
    """
    bodies = ptx_bodies(compiled.ptx(major, arch, every))
    found = machine_code(major, arch, every)
    assert found.keys() == bodies.keys()
    for name, kernel in found.items():
        operations = Counter(map(operation, bodies[name]))
        assert (kernel.stack, kernel.local) == (0, 0), name
        assert kernel.registers <= most_registers(name, arch), (name, kernel.registers)
        assert not [i for i in kernel.code if i.name.split(".")[0] in ("LDL", "STL", "LDS", "STS", "BAR")], (
            name
        )
        if name.startswith("run_"):
            assert_run(name, kernel, operations)


@pytest.mark.parametrize(
    ("major", "arch"),
    [pytest.param(*t, marks=() if t == (13, 90) else pytest.mark.slow) for t in TARGETS if t[1] != 70],
)
def test_grouped_kernels(major: int, arch: int) -> None:
    """The same audits, for kernels that are compiled one by one where they are used."""
    text, code = compiled.made(compiled.GROUPED_SOURCE, major, arch)
    bodies = ptx_bodies(text)
    found = cuda_instructions.kernels(code)
    assert (
        found.keys()
        == bodies.keys()
        == {f"{cuda.GROUPED}_{name}" for name in NAMES if name != "words_uint32"}
    )
    assert not re.search(r"^\s*\.(local|shared|const)\b", text, re.MULTILINE)
    assert not [
        (name, i, fault(i)) for name, body in bodies.items() for i in without_sequences(body) if fault(i)
    ]
    for name, kernel in found.items():
        assert (kernel.stack, kernel.local) == (0, 0), name
        assert kernel.registers <= most_registers(name, arch), (name, kernel.registers)
        width = re.search(r"(float|uint|constant_)(8|16|32|64)", name)
        assert width is not None
        assert sum(map(is_wide, kernel.code)) == STORES[width[2]], name
    if arch in cuda_instructions.ARCHES:
        rows = {f"{cuda.GROUPED}_{values}": found[f"{cuda.GROUPED}_{values}"] for values in KEYED}
        lines = {name: cuda_instructions.row(name, kernel) for name, kernel in rows.items()}
        assert not grown(lines, committed_table(major, arch))


@pytest.mark.parametrize(
    "families",
    [
        pytest.param(KEYED, id="some"),
        *(
            pytest.param((name,), marks=pytest.mark.slow, id=name)
            for name in NAMES
            if name not in KEYED and not name.startswith("constant_")
        ),
    ],
)
def test_keyed_kernels(families: tuple[str, ...]) -> None:
    """The same audits; what these read of a device's memory is the seed and where a part begins."""
    text, code = compiled.made(f"#define KEYED\n{compiled.source_with(families)}", 13, 90)
    bodies = ptx_bodies(text)
    found = cuda_instructions.kernels(code)
    names = {f"{cuda.KEYED}_{kind}_{family}" for kind in cuda.KINDS for family in families}
    assert found.keys() == bodies.keys() == names
    for name, kernel in found.items():
        read = [i for i in bodies[name] if operation(i).startswith("ld.global")]
        assert set(map(operation, read)) == {"ld.global.u32"}
        assert 3 <= len(read) <= 4, name
        rest = [i for i in without_sequences(bodies[name]) if i not in read]
        assert not [(name, i, fault(i)) for i in rest if fault(i)]
        assert (kernel.stack, kernel.local) == (0, 0), name
        assert kernel.registers <= most_registers(name, 90), (name, kernel.registers)
    runs = {f"{cuda.KEYED}_run_{family}": family for family in families}
    for run, family in runs.items():
        width = re.search(r"(float|uint)(8|16|32|64)", family)
        assert width is not None
        assert sum(map(is_wide, found[run].code)) == STORES[width[2]]
    if families == KEYED:
        assert families == cuda_instructions.ALONE
        assert not grown(
            {run: cuda_instructions.row(run, found[run]) for run in runs}, committed_table(13, 90)
        )


def most_registers(name: str, arch: int) -> int:
    held = 64 * 1024 // THREADS_HELD.get(arch, 2048) // 8 * 8
    asked = next((most for pattern, most in REGISTERS.items() if re.search(pattern, name)), 32)
    return max(asked, held)


def assert_run(name: str, kernel: Kernel, operations: Counter[str]) -> None:
    path = main_path(kernel.code, 1)
    width = next(
        bits for bits in STORES if re.search(rf"(float|uint|_b?float|constant_){bits}(_e\w+)?$", name)
    )
    assert sum(map(is_wide, path)) == sum(map(is_wide, kernel.code)) == STORES[width], name
    # Without subroutines all of the code is counted: PTX has both loops of a strided kernel.
    counted = path if any(o.startswith(("sqrt.rn", "div.rn")) for o in operations) else kernel.code
    for fused, precision in (("FFMA", "f32"), ("DFMA", "f64")):
        expected = operations[f"fma.rn.{precision}"]
        expected += sum(operations[o] * n for (kind, o), n in FUSED_IN.items() if kind == fused)
        if fused == "FFMA":  # a quotient's range is tested by one of no effect
            expected += operations["div.rn.f64"]
        assert sum(i.name.split(".")[0] == fused for i in counted) == expected, (name, fused)
    branches = sum(i.name.startswith("BRA") and bool(i.guard) for i in path)
    roots = sum(n for o, n in operations.items() if o.startswith(("sqrt", "div")))
    loops = int(trips_of(name) > 1)
    assert branches <= roots + loops + 1, name


@pytest.mark.parametrize(
    ("major", "arch"),
    [
        pytest.param(*target, marks=() if target in QUICK else pytest.mark.slow)
        for target in TARGETS
        if target[1] in cuda_instructions.ARCHES
    ],
)
def test_instructions_do_not_grow(major: int, arch: int) -> None:
    """Against the committed table; `python benchmarks/cuda_instructions.py --write` writes it anew."""
    found = machine_code(major, arch, True)
    rows = {name: cuda_instructions.row(name, k) for name, k in found.items() if name.startswith("run_")}
    committed = {name: line for name, line in committed_table(major, arch).items() if name.startswith("run_")}
    assert rows.keys() == committed.keys()
    assert not grown(rows, committed)


def committed_table(major: int, arch: int) -> dict[str, dict[str, float]]:
    """The lines of the committed table for an architecture, by an NVRTC of that CUDA."""
    table = json.loads(cuda_instructions.TABLE.read_text())
    lines: dict[str, dict[str, float]] = next(
        rows[str(arch)] for version, rows in table.items() if version.startswith(f"{major}.")
    )
    return lines


def grown(rows: dict[str, dict[str, float]], committed: dict[str, dict[str, float]]) -> list[str]:
    return [name for name in rows if rows[name]["instructions"] > committed[name]["instructions"]]


# For sm_90. The figures of commit b9f7597 were 48.6, 48.6, 49, 74.9, 132.5 and 20.3.
BUDGETS = {
    "uniform_float32": 16,
    "normal_float32": 43.5,
    "normal_centred_float32": 42.5,
    "normal_centred_bfloat16": 43,
    "truncated_central_float32": 56.5,
    "truncated_float32": 113,
    "uniform_clamped_bfloat16": 14.75,
}


def test_budgets() -> None:
    for version in json.loads(cuda_instructions.TABLE.read_text()).values():
        for name, most in BUDGETS.items():
            assert version["90"][f"run_{name}"]["instructions"] <= most, name


def test_the_audits_can_fail() -> None:
    """A contraction, an approximation, a flush, a fused product and local memory are seen."""
    for instruction in (
        "add.f32 %f1, %f2, %f3", "sqrt.approx.f32 %f1, %f2", "mul.rn.ftz.f32 %f1, %f2, %f3",
        "fma.rn.f32 %f1, %f2, 0f3F000000, %f3", "fma.rn.f64 %fd1, %fd2, %fd3, %fd4",
        "st.local.u32 [%rd1], %r1", "ld.global.f32 %f1, [%rd1]",
    ):  # fmt: skip
        assert fault(instruction), instruction
    for instruction in (
        "add.rn.f32 %f1, %f2, %f3",
        "add.s32 %r1, %r2, 1",
        "fma.rn.f32 %f1, %f2, 0f40400000, %f3",
    ):
        assert not fault(instruction), instruction
    assert grown({"a": {"instructions": 2.1}}, {"a": {"instructions": 2.0}}) == ["a"]


def test_approximations_are_accepted_in_their_sequences_alone() -> None:
    """Another operand, another factor, an operation less, or a further use of the approximation."""
    letters = {"0f3F000000", "0f3F800000"}
    for sequence in SEQUENCES.values():
        body = [re.sub(r"\b[A-Z]\b", lambda letter: f"%f{ord(letter[0])}", i) for i in sequence]
        around = ["add.rn.f32 %f1, %f2, %f3", *body, "st.global.f32 [%rd1], %f90"]
        assert without_sequences(around) == [around[0], around[-1]]
        wrong = [[*body, f"mul.rn.f32 %f2, %f{ord('R')}, %f3"], body[:-1]]
        for k, instruction in enumerate(body[1:], 1):
            *before, last = instruction.split(", ")
            other = ", ".join([*before, "0f3E800000" if last in letters else "%f3"])
            wrong.append([*body[:k], other, *body[k + 1 :]])
        for changed in wrong:
            assert any(map(fault, without_sequences(changed))), changed


SMALL = """
extern "C" __global__ void run_small_float32(float4* out, float a, float b) {
  out[threadIdx.x] = make_float4(a * b + 1.0f, a, b, 0.0f);
}
"""


def test_contraction_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text with NVRTC's default is contracted, in PTX and in machine code."""
    compiler = nvrtc.compiler()
    kept = ptx_bodies(compiler.compile(SMALL, "small.cu", 90, ptx=True).decode())["run_small_float32"]
    assert not [i for i in kept if fault(i)]
    monkeypatch.setattr(nvrtc, "OPTIONS", ("-std=c++17",))
    lost = ptx_bodies(compiler.compile(SMALL, "small.cu", 90, ptx=True).decode())["run_small_float32"]
    assert [i for i in lost if fault(i)]
    code = cuda_instructions.kernels(compiler.compile(SMALL, "small.cu", 90))["run_small_float32"].code
    assert any(i.name == "FFMA" for i in code)


def test_compile_errors_point_at_the_file() -> None:
    broken = cuda.source().replace("const f32 z = t * t;", "const f32 z = t * unknown;")
    line = 1 + cuda.text("arithmetic.cuh").split("const f32 z = t * t;")[0].count("\n")
    with pytest.raises(BackendUnavailableError, match=rf"arithmetic\.cuh\({line}\): error"):
        nvrtc.compiler().compile(broken, "fill.cu", 90, ptx=True)


def test_an_architecture_that_nvrtc_does_not_know() -> None:
    newest = nvrtc.compiler()
    with pytest.raises(BackendUnavailableError, match=r"expected an architecture that NVRTC .* got 70"):
        newest.compile(SMALL, "small.cu", 70)
    assert nvrtc.compiler(newest=12).version[0] == 12


def test_no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match=r"NVRTC of CUDA 11 or older.*found 1\d.*pip install"):
        nvrtc.compiler(newest=11)
    monkeypatch.setattr(nvrtc, "_paths", lambda: iter(["/nowhere/libnvrtc.so.12"]))
    nvrtc.compilers.cache_clear()
    try:
        with pytest.raises(
            BackendUnavailableError, match="expected NVIDIA's NVRTC; found none; install it with"
        ):
            nvrtc.compiler()
    finally:
        monkeypatch.undo()
        nvrtc.compilers.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def begun(request: pytest.FixtureRequest) -> None:
    """All targets that are asked for compile in the background while the first is audited."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    found = [tuple(map(spec.params.get, ("major", "arch", "every"))) for spec in asked if spec]
    for major, arch, every in dict.fromkeys(found):
        if every is not None:
            compiled.begin(major, arch, every, ptx=arch == 70)
