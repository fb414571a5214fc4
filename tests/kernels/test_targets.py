"""One set of bits whatever LLVM compiles for: plain x86-64 (SSE2), this machine, and AVX2 with FMA at hand if
it has more; and, with ``FANFILL_TEST_TARGETS=all`` in the environment, SSE4.2, AVX2 with and without FMA, and
AVX-512 at full width.
"""

from __future__ import annotations

import json
import os
import platform
import re
from typing import Any

import assemblies
import llvmlite.binding as llvm
import pytest
from processes import assert_ends, begin

HOST = llvm.get_host_cpu_features()
X86 = platform.machine().lower() in ("x86_64", "amd64")
SSE42 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,-avx"
AVX2_ALONE = "+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+f16c,+lzcnt,+movbe,-fma,-avx512f"
AVX2 = AVX2_ALONE.replace("-fma", "+fma")
# LLVM would rather use 256 bits of the first AVX-512 machines, whose clock drops with wider ones.
AVX512 = AVX2.replace("-avx512f", "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,-prefer-256-bit")
# NUMBA_CPU_NAME alone would keep the host's features, unless the name is generic.
TARGETS: dict[str, dict[str, str]] = {
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "host": {},
}
if HOST.get("avx512f"):  # elsewhere it is what the host is
    TARGETS["avx2"] = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": AVX2}
