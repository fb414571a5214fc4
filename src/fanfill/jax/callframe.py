"""What XLA hands to a custom call, read by ctypes: the C structures of ``xla/ffi/api/c_api.h``.

jaxlib ships that header, and no compiler is needed. The fields read here have not moved from jaxlib 0.4.38 to
0.10.2.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CAPTURABLE",
    "INTERNAL",
    "Api",
    "Buffer",
    "ErrorArgs",
    "Frame",
    "StreamArgs",
    "answer_metadata",
    "array",
    "error_of",
    "is_execution",
    "operand",
    "result",
    "stream",
    "text_attribute",
]

_POINTER, _INT, _INT64, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t

# XLA_FFI_Error_Code_INTERNAL, XLA_FFI_ExecutionStage_EXECUTE, XLA_FFI_Extension_Metadata
INTERNAL, _EXECUTE, _METADATA = 13, 3, 1

# XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE: XLA may capture what the handler puts on its stream, and
# run that again without calling the handler.
CAPTURABLE = 1

# XLA_FFI_DataType, of those that are drawn and of words.
_DTYPES = {
    8: np.dtype(np.uint32),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
    16: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e4m3fn),
    24: np.dtype(ml_dtypes.float8_e5m2fnuz),
    25: np.dtype(ml_dtypes.float8_e4m3fnuz),
}


def _structure(name: str, *fields: tuple[str, Any]) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


_HEAD = (("struct_size", _SIZE), ("extension", _POINTER))
_Extension = _structure("Extension", ("struct_size", _SIZE), ("type", _INT), ("next", _POINTER))
_Version = _structure("Version", *_HEAD, ("major", _INT), ("minor", _INT))
_Metadata = _structure("Metadata", ("struct_size", _SIZE), ("version", _Version), ("traits", ctypes.c_uint32))
_MetadataExtension = _structure(
    "MetadataExtension", ("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))
)
_Buffer = _structure(
    "Buffer",
    *_HEAD,
    ("dtype", _INT),
    ("data", _POINTER),
    ("rank", _INT64),
    ("dims", ctypes.POINTER(_INT64)),
)
_Span = _structure("Span", ("pointer", _POINTER), ("size", _SIZE))
_Buffers = _structure(
    "Buffers",
    *_HEAD,
    ("size", _INT64),
    ("types", ctypes.POINTER(_INT)),
    ("items", ctypes.POINTER(ctypes.POINTER(_Buffer))),
)
_Attributes = _structure(
    "Attributes",
    *_HEAD,
    ("size", _INT64),
    ("types", ctypes.POINTER(_INT)),
    ("names", ctypes.POINTER(ctypes.POINTER(_Span))),
    ("items", ctypes.POINTER(_POINTER)),
)
Frame = _structure(
    "Frame",
    ("struct_size", _SIZE),
    ("extension", ctypes.POINTER(_Extension)),
    ("api", _POINTER),
    ("context", _POINTER),
    ("stage", _INT),
    ("operands", _Buffers),
    ("results", _Buffers),
    ("attributes", _Attributes),
)
Api = _structure(
    "Api",
    *_HEAD,
    ("version", _Version),
    ("internal", _POINTER),
    ("error_create", _POINTER),
    ("error_message", _POINTER),
    ("error_destroy", _POINTER),
    ("register", _POINTER),
    ("stream_get", _POINTER),
)
ErrorArgs = _structure("ErrorArgs", *_HEAD, ("message", ctypes.c_char_p), ("code", _INT))
StreamArgs = _structure("StreamArgs", *_HEAD, ("context", _POINTER), ("stream", _POINTER))

_CreateError = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(ErrorArgs))
_GetStream = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(StreamArgs))


class Buffer(NamedTuple):
    """An operand or a result: where it is, on the host or a device, and what it holds, in C order."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def answer_metadata(frame: Any, traits: int = 0) -> bool:
    """Answer the question that XLA asks at registration; whether this frame is that question.

    Its answer is the version of the interface. (0, 1) is accepted by jaxlib 0.4.38 to 0.10.2; (0, 3), 0.10's
    own, is refused by those before 0.9, and a refused handler leaves the process without a CPU backend.
    """
    if not frame.extension or frame.extension.contents.type != _METADATA:
        return False
    metadata = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents.metadata.contents
    metadata.version.major, metadata.version.minor, metadata.traits = 0, 1, traits
    return True


def is_execution(frame: Any) -> bool:
    """Whether the call is to be run; the other stages prepare it, and have nothing to do here."""
    return bool(frame.stage == _EXECUTE)


def operand(frame: Any, number: int) -> Buffer:
    """An operand, in XLA's own memory."""
    return _buffer(frame.operands.items[number].contents)


def result(frame: Any) -> Buffer:
    """The result, in XLA's own memory."""
    return _buffer(frame.results.items[0].contents)


def text_attribute(frame: Any) -> str:
    """The only attribute, a string."""
    span = ctypes.cast(frame.attributes.items[0], ctypes.POINTER(_Span)).contents
    return ctypes.string_at(span.pointer, span.size).decode()


def error_of(frame: Any, message: str) -> int:
    """The address of an XLA_FFI_Error with that text."""
    args = ErrorArgs(ctypes.sizeof(ErrorArgs), None, message.encode(), INTERNAL)
    create = _CreateError(ctypes.cast(frame.api, ctypes.POINTER(Api)).contents.error_create)
    return int(create(ctypes.byref(args)))


def stream(frame: Any) -> int:
    """The handle of the CUDA stream on which XLA wants the work."""
    args = StreamArgs(ctypes.sizeof(StreamArgs), None, frame.context, None)
    get = _GetStream(ctypes.cast(frame.api, ctypes.POINTER(Api)).contents.stream_get)
    if get(ctypes.byref(args)):
        raise RuntimeError(
            "expected a CUDA stream from XLA; got an error; report it with the versions of jax"
        )
    return int(args.stream or 0)


def array(buffer: Buffer) -> NDArray[Any]:
    """A buffer in the host's memory."""
    address, shape, dtype = buffer
    size = math.prod(shape) * dtype.itemsize
    if not size:  # its address may be null
        return np.empty(shape, dtype)
    memory: Any = (ctypes.c_uint8 * size).from_address(address)
    made: NDArray[Any] = np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)
    return made


def _buffer(found: Any) -> Buffer:
    shape = tuple(found.dims[: found.rank]) if found.rank else ()
    return Buffer(found.data or 0, shape, _DTYPES[found.dtype])
