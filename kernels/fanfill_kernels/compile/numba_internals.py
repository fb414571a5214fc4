"""Every use of Numba is here: what another release of it may break, and what ``probe.py`` tries out.

``types``, ``TypingError`` and what ``numba.extending`` offers are published for extensions. All else below is
Numba's own business and changes without notice: a kernel without wrappers or a runtime, whose object code
leaves the process, is nothing that Numba offers. The other modules know LLVM's builder and these functions.
"""

from types import FunctionType
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, compiler
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.imputils import lower_constant
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable, register_model, typeof_impl
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import as_dtype, from_dtype

from fanfill_kernels.compile.rebinding import Body
from fanfill_kernels.store import keys

__all__ = ["TypingError", "intrinsic", "types"]

keys.note_module()


class BodyType(types.Opaque):  # type: ignore[misc]
    """The type of one body: which function it is, is known when the loop is compiled."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        super().__init__(f"Body({function.__name__}, {id(function)})")


@typeof_impl.register(Body)
def _type_of_body(body: Body, _context: Any) -> BodyType:
    return BodyType(body.function)


register_model(BodyType)(models.OpaqueModel)


@lower_constant(BodyType)
def _constant_body(context: Any, _builder: Any, _type: Any, _value: Any) -> Any:
    return context.get_dummy_value()


# Types


def number(dtype: Any) -> Any:
    """The type of a NumPy scalar."""
    return from_dtype(dtype)


def dtype_of(kind: Any) -> Any:
    """The dtype of a scalar's type."""
    return as_dtype(kind)


def vector(kind: Any) -> Any:
    """The type of a contiguous array of one axis."""
    return types.Array(kind, 1, "C")


def machine_type(context: Any, kind: Any) -> Any:
    """What LLVM holds a scalar as."""
    return context.get_data_type(kind)


def size_of(context: Any, kind: Any) -> int:
    """Bytes of a scalar."""
    return int(context.get_abi_sizeof(context.get_data_type(kind)))


# Values


def nothing(context: Any) -> Any:
    """What an operation without a result returns."""
    return context.get_dummy_value()


def context() -> Any:
    """What this process compiles in."""
    return cpu_target.target_context


def undefined(context: Any, kind: Any) -> Any:
    """Any value of a type, to write drafts with."""
    return ir.Constant(context.get_value_type(kind), ir.Undefined)


def tuple_of(context: Any, builder: Any, kind: Any, members: list[Any]) -> Any:
    """A tuple of that type."""
    return context.make_tuple(builder, kind, members)


def members(builder: Any, value: Any) -> Any:
    """What a tuple holds."""
    return cgutils.unpack_tuple(builder, value)


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where an array begins."""
    return make_array(kind)(context, builder, array).data


def array_at(context: Any, builder: Any, kind: Any, data: Any, size: Any) -> Any:
    """An array of one axis on memory that somebody else keeps."""
    array = make_array(kind)(context, builder)
    itemsize = ir.Constant(size.type, size_of(context, kind.dtype))
    pointer = builder.bitcast(data, array.data.type)
    populate_array(array, pointer, [size], [itemsize], itemsize, meminfo=None, parent=None)
    return array._getvalue()


# Functions


class Code(NamedTuple):
    """A compiled function: its name and place, its object code (None if that needs more than itself)."""

    symbol: str
    address: int
    object_code: bytes | None
    library: Any  # Numba's; the address is good as long as it lives


def helper(function: FunctionType) -> Any:
    """A function for compiled code alone."""
    return register_jitable(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def features() -> list[str]:
    """The features of the processor that is compiled for, "+avx2" for one that it has."""
    found: list[str] = cpu_target.target_context.codegen()._tm_features.split(",")
    return found


def machine_code(function: FunctionType) -> Code:
    """Compile a function of one address."""
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    flags = compiler.Flags()
    # Division as C has it: Python's check for zero would be an exception, which a kernel has nobody to tell.
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    made = compiler.compile_extra(typing, target, function, (types.intp,), types.void, flags, {})
    library, symbol = made.library, made.fndesc.llvm_func_name
    return Code(symbol, library.get_pointer_to_function(symbol), _object_code(library), library)


def _object_code(library: Any) -> bytes | None:
    """The library's object code, or None if it calls something that only Numba's process has."""
    outside = {f.name for f in library._final_module.functions if f.is_declaration}
    if any(not name.startswith("llvm.") for name in outside):
        return None
    (_, kind, state) = library.serialize_using_object_code()
    return bytes(state[0]) if kind == "object" else None
