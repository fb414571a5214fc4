"""Fixtures of the tests of fanfill.jax."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fanfill.backends import _host_choice


@pytest.fixture
def compiling_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw by NumPy: to compile a kernel for each law and dtype takes a second, and other tests do that."""
    monkeypatch.setenv("FANFILL_BACKEND", "numpy")
    _host_choice.cache_clear()
    yield
    _host_choice.cache_clear()
