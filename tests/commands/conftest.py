"""Programs that the tests of this room compile once: their tiny runs are all of one model."""

import pytest


@pytest.fixture(scope="module")
def shared_programs(tmp_path_factory):
    """A directory of compiled programs, used in this process and in those it starts."""
    import jax

    directory = tmp_path_factory.getbasetemp() / "programs"
    cache = {"jax_compilation_cache_dir": str(directory), "jax_persistent_cache_min_compile_time_secs": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield directory
    jax.config.update("jax_compilation_cache_dir", None)
