"""Finds out whether kernels can be compiled and run here, with a tiny one.

It uses every part of ``numba_internals.py`` that a kernel needs. If it gives the right numbers, that is
remembered next to the kernels, until some part of the compiler changes: Numba, LLVM, the processor, or this
package's own code.
"""

from importlib import import_module
from typing import Any

import numpy as np

from fanfill_kernels.compile import cpu
from fanfill_kernels.compile.boxes import SPAN, copy_span
from fanfill_kernels.compile.rebinding import Body, Bound, rebind
from fanfill_kernels.lanes import loop, scratch, scratch_of, u64, unpack
from fanfill_kernels.store import keys, objects

_LAYOUT = ("[u8]", "u8", ("u8", "u8"))


def multiply(i: Any, made: Any, listed: Any, factors: Any) -> None:
    """Write one number of the list, times a factor."""
    made[i] = listed[i] * factors[0]


def number_of(first: Any, k: int) -> Any:
    """The number ``k`` places after the first."""
    return u64(first) + u64(k)


def multiples(arguments: Any) -> None:
    """(out, first, factors): write ``SPAN`` numbers from ``first`` on, each times the first factor."""
    out, first, factors = unpack(arguments)
    listed = scratch(SPAN)
    made = scratch_of(out, SPAN)
    for k in range(SPAN):
        listed[u64(k)] = number_of(first, k)
    loop(SPAN, multiply, (made, listed, factors))
    copy_span(out, 0, made, 0)


def try_out() -> None:
    """Raise whatever keeps kernels from being compiled or run here, before any fill depends on them.

    It imports and compiles, so call it through `undivided`.
    """
    if keys.numba_version() is None:
        import_module("numba")
    if cpu.interpreted():
        return
    objects.assert_executable()
    if cpu.proven():
        return
    proof = keys.of_compiler()
    _compile_and_run()
    cpu.remember(proof)


def _compile_and_run() -> None:
    from fanfill_kernels.compile.compiler import compiled

    bound: Bound = {multiply: Body(rebind(multiply, {})), number_of: number_of}
    code = compiled(multiples, bound, {}, "multiples", _LAYOUT)
    addresses = [code.address]
    if code.object_code is not None:
        addresses.append(objects.load(code.symbol, code.object_code))
    wanted = [3 * (2**40 + k) for k in range(SPAN)]
    for address in addresses:
        out = np.zeros(SPAN, np.uint64)
        objects.caller(address, _LAYOUT)(out, 2**40, (3, 5))
        if out.tolist() != wanted:
            raise ArithmeticError(f"expected {wanted}; got {out.tolist()}")
