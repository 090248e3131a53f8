"""The device mesh and the only table that maps a logical dim to a mesh axis (section 3.3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llama3_jax.sharding.mesh_config import MeshConfig

AXES = tuple(field.name for field in fields(MeshConfig))


@dataclass(frozen=True, kw_only=True)
class AxisRules:
    """Where each logical dim lives. Parameters: `layer` .. `vocab`; activations: `batch`, `position`."""

    layer: None = None
    """Stacked layers are scanned; pipeline slots are a view made at placement, never stored."""
    embed: tuple[str, ...] = ("data", "sequence")
    """Fully sharded data parallelism: weights and their optimizer state are split along the model width, over all
    devices that see different tokens."""
    heads: str = "model"
    kv_heads: str = "model"
    ffw: str = "model"
    vocab: str = "model"
    batch: str = "data"
    position: str = "sequence"
    residual: tuple[str, ...] = ("sequence", "model")
    """Positions between the blocks, where a device of the model axis keeps its share of them (see tensor_parallel)."""

    def axes(self, *dims: str) -> frozenset[str]:
        """The mesh axes that split any of these dims."""
        found = (getattr(self, dim) for dim in dims)
        return frozenset(axis for each in found for axis in ((each,) if isinstance(each, str) else each or ()))

    def spec(self, *dims: str | None, unreduced: tuple[str, ...] = (), reduced: tuple[str, ...] = ()) -> PartitionSpec:
        """The partition of an array with these logical dims; None is a dim that is never split.

        Args:
            unreduced: dims that were summed over on each device only: the array is the sum over their axes.
            reduced: dims over whose axes the array is whole, and its cotangent is `unreduced`.
        """
        return PartitionSpec(
            *(dim and getattr(self, dim) for dim in dims),
            unreduced=self.axes(*unreduced),
            reduced=self.axes(*reduced),
        )


RULES = AxisRules()
spec = RULES.spec


def cotangent(partition: PartitionSpec) -> PartitionSpec:
    """The partition of the cotangent of an array: where one is whole, the other is a sum that is still to be made."""
    return partition.update(unreduced=partition.reduced, reduced=partition.unreduced)


def make_mesh(cfg: MeshConfig) -> Mesh:
    """A mesh with all four axes, explicit, over the first `cfg.size` devices.

    Raises: ValueError if the machine has fewer devices, or if a multi-process job would leave some unused.
    """
    devices = jax.devices()
    if cfg.size > len(devices):
        remedy = (
            f"set JAX_NUM_CPU_DEVICES={cfg.size} to emulate them on this CPU"
            if devices[0].platform == "cpu"
            else "make the axes smaller or run on more hosts"
        )
        raise ValueError(f"mesh {cfg} needs {cfg.size} devices but jax sees {len(devices)}; {remedy}")
    if jax.process_count() > 1 and cfg.size != len(devices):
        raise ValueError(f"mesh {cfg} uses {cfg.size} of {len(devices)} devices; a job of several processes uses all")
    shape = tuple(getattr(cfg, axis) for axis in AXES)
    return jax.make_mesh(shape, AXES, (AxisType.Explicit,) * len(AXES), devices=devices[: math.prod(shape)])


def named(partition: PartitionSpec) -> NamedSharding:
    """`partition` on the mesh set by `jax.set_mesh`."""
    return NamedSharding(jax.sharding.get_abstract_mesh(), partition)
