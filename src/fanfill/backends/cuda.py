"""CUDA devices: not yet. The record exists so that a device buffer gets a plain answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from fanfill.backends import Backend
from fanfill.errors import BackendUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REASON = "this version of fanfill has no CUDA kernels yet; fill a host array and copy it over"


def unusable() -> str | None:
    return _REASON


def kernels(form: str, dtype: str) -> NoReturn:
    raise BackendUnavailableError(f"backend 'cuda' is not usable: {_REASON}")


def scatter(target: NDArray[Any]) -> NoReturn:
    raise BackendUnavailableError(f"backend 'cuda' is not usable: {_REASON}")


def span(itemsize: int, threads: int) -> int:
    return 1 << 20


BACKEND = Backend("cuda", "cuda", unusable, kernels, scatter, span, span)
