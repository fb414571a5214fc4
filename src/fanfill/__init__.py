"""fanfill: Xavier, He and kindred draws into any buffer, in parallel, with the same bits everywhere."""

from fanfill.backends import backends as backends
from fanfill.backends import select_backend as select_backend
from fanfill.errors import BackendUnavailableError as BackendUnavailableError
from fanfill.fans import fans as fans
from fanfill.fans import gain as gain
from fanfill.fill import draw as draw
from fanfill.fill import fill as fill
from fanfill.fill import words as words
from fanfill.initializers import (
    Initializer as Initializer,
)
from fanfill.initializers import (
    constant as constant,
)
from fanfill.initializers import (
    glorot_normal as glorot_normal,
)
from fanfill.initializers import (
    glorot_uniform as glorot_uniform,
)
from fanfill.initializers import (
    he_normal as he_normal,
)
from fanfill.initializers import (
    he_uniform as he_uniform,
)
from fanfill.initializers import (
    initializer as initializer,
)
from fanfill.initializers import (
    kaiming_normal as kaiming_normal,
)
from fanfill.initializers import (
    kaiming_uniform as kaiming_uniform,
)
from fanfill.initializers import (
    lecun_normal as lecun_normal,
)
from fanfill.initializers import (
    lecun_uniform as lecun_uniform,
)
from fanfill.initializers import (
    normal as normal,
)
from fanfill.initializers import (
    truncated_normal as truncated_normal,
)
from fanfill.initializers import (
    uniform as uniform,
)
from fanfill.initializers import (
    variance_scaling as variance_scaling,
)
from fanfill.initializers import (
    xavier_normal as xavier_normal,
)
from fanfill.initializers import (
    xavier_uniform as xavier_uniform,
)
from fanfill.threads import get_threads as get_threads
from fanfill.threads import set_threads as set_threads

__version__ = "0.1.0"

# The version of the number contract: as long as it stays, so does every bit.
STREAM_VERSION = 1

__all__ = [
    "STREAM_VERSION",
    "BackendUnavailableError",
    "Initializer",
    "__version__",
    "backends",
    "constant",
    "draw",
    "fans",
    "fill",
    "gain",
    "get_threads",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "initializer",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "select_backend",
    "set_threads",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "words",
    "xavier_normal",
    "xavier_uniform",
]
