"""Machine code that hands out Philox words one by one, for libraries that ask for them through C pointers.

Three small functions read from a block of words, which the compiled kernel of ``words`` makes at full vector
width. They are written with LLVM's builder, without Numba, and kept in the cache as the kernels are: a
process that finds the kernel there never imports Numba.

A function's only argument is the address of a *state*: slots of 8 bytes, then the block::

    AT        how many words of the block have been handed out
    KERNEL    the address of the kernel
    RECORD    the kernel's arguments, as `objects.Layout` has them: address and length of the block, the
              number of its first word, and the key
    RESULT    the kernel's result and exception, which nobody reads
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numpy.typing import NDArray

from fanfill_kernels.compile import cpu
from fanfill_kernels.philox import Key
from fanfill_kernels.process.undivided import inside, undivided
from fanfill_kernels.store import cache as disk
from fanfill_kernels.store import keys, objects

# Words of a block. Doubles in M/s with blocks of 64, 256, 1,024 and 4,096: 189, 371, 414, 382 (Zen 4).
BLOCK = 1024
AT, KERNEL, RECORD, RESULT, HEAD = 0, 1, 2, 9, 16
SIZE, START, KEY = RECORD + 1, RECORD + 2, RECORD + 3
_SLOTS = HEAD + BLOCK // 2
_LINE = 64  # the block begins with a cache line, as the state does
_PREFIX = "fanfill_next_"


class Code(NamedTuple):
    """Addresses of the functions, in C ``uint64_t f(void *)`` and so on, and of the kernel."""

    uint64: int
    uint32: int
    double: int
    kernel: int


@cache
def code() -> Code:
    """The functions and the kernel, each loaded from disk, or compiled and kept there.

    Raises
    ------
    objects.ForbiddenError
        If the process may not run code that it makes.
    RuntimeError
        If this thread is in the middle of a compilation.
    """
    if inside():
        raise RuntimeError(
            "expected the first generator of a process outside of a compilation; got one in a finalizer, an "
            "import hook or a trace function that runs within it; make one before"
        )
    return undivided(_loaded)


def new_state() -> NDArray[np.uint64]:
    """Memory for a state, which its owner keeps alive; `place` says what it hands out."""
    memory = np.zeros(_SLOTS + _LINE // 8, np.uint64)
    state = memory[-memory.ctypes.data // 8 % (_LINE // 8) :][:_SLOTS]
    state[KERNEL], state[RECORD], state[SIZE] = code().kernel, state.ctypes.data + 8 * HEAD, BLOCK
    return state


def place(state: NDArray[np.uint64], key: Key, position: int) -> None:
    """Make word ``position``, modulo 2^64, the next one. Its block is made when it is asked for."""
    state[KEY : KEY + 4] = key
    state[START], state[AT] = (position - BLOCK) % 2**64, BLOCK


def position_of(state: NDArray[np.uint64]) -> int:
    """The number of the next word, modulo 2^64."""
    return (int(state[START]) + int(state[AT])) % 2**64


def key_of(state: NDArray[np.uint64]) -> Key:
    """The key whose words it hands out."""
    k0, k1, k2, k3 = state[KEY : KEY + 4].tolist()
    return k0, k1, k2, k3


class _Functions:
    """The three functions' object code, with the interface of `cpu.Compiled`."""

    name = "callbacks"
    symbols = tuple(_PREFIX + name for name in Code._fields[:3])

    def key(self) -> str:
        """The key under which it is kept, for the processor that the environment names."""
        return f"{self.name}-{keys.of_writer(written, binding.get_process_triple())}"

    def keep(self) -> str:
        """Compile and keep it, without loading it; return its key."""
        return undivided(self._compiled_and_kept)[0]

    def load(self) -> list[int]:
        """The functions' addresses: loaded from disk, or compiled and kept there."""
        code = disk.load(self.key())
        return objects.load_all(self.symbols, self._compiled_and_kept()[1] if code is None else code)

    def _compiled_and_kept(self) -> tuple[str, bytes]:
        key = self.key()
        code = _compiled()
        if self.key() == key:  # else it names something that this process did not compile, or only in part
            disk.store(key, code)
        return key, code


