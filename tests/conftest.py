import os

# Before anything imports jax: eight CPU devices, so that every mesh up to that size can be made.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# LLVM's optimisations are most of the time to compile a tiny program and none of what is tested; XLA's own passes stay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says more of the machine than of the program
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def mesh():
    """`mesh(data=2, model=2)`: a mesh of that many of the test devices."""
    from llama3_jax.sharding.axes import make_mesh
    from llama3_jax.sharding.mesh_config import MeshConfig

    return lambda **axes: make_mesh(MeshConfig(**axes))


@pytest.fixture(scope="module")
def one_device(mesh):
    """Sets the mesh of a single device for the tests of a module."""
    import jax

    with jax.set_mesh(mesh()):
        yield


@pytest.fixture(scope="session")
def lake():
    """`gs://lake`, for the whole session: clients keep the address they found first."""
    import google_storage

    with google_storage.running():
        yield f"gs://{google_storage.BUCKET}"


@pytest.fixture(scope="session")
def intermediates():
    """`intermediates(f, *args)`: every equation of the program of f, the bodies of loops and calls included."""
    import jax

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                inner = getattr(parameter, "jaxpr", parameter)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return lambda f, *args: list(walk(jax.make_jaxpr(f)(*args).jaxpr))
