"""fanfill: Xavier, He and kindred draws into any buffer, in parallel, with the same bits everywhere."""

from typing import TYPE_CHECKING

from fanfill import imports
from fanfill.backends import backends, select_backend
from fanfill.cpu.threads import get_threads, set_threads
from fanfill.errors import BackendUnavailableError
from fanfill.fans import fans, gain
from fanfill.fill import draw, fill, words
from fanfill.initializers import Initializer, constant, normal, ones, truncated_normal, uniform, zeros
from fanfill.matrices import delta_orthogonal, dirac, eye, identity, orthogonal, sparse
from fanfill.named import initializer
from fanfill.scaled import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from fanfill_kernels import STREAM_VERSION, __version__

if TYPE_CHECKING:
    from fanfill.bitgenerator import Philox
    from fanfill.many import fill_many
    from fanfill.seeds import seed_from

__all__ = [
    "STREAM_VERSION",
    "BackendUnavailableError",
    "Initializer",
    "Philox",
    "__version__",
    "backends",
    "constant",
    "delta_orthogonal",
    "dirac",
    "draw",
    "eye",
    "fans",
    "fill",
    "fill_many",
    "gain",
    "get_threads",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "initializer",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "seed_from",
    "select_backend",
    "set_threads",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "words",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

# Names of modules that need more than `import fanfill` may load, or that most programs never ask for: they
# are imported when first asked for.
_LATER = {"Philox": "fanfill.bitgenerator", "fill_many": "fanfill.many", "seed_from": "fanfill.seeds"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(imports.module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
