"""Devices that are not here, which programs are compiled for all the same."""

import h100
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from llama3_jax.sharding.axes import AXES


def tpu(name: str) -> np.ndarray:
    """The chips of a TPU slice, such as `v5p:2x2x2`; skips where libtpu is not installed."""
    pytest.importorskip("libtpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU host to ask
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor a chip that only one process may hold
        return np.array(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


def gpu(hosts: int = 1) -> np.ndarray:
    """H100, eight a host; skips where the CUDA plugin is not installed."""
    found = topologies.get_topology_desc(platform="cuda", target_config=h100.description(), topology=f"1x{hosts}x8")
    return np.array(found.devices)


def mesh_of(devices: np.ndarray, *, data: int = 1, sequence: int = 1, model: int = 1) -> Mesh:
    return Mesh(devices.reshape(1, data, sequence, model), AXES, axis_types=(AxisType.Explicit,) * len(AXES))
