"""The implementations of attention, by the names that run files use."""

from __future__ import annotations

import enum


class Implementation(enum.Enum):
    AUTO = "auto"
    """The fastest that runs on the devices at hand: `tpu` on TPUs, `hopper` on H100 and H200, elsewhere `xla`."""
    REFERENCE = "reference"
    """Dense scores: for tests, and for a few queries against many keys."""
    XLA = "xla"
    """Chunked, skips tiles without a visible pair, forward and backward; on every platform."""
    TPU = "tpu"
    """Pallas kernels for TPU, which skip them too."""
    HOPPER = "hopper"
    """Pallas kernels for H100 and H200, likewise."""
    CUDNN = "cudnn"
    """NVIDIA's. Causal over whole rows and blind to documents: for rows that are one document each, and refused otherwise."""