FUNCTIONS = _Functions()


def _loaded() -> Code:
    objects.assert_executable()
    uint64, uint32, double = FUNCTIONS.load()
    return Code(uint64, uint32, double, cpu.loops_of("words", "uint32").run.address())


def _compiled() -> bytes:
    """Object code for every processor of this architecture."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(opt=3, jit=True)
    module = binding.parse_assembly(written(binding.get_process_triple()))
    module.verify()
    return bytes(machine.emit_object(module))


def written(triple: str) -> str:
    """The functions in LLVM's language.

    Addresses are integers until they are used: so the code is right for LLVM with typed pointers and without.
    No pass optimizes it, since that of llvmlite 0.43 and those of later releases share no interface.
    """
    i64, i32, double = ir.IntType(64), ir.IntType(32), ir.DoubleType()
    module = ir.Module()
    module.triple = triple

    def number(value: int) -> Any:
        return ir.Constant(i64, value)

    def slot(builder: Any, state: Any, index: int) -> Any:
        return builder.inttoptr(builder.add(state, number(8 * index)), i64.as_pointer())

    def word(builder: Any, state: Any, at: Any) -> Any:
        first = builder.add(state, number(8 * HEAD))
        return builder.load(
            builder.inttoptr(builder.add(first, builder.shl(at, number(2))), i32.as_pointer())
        )

    def function(name: str, result: Any) -> tuple[Any, Any]:
        made = ir.Function(module, ir.FunctionType(result, [i64]), name)
        return made, ir.IRBuilder(made.append_basic_block())

    refill, b = function("fanfill_refill", ir.VoidType())
    refill.attributes.add("noinline")
    refill.linkage = "internal"
    (state,) = refill.args
    start, result = slot(b, state, START), b.add(state, number(8 * RESULT))
    b.store(b.add(b.load(start), number(BLOCK)), start)
    kernel = b.inttoptr(b.load(slot(b, state, KERNEL)), ir.FunctionType(i32, [i64, i64, i64]).as_pointer())
    b.call(kernel, [result, b.add(result, number(8)), b.add(state, number(8 * RECORD))])
    b.ret_void()

    one, b = function(f"{_PREFIX}uint32", i32)
    (state,) = one.args
    at = b.load(slot(b, state, AT))
    with b.if_then(b.icmp_unsigned(">=", at, number(BLOCK)), likely=False):
        b.call(refill, [state])
        b.store(number(1), slot(b, state, AT))
        b.ret(word(b, state, number(0)))
    b.store(b.add(at, number(1)), slot(b, state, AT))
    b.ret(word(b, state, at))

    def two(name: str, kind: Any, made_of: Callable[[Any, Any], Any]) -> None:
        """A function that returns a value made of the next two words, the lower one first."""
        pair, b = function(f"{_PREFIX}{name}", kind)
        (state,) = pair.args

        def give(low: Any, high: Any) -> None:
            whole = b.or_(b.zext(low, i64), b.shl(b.zext(high, i64), number(32)))
            b.ret(made_of(b, whole))

        at = b.load(slot(b, state, AT))
        with b.if_then(b.icmp_unsigned(">=", at, number(BLOCK - 1)), likely=False):
            low = b.call(one, [state])  # the first one may be the block's last
            give(low, b.call(one, [state]))
        b.store(b.add(at, number(2)), slot(b, state, AT))
        give(word(b, state, at), word(b, state, b.add(at, number(1))))

    two("uint64", i64, lambda b, whole: whole)
    # As NumPy makes doubles: 53 bits times 2^-53. The bits are positive as a signed number, too.
    two(
        "double",
        double,
        lambda b, whole: b.fmul(b.sitofp(b.lshr(whole, number(11)), double), ir.Constant(double, 2.0**-53)),
    )
    return str(module)
