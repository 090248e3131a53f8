"""The implementations of attention, by the names that run files use."""

from __future__ import annotations

import enum


class Implementation(enum.Enum):
    AUTO = "auto"
    """The fastest that runs on the devices at hand: `tpu` on TPUs, elsewhere `xla`."""
    REFERENCE = "reference"
    """Dense scores: for tests, and for a few queries against many keys."""
    XLA = "xla"
    """Chunked, skips tiles without a visible pair, forward and backward; on every platform."""
    TPU = "tpu"
    """Pallas kernels for TPU, which skip them too."""

    def resolve(self, platform: str | None = None) -> Implementation:
        """What it is on a platform: `cpu`, `gpu` or `tpu`; None means that which is traced for."""
        if self is not Implementation.AUTO:
            return self
        if platform is None:
            from llama3_jax.kernels.device import traced_for  # jax, which run files are read without

            platform = traced_for().platform
        return Implementation.TPU if platform == "tpu" else Implementation.XLA

    def require(self, platform: str) -> Implementation:
        """What it resolves to there. Raises: ValueError if that cannot run on this platform."""
        found = self.resolve(platform)
        if found is Implementation.TPU and platform != "tpu":
            raise ValueError(f"attention={found.value} runs on TPUs, the devices here are {platform}; use attention=auto or xla")
        return found
