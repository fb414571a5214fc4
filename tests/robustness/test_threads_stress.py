"""What threads share (plans, kernels, programs, the pool) draws no wrong bit however they meet, GIL or not.

Free-threaded Python runs Python code of several threads at once; under the GIL the interpreter is told to
switch every 10 us. This file needs NumPy and pytest alone.
"""

from __future__ import annotations

from processes import assert_fails, child

# Threads begin together, on caches that are empty, and each fills everything in an order of its own. Three
# plans are remembered at most, so that they are forgotten all the time; the largest buffers go to the pool.
STRESS = """
import random

sys.setswitchinterval(1e-5)
sys.modules["fanfill.fill"]._MOST_PLANS = 3
warnings.simplefilter("ignore", RuntimeWarning)
laws = [ff.normal(0.1, 0.5), ff.uniform(-1, 2), ff.he_uniform(), ff.truncated_normal(), ff.constant(0.3)]
cases = [
    (law, shape, dtype, backend)
    for law in laws
    for shape in ((3, 1), (40, 7), (401, 349))
    for dtype in ("float32", "float16")
    for backend in BACKENDS
]

def one(law, shape, dtype, backend, turned):
    buffer = np.zeros(shape[::-1], dtype).T if turned else np.zeros(shape, dtype)
    how = {} if backend is None else {"backend": backend}
    if shape[0] > 40:
        how["threads"] = 3
    ff.fill(buffer, law, seed=5, name="stress", **how)
    return buffer.tobytes()

found, errors, gate = [], [], threading.Barrier(6)

def work(number):
    order = random.Random(number).sample(cases, len(cases))
    try:
        gate.wait()
        for case in order:
            turned = bool(number % 2)
            found.append((case, turned, one(*case, turned)))
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert len(found) == 6 * len(cases)

wanted = {}
for case, turned, drawn in found:
    name = case[:3]
    if name not in wanted:
        law, shape, dtype, _ = case
        wanted[name] = one(law, shape, dtype, "numpy", False)
    assert drawn == wanted[name], f"wrong bits: {case}"
"""
USABLE = """
BACKENDS = [None, *(b.name for b in ff.backends()[:2] if b.usable)]
"""


def test_threads_that_meet_on_empty_caches_draw_the_right_bits() -> None:
    child(USABLE + STRESS, seconds=300)


def test_memory_that_threads_share_is_noticed() -> None:
    shared = """
from fanfill_kernels.blocks import replay as blocks

arena = blocks.Workspace().arena
def share(self):
    self.arena, self.replays = arena, {}
blocks.Workspace.__init__ = share
BACKENDS = ["numpy"]
"""
    assert_fails(shared + STRESS, "wrong bits")
