"""NumPy's own tests of bit generators, run with `fanfill.Philox` in the place of NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

import fanfill as ff
from fanfill.bitgenerator import Stream

direct = pytest.importorskip("numpy.random.tests.test_direct", reason="this NumPy ships no tests")
smoke = pytest.importorskip("numpy.random.tests.test_smoke", reason="this NumPy ships no tests")

if not hasattr(smoke.RNG, "_create_rng"):
    pytest.skip("the tests of this NumPy, older than 2.4, are called otherwise", allow_module_level=True)


def words_of(seed, name):
    """What NumPy's own generators have as CSV files: the seed, and its first thousand words of 64 bits."""
    found = ff.words(np.empty(2000, np.uint32), seed=seed, name=name)
    return {"seed": [seed, name], "data": found.view("<u8").astype(np.uint64)}


class TestDirect(direct.Base):
    """Words, doubles, floats and normals by NumPy's formulas; state, pickling, ctypes and cffi."""

    @classmethod
    def setup_class(cls):
        cls.bit_generator = ff.Philox
        cls.bits = 64
        cls.dtype = np.uint64
        cls.data1 = words_of(0xDEADBEAF, "testset 1")
        cls.data2 = words_of(0, 0)
        cls.seed_error_type = TypeError
        cls.invalid_init_types = [(3.2,), ([None],), (1, None), (1, 2, None)]
        cls.invalid_init_values = [(-1,), (2**64,), (1, -1), (1, 2, 2**63)]

    def test_getstate(self):
        """NumPy's asks for a SeedSequence; the rest is the same."""
        bit_generator = self.bit_generator(*self.data1["seed"])
        state, stream = bit_generator.__getstate__()
        direct.assert_state_equal(bit_generator.state, state)
        assert isinstance(stream, Stream)


class TestSmoke(smoke.RNG):
    """Every method of Generator, in every shape; states, advance, jumps, pickling."""

    @classmethod
    def _create_rng(cls):
        seed = [12345, "smoke"]
        rng = np.random.Generator(ff.Philox(*seed))
        smoke.warmup(rng)
        return smoke.RNGData(ff.Philox, 2**62 + 2**31 + 2**15 + 1, seed, rng, None)

    def test_entropy_init(self):
        """NumPy's seed themselves from the system if they get nothing; this one never does."""
        assert smoke.comp_state(ff.Philox().state, ff.Philox().state)

    def test_seed_array(self):
        """A seed is one integer."""
        with pytest.raises(TypeError, match=r"seed: expected an integer in \[0, 2\*\*64\); got array"):
            ff.Philox(np.arange(4))


def test_the_classes_are_those_that_numpy_runs():
    for ours, theirs, least in ((TestDirect, direct.Base, 15), (TestSmoke, smoke.RNG, 40)):
        names = [name for name in dir(theirs) if name.startswith("test")]
        assert len(names) >= least
        assert all(callable(getattr(ours, name)) for name in names)


def test_numpys_test_of_spawning_passes(monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", lambda: np.random.Generator(ff.Philox(5, "parent")))
    direct.test_generator_spawning()
