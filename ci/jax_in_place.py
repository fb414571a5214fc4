"""A conftest for JAX's own tests (ci/jax.sh): fanfill's functions in the place of jax.nn.initializers'."""

import jax

import fanfill.jax as fj

for name in [name for name in dir(jax.nn.initializers) if name in fj.__all__]:
    setattr(jax.nn.initializers, name, getattr(fj, name))
assert jax.nn.initializers.he_normal is fj.he_normal
