"""The words that arguments may be, as types: editors complete them, type checkers refuse wrong ones."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["BackendName", "DeviceName", "DtypeName", "FanMode", "FormatName", "Mode", "ScaledName"]

Mode: TypeAlias = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
FanMode: TypeAlias = Literal["fan_in", "fan_out"]
"""What torch's ``kaiming_*`` take."""
ScaledName: TypeAlias = Literal["normal", "truncated_normal", "uniform"]
DtypeName: TypeAlias = Literal[
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
]
BackendName: TypeAlias = Literal["numba", "numpy", "cuda"]
# Any number may follow "cuda:", and programs make that text from a rank: so a device may be any string.
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"] | str
FormatName: TypeAlias = Literal["safetensors", "npy", "zarr", "dcp"]
