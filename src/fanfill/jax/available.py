"""Whether there is a JAX new enough; imported before anything else of this package."""

from __future__ import annotations

from fanfill.imports import require

__all__ = ["assert_available"]


def assert_available() -> None:
    """Raise ImportError unless there is."""
    remedy = "pip install 'fanfill[jax]', or the jax for your accelerator"
    require("fanfill.jax", "jax", "jax", (0, 8), remedy)


assert_available()
