"""Binds a function's placeholders: the same code object, with other functions as its globals."""

from types import FunctionType
from typing import Any

Bound = dict[Any, Any]


class Body:
    """What ``lanes.loop`` runs: called in Python, or written as LLVM instructions in compiled code."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> None:
        self.function(*arguments)


def rebind(function: Any, bound: Bound, name: str = "", **constants: Any) -> FunctionType:
    """The same code under another name, whose globals hold bound functions in place of placeholders."""
    names = {
        key: bound.get(value, value) if isinstance(value, FunctionType) else value
        for key, value in function.__globals__.items()
    }
    copy = FunctionType(function.__code__, names | constants, name or function.__name__)
    copy.__qualname__ = copy.__name__
    return copy
