"""An emulated CUDA device that a whole process reports as usable: ``pytest --with-emulated-gpu``.

What the suite takes for granted where no GPU is, and is not so where one is, fails with it. The device
is that of `cuda_on_cpu.fixtures`: CuPy's arrays lie in host memory, fills run their kernels' PTX on the CPU.
What CuPy itself would launch or copy does not work, and torch and JAX see no device.

``cuda_on_cpu/site`` holds a ``sitecustomize`` that puts it into child processes too.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from cuda_on_cpu.cupy_on_host import Machine

__all__ = ["SITE", "emulated_driver", "install"]

SITE = os.path.join(os.path.dirname(__file__), "site")


@functools.cache
def machine() -> Machine:
    """The one machine of this process, with one device."""
    import cupy

    from fanfill_kernels.cuda import source

    made = Machine((90,), source)
    made.out_of_memory = lambda size: cupy.cuda.memory.OutOfMemoryError(size, 0, 0)
    cupy.cuda.set_allocator(made.allocate)
    return made


def emulated_driver(cupy: Any, real: Any) -> Any:
    """What `fanfill.cuda.driver.find` answers: emulated for CuPy itself, the truth for a stand-in."""
    return machine().driver if cupy is sys.modules.get("cupy") and hasattr(cupy, "ndarray") else real(cupy)


def install() -> None:
    """Let this process and its children see the device."""
    places = [SITE, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    sys.path.append(SITE)  # tests make a child's PYTHONPATH of it
    # By its path: this process has a sitecustomize of its own, perhaps.
    spec = spec_from_file_location("emulated_gpu", os.path.join(SITE, "sitecustomize.py"))
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))
