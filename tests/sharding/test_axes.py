"""Meshes and the table of axes: what is refused, and what a dim means."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from llama3_jax.sharding.axes import AXES, spec
from llama3_jax.sharding.mesh_config import MeshConfig


def test_a_mesh_always_has_all_four_axes(mesh):
    two = mesh(data=2)
    assert two.axis_names == AXES == ("pipeline", "data", "sequence", "model")
    assert dict(two.shape) == {"pipeline": 1, "data": 2, "sequence": 1, "model": 1}
    assert set(two.axis_types) == {AxisType.Explicit}
    assert list(two.devices.flat) == jax.devices()[:2]


def test_dims_become_axes():
    assert spec("batch", "position", None) == PartitionSpec("data", "sequence", None)
    assert spec("layer", "embed", "heads") == PartitionSpec(None, ("data", "sequence"), "model")
    with pytest.raises(AttributeError):
        spec("no_such_dim")


def test_more_devices_than_there_are(mesh):
    with pytest.raises(ValueError, match="needs 16 devices but jax sees 8; set JAX_NUM_CPU_DEVICES=16"):
        mesh(data=4, model=4)


@pytest.mark.parametrize(
    "axes, message", [({"data": 0}, "data=0"), ({"model": -2}, "model=-2"), ({"pipeline": 2}, "not built yet")]
)
def test_what_a_mesh_config_refuses(axes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**axes)


def test_size_and_text():
    cfg = MeshConfig(data=2, sequence=3, model=4)
    assert cfg.size == 24
    assert str(cfg) == "pipeline 1 x data 2 x sequence 3 x model 4"
