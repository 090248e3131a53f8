"""The description of an H100 that XLA compiles for without one, as the installed CUDA plugin carries it."""

import importlib.util
from pathlib import Path

import pytest

NAME = b'device_description_str: "NVIDIA H100 80GB HBM3"\n'


def description() -> str:
    """Skips the test where no CUDA plugin is installed, or one that carries no such text."""
    found = importlib.util.find_spec("jax_plugins.xla_cuda13") if importlib.util.find_spec("jax_plugins") else None
    if found is None:
        pytest.skip("jax-cuda13-plugin is not installed")
    plugin = (Path(found.submodule_search_locations[0]) / "xla_cuda_plugin.so").read_bytes()
    end = plugin.find(NAME)
    while end >= 0:
        text = plugin[plugin.rfind(b"gpu_device_info {", 0, end) : end + len(NAME)]
        if b"\0" not in text:
            return text.decode()
        end = plugin.find(NAME, end + 1)
    pytest.skip("this jax-cuda13-plugin describes no H100")
