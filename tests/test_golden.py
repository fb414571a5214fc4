"""The committed hashes are drawn by every backend."""

import json

import golden
import pytest

import fanfill as ff

EXPECTED = json.loads(golden.FILE.read_text())


def test_the_golden_file_is_of_this_stream_version_and_covers_every_case() -> None:
    assert EXPECTED["stream"] == ff.STREAM_VERSION
    assert set(EXPECTED["sha256"]) == {" / ".join(case) for case in golden.cases()}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_every_initializer_draws_its_golden_bytes(dtype: str, backend: str) -> None:
    drawn = {
        " / ".join(case): golden.digest(*case, backend=backend) for case in golden.cases() if case[1] == dtype
    }
    expected = {case: EXPECTED["sha256"][case] for case in drawn}
    assert drawn == expected


def test_golden_float32_hashes_tell_the_initializers_and_the_places_apart() -> None:
    # Narrow types may agree where a few small values round alike; in float32 a shared hash proves little.
    hashes = [value for case, value in EXPECTED["sha256"].items() if " / float32 / " in case]
    constants = [value for case, value in EXPECTED["sha256"].items() if case.startswith("constant / float32")]
    assert len(set(hashes)) == len(hashes)
    assert len(set(constants)) == len(constants)
