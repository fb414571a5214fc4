"""Initializers of whole matrices: identity, dirac, sparse, orthogonal, delta_orthogonal."""

from __future__ import annotations

import math
import pickle
import re
import threading
from itertools import product
from typing import Any

import numpy as np
import pytest

import fanfill as ff
from fanfill.backends import HostKernels, get
from fanfill.cpu import structures
from fanfill.dtypes import dtype_of
from fanfill.expressions import initializer_from
from fanfill.named import NAMED
from fanfill.selftest import golden

KEY: dict[str, Any] = {"seed": 3, "name": "w"}
TORCH = {"in_axis": 1, "out_axis": 0}
CASES = [
    *golden.MATRICES.values(),
    (ff.identity(), (1, 5)),
    (ff.dirac(4, **TORCH), (8, 1, 3)),
    (ff.dirac(2), (4, 3, 5, 6)),
    (ff.sparse(0.99), (301, 3)),
    (ff.orthogonal(out_axis=1), (5, 9, 4)),
    (ff.delta_orthogonal(**TORCH), (9, 9, 1, 2, 3)),
]
IDS = [f"{law} {shape}" for law, shape in CASES]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "_kept", {})


def drawn(law: ff.Initializer, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    return np.asarray(ff.draw(shape, law, dtype=dtype, **KEY))


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "float8_e4m3fnuz"])
@pytest.mark.parametrize(("law", "shape"), CASES, ids=IDS)
def test_the_bits_are_those_of_the_whole_in_every_layout_part_and_job(
    law: ff.Initializer, shape: tuple[int, ...], dtype: str
) -> None:
    kind = dtype_of(dtype)
    whole = drawn(law, shape, dtype)
    for turned in (np.empty(shape[::-1], kind).T, np.empty((*shape[:-1], 2 * shape[-1]), kind)[..., ::-2]):
        assert np.array_equal(bits(ff.fill(turned, law, **KEY)), bits(whole))
    for low, high in product((0, 1), (0, 1)):
        box = tuple(slice(min(low, n - 1), max(n - high, 1)) for n in shape)
        part = np.empty(whole[box].shape, kind)
        ff.fill(part, law, global_shape=shape, offset=[side.start for side in box], **KEY)
        assert np.array_equal(bits(part), bits(whole[box])), box
    for first, last in ((0, 1), (whole.size // 3, whole.size), (1, whole.size)):
        flat = np.empty(last - first, kind)
        ff.fill(flat, law, global_shape=shape, offset=first, **KEY)
        assert np.array_equal(bits(flat), bits(whole.reshape(-1)[first:last]))
    other, again = np.empty(shape, kind), np.empty(shape, kind)
    ff.fill_many({"v": (other, law), "w": (again, law)}, seed=3)
    assert np.array_equal(bits(again), bits(whole))
    assert np.array_equal(bits(ff.draw(shape, law, dtype=dtype, threads=1, **KEY)), bits(whole))


@pytest.mark.parametrize("law", [ff.identity(2.0), ff.sparse(0.4), ff.orthogonal()], ids=str)
def test_large_ones_are_cut_into_tiles_and_are_the_same(law: ff.Initializer) -> None:
    shape = (190, 700)
    whole = drawn(law, shape, "float32")
    for threads in (1, 2):
        turned = ff.fill(np.empty(shape[::-1], np.float32).T, law, threads=threads, **KEY)
        assert np.array_equal(bits(turned), bits(whole))
    seen: list[tuple[int, int]] = []
    by_numpy = np.empty(shape, np.float32)
    ff.fill(by_numpy, law, backend="numpy", progress=lambda *at: seen.append(at), **KEY)
    assert np.array_equal(bits(by_numpy), bits(whole))
    assert seen[-1] == (whole.size, whole.size)


@pytest.mark.parametrize(("law", "shape"), CASES, ids=IDS)
def test_moments_and_bounds_are_those_of_the_values(law: ff.Initializer, shape: tuple[int, ...]) -> None:
    values = drawn(law, shape)
    if law.distribution in ("identity", "dirac"):
        assert math.isclose(values.mean(), law.mean(shape), rel_tol=1e-12)
        assert math.isclose(values.std(), law.std(shape), rel_tol=1e-12)
    elif law.distribution == "sparse":
        assert law.mean(shape) == 0.0
        assert abs(values.std() / law.std(shape) - 1) < (0.05 if values.size > 5000 else 0.9)
    else:
        assert law.mean(shape) == 0.0
        assert math.isclose(math.sqrt((values**2).mean()), law.std(shape), rel_tol=1e-9)
    low, high = law.bounds(shape, "float64")
    assert low <= values.min() <= values.max() <= high


def test_a_law_is_a_value_with_a_text() -> None:
    for law, _ in CASES:
        assert eval(repr(law), vars(ff)) == law == pickle.loads(pickle.dumps(law))
        assert initializer_from(repr(law)) == law
        assert law.structured
        assert law.scaling is None
    assert repr(ff.dirac(2, **TORCH)) == "dirac(2, in_axis=1, out_axis=0)"
    assert repr(ff.sparse(0.1)) == "sparse(0.1, 0.01)"
    assert ff.orthogonal() != ff.orthogonal(out_axis=0)
    assert not ff.zeros().structured
    assert (ff.zeros(), ff.ones(), ff.eye) == (ff.constant(0), ff.constant(1), ff.identity)


def test_identity_and_dirac_have_their_value_where_they_are_said_to() -> None:
    for shape in ((4, 4), (3, 7), (7, 3), (1, 1)):
        assert np.array_equal(drawn(ff.identity(0.5), shape), 0.5 * np.eye(*shape))
    for groups, shape in ((1, (4, 6, 3)), (1, (6, 4, 2, 5)), (2, (6, 2, 3, 4, 5)), (3, (9, 5, 1, 1))):
        expected = np.zeros(shape)
        outputs = shape[0] // groups
        for group in range(groups):
            for d in range(min(outputs, shape[1])):
                expected[(group * outputs + d, d, *(n // 2 for n in shape[2:]))] = 1.0
        assert np.array_equal(drawn(ff.dirac(groups, **TORCH), shape), expected)
        moved = np.moveaxis(expected, (0, 1), (-1, -2))
        assert np.array_equal(drawn(ff.dirac(groups), moved.shape), moved)


def test_sparse_has_the_same_number_of_zeros_in_each_column_and_normals_elsewhere() -> None:
    rows, columns = 40, 300
    for sparsity in (0.01, 0.3, 0.5, 0.975):
        values = drawn(ff.sparse(sparsity, 0.5), (rows, columns))
        zero = values == 0.0
        assert (zero.sum(axis=0) == math.ceil(sparsity * rows)).all()
        assert np.array_equal(values[~zero], drawn(ff.normal(0.0, 0.5), (rows, columns))[~zero])
        for dtype in ("float32", "bfloat16"):
            assert np.array_equal(drawn(ff.sparse(sparsity, 0.5), (rows, columns), dtype) == 0, zero)
    # Each row is as likely as any other, and columns are independent: a wrong rank would show in both.
    zero = drawn(ff.sparse(0.5), (rows, 4000)) == 0.0
    deviations = (zero.sum(axis=1) - 2000) / math.sqrt(4000 / 4 * (1 + 1 / (rows - 1)))
    assert abs(deviations).max() < 4.5
    together = (zero[:, 1:] & zero[:, :-1]).sum(axis=0).mean()
    assert abs(together - rows / 4) < 4.5 * math.sqrt(rows / 16 * rows / (rows - 1)) / math.sqrt(3999)


def test_without_zeros_sparse_is_a_normal_and_with_nothing_else_zero() -> None:
    assert np.array_equal(drawn(ff.sparse(0.0, 2.0), (9, 8)), drawn(ff.normal(0.0, 2.0), (9, 8)))
    for law in (ff.sparse(1.0), ff.sparse(0.5, std=0.0)):
        assert not drawn(law, (9, 8)).any()


def test_of_equal_words_the_first_rows_are_zero() -> None:
    numpy = get("numpy")
    real = numpy.kernels("words", "uint32")

    def box(out: Any, *arguments: Any) -> None:
        real.box(out, *arguments)
        out &= 3

    few = numpy._replace(kernels=lambda form, dtype: HostKernels(real.run, box, real.run))
    key, rows, columns, zeros = (1, 2, 3, 4), 50, 20, 17
    found = structures.ranks(key, rows, columns, zeros, 0, columns, few)
    words = np.empty(rows * columns, np.uint32)
    box(words, 0, (words.size,), (1,), key, ())
    words = words.reshape(rows, columns)
    zero = (words < found.words) | ((words == found.words) & (np.arange(rows)[:, None] <= found.rows))
    order = np.argsort(words, axis=0, kind="stable")[:zeros]
    for column in range(columns):
        assert set(np.flatnonzero(zero[:, column])) == set(order[:, column])


@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (40, 30)), (-1, (20, 50)), (0, (20, 50)), (0, (20, 5, 7)), (-1, (3, 4, 50))]
)
def test_orthogonal_is_the_factor_of_the_gaussian_matrix(axis: int, shape: tuple[int, ...]) -> None:
    def matrix(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(shape[0], -1) if axis == 0 else values.reshape(-1, shape[-1])
        return flat if len(flat) >= len(flat.T) else flat.T

    q, r = np.linalg.qr(matrix(drawn(ff.normal(), shape)))
    q *= np.sign(np.diag(r))
    made = matrix(drawn(ff.orthogonal(out_axis=axis), shape))
    assert abs(made - q).max() < 1e-10
    assert abs(made.T @ made - np.eye(len(made.T))).max() < 1e-11
    single = matrix(drawn(ff.orthogonal(2.0, out_axis=axis), shape, "float32")).astype(np.float64) / 2
    assert abs(single.T @ single - np.eye(len(made.T))).max() < 1e-6
    assert np.array_equal(matrix(drawn(ff.orthogonal(out_axis=axis), shape, "float32")), made.astype("f4"))


def test_of_two_axes_either_may_be_that_of_the_outputs() -> None:
    for shape in ((5, 9), (9, 5), (6, 6)):
        assert np.array_equal(drawn(ff.orthogonal(), shape), drawn(ff.orthogonal(out_axis=0), shape))


def test_delta_orthogonal_keeps_the_length_of_each_signal() -> None:
    values = drawn(ff.delta_orthogonal(), (3, 4, 6, 17))
    centre = values[1, 1].copy()
    assert abs(centre @ centre.T - np.eye(6)).max() < 1e-11
    values[1, 1] = 0.0
    assert not values.any()


def test_orthogonal_prefers_no_direction() -> None:
    """Each element of a uniform 3 x 3 matrix has mean 0, mean square 1/3 and mean fourth power 1/5."""
    made = np.array([ff.draw((3, 3), ff.orthogonal(), seed=seed, dtype="float64") for seed in range(400)])
    for power, mean, spread in ((1, 0.0, 1 / 3), (2, 1 / 3, 1 / 5 - 1 / 9), (4, 1 / 5, 1 / 9 - 1 / 25)):
        error = math.sqrt(spread / len(made))
        assert (abs((made**power).mean(axis=0) - mean) < 4.5 * error).all(), power
    # Without the sign fix the diagonal of Q would be negative more often than not.
    assert abs((np.linalg.det(made) > 0).mean() - 0.5) < 4.5 * 0.5 / math.sqrt(len(made))


def test_an_empty_tensor_is_filled_with_nothing() -> None:
    for law in (ff.identity(), ff.sparse(0.5), ff.orthogonal()):
        for shape in ((0, 4), (4, 0), (0, 0)):
            assert drawn(law, shape).shape == shape
            assert law.std(shape) >= 0.0
    for law in (ff.dirac(), ff.delta_orthogonal()):
        assert drawn(law, (0, 4, 5)).shape == (0, 4, 5)
        assert drawn(law, (3, 0, 5)).shape == (3, 0, 5)
        assert math.isfinite(law.std((3, 0, 0)) + law.mean((3, 0, 0)))


def test_parts_of_an_orthogonal_tensor_share_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    count, real = 0, structures.orthonormal

    def counted(rows: Any) -> Any:
        nonlocal count
        count += 1
        return real(rows)

    monkeypatch.setattr(structures, "orthonormal", counted)

    def part(name: str, first: int = 0, gain: float = 1.0) -> np.ndarray:
        law = ff.orthogonal(gain)
        return ff.fill(np.empty(30, np.float32), law, seed=1, name=name, global_shape=(9, 10), offset=first)

    parts = [part("a", first) for first in (0, 30, 60)]
    assert count == 1
    whole = ff.draw((9, 10), ff.orthogonal(), seed=1, name="a")
    assert np.array_equal(np.concatenate(parts), whole.reshape(-1))
    assert count == 2  # a whole tensor is not kept, and asks nobody
    part("b")
    part("a", 30)
    assert count == 3  # two are kept
    part("c")
    part("b")
    assert count == 5
    assert len(structures._kept) == 2
    part("b", gain=0.5)
    assert count == 6
    threads = [threading.Thread(target=part, args=("d", first)) for first in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 7


REFUSED = [
    (lambda: ff.sparse(1.5), r"a sparsity in \[0, 1\]; got 1.5; it is the share of zeros in each column"),
    (lambda: ff.sparse(0.5, -1.0), r"a std >= 0; got -1.0"),
    (lambda: ff.dirac(0), r"groups >= 1; got 0; leave it out for one group"),
    (lambda: ff.orthogonal(-1.0), r"a gain >= 0; got -1.0"),
    (lambda: ff.identity(math.inf), r"a finite gain; got inf"),
    (
        lambda: drawn(ff.identity(), (3,)),
        r"a shape of 2 axes for identity; got \(3,\); use another initializer",
    ),
    (
        lambda: drawn(ff.sparse(0.1), (3, 4, 5)),
        r"a shape of 2 axes for sparse; got \(3, 4, 5\); reshape the tensor, or",
    ),
    (lambda: drawn(ff.dirac(), (3, 4)), r"a shape of at least 3 axes for dirac; got \(3, 4\)"),
    (lambda: drawn(ff.orthogonal(), (3,)), r"a shape of at least 2 axes for orthogonal; got \(3,\)"),
    (
        lambda: drawn(ff.delta_orthogonal(), (3, 3)),
        r"a shape of at least 3 axes for delta_orthogonal; got \(3, 3\)",
    ),
    (
        lambda: drawn(ff.dirac(3), (2, 2, 4)),
        r"outputs that can be divided among 3 groups; got 4, axis 2 of \(2, 2, 4\); correct groups or",
    ),
    (lambda: drawn(ff.dirac(in_axis=2), (2, 3, 4)), r"different axes .*; got in_axis=2, out_axis=-1, which"),
    (
        lambda: drawn(ff.orthogonal(out_axis=2), (2, 3)),
        r"out_axis among the axes of \(2, 3\); got 2; count from 0, or from -1",
    ),
    (
        lambda: drawn(ff.delta_orthogonal(), (3, 5, 4)),
        r"at least as many outputs as inputs for delta_orthogonal, .*; got 5 inputs and 4 outputs in",
    ),
    (lambda: drawn(ff.identity(1e6), (2, 2), "float16"), r"a gain within 65504.0, the largest finite value"),
    (lambda: drawn(ff.orthogonal(1e6), (2, 2), "float16"), r"a gain within 65504.0, the largest finite"),
    (lambda: drawn(ff.orthogonal(1e-30), (2, 2), "float32"), r"a gain of 0 or at least 2\^-80 in magnitude"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"expected {message}"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ff.dirac(1.5), r"expected an integer as groups; got 1.5; give an int"),
        (lambda: ff.dirac(True), r"expected an integer as groups; got True"),
        (lambda: ff.orthogonal(out_axis="out"), r"expected an integer as out_axis; got 'out'"),
        (lambda: ff.delta_orthogonal(in_axis=0.5), r"expected an integer as in_axis; got 0.5"),
        (lambda: ff.sparse("half"), r"expected a real number as sparsity; got 'half'"),
        (lambda: ff.identity(scale=2.0), r"arguments gain for identity; got scale; write gain for scale"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_a_distribution_is_asked_for_the_right_parameters() -> None:
    with pytest.raises(ValueError, match=r"expected the parameters gain, out_axis for orthogonal, or none"):
        ff.Initializer("orthogonal", (1.0,))
    with pytest.raises(ValueError, match=r"expected a distribution that fans can scale, .*got 'sparse'"):
        ff.Initializer("sparse", (), ff.he_normal().scaling)


TORCH_NAMES = (
    "uniform_ normal_ trunc_normal_ constant_ ones_ zeros_ eye_ dirac_ xavier_uniform_ xavier_normal_"
)
TORCH_NAMES += " kaiming_uniform_ kaiming_normal_ orthogonal_ sparse_"
JAX_NAMES = "constant delta_orthogonal glorot_normal glorot_uniform he_normal he_uniform kaiming_normal"
JAX_NAMES += " kaiming_uniform lecun_normal lecun_uniform normal ones orthogonal truncated_normal uniform"
JAX_NAMES += " variance_scaling xavier_normal xavier_uniform zeros"
KERAS_NAMES = "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones"
KERAS_NAMES += " Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros STFT"
KERAS_NAMES += " IdentityInitializer OrthogonalInitializer"


@pytest.mark.parametrize("name", f"{TORCH_NAMES} {JAX_NAMES} {KERAS_NAMES}".split())
def test_every_name_of_torch_jax_and_keras_is_one_or_leads_to_one(name: str) -> None:
    if name in NAMED:
        return
    with pytest.raises(ValueError, match=r"\((did you mean '(\w+)'( or '\w+')?\?|Keras' .*copy)") as caught:
        ff.initializer(name)
    if name != "STFT":
        plain = name.replace("Random", "").replace("Initializer", "").replace("trunc_", "truncated_")
        assert (
            caught.value.args[0]
            .partition("did you mean '")[2]
            .startswith(f"{re.sub('(?<=[a-z])(?=[A-Z])', '_', plain).lower().strip('_')}'")
        )
