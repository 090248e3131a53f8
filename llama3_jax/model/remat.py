"""What the backward pass recomputes: named policies."""

from __future__ import annotations

import enum


class Remat(enum.Enum):
    NONE = "none"
    """Keep every activation: fastest, most memory."""
    SAVE_ATTENTION = "save_attention"
    """Keep each layer's input and its attention output, recompute the rest."""
    FULL = "full"
    """Keep each layer's input only."""
    OFFLOAD = "offload"
    """As save_attention, but what is kept waits in host memory."""
