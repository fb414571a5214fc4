"""fanfill: Xavier, He and kindred draws into any buffer, in parallel, with the same bits everywhere."""

from fanfill.backends import backends, select_backend
from fanfill.cpu.threads import get_threads, set_threads
from fanfill.errors import BackendUnavailableError
from fanfill.fans import fans, gain
from fanfill.fill import draw, fill, words
from fanfill.initializers import (
    Initializer,
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    initializer,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from fanfill.many import fill_many
from fanfill.seeds import seed_from
from fanfill_kernels import STREAM_VERSION, __version__

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
    "fill_many",
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
    "seed_from",
    "select_backend",
    "set_threads",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "words",
    "xavier_normal",
    "xavier_uniform",
]


def __dir__() -> list[str]:
    return __all__