if os.environ.get("FANFILL_TEST_TARGETS") == "all":
    TARGETS |= {
        "avx2": {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": AVX2},
        "sse4.2": {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": SSE42},
        "avx2 alone": {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": AVX2_ALONE},
        "avx512": {"NUMBA_CPU_NAME": "x86-64-v4", "NUMBA_CPU_FEATURES": AVX512},
    }


def runs_here(settings: dict[str, str]) -> bool:
    """Whether this machine has all that the target may use."""
    named = re.findall(r"[+]([^,]+)", settings.get("NUMBA_CPU_FEATURES", ""))
    return (
        not settings
        or (X86 and all(HOST.get(feature) for feature in named))
        or "generic" in settings.values()
    )


TARGETS = {target: settings for target, settings in TARGETS.items() if runs_here(settings)}

PROGRAM = """
import hashlib, json, sys
import numpy as np
from numba import config
from fanfill import initializers as init
from fanfill.dtypes import STORAGES
from fanfill.distributions import recipe
from fanfill_kernels.compile import cpu

forms = {
    "uniform": init.uniform(-0.3, 0.3),
    "uniform_range": init.uniform(-0.7, 1.6),
    "normal": init.normal(0.1, 0.6),
    "truncated_central": init.truncated_normal(0.1, 0.6, -1.9, 1.3),
    "truncated": init.truncated_normal(0.1, 0.6, -2.7, float("inf")),
}
others = {
    "uniform_range": ("bfloat16", "float64"),
    "normal": ("float16", "float64"),
    "truncated_central": ("float64",),
    "truncated": ("bfloat16", "float64"),
}
if sys.argv[1:] != ["all"]:
    others = {"uniform_range": ("bfloat16",), "normal": ("float64",)}
hashes, assembly, libraries = {}, {}, {}
def compile(self, real=cpu.Compiled.compile):  # once: what is looked into is what runs
    code = real(self)
    libraries[self.name] = code.library
    return code
cpu.Compiled.compile = compile
for form, law in forms.items():
    for dtype in ("float32", *others.get(form, ())):
        made = recipe(law, (1,), dtype)
        assert made.form == form
        out = np.empty(150_001, STORAGES[dtype].lanes)
        run = cpu.kernels(form, dtype).run
        run(out, 2**34 - 70_001, (1, 2, 3, 4), made.params)
        hashes[form + " " + dtype] = hashlib.sha256(out.tobytes()).hexdigest()
        assembly[form + " " + dtype] = libraries[run.name].get_asm_str()
settings = {"name": config.CPU_NAME, "features": config.CPU_FEATURES}
json.dump(settings | {"hashes": hashes, "assembly": assembly}, sys.stdout)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each target's process reports; all of them run at once, each with a cache of its own."""
    processes = {}
    for target, settings in TARGETS.items():
        environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("NUMBA_")}
        environment |= settings | {"FANFILL_CACHE_DIR": str(tmp_path_factory.mktemp(target))}
        which = os.environ.get("FANFILL_TEST_TARGETS", "")
        processes[target] = begin(PROGRAM, which, environment=environment)
    found = {}
    for target, process in processes.items():
        ended = assert_ends(process, 300)
        assert ended.code == 0, ended
        found[target] = json.loads(ended.out)
    if not any(name.startswith("NUMBA_") for name in os.environ):  # then that is what others have
        for case, text in found["host"]["assembly"].items():
            assemblies.keep(*case.split(), text)
    return found


def operands(assembly: str, operation: str) -> set[str]:
    """Register files (xmm, ymm, zmm) that instructions matching `operation` work on."""
    return {
        register
        for operands_of in re.findall(rf"^\s+{operation}\s+(.*)$", assembly, re.MULTILINE)
        for register in re.findall(r"%([xyz]mm)\d", operands_of)
    }


def assert_vectorised(assembly: str, registers: set[str], double: bool) -> None:
    """Words and arithmetic are both made in the widest registers; nothing uses others."""
    letter = "d" if double else "s"
    width = max(registers)
    assert width in operands(assembly, r"v?pmul(?:udq|lq|ld|uludq)")
    assert width in operands(assembly, rf"v?mulp{letter}")
    assert operands(assembly, r"\S+") <= registers


def assert_no_fused_multiply_add(assembly: str) -> None:
    assert not re.findall(r"^\s+(?:vfn?m(?:add|sub)\S*|fn?m(?:add|sub)|fml[as])\s.*$", assembly, re.MULTILINE)


def test_every_target_gives_the_same_bits(results: dict[str, dict[str, Any]]) -> None:
    expected = results["host"]["hashes"]
    assert len(set(expected.values())) == len(expected) >= 7
    for target, found in results.items():
        assert found["hashes"] == expected, target


def test_each_target_is_the_one_that_was_asked_for(results: dict[str, dict[str, Any]]) -> None:
    assert {"generic", "host"} <= set(results) == set(TARGETS)
    wanted = HOST.get("avx512f") or (HOST.get("avx2") and os.environ.get("FANFILL_TEST_TARGETS") == "all")
    assert ("avx2" in results) == bool(X86 and wanted and HOST.get("fma"))
    for target, settings in TARGETS.items():
        assert results[target]["name"] == settings.get("NUMBA_CPU_NAME")
        assert results[target]["features"] == settings.get("NUMBA_CPU_FEATURES")
    # SSE4.1 came with a blend of its own, which plain x86-64 does not have.
    blends = {target for target, found in results.items() if holds(found["assembly"], r"\w*blendv\w+")}
    assert "generic" not in blends
    assert "sse4.2" not in TARGETS or "sse4.2" in blends


def holds(assembly: dict[str, str], operation: str) -> bool:
    """Whether any of the kernels has such an instruction."""
    return any(operands(text, operation) for text in assembly.values())


def test_no_target_fuses_a_multiply_and_an_add(results: dict[str, dict[str, Any]]) -> None:
    for found in results.values():
        for assembly in found["assembly"].values():
            assert_no_fused_multiply_add(assembly)


def widths() -> dict[str, set[str]]:
    """The register files that each target may use, the widest of them in the hot loops."""
    if not X86:
        return {target: set() for target in TARGETS}
    narrow, wide, widest = {"xmm"}, {"xmm", "ymm"}, {"xmm", "ymm", "zmm"}
    return {
        "generic": narrow,
        "sse4.2": narrow,
        "avx2": wide,
        "avx2 alone": wide,
        "avx512": widest,
        "host": widest if HOST.get("avx512f") else wide if HOST.get("avx2") else narrow,
    }


@pytest.mark.parametrize("target", TARGETS)
def test_the_hot_loops_use_the_targets_widest_registers(
    results: dict[str, dict[str, Any]], target: str
) -> None:
    for case, assembly in results[target]["assembly"].items():
        allowed = widths()[target]
        if allowed:
            assert_vectorised(assembly, allowed, case.endswith("float64"))


def test_the_assembly_checks_can_fail(results: dict[str, dict[str, Any]]) -> None:
    narrow = "\tpmuludq\t%xmm1, %xmm0\n\tmulps\t%xmm1, %xmm2\n"
    assert_vectorised(narrow, {"xmm"}, False)
    for wrong in ("\tvmovups\t%zmm1, (%rax)\n", "\tvaddps\t%ymm1, %ymm0, %ymm0\n"):
        with pytest.raises(AssertionError):
            assert_vectorised(narrow + wrong, {"xmm"}, False)
    for scalar in (narrow.replace("mulps", "mulss"), narrow.replace("pmuludq", "imulq")):
        with pytest.raises(AssertionError):
            assert_vectorised(scalar, {"xmm"}, False)
    with pytest.raises(AssertionError):
        assert_no_fused_multiply_add(narrow + "\tvfmadd213ps\t%ymm1, %ymm2, %ymm3\n")
