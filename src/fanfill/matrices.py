"""Initializers of matrices as a whole: identities, sparse and orthogonal ones.

Their values depend on more than their own place and words; `fanfill.structures` says how they are drawn.
"""

from __future__ import annotations

from fanfill.arguments import at_least_zero, integer_of, real
from fanfill.hints import hinted
from fanfill.initializers import Initializer
from fanfill.messages import shown

__all__ = ["delta_orthogonal", "dirac", "eye", "identity", "orthogonal", "sparse"]


@hinted
def identity(gain: float = 1.0) -> Initializer:
    """``gain`` where row and column are equal, zero elsewhere; two axes. Also `eye`: torch's eye_, Keras'
    Identity.

    Raises
    ------
    ValueError, TypeError
        A gain that is not finite or no real number.
    """
    return Initializer("identity", (real("gain", gain),))


eye = identity


@hinted
def dirac(groups: int = 1, *, in_axis: int = -2, out_axis: int = -1) -> Initializer:
    """A convolution that hands its inputs on: 1 where output d meets input d at the centre, else zero.

    As torch's dirac_: of each group of outputs the first ones, as many as there are inputs; the centre of a
    kernel axis of length k is k // 2. Three axes or more.

    Parameters
    ----------
    groups : int
        Of a grouped convolution, whose groups lie one after another along the output axis.
    in_axis, out_axis : int
        The layout (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1, out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        Groups that are no integer >= 1, or axes that are no integers; for a tensor's shape, see `fill`: axes
        that it has not, or outputs that cannot be divided among the groups.
    """
    number = _whole("groups", groups)
    if number < 1:
        raise ValueError(f"expected groups >= 1; got {shown(groups)}; leave it out for one group")
    axes = float(_whole("in_axis", in_axis)), float(_whole("out_axis", out_axis))
    return Initializer("dirac", (float(number), *axes))


@hinted
def sparse(sparsity: float, std: float = 0.01) -> Initializer:
    """N(0, std^2), and in each column ``ceil(sparsity * rows)`` zeros; two axes, rows first.

    Martens 2010, "Deep learning via Hessian-free optimization"; as torch's sparse_. Which rows are zero
    follows from seed, name and column alone, whatever the dtype, and their number is exact; the other values
    are those of ``normal(0, std)``. A part of a tensor costs the words of whole columns.

    Parameters
    ----------
    sparsity : float
        In [0, 1].
    std : float
        Finite, >= 0.

    Raises
    ------
    ValueError, TypeError
        A sparsity outside [0, 1]; a negative or infinite std; what is no real number.
    """
    share = real("sparsity", sparsity)
    if not 0.0 <= share <= 1.0:
        raise ValueError(
            f"expected a sparsity in [0, 1]; got {shown(sparsity)}; it is the share of zeros in each column"
        )
    return Initializer("sparse", (share, at_least_zero("std", std)))


@hinted
def orthogonal(gain: float = 1.0, *, out_axis: int = -1) -> Initializer:
    """``gain`` times a random matrix whose columns, or rows if these are fewer, are orthonormal.

    Saxe, McClelland & Ganguli 2014, arXiv:1312.6120; as torch's and JAX's orthogonal and Keras' Orthogonal.
    The matrix has the outputs along one side and all other axes together along the other. It is the factor Q
    of the Gaussian matrix of the same seed and name, normals of mean 0 and std 1 in float64, with a positive
    diagonal of R: uniform among all such matrices (Mezzadri 2007).

    Computed in float64, by sums that no BLAS can round differently, and rounded once into the dtype: to 1e-11
    orthonormal in float64, and the same bits on every machine. Two axes or more.

    It takes about 16 bytes a value until it is done, and the time of a QR decomposition; 4096 x 4096 takes
    half a minute on one core. **A part of a tensor costs as much as the whole**, and the last two tensors
    that parts were drawn of are kept in memory, in their dtype, for further parts. The work is done by
    NumPy's BLAS, whose threads ``threads`` does not bound. Memory of a GPU is not filled.

    Parameters
    ----------
    gain : float
        Finite, >= 0; see `fanfill.gain`.
    out_axis : int
        The layout (\\*k, in, out) of Keras and JAX by default; torch's (out, in, \\*k) is ``out_axis=0``. Of
        two axes either gives the same values.

    Raises
    ------
    ValueError, TypeError
        A gain that is negative, not finite or no real number; an axis that is no integer.
    """
    return Initializer("orthogonal", (at_least_zero("gain", gain), float(_whole("out_axis", out_axis))))


@hinted
def delta_orthogonal(gain: float = 1.0, *, in_axis: int = -2, out_axis: int = -1) -> Initializer:
    """`orthogonal` at the centre of a convolution's kernel, zero elsewhere; no more inputs than outputs.

    Xiao et al. 2018, arXiv:1806.05393, "Dynamical isometry and a mean field theory of CNNs"; as JAX's. The
    centre of a kernel axis of length k is (k - 1) // 2. Three axes or more. All else as in `orthogonal`.

    Parameters
    ----------
    gain : float
        Finite, >= 0.
    in_axis, out_axis : int
        The layout (\\*k, in, out) by default; torch's (out, in, \\*k) is ``in_axis=1, out_axis=0``.

    Raises
    ------
    ValueError, TypeError
        A gain that is negative, not finite or no real number; axes that are no integers.
    """
    axes = float(_whole("in_axis", in_axis)), float(_whole("out_axis", out_axis))
    return Initializer("delta_orthogonal", (at_least_zero("gain", gain), *axes))


def _whole(what: str, value: object) -> int:
    number = integer_of(value)
    if number is None:
        raise TypeError(f"expected an integer as {what}; got {shown(value)}; give an int")
    return number
