"""Whether there is a JAX new enough; imported before anything else of this package."""

from __future__ import annotations

OLDEST = (0, 8)


def assert_available() -> None:
    """Raise an ImportError that says what to install, unless JAX is there and new enough."""
    remedy = "pip install 'fanfill[jax]', or the jax for your accelerator"
    oldest = ".".join(map(str, OLDEST))
    try:
        import jax
    except ImportError as error:
        raise ImportError(
            f"fanfill.jax: expected jax {oldest} or newer; got none ({error}); {remedy}"
        ) from error
    if jax.__version_info__[:2] < OLDEST:
        raise ImportError(f"fanfill.jax: expected jax {oldest} or newer; got {jax.__version__}; {remedy}")


assert_available()
