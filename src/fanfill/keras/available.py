"""Whether there is a Keras new enough; imported before anything else of this package."""

from __future__ import annotations

from fanfill.imports import require

__all__ = ["assert_available"]


def assert_available() -> None:
    """Raise ImportError unless there is, and the backend that KERAS_BACKEND asks for."""
    remedy = "pip install 'fanfill[keras]', and a backend for it: jax, torch or tensorflow"
    require("fanfill.keras", "keras", "Keras", (3, 10), remedy)


assert_available()
