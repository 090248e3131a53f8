import pytest


@pytest.fixture(scope="session")
def interpreted():
    """TPU kernels are interpreted, in memory that is NaN until it is written."""
    from jax.experimental.pallas import tpu as pltpu

    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        yield
