"""The device that a program is traced for: of the mesh that is set, which may be of a machine that is not here."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import Mesh


class Device(NamedTuple):
    platform: str
    """`cpu`, `gpu` or `tpu`"""
    kind: str
    """What jax calls it, e.g. `TPU v5` or `NVIDIA H100 80GB HBM3`."""
    cores: int
    """That share the work of one program."""


def traced_for() -> Device:
    return _described(jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0])


def device_of(mesh: Mesh) -> Device:
    return _described(mesh.devices.flat[0])


def _described(device) -> Device:
    return Device(device.platform, device.device_kind, getattr(device, "num_cores", None) or 1)
