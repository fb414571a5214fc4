"""fanfill for PyTorch: torch.nn.init's functions, whole models, sharded tensors.

The functions have the names, arguments, errors and warnings of ``torch.nn.init``: all that it has. torch's
weights have the layout (out, in, \\*k), and fans are computed accordingly. The values differ from torch's by
design: they depend only on a seed, a name and the element's index. ``docs/pytorch.md`` has recipes.
"""

from torch.nn.init import calculate_gain, constant_, ones_, zeros_

from fanfill.torch.acceleration import accelerated
from fanfill.torch.functions import (
    kaiming_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
    variance_scaling_,
    xavier_normal_,
    xavier_uniform_,
)
from fanfill.torch.matrices import (
    constant,
    dirac,
    dirac_,
    eye,
    eye_,
    kaiming_normal,
    kaiming_uniform,
    normal,
    orthogonal,
    orthogonal_,
    sparse,
    sparse_,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from fanfill.torch.modules import init_module
from fanfill.torch.recipes import recipe

__all__ = [
    "accelerated",
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "init_module",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "recipe",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]
