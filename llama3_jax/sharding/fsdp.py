"""What becomes of a weight that was gathered, over the data and sequence axes, for the forward pass.

Readable before any device is touched.
"""

from __future__ import annotations

import enum


class Fsdp(enum.Enum):
    """Either way parameters, gradients and optimizer state stay sharded, and every result is the same."""

    REGATHER = "regather"
    """Dropped after its layer and gathered again in the backward pass: one layer of gathered weights in memory."""
    KEEP = "keep"
    """Kept until the backward pass, as published (section 3.3.2): one gather less, and all layers of a device in memory."""
