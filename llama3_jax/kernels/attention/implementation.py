"""The implementations of attention, by the names that run files use."""

from __future__ import annotations

import enum


class Implementation(enum.Enum):
    AUTO = "auto"
    """The fastest that runs here; today `xla` on every platform."""
    REFERENCE = "reference"
    """Dense scores: for tests, and for a few queries against many keys."""
    XLA = "xla"
    """Chunked, skips blocks without a visible pair, forward and backward."""

    def resolve(self) -> Implementation:
        return Implementation.XLA if self is Implementation.AUTO else self
