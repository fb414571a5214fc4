"""The committed hashes are drawn by every backend."""

import functools
import hashlib
import json
import subprocess
import sys

import pytest
from cases import FORMS, OF_FORM, assert_covers

import fanfill as ff
from fanfill.dtypes import STORAGES
from fanfill.selftest import golden
from fanfill.streams import substream
from fanfill.structures import STRUCTURES
from tests import golden as rewrite
from tests.kernels.test_philox import KNOWN, hexadecimal, words_from

EXPECTED = golden.expected()
digest = functools.cache(rewrite.digest)


def test_the_golden_file_covers_every_case() -> None:
    assert set(EXPECTED) == set(map(str, golden.cases()))


def test_every_distribution_and_every_form_has_a_golden_case() -> None:
    assert_covers(golden.INITIALIZERS.values())
    assert {law.distribution for law, _ in golden.MATRICES.values()} == STRUCTURES.keys()
    assert OF_FORM.keys() == set(FORMS), "a form needs a golden case that leads to it"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["uint32", *STORAGES])
def test_every_initializer_draws_its_golden_bytes(dtype: str, backend: str) -> None:
    drawn = {str(case): digest(case, backend=backend) for case in golden.cases() if case.dtype == dtype}
    assert drawn == {case: EXPECTED[case] for case in drawn}


def test_golden_words_are_those_of_a_philox_written_apart() -> None:
    for place, (count, start, seed, name) in golden.WORDS.items():
        number = substream(name)
        key = (seed & (2**32 - 1), seed >> 32, number & (2**32 - 1), number >> 32)
        case = golden.Case("words", "uint32", place)
        wanted = words_from(start, count, key)
        assert EXPECTED[str(case)] == hashlib.sha256(wanted.tobytes()).hexdigest()


def test_the_published_words_are_in_the_file_of_known_answers() -> None:
    (block,) = (
        answer
        for rounds, ctr, key, answer in map(hexadecimal, KNOWN)
        if rounds == 10 and not any(ctr) and not any(key)
    )
    bits = b"".join(word.to_bytes(4, "little") for word in block)
    assert EXPECTED["words / uint32 / published"] == hashlib.sha256(bits).hexdigest()


def test_golden_float32_hashes_tell_the_initializers_and_the_places_apart() -> None:
    # Narrow types may agree where a few small values round alike; in float32 a shared hash proves little.
    hashes = [value for case, value in EXPECTED.items() if " / float32 / " in case]
    assert len(hashes) == len(golden.INITIALIZERS) * len(golden.PLACES) + 3 * len(golden.MATRICES)
    assert len(set(hashes)) == len(hashes)


def test_what_version_2_left_alone_has_the_hashes_of_version_1() -> None:
    """Words, symmetric uniforms, normals, constants, and truncated normals in float64."""

    def kept(case: golden.Case) -> bool:
        distribution = getattr(golden.INITIALIZERS.get(case.initializer), "distribution", "words")
        if distribution == "truncated_normal":
            return case.dtype == "float64"
        return "half-open" not in case.initializer and case.initializer != "uniform"

    added = ("float8_e4m3fnuz", "float8_e5m2fnuz")  # since

    lines = sorted(
        f"{case} {EXPECTED[str(case)]}"
        for case in golden.cases()
        if case.dtype not in added and case.initializer not in golden.MATRICES and kept(case)
    )
    assert len(lines) == 406
    assert (
        hashlib.sha256("\n".join(lines).encode()).hexdigest()
        == "21b64acbfeefb3cf3bb6af17dae3f1466aae4975b4da06c50a00da3550f41d5d"
    )


def test_hashes_of_another_stream_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ff, "STREAM_VERSION", 7)
    golden.expected.cache_clear()
    with pytest.raises(
        RuntimeError, match=r"golden hashes of stream version 7; got those of version 2; .*install"
    ):
        golden.expected()
    monkeypatch.undo()
    assert golden.expected() == EXPECTED


def test_the_script_writes_what_is_committed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "FILE", tmp_path / "golden.json")
    monkeypatch.setattr(rewrite, "digest", digest)  # those that NumPy has drawn above
    rewrite.main()
    assert json.loads((tmp_path / "golden.json").read_text())["sha256"] == EXPECTED


def test_the_list_of_cases_loads_no_backend() -> None:
    code = "import sys; from fanfill.selftest import golden\n"
    code += "print([m for m in ('numba', 'cupy', 'ml_dtypes') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
