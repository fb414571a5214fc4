"""What initial weights do: signals through a deep network, and a fill beside its law.

The numbers need NumPy alone, a picture matplotlib (extra ``plot``).
"""

from fanfill.show.histograms import Histogram, histogram
from fanfill.show.models import Layer, propagation_of
from fanfill.show.propagation import ACTIVATIONS, Propagation, propagation

__all__ = [
    "ACTIVATIONS",
    "Histogram",
    "Layer",
    "Propagation",
    "histogram",
    "propagation",
    "propagation_of",
]
