"""NVRTC as some wheels ship it: it is not told to look for its second half beside itself."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from processes import assert_right, run

from fanfill.cuda import nvrtc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="paths in libraries as ELF has them")

PROGRAM = """
import ctypes, sys
from fanfill.cuda import nvrtc
text = 'extern "C" __global__ void f(float* out) { out[threadIdx.x] = 1.0f; }'
if sys.argv[2:]:
    nvrtc._BUILTINS = sys.argv[2]
assert nvrtc.Compiler(sys.argv[1]).compile(text, "f.cu", 90).startswith(b"\\x7fELF")
print("right")
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The newest NVRTC here and its second half, elsewhere, without the first's path to the second."""
    found = Path(nvrtc.compiler().path)
    for file in found.parent.glob("libnvrtc-builtins.so.*"):
        shutil.copy(file, tmp_path)
    code = found.read_bytes()
    assert code.count(b"$ORIGIN") == 1
    alone = tmp_path / found.name
    alone.write_bytes(code.replace(b"$ORIGIN", b"/ORIGIN"))
    return alone


def test_it_compiles_where_nothing_else_has_loaded_its_second_half(library: Path) -> None:
    assert_right(run(PROGRAM, str(library)))


def test_without_its_second_half_it_does_not(library: Path) -> None:
    """The negative control: the copy is one that cannot find it."""
    ended = run(PROGRAM, str(library), "nothing")
    assert ended.code == 1
    assert "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE" in ended.err
