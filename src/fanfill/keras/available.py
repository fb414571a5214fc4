"""Whether there is a Keras new enough; imported before anything else of this package."""

from __future__ import annotations

import re

OLDEST = (3, 10)


def assert_available() -> None:
    """Raise an ImportError that says what to install, unless Keras, new enough, can be imported."""
    remedy = "pip install 'fanfill[keras]', and a backend for it: jax, torch or tensorflow"
    oldest = ".".join(map(str, OLDEST))
    try:
        import keras
    except ImportError as error:  # also where the backend is missing that KERAS_BACKEND asks for
        raise ImportError(
            f"fanfill.keras: expected Keras {oldest} or newer, and its backend; got none that can be "
            f"imported ({error}); {remedy}"
        ) from error
    if tuple(map(int, re.findall(r"\d+", keras.__version__)[:2])) < OLDEST:
        raise ImportError(
            f"fanfill.keras: expected Keras {oldest} or newer; got {keras.__version__}; {remedy}"
        )


assert_available()
