"""Libraries that some tests need: imported by those tests, and not by each worker that collects them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


class Lazy:
    """A module that is imported when it is first asked for a public name: pytest asks it for others."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or "pytest" in attribute:
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def needs(*libraries: str) -> None:
    """Skip the file that asks unless these are installed."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed", allow_module_level=True)
