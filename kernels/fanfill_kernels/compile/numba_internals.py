"""Every use of Numba is here: another release may break it, and ``probe.py`` tries it out.

``types``, ``TypingError`` and ``numba.extending`` are public. Everything else used here is internal to Numba
and may change without notice, since Numba offers no way to get a kernel without wrappers and runtime, whose
object code can leave the process. The other modules use only LLVM's builder and these functions.
"""

from types import FunctionType
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, compiler
from numba.core.compiler_lock import global_compiler_lock
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
    """The type of one body, so that it is known when the loop is compiled."""

    def __init__(self, body: Body) -> None:
        self.body: Any = body
        function = body.function
        super().__init__(f"Body({function.__name__}, {id(body)})")


@typeof_impl.register(Body)
def _type_of_body(body: Body, _context: Any) -> BodyType:
    return BodyType(body)


register_model(BodyType)(models.OpaqueModel)


@lower_constant(BodyType)
def _constant_body(context: Any, _builder: Any, _type: Any, _value: Any) -> Any:
    return context.get_dummy_value()


# Types


def number(dtype: Any) -> Any:
    """The Numba type of a NumPy scalar."""
    return from_dtype(dtype)


def dtype_of(kind: Any) -> Any:
    """The dtype of a scalar's Numba type."""
    return as_dtype(kind)


# The address of a kernel's parameters.
ADDRESS = types.voidptr


def vector(kind: Any) -> Any:
    """The type of a contiguous array of one axis."""
    return types.Array(kind, 1, "C")


def machine_type(context: Any, kind: Any) -> Any:
    """The LLVM type of a scalar."""
    return context.get_data_type(kind)


def size_of(context: Any, kind: Any) -> int:
    """Bytes of a scalar."""
    return int(context.get_abi_sizeof(context.get_data_type(kind)))


# Values


def nothing(context: Any) -> Any:
    """The value that an operation without a result returns."""
    return context.get_dummy_value()


def context() -> Any:
    """The target context of this process."""
    return cpu_target.target_context


def undefined(context: Any, kind: Any) -> Any:
    """An undefined value of a type, for drafts."""
    return ir.Constant(context.get_value_type(kind), ir.Undefined)


def tuple_of(context: Any, builder: Any, kind: Any, members: list[Any]) -> Any:
    """A tuple of that type."""
    return context.make_tuple(builder, kind, members)


def members(builder: Any, value: Any) -> Any:
    """The members of a tuple."""
    return cgutils.unpack_tuple(builder, value)


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The address of an array's first item."""
    return make_array(kind)(context, builder, array).data


def array_at(context: Any, builder: Any, kind: Any, data: Any, size: Any) -> Any:
    """A one-dimensional array on memory that it does not own."""
    array = make_array(kind)(context, builder)
    itemsize = ir.Constant(size.type, size_of(context, kind.dtype))
    pointer = builder.bitcast(data, array.data.type)
    populate_array(array, pointer, [size], [itemsize], itemsize, meminfo=None, parent=None)
    return array._getvalue()


# Functions


class Code(NamedTuple):
    """A compiled function: its name, address and object code (None if that is not self-contained)."""

    symbol: str
    address: int
    object_code: bytes | None
    library: Any  # Numba's; the address is valid as long as it lives


def helper(function: FunctionType) -> Any:
    """A function that only compiled code calls."""
    return register_jitable(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def features() -> list[str]:
    """The features of the target processor, such as "+avx2"; "-" marks missing ones."""
    found: list[str] = cpu_target.target_context.codegen()._tm_features.split(",")
    return found


class Draft(NamedTuple):
    """A function in LLVM's language, neither linked nor optimized: what it calls may still be missing."""

    symbol: str
    library: Any  # Numba's


def draft(function: FunctionType) -> Draft:
    """Have Numba write a function whose only argument is an address."""
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    flags = compiler.Flags()
    # Division as in C: Python's check for zero would raise an exception, which a kernel cannot report.
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_compile = True
    made = compiler.compile_extra(typing, target, function, (types.intp,), types.void, flags, {})
    return Draft(made.fndesc.llvm_func_name, made.library)


def module(name: str) -> Any:
    """An empty LLVM module for the functions that a draft calls."""
    return context().create_module(name)


def machine_code(draft: Draft, missing: Any, symbol: str) -> Code:
    """Compile a draft with the functions that it calls, under a name that no other code has."""
    with global_compiler_lock:
        library = context().codegen().create_library(symbol)
        library.enable_object_caching()
        library._final_module.link_in(draft.library._final_module, preserve=True)
        library._final_module.get_function(draft.symbol).name = symbol
        library.add_ir_module(missing)
        for helper in draft.library._linking_libraries:
            library.add_linking_library(helper)
        return Code(symbol, library.get_pointer_to_function(symbol), _object_code(library), library)


def _object_code(library: Any) -> bytes | None:
    """The library's object code, or None if it calls something that only Numba's process has."""
    outside = {f.name for f in library._final_module.functions if f.is_declaration}
    if any(not name.startswith("llvm.") for name in outside):
        return None
    (_, kind, state) = library.serialize_using_object_code()
    return bytes(state[0]) if kind == "object" else None
