"""The only exception class of the package; all other errors are built-in ones, such as ValueError."""


class BackendUnavailableError(RuntimeError):
    """A backend that the caller named exists but cannot run here.

    The message says what is missing and how to get it. A named backend never falls back to another one.
    """
