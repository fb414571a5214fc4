"""The same bits while the processor flushes subnormals to zero, as another library may have told it."""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
import warnings

import pytest
from forked import forked
from processes import assert_right, run

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux", reason="sets MXCSR"
)

# As `gcc -ffast-math` would have it at the load of a library, for the thread that calls.
SOURCE = """
#include <xmmintrin.h>
void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
unsigned control(void) { return _mm_getcsr(); }
"""

# The wanted bits are drawn before the switch, the others after it: with kernels compiled before or after, on
# the calling thread, on helpers that were there before, and on others that inherit the switch.
PROGRAM = """
import sys, threading, time
import numpy as np
import fanfill as ff

how, when, where = sys.argv[1:4]
tiny = 2.0**-80  # the least that may be asked for: below, values could be subnormal
laws = {
    "uniform": ff.uniform(-tiny, tiny),
    "range": ff.uniform(tiny, 3 * tiny),
    "normal": ff.normal(0.0, tiny),
    "truncated": ff.truncated_normal(0.0, tiny),
    "one-sided": ff.truncated_normal(0.0, tiny, -2.7, 9.0),
    "narrow": ff.normal(0.0, 1e-6),  # subnormal in float16 and float8, which is not the processor's affair
    "constant": ff.constant(2.0**-130),
}
def drawn(backend, threads=3):
    found = {}
    for name, law in laws.items():
        for dtype in ("float32", "float64", "float16", "bfloat16"):
            for size in (1000, 200_000):
                out = np.empty(size, "u2" if dtype == "bfloat16" else dtype)
                if dtype == "bfloat16":
                    import ml_dtypes
                    out = out.view(ml_dtypes.bfloat16)
                try:
                    ff.fill(out, law, seed=9, backend=backend, threads=threads)
                    found[name, dtype, size] = out.tobytes()
                except ValueError as error:  # refused with the same words
                    found[name, dtype, size] = str(error)
    return found

def flushes():
    # Half of the smallest normal number is nothing then.
    small = np.array([sys.float_info.min])
    return bool((small * 0.5 == 0)[0])

wanted = drawn("numpy", threads=1)  # starts no helper
assert len({bytes(v) for v in wanted.values() if not isinstance(v, str)}) > 30
assert sum(isinstance(v, str) for v in wanted.values()) < 8
if when == "after":
    assert drawn("numba") == wanted
if how == "torch":
    import torch
    assert torch.set_flush_denormal(True)
elif how == "ctypes":
    import ctypes
    library = ctypes.CDLL(sys.argv[4])
    library.flush()
    assert library.control() & 0x8040 == 0x8040
assert flushes() == (how != "nothing")
if where == "wrong":
    laws["normal"] = ff.normal(0.0, 2.0**-79)
for backend in ("numba", "numpy"):
    found = drawn(backend)
    assert found == wanted, [case for case in wanted if found[case] != wanted[case]]
if when == "before":  # helpers were started after the switch, and have it too
    on_helpers = set()
    from fanfill.cpu import threads
    def work(number):
        time.sleep(0.001)
        on_helpers.add(flushes())
        return 1
    threads.share(60, lambda: work, 3)
    assert on_helpers == {True}, on_helpers
print("right")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shared library that switches flushing on."""
    folder = tmp_path_factory.mktemp("flush")
    (folder / "flush.c").write_text(SOURCE)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "flush.so"), str(folder / "flush.c")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    return str(folder / "flush.so")


@pytest.mark.parametrize("when", ["before", "after"])
def test_flushing_to_zero_changes_no_bit_on_any_thread(library: str, when: str) -> None:
    """Switched on before or after the first fill, which compiles and starts the helpers."""
    assert_right(run(PROGRAM, "ctypes", when, "right", library))


def test_torchs_switch_changes_no_bit_either() -> None:
    pytest.importorskip("torch", reason="torch is not installed")

    def program() -> None:  # in a fork, which need not import torch for 2 s
        sys.argv = ["-c", "torch", "after", "right"]
        warnings.simplefilter("error")
        exec(PROGRAM, {"__name__": "__main__"})

    assert_right(forked(program))


def test_the_program_can_fail(library: str) -> None:
    ended = run(PROGRAM, "ctypes", "before", "wrong", library)
    assert ended.code == 1
    assert "('normal', 'float32', 1000)" in ended.err


def test_a_fill_leaves_the_switch_as_it_was(library: str) -> None:
    program = """
import ctypes, sys
import numpy as np
import fanfill as ff
library = ctypes.CDLL(sys.argv[1])
before = library.control()
ff.fill(np.empty(100_000, np.float32), ff.normal(), seed=1)
assert library.control() & ~0x3F == before & ~0x3F  # but for the flags of what has happened
library.flush()
ff.fill(np.empty(100_000, np.float32), ff.normal(), seed=1)
assert library.control() & 0x8040 == 0x8040
print("right")
"""
    assert_right(run(program, library))
