"""One law for each form of kernel, and a key."""

import math

from fanfill import initializers as init

KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
LAWS = {
    "uniform": init.uniform(-0.3, 0.3),
    "uniform_clamped": init.uniform(-0.3, 0.3, endpoint=False),
    "uniform_range": init.uniform(-0.7, 1.6),
    "normal": init.normal(0.1, 0.6),
    "truncated_central": init.truncated_normal(0.1, 0.6, -1.9, 1.3),
    "truncated": init.truncated_normal(0.1, 0.6, -2.7, math.inf),
}
