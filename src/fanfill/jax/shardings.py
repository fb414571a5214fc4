"""Where an array is to lie: what callers give as a sharding, together with the mesh of `jax.set_mesh`."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from fanfill.messages import shown

__all__ = ["assert_sharding", "known", "within_trace"]


def assert_sharding(given: Any) -> None:
    """Raise a TypeError unless it is None, a PartitionSpec or a Sharding."""
    if not (given is None or isinstance(given, PartitionSpec | Sharding)):
        raise TypeError(
            f"out_sharding: expected None, a PartitionSpec or a NamedSharding; got {shown(given)}"
        )


def known(given: Any) -> Sharding | None:
    """The sharding of an array that is made now; None: on JAX's default device.

    Without one given it is replicated over the mesh of `jax.set_mesh`, as JAX's own arrays are. (On one
    device alone it could not be used with arrays of the mesh.)

    Raises
    ------
    ValueError
        A PartitionSpec without a mesh; within a trace, where JAX does not tell its mesh.
    """
    if isinstance(given, NamedSharding) and isinstance(given.mesh, jax.sharding.AbstractMesh):
        given = given.spec
    if isinstance(given, Sharding):
        return given
    if jax.sharding.get_abstract_mesh().empty:
        if given is None:
            return None
        _refuse(given)
    return NamedSharding(jax.sharding.get_mesh(), given or PartitionSpec())


def within_trace(given: Any) -> tuple[Any, PartitionSpec]:
    """The mesh and the partition of an array that a compiled program makes.

    Raises
    ------
    ValueError
        A PartitionSpec without a mesh.
    TypeError
        A sharding that has no names.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if isinstance(given, PartitionSpec):
        if mesh.empty:
            _refuse(given)
        return mesh, given
    if not isinstance(given, NamedSharding):
        raise TypeError(
            f"out_sharding: expected a PartitionSpec or a NamedSharding while tracing; got {shown(given)}; "
            "shard by jax.jit's out_shardings"
        )
    return given.mesh if mesh.empty else mesh, given.spec


def _refuse(partition: PartitionSpec) -> None:
    raise ValueError(
        f"out_sharding: expected a mesh with the PartitionSpec; got {partition} alone; call under "
        "jax.set_mesh(mesh), or give a NamedSharding"
    )
