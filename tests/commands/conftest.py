"""Programs that the tests of this room compile once, their tiny runs are all of one model; and one such run to look at."""

from contextlib import contextmanager
from typing import NamedTuple

import pytest


@contextmanager
def programs_kept(directory):
    """Compiled programs lie in a directory, for this process and those it starts."""
    import jax

    cache = {"jax_compilation_cache_dir": str(directory), "jax_persistent_cache_min_compile_time_secs": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield directory
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def shared_programs(tmp_path_factory):
    with programs_kept(tmp_path_factory.getbasetemp() / "programs") as directory:
        yield directory


class Tiny(NamedTuple):
    run_file: object
    directory: object


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny run, come to its end, with every checkpoint it saved: not to be changed."""
    from tiny_run import write_run

    from llama3_jax import commands

    place = tmp_path_factory.mktemp("tiny")
    run_file = write_run(place)
    with programs_kept(tmp_path_factory.getbasetemp() / "programs"):
        directory = commands.train(run_file, ["checkpoint.keep_last=9"], runs=place / "runs").directory
    return Tiny(run_file, directory)
