"""The statistics of ``benchmarks/quality.py``, compiled once in a run: four files of tests use them."""

from __future__ import annotations

import numba
import pytest
import shared
from numba.core.dispatcher import Dispatcher


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> None:
    """Have Numba keep them in the run's own folder, where another worker finds them."""
    import quality_checks
    import quality_passes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "CACHE_DIR", str(shared.folder() / "numba"))
        for module in (quality_passes, quality_checks):
            for made in vars(module).values():
                if isinstance(made, Dispatcher):
                    made.enable_caching()
