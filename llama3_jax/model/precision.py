"""The dtype of activations and matmuls; parameters, sums and the loss are float32 either way (section 3.3.2)."""

from __future__ import annotations

import enum


class Precision(enum.Enum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def dtype(self) -> str:
        """As jax.numpy takes it."""
        return self.value
