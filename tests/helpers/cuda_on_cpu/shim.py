"""The kernels compiled by g++ and run on the CPU, thread by thread."""

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fanfill_kernels.cuda.geometry import Launch, packed, taken
from fanfill_kernels.formats import FORMATS
from fanfill_kernels.forms import forms_of

HERE = Path(__file__).parent
# One IEEE operation at a time here, too.
FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas")
COMPUTED = [(form, dtype) for dtype in FORMATS for form in forms_of(dtype)]
NAMES = [
    *(f"{form}_{dtype}" for form, dtype in COMPUTED),
    *(f"normal_centred_{dtype}" for form, dtype in COMPUTED if form == "normal"),
    *(f"constant_{bits}" for bits in (8, 16, 32, 64)),
]


def pointers(arguments: Any) -> Any:
    """What cuLaunchKernel takes for arguments: an array of their addresses. Keep it as long as it is used."""
    kept = [ctypes.create_string_buffer(argument, len(argument)) for argument in arguments]
    made = (ctypes.c_void_p * len(kept))(*map(ctypes.addressof, kept))
    made.kept = kept  # type: ignore[attr-defined]
    return made


class Shim:
    """The kernels of one source text, or some of them, built in a folder: runs of `names`, boxes of `boxes`.

    For all of them g++ takes 24 s at -O2, 11 s at -O1, 7 s at -Og and 5 s at -O0, which is enough for few
    values: the 5 * 10^7 that test_cuda_source.py draws take 6 s more at -O0 than at -O1, and as long at -Og.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        level: str = "-Og",
        names: Iterable[str] = NAMES,
        boxes: Iterable[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fill.cpp").write_text(source)
        exports = [f"EXPORT({name})\n" for name in names] + [f"EXPORT_BOX({name})\n" for name in boxes]
        (folder / "names.h").write_text("".join(exports))
        library = folder / "shim.so"
        defines = [
            f'-D{name}="{folder / file}"' for name, file in (("SOURCE", "fill.cpp"), ("NAMES", "names.h"))
        ]
        command = [
            "g++",
            level,
            *FLAGS,
            "-shared",
            "-fPIC",
            *defines,
            str(HERE / "shim.cpp"),
            "-o",
            str(library),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self.library = ctypes.CDLL(str(library))

    def launch(self, one: Launch, only: range | None = None) -> None:
        """Run one launch on host memory, or some of its thread blocks alone."""
        some = range(one.blocks) if only is None else only
        self.library.run_only(some.start, some.stop)
        getattr(self.library, f"launch_{one.entry}")(one.blocks, one.threads, pointers(one.arguments))

    def values(self, form: str, dtype: str, words: Any, params: Any) -> Any:
        """The bits of the values of Philox blocks whose words are given, four a block."""
        made = np.empty(words.size // 4 * (2 if dtype == "float64" else 4), f"<u{FORMATS[dtype].itemsize}")
        form, params = taken(form, params)
        call = getattr(self.library, f"values_{form}_{dtype}")
        given = pointers([packed(form, dtype, params)])
        whence, whither = (a.ctypes.data_as(ctypes.c_void_p) for a in (words, made))
        call(whence, ctypes.c_uint64(words.size // 4), ctypes.c_void_p(given[0]), whither)
        return made
