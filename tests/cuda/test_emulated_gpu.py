"""``pytest --with-emulated-gpu``: the device is there in this process's children, and for CuPy alone."""

from __future__ import annotations

import importlib.util

import pytest
from cuda_on_cpu.usable import SITE
from processes import HELPERS, child

PROGRAM = """
assert ff.backends()[2] == ("cuda", True, None, None), ff.backends()
assert type(ff.draw(0, LAW, seed=0, device="auto")).__module__.startswith("cupy")
assert type(ff.draw(0, LAW, seed=0)) is np.ndarray
from fanfill.cli import main
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main(["info"]) == 0
assert "emulated sm_90" in out.getvalue(), out.getvalue()
from types import SimpleNamespace
from fanfill.cuda import backend as cuda
runtime = SimpleNamespace(getDeviceCount=lambda: 0, CUDARuntimeError=OSError)
assert "no device" in cuda.find(SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
"""


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="the emulation needs CuPy")
def test_children_see_the_device_and_draw_on_the_cpu_all_the_same() -> None:
    child(PROGRAM, fresh=True, seconds=120.0, PYTHONPATH=f"{SITE}:{HELPERS}")
